"""Tables that name pictures, names of classes from where they stand, captions in files: the same rows however they are
written, and a sentence where something is ambiguous or missing.
"""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset
from datasets import Features
from datasets import Image as ImageFeature
from datasets import Value
from PIL import Image

from modeling_vit_custom.training.collators import ImageTextCollator
from modeling_vit_custom.training.sources import load_source
from modeling_vit_custom.training.tokenizers import word_tokenizer
from scripts import train

CLASSES = ("cat", "dog")
TINY = dict(image_size=16, patch_size=8, hidden_sizes=[16], depths=[1], num_attention_heads=[2])
ONCE = dict(
    num_train_epochs=1,
    per_device_train_batch_size=4,
    learning_rate=1e-3,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    dataloader_pin_memory=False,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def paint(path: Path, number: int) -> Path:
    """A picture that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return path


def painted(folder: Path, count: int = 8, form: str = "{}.png") -> list[Path]:
    return [paint(folder / form.format(number), number) for number in range(count)]


def write(folder: Path, name: str, **columns) -> str:
    """A table with these columns, of the form that its name says."""
    frame, path = pd.DataFrame(columns), folder / name
    if path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return str(path)


def labelled(splits) -> set[tuple[bytes, str]]:
    names = splits["train"].features["label"].names
    return {(row["image"].tobytes(), names[row["label"]]) for rows in splits.values() for row in rows}


def numbered_labels(count: int = 8) -> list[str]:
    return [CLASSES[number % 2] for number in range(count)]


def by_folder(folder: Path) -> set[tuple[bytes, str]]:
    for number, label in enumerate(numbered_labels()):
        paint(folder / label / f"{number}.png", number)
    return labelled(load_source(str(folder), settings={}))


@pytest.fixture(scope="module")
def of_folders(tmp_path_factory) -> set[tuple[bytes, str]]:
    """The rows of the same pictures in folders of their classes."""
    return by_folder(tmp_path_factory.mktemp("folders"))


# The same rows


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet"])
@pytest.mark.parametrize("place", ["relative", "absolute", "inside", "without ending", "whole folder"])
def test_a_table_gives_the_rows_that_folders_give(name, place, of_folders, tmp_path):
    home = tmp_path / "table"
    paths = painted(home / "images" if place in ("inside", "whole folder") else home)
    if place == "absolute":
        values = [str(path) for path in paths]
    else:
        values = [path.stem if place == "without ending" else path.name for path in paths]
    dataset = write(home, name, picture=values, kind=numbered_labels(), note=["x"] * 8)
    if place == "whole folder" and name.endswith(".parquet"):
        pytest.skip("a folder of pictures and Parquet files is asked for")
    found = load_source(str(home) if place == "whole folder" else dataset, settings={}, label_column="kind")
    assert labelled(found) == of_folders
    assert set(found["train"].column_names) == {"image", "label", "note", "row_number"}


def test_a_stream_of_a_table_is_its_rows(tmp_path):
    painted(tmp_path)
    dataset = write(tmp_path, "t.csv", path=[f"{n}.png" for n in range(8)], kind=numbered_labels())
    settings = dict(label_column="kind", settings={"class_names": list(CLASSES)})
    stream, whole = (load_source(dataset, streaming=s, as_stream=True, **settings) for s in (True, False))
    for split in ("train", "test"):
        assert [row["label"] for row in stream[split]] == whole[split]["label"][:]


def test_pictures_in_a_parquet_file_are_read_as_before(of_folders, tmp_path):
    images = [{"bytes": path.read_bytes(), "path": None} for path in painted(tmp_path / "pictures")]
    features = Features({"photo": ImageFeature(), "kind": Value("string")})
    Dataset.from_dict({"photo": images, "kind": numbered_labels()}, features=features).to_parquet(
        tmp_path / "p.parquet"
    )
    found = load_source(str(tmp_path / "p.parquet"), settings={}, label_column="kind")
    assert labelled(found) == of_folders


@pytest.mark.parametrize("whole_folder", [True, False])
def test_several_tables_are_splits(whole_folder, tmp_path):
    painted(tmp_path / "images")
    for name, numbers in (("train.csv", range(6)), ("val.csv", range(6, 8))):
        write(tmp_path, name, path=[f"{n}.png" for n in numbers], kind=[CLASSES[n % 2] for n in numbers])
    found = load_source(str(tmp_path if whole_folder else tmp_path / "*.csv"), settings={}, label_column="kind")
    files = {name: {Path(row["image"]["path"]).stem for row in rows.with_format(None)} for name, rows in found.items()}
    assert files == {"train": set("012345"), "test": set("67")}


def test_folders_of_classes_speak_unless_a_column_of_the_table_is_asked_for(tmp_path, capsys):
    by_folder(tmp_path)
    paths = sorted(tmp_path.rglob("*.png"))
    write(tmp_path, "extra.csv", path=[str(p.relative_to(tmp_path)) for p in paths], age=["old", "new"] * 4)
    assert load_source(str(tmp_path), settings={})["train"].features["label"].names == list(CLASSES)
    assert "files that are no pictures: 1 (extra.csv)" in capsys.readouterr().out
    found = load_source(str(tmp_path), settings={}, label_column="age")
    assert found["train"].features["label"].names == ["new", "old"]


# Labels of any type, names from where they stand


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 7, 7, 3], ["3", "7"]),
        ([-2, 10, 10, -2], ["-2", "10"]),
        ([3.0, 7.0, 7.0, 3.0], ["3", "7"]),
        ([False, True, True, False], ["false", "true"]),
        (["07", "7", "7", "07"], ["07", "7"]),
    ],
)
def test_labels_of_any_type_are_classes(labels, names, tmp_path):
    painted(tmp_path)
    dataset = write(tmp_path, "t.parquet", path=[f"{n}.png" for n in range(8)], kind=labels * 2)
    found = load_source(dataset, settings={}, label_column="kind")
    assert found["train"].features["label"].names == names
    expected = [names[0] if label == labels[0] else names[1] for label in labels * 2]
    by_picture = {paint(tmp_path / "again.png", n).read_bytes(): name for n, name in enumerate(expected)}
    for rows in found.values():
        for raw in rows.with_format(None):
            assert by_picture[Path(raw["image"]["path"]).read_bytes()] == names[raw["label"]]


def test_numbers_have_the_names_of_a_column_or_a_file_beside_them(tmp_path, capsys):
    painted(tmp_path)
    columns = dict(path=[f"{n}.png" for n in range(8)], kind=[5, 2] * 4)
    named = write(tmp_path, "named.csv", **columns, kind_name=["owl", "ant"] * 4)
    found = load_source(named, settings={}, label_column="kind")
    assert found["train"].features["label"].names == ["ant", "owl"]
    both = {(row["kind_name"], row["label"]) for rows in found.values() for row in rows}
    assert both == {("ant", 0), ("owl", 1)}
    assert "the classes of `kind` have the names in `kind_name`" in capsys.readouterr().out
    write(tmp_path, "other.csv", **columns | {"kind": [1, 0] * 4})
    (tmp_path / "classes.txt").write_text("ant\nowl\n")
    found = load_source(str(tmp_path / "other.csv"), settings={}, label_column="kind")
    assert found["train"].features["label"].names == ["ant", "owl"]
    assert "have the names in classes.txt" in capsys.readouterr().out
    wrong = write(tmp_path, "wrong.csv", **columns, kind_name=["owl", "ant"] * 3 + ["owl", "bee"])
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match="does not give each number of `label_column: kind` one name of its own"):
        load_source(wrong, settings={}, label_column="kind")


# Sentences


def two_columns(folder: Path) -> dict:
    return dict(a=["0.png"] * 4, b=["1.png"] * 4, kind=["x", "y"] * 2)


REFUSED: dict[str, tuple[Callable[[Path], dict], dict, str]] = {
    "two columns": (two_columns, {}, "several columns that name pictures, a, b: choose one, as in `image_column: a`"),
    "no pictures": (
        lambda folder: dict(path=["p.png", "q.png"], kind=["x", "y"]),
        {},
        r"t\.csv names no pictures: its columns path \('p\.png'\) are no files in .*`image_dir`",
    ),
    "missing": (
        lambda folder: dict(path=["0.png", *(f"no{n}.png" for n in range(5))], kind=["x", "y"] * 3),
        {},
        r"names 5 of 6 pictures that are not there \(.*no0\.png, .*no1\.png, .*no2\.png, \.\.\.\): add them",
    ),
    "empty": (
        lambda folder: dict(path=["0.png", None, "1.png"], kind=["x", "y", "x"]),
        {},
        "has no `path` in row 1: write it",
    ),
    "no rows": (lambda folder: dict(path=[], kind=[]), {}, "has no rows"),
    "several places": (
        lambda folder: (
            [painted(folder / name, 2, "p{}.png") for name in "ab"]
            and dict(path=["p0.png", "p1.png"] * 2, kind=["x", "y"] * 2)
        ),
        {},
        r"pictures that are in several places, as .*p0\.png and .*p0\.png: name the folder by `image_dir`",
    ),
    "a folder that is not there": (
        lambda folder: dict(path=["0.png"] * 4, kind=["x", "y"] * 2),
        {"settings": {"image_dir": "nowhere"}},
        "`image_dir: nowhere` is no folder",
    ),
    "no column of classes": (
        lambda folder: dict(path=["0.png", "1.png"] * 2, kind=["x", "y"] * 2),
        {"label_column": None},
        "has no column of classes: add `label_column: kind`",
    ),
    "numbers as classes": (
        lambda folder: dict(path=["0.png", "1.png"] * 2, kind=[0.5, 1, 1, 2]),
        {},
        r"holds numbers that are no classes, such as 0\.5: set `problem_type: regression`",
    ),
    "no label": (
        lambda folder: dict(path=["0.png", "1.png"] * 2, kind=[1, 0, None, 1]),
        {},
        "`label_column: kind` of .* has rows without a label",
    ),
    "no such image column": (
        lambda folder: dict(path=["0.png", "1.png"] * 2, kind=["x", "y"] * 2),
        {"image_column": "photo"},
        "`image_column: photo` is no column of .*: it has path, kind",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_missing_has_a_sentence(name, tmp_path):
    columns, given, message = REFUSED[name]
    painted(tmp_path, 2)
    dataset = write(tmp_path, "t.csv", **columns(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_source(dataset, **dict(settings={}, label_column="kind") | given)


def test_what_is_named_is_taken(tmp_path):
    painted(tmp_path, 4)
    painted(tmp_path / "more", 4)
    paths = [f"{n}.png" for n in range(4)]
    dataset = write(tmp_path, "t.csv", a=paths, b=paths[::-1], kind=["x", "y"] * 2)
    found = load_source(dataset, settings={"image_dir": "more"}, label_column="kind", image_column="b", whole=True)
    files = [Path(row["image"]["path"]) for row in found["all"].with_format(None)]
    assert [(path.parent.name, path.name) for path in files] == [("more", name) for name in paths[::-1]]


def test_names_of_files_count_before_numbers_that_could_be_some(tmp_path):
    painted(tmp_path, 4)
    dataset = write(tmp_path, "t.csv", row=[3, 2, 1, 0], path=[f"{n}.png" for n in range(4)], kind=["x", "y"] * 2)
    found = load_source(dataset, settings={}, label_column="kind", whole=True)["all"]
    assert [Path(row["image"]["path"]).stem for row in found.with_format(None)] == list("0123")


def test_a_table_of_another_separator_is_told(tmp_path):
    painted(tmp_path, 2)
    (tmp_path / "t.csv").write_text("path;kind\n0.png;x\n1.png;y\n")
    with pytest.raises(ValueError, match=r"t\.csv separates its columns by `;`: write it with commas"):
        load_source(str(tmp_path / "t.csv"), settings={}, label_column="kind")


# Captions

WORDS = [[f"picture {n}, seen {time}" for time in range(2)] for n in range(6)]


def flickr(folder: Path) -> None:
    lines = [f"{n}.png#{time}\t{text}" for n, texts in enumerate(WORDS) for time, text in enumerate(texts)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


def kaggle(folder: Path) -> None:
    lines = [f"{n}.png,{text}" for n, texts in enumerate(WORDS) for text in texts]
    (folder / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")


def quoted(folder: Path) -> None:
    pairs = [(f"{n}.png", text) for n, texts in enumerate(WORDS) for text in texts]
    write(folder, "captions.csv", image=[one for one, _ in pairs], caption=[one for _, one in pairs])


def listed(folder: Path) -> None:
    write(folder, "t.jsonl", image=[f"{n}.png" for n in range(6)], caption=WORDS)


def beside(folder: Path) -> None:
    for number, texts in enumerate(WORDS):
        (folder / "images" / f"{number}.txt").write_text("\n".join(texts) + "\n")


@pytest.mark.parametrize("form", [flickr, kaggle, quoted, listed, beside])
def test_captions_are_those_of_their_picture_and_stay_on_one_side(form, tmp_path):
    paths = painted(tmp_path / "images", 6)
    form(tmp_path)
    found = load_source(str(tmp_path), settings={}, needs_label=False, needs_caption=True, test_share=0.34)
    rows = {
        Path(row["image"]["path"]).name: list(row["caption"])
        for split in found.values()
        for row in split.with_format(None)
    }
    assert rows == {path.name: texts for path, texts in zip(paths, WORDS, strict=True)}
    assert sum(map(len, found.values())) == 6
    assert len(found["test"]) == 3


def test_a_column_of_captions_may_have_any_name(tmp_path):
    painted(tmp_path, 6)
    dataset = write(tmp_path, "t.csv", photo=[f"{n}.png" for n in range(6)], said=[texts[0] for texts in WORDS])
    asked = dict(settings={}, needs_label=False, needs_caption=True)
    found = load_source(dataset, caption_column="said", **asked)
    assert {row["caption"] for rows in found.values() for row in rows} == {texts[0] for texts in WORDS}
    with pytest.raises(ValueError, match=r"no column `caption`, .* as in `caption_column: said`"):
        load_source(dataset, **asked)
    with pytest.raises(ValueError, match="`caption_column: words` is no column of"):
        load_source(dataset, caption_column="words", **asked)
    (tmp_path / "captions.txt").write_text("0.png says nothing\n")
    with pytest.raises(ValueError, match=r"captions\.txt has no picture and caption in line 1: write"):
        load_source(str(tmp_path / "captions.txt"), **asked)


class Pixels:
    """An image processor and a tokenizer in one."""

    def __init__(self, tokenizer):
        self.tokenizer, self.image_processor = tokenizer, None


def test_an_epoch_draws_one_of_several_captions_by_its_number_alone_and_an_evaluation_takes_the_first():
    collate = ImageTextCollator(Pixels(word_tokenizer([text for texts in WORDS for text in texts])), seed=3)
    drawn = [
        [collate.caption_of(0, dict(caption=WORDS[n], index=n, epoch=epoch, copy=0)) for n in range(6)]
        for epoch in range(12)
    ]
    assert all({epoch[n] for epoch in drawn} == set(WORDS[n]) for n in range(6))
    assert drawn[0] == [collate.caption_of(n, dict(caption=WORDS[n], index=n, epoch=0, copy=0)) for n in range(6)]
    assert [collate.caption_of(0, dict(caption=texts)) for texts in WORDS] == [texts[0] for texts in WORDS]
    with pytest.raises(ValueError, match="has an empty caption"):
        collate([{"image": None, "caption": []}])


def test_a_recipe_learns_from_captions_in_a_file(tmp_path):
    painted(tmp_path / "data" / "images", 6)
    flickr(tmp_path / "data")
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    settings = dict(
        task="zero-shot-image-classification",
        dataset=str(tmp_path / "data"),
        num_examples=2,
        test_share=0.34,
        config_overrides=dict(
            projection_dim=8, vision_config=TINY, text_config=text | dict(max_position_embeddings=24)
        ),
        output_dir=str(tmp_path / "run"),
        **ONCE,
    )
    (tmp_path / "captions.yaml").write_text(yaml.safe_dump(settings))
    run = train.main([str(tmp_path / "captions.yaml")])
    told = json.loads((run / "metrics.json").read_text())
    assert (told["num_train_images"], told["num_test_images"]) == (3, 3)
    assert (run / "predictions.png").is_file()
    assert "[UNK]" not in (run / "checkpoint" / "README.md").read_text()
