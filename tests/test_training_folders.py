"""Folders of pictures: each file is a row or is named; whole names of folders are splits and classes."""

import io
import re
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from PIL import Image

from modeling_vit_custom.training import picture_formats
from modeling_vit_custom.training.folders import list_files
from modeling_vit_custom.training.sources import load_source
from modeling_vit_custom.training.splits import draw
from modeling_vit_custom.training.splits import stem
from modeling_vit_custom.training.streams import NumberedStream


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(number: int) -> bytes:
    """A colour for each number."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def tree(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


def some(*folders: str, count: int = 3) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def by_class(rows) -> dict[str, int]:
    names = rows.features["label"].names
    return dict(zip(names, np.bincount(rows["label"], minlength=len(names)).tolist(), strict=True))


def all_of(splits) -> dict[str, int]:
    """How many pictures each class has; each picture is there once."""
    colours = [image.getpixel((0, 0)) for rows in splits.values() for image in rows["image"]]
    assert len(set(colours)) == len(colours)
    counts = [by_class(rows) for rows in splits.values()]
    return {name: sum(one[name] for one in counts) for name in counts[0]}


ONE_SPLIT = {
    "brackets": (
        [*some("a", "b", "c [new]"), "a/photo[1].png", "a/?.png", "a/*.png", "b/{x,y}.png", "b/[!a].png"],
        {"a": 6, "b": 5, "c [new]": 3},
    ),
    "signs of addresses": (
        [*some("a::b", "c#d", "e%20f", "file:", "g h"), "a::b/zip::x.png"],
        {"a::b": 4, "c#d": 3, "e%20f": 3, "file:": 3, "g h": 3},
    ),
    "words in files": (
        [f"{c}/{c}_{w}_{i}.png" for c in "ab" for w in ("train", "test") for i in (1, 2)],
        {"a": 4, "b": 4},
    ),
    "words in folders": (
        some("test_strips", "dev_board", "train-set"),
        {"dev_board": 3, "test_strips": 3, "train-set": 3},
    ),
    "classes that are words": (some("train", "car", "test"), {"car": 3, "test": 3, "train": 3}),
    "one folder above": (some("pets/cat", "pets/dog"), {"cat": 3, "dog": 3}),
    "two folders above": (some("pets/PetImages/cat", "pets/PetImages/dog"), {"cat": 3, "dog": 3}),
    "two levels": ([*some("a/x", "a/y", "b/x"), "b/1.png"], {"a": 6, "b": 4}),
    "endings": (["a/1.JPG", "a/2.PnG", "a/3.png", "b/1.JPEG", "b/2.png"], {"a": 3, "b": 2}),
    "cases": (some("Cat", "cat"), {"Cat": 3, "cat": 3}),
}


@pytest.mark.parametrize("layout", ONE_SPLIT)
def test_classes_are_the_first_folders_and_no_picture_is_lost(layout, tmp_path):
    names, counts = ONE_SPLIT[layout]
    splits = load_source(str(tree(tmp_path / "d", *names)), settings={})
    assert all_of(splits) == counts
    stream = load_source(str(tmp_path / "d"), settings={}, streaming=True)
    assert sum(len(list(NumberedStream(rows, endless=False))) for rows in stream.values() if len(list(rows))) == len(
        names
    )
    assert stream["train"].features["label"].names == list(counts)


TWO_SPLITS = {
    "capitals": ("Training", "Testing"),
    "below data": ("data/train", "data/test"),
    "below a name": ("pets [v2]/TRAIN", "pets [v2]/Val"),
    "validation": ("train", "validation"),
    "valid": ("train", "valid"),
    "dev": ("train", "dev"),
    "eval": ("train", "eval"),
    "evaluation": ("training", "Evaluation"),
}


@pytest.mark.parametrize("layout", TWO_SPLITS)
@pytest.mark.parametrize("inside", ["", "/images"])
def test_split_words_are_whole_names_of_folders(layout, inside, tmp_path, capsys):
    train, test = (f"{name}{inside}" for name in TWO_SPLITS[layout])
    tree(tmp_path, *some(f"{train}/cat", f"{train}/test_dog"), *some(f"{test}/cat", f"{test}/test_dog", count=2))
    for streaming in (False, True):
        splits = load_source(str(tmp_path), settings={}, streaming=streaming)
        assert {name: len(list(rows)) for name, rows in splits.items()} == {"train": 6, "test": 4}
        assert splits["test"].features["label"].names == ["cat", "test_dog"]
    assert capsys.readouterr().out == ""


def test_links_are_followed_once_and_broken_ones_named(tmp_path, capsys):
    tree(tmp_path / "elsewhere", *some("x"))
    folder = tree(tmp_path / "d", *[name.replace("/", "/_") for name in some("a", "b")])
    (folder / "c").symlink_to(tmp_path / "elsewhere/x")
    (folder / "a/link.png").symlink_to(tmp_path / "elsewhere/x/1.png")
    (folder / "a/above").symlink_to(folder)
    (folder / "b/none.png").symlink_to(folder / "nothing.png")
    (folder / "b/itself").symlink_to(folder / "b/itself")
    splits = load_source(str(folder), settings={})
    assert {name: sum(by_class(rows)[name] for rows in splits.values()) for name in "abc"} == {"a": 4, "b": 3, "c": 3}
    said = capsys.readouterr().out
    assert "links to a folder that they lie in: 1 (a/above); broken links: 2 (b/itself, b/none.png)." in said
    (tmp_path / "link").symlink_to(folder)
    assert len(list_files(tmp_path / "link").files) == 10


def test_each_file_is_a_row_or_is_named(tmp_path, capsys):
    folder = tree(
        tmp_path, *some("a", "b"), "top.png", "a/notes.txt", "b/x.XMP", "b/list.csv", "a/no_ending", "b/1.heic"
    )
    tree(tmp_path, "a/.hidden.png", ".git/1.png", "__MACOSX/a/1.png", "a/.DS_Store", "Thumbs.db", "b/desktop.ini")
    (folder / "bird").mkdir()
    (folder / "metadata.csv").write_text("id,size\n1,2\n")  # of other things: it names no file
    for streaming in (False, True):
        load_source(str(folder), settings={}, streaming=streaming)
        said = capsys.readouterr().out
        assert re.findall(r"left out .*", said) == [
            "left out files that are no pictures: 5 (a/no_ending, a/notes.txt, b/list.csv, ...); pictures that need `"
            "pip install pillow-heif`: 1 (b/1.heic); folders without pictures: 1 (bird); "
            "pictures in no folder of a class: 1 (top.png)."
        ]
    splits = load_source(str(folder), settings={}, needs_label=False)
    assert sum(map(len, splits.values())) == 7  # a task without classes takes every picture
    assert "1 pictures lie in no folder of a class" in capsys.readouterr().out
    (folder / "a" / "bad\udcff.png").write_bytes(picture(99))
    load_source(str(folder), settings={})
    assert "whose names are no UTF-8: 1 (a/bad\\xff.png)" in capsys.readouterr().out.replace("\\udcff", "\\xff")


def test_a_plugin_makes_its_files_pictures(tmp_path, monkeypatch):
    tree(tmp_path, "a/1.heic", "b/2.HEIF")
    with pytest.raises(
        FileNotFoundError, match=r"Pillow alone does not read \(\.heic, \.heif\): `pip install pillow-heif`"
    ):
        load_source(str(tmp_path), settings={})
    (tmp_path / "site").mkdir()
    (tmp_path / "site/pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', Image.OPEN['PNG'][0], lambda head: False)\n"
        "    Image.register_extensions('HEIF', ['.heic', '.heif'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    for registry in ("OPEN", "ID", "EXTENSION"):
        monkeypatch.setattr(Image, registry, getattr(Image, registry).copy())
    Image.init()
    picture_formats.register_plugins()
    tree(tmp_path / "d", *(f"{c}/{i}.HEIC" for c in "ab" for i in range(3)))
    assert all_of(load_source(str(tmp_path / "d"), settings={})) == {"a": 3, "b": 3}


def test_names_that_look_alike(tmp_path, capsys):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path / "forms", *some(f"train/{composed}", f"test/{apart}", "train/b", "test/b"))
    assert load_source(str(tmp_path / "forms"), settings={})["test"].features["label"].names == ["b", composed]
    load_source(str(tree(tmp_path / "cases", *some("Cat", "cat"))), settings={})
    assert "Cat and cat differ in case alone" in capsys.readouterr().out


def test_classes_of_one_side(tmp_path, capsys):
    splits = load_source(str(tree(tmp_path / "few", *some("train/a", "train/b", "test/b"))), settings={})
    assert splits["test"].features["label"].names == ["a", "b"]
    assert by_class(splits["test"]) == {"a": 0, "b": 3}
    assert "test has no pictures of a." in capsys.readouterr().out
    tree(tmp_path / "more", *some("train/a", "train/b", "test/a", "test/B", "test/owl"))
    with pytest.raises(ValueError, match=r"different classes: only test has B \(train has b\), owl; rename, move or"):
        load_source(str(tmp_path / "more"), settings={})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (some("train/a", "train/b", "test"), "pictures of test of .* lie in no folder of a class"),
        (some("train/a", "train/b", "test1"), r"has train, and .*test1/0\.png outside"),
        (some("data/train/a", "data/train/b", "figures"), r"has train, and .*figures/0\.png outside"),
        (some("a/train", "a/test", "b/train", "b/test"), "has splits inside a and b: lay images out as train/<class>"),
        (some("Train/a", "train/b"), "has Train, train, of which two are one split: join them"),
        ([*some("a", "b"), "rows.parquet"], "holds parquet and image files: name those meant"),
        (some("cat"), "has no column of classes"),
    ],
)
def test_what_is_ambiguous_is_asked_for(names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_source(str(tree(tmp_path, *names)), settings={})


def test_inner_folders_are_classes_if_it_is_said(tmp_path, capsys):
    tree(tmp_path, *some("a/x", "a/y", "b/x"), "b/1.png")
    load_source(str(tmp_path), settings={})
    assert "(a/x) belong to them, unless `class_level: 2`" in capsys.readouterr().out
    splits = load_source(str(tmp_path), settings={"class_level": 2})
    assert all_of(splits) == {"a/x": 3, "a/y": 3, "b/x": 3}
    assert "pictures in no folder of a class: 1 (b/1.png)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`class_level: 'two'` is no depth"):
        load_source(str(tmp_path), settings={"class_level": "two"})


# Patterns, and files that are no pictures


def test_what_exists_is_no_pattern(tmp_path):
    root = tree(tmp_path / "pets [1]", *some("a", "b", ".c"), "a/9.txt")
    assert all_of(load_source(f"{root}/*/*.png", settings={})) == {"a": 3, "b": 3}
    assert all_of(load_source(f"{root}/**/[01].png", settings={})) == {"a": 2, "b": 2}
    tree(tmp_path, "pets 1/a/0.png")  # what the brackets mean as a pattern
    files = {"train": [f"{root}/a", f"{root}/b/[01].png"], "test": [f"{root}/b/2.png", f"{root}/*/2.png"]}
    (root / "b/[01].png").write_bytes(picture(50))
    splits = load_source("pets", settings={"data_files": {"train": f"{root}", "test": files["test"]}})
    assert by_class(splits["train"]) == {"a": 3, "b": 4}
    assert by_class(splits["test"]) == {"a": 1, "b": 1}  # named twice, read once
    assert [parts for _, parts in list_files(f"{root}/b/[01].png").files] == [("[01].png",)]
    with pytest.raises(FileNotFoundError, match="No file is called"):
        list_files(f"{root}/none/*.png")
    with pytest.raises(ValueError, match="`data_files` names no splits"):
        load_source("pets", settings={"data_files": files["train"]})


@pytest.mark.parametrize("name", ["part [1].parquet", "*.parquet", "what?.parquet", "a#b%20.parquet"])
def test_a_file_of_rows_may_have_any_name(name, tmp_path):
    columns = {"image": [{"bytes": picture(i), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    (tmp_path / "k [z]").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "plain")
    (tmp_path / "plain").rename(tmp_path / "k [z]" / name)
    for place in (tmp_path, tmp_path / "k [z]" / name):
        assert all_of(load_source(str(place), settings={})) == {"x": 2, "y": 2}
    (tmp_path / "k [z]" / name).rename(tmp_path / "k [z]/a::b.parquet")
    with pytest.raises(ValueError, match=r"a::b\.parquet has `::` in its path.*: rename it"):
        load_source(str(tmp_path), settings={})


def test_files_of_rows_are_divided_as_the_hub_writes_them(tmp_path, capsys):
    columns = {"image": [{"bytes": picture(i), "path": None} for i in range(2)], "label": [0, 1]}
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("rows")
    splits = load_source(str(tmp_path), settings={})
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "test": 2}
    said = capsys.readouterr().out
    assert "left out files that are no parquet: 1 (README.md)" in said
    assert "2 of 2 held-out images equal one of training, byte by byte (row 0 = row 0, row 1 = row 1)" in said


def test_tables_beside_pictures(tmp_path, capsys):
    tree(tmp_path, *some("a", "b"))
    rows = [f"{c}/{i}.png,p{i},{c}{c}" for c in "ab" for i in range(2)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,patient,kind", *rows, "a/0.png,p0,aa"]))
    splits = load_source(str(tmp_path), settings={}, label_column="kind", group_column="patient", test_share=0.5)
    assert "pictures that no table names: 2 (a/2.png, b/2.png)" in capsys.readouterr().out
    assert not set(splits["train"]["patient"]) & set(splits["test"]["patient"])
    assert {name: sum(by_class(rows)[name] for rows in splits.values()) for name in ("aa", "bb")} == {"aa": 3, "bb": 2}
    splits = load_source(str(tmp_path), settings={}, label_column="folder")
    assert splits["train"].features["label"].names == ["a", "b"]
    with pytest.raises(ValueError, match=r"`group_column: pateint` is no column .* did you mean `patient`"):
        load_source(str(tmp_path), settings={}, label_column="kind", group_column="pateint")
    (tmp_path / "metadata.csv").write_text("file_name,kind\na/0.png,x\na/gone.png,y\n")
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv names 'a/gone\.png' in row 1"):
        load_source(str(tmp_path), settings={}, label_column="kind")


# What is held out


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_and_each_class_that_can_be_is_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 300)
    labels = np.where(rng.random(300) < 0.1, rng.integers(0, 6, 300), groups % 6)
    held = draw(labels, groups.tolist(), seed, 0.2)
    assert not set(groups[held]) & set(groups[~held])
    assert set(labels[held]) == set(labels[~held]) == set(range(6))
    assert 0.12 < held.mean() < 0.25
    assert not np.array_equal(held, draw(labels, groups.tolist(), seed + 1, 0.2))
    assert np.bincount(labels[draw(labels, list(range(300)), seed, 0.2)]).tolist() == [
        round(0.2 * count) for count in np.bincount(labels)
    ]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_pictures_of_one_stem_stay_together(streaming, tmp_path, capsys):
    tree(tmp_path, *(f"{'ab'[p % 2]}/patient{p}_{i}.png" for p in range(12) for i in range(4)))
    arguments = dict(settings={}, streaming=streaming, test_share=0.4)
    splits = load_source(str(tmp_path), group_column="stem", **arguments)
    if streaming:
        splits = {name: NumberedStream(rows, endless=False) for name, rows in splits.items()}
        raw = load_source(str(tmp_path), group_column="stem", **arguments)
        sides = [{stem(row["image"]["path"]) for row in raw[name]} for name in raw]
        assert "by a hash of their groups" in capsys.readouterr().out
    else:
        sides = [{stem(value["path"]) for value in rows.with_format(None)["image"]} for rows in splits.values()]
        assert "40% of each class, whole groups of `group_column: stem`, is held out" in capsys.readouterr().out
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12
    assert min(map(len, sides)) > 1
    load_source(str(tmp_path), settings={})
    assert "patient0_0.png and patient0_1.png may be pictures of one thing" in capsys.readouterr().out


def test_common_names_are_taken_for_no_groups(tmp_path, capsys):
    tree(tmp_path, *(f"{c}/{c}_{i:03}.png" for c in "abcdef" for i in range(6)), *some("a", "b"))
    load_source(str(tmp_path), settings={})
    assert "one thing" not in capsys.readouterr().out


def test_groups_on_both_given_sides_are_refused(tmp_path):
    tree(
        tmp_path, *(f"{side}/{c}/p{p}_{i}.png" for side in ("train", "test") for c in "ab" for p in "12" for i in "12")
    )
    with pytest.raises(ValueError, match=r"2 groups of `group_column: stem` stand in both train and test .*\(p1, p2\)"):
        load_source(str(tmp_path), settings={}, group_column="stem")
    with pytest.raises(ValueError, match="a stream cannot be searched for groups on both sides"):
        load_source(str(tmp_path), settings={}, group_column="stem", streaming=True)


def test_equal_files_on_both_sides_are_named(tmp_path, capsys):
    tree(tmp_path, *some("train/a", "train/b", "test/a", "test/b"))
    load_source(str(tmp_path), settings={})
    assert "equal" not in capsys.readouterr().out
    (tmp_path / "test/b/copy.png").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    (tmp_path / "train/a/2.png").write_bytes(b"")  # two empty files are not said to be one picture
    (tmp_path / "test/a/2.png").write_bytes(b"")
    load_source(str(tmp_path), settings={})
    said = capsys.readouterr().out
    assert (
        "1 of 7 held-out images equal one of training, byte by byte (test/b/copy.png = train/a/1.png): remove" in said
    )


def test_very_small_sets(tmp_path, capsys):
    splits = load_source(str(tree(tmp_path / "two", *some("a", "b", "c", count=2))), settings={})
    assert by_class(splits["train"]) == by_class(splits["test"]) == {"a": 1, "b": 1, "c": 1}
    splits = load_source(str(tree(tmp_path / "one", *some("a", "b"), "c/1.png")), settings={})
    assert by_class(splits["train"]) == {"a": 2, "b": 2, "c": 1}
    assert "Kept for training, as there is one picture: c." in capsys.readouterr().out
    with pytest.raises(ValueError, match="no class has more than one picture: lay out a held-out split"):
        load_source(str(tree(tmp_path / "none", "a/1.png", "b/1.png")), settings={})
