"""The data sets that packages hold, and pictures of predictions. Laws run on small packages made here; those that the
real ones must keep too run on them where `make data` has put them.
"""

import gzip
import os
import shutil
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from datasets import DatasetDict
from datasets import load_from_disk
from PIL import Image
from PIL import ImageDraw

from modeling_vit_custom.training import building
from modeling_vit_custom.training import packages
from modeling_vit_custom.training import pictures
from modeling_vit_custom.training import scenes
from modeling_vit_custom.training.captions import concept_of
from modeling_vit_custom.training.captions import read_emoji
from modeling_vit_custom.training.captions import read_keywords
from modeling_vit_custom.training.cutouts import read_stamps
from modeling_vit_custom.training.data import DATASETS
from modeling_vit_custom.training.fashion_mnist import CLASSES as GARMENTS
from modeling_vit_custom.training.fashion_mnist import balanced
from modeling_vit_custom.training.fashion_mnist import read_idx
from scripts import get_data
from tests.support import ROOT

FETCHED = ROOT / "data" / "packages"
SIZES = {"scenes": dict(num_train=40, num_test=40, size=48), "fashion_mnist": dict(num_train=30, num_test=20)}
EMOJI = """# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # \U0001f600 E1.0 grinning face
1F601                                      ; fully-qualified     # \U0001f601 E0.6 beaming face
1F602                                      ; fully-qualified     # \U0001f602 E0.6 face with tears of joy
1F603                                      ; fully-qualified     # \U0001f603 E0.6 big eyes
263A FE0F                                  ; fully-qualified     # ☺️ E0.6 smiling face
263A                                       ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
# subgroup: person-activity
1F3C3                                      ; fully-qualified     # \U0001f3c3 E0.6 person running
1F3C3 1F3FB                                ; fully-qualified     # \U0001f3c3 E1.0 person running: light skin tone
1F3C3 200D 2640 FE0F                       ; fully-qualified     # \U0001f3c3 E4.0 woman running
# subgroup: animal
1F431                                      ; fully-qualified     # \U0001f431 E0.6 cat face
# group: Flags
# subgroup: flag
1F3C1                                      ; fully-qualified     # \U0001f3c1 E0.6 chequered flag
"""


def write_idx(path: Path, values: np.ndarray):
    head = bytes([0, 0, 8, values.ndim]) + b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def cut_out(color: tuple[int, int, int], width: int, height: int) -> Image.Image:
    """A rectangle in the middle of nothing."""
    picture = Image.new("RGBA", (width + 6, height + 10))
    picture.paste(Image.new("RGBA", (width, height), color), (3, 5))
    return picture


def write_stamp(root: Path, name: str, color: tuple[int, int, int], width: int = 64, height: int = 80, text: str = ""):
    path = root / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_out(color, width, height).save(path)
    path.with_suffix(".txt").write_text(f"{text or f'A {path.stem}.'}\nde.utf8=Ein Ding.\n", encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Packages as Debian's are laid out, with a handful of files each."""
    data_dir = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def share(package: str) -> Path:
        return packages.folder_of(package, data_dir) / "usr" / "share"

    for prefix, count in (("train", 60), ("t10k", 40)):
        folder = share("dataset-fashion-mnist") / "datasets" / "fashion-mnist"
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", rng.permutation(count) % 10)
    stamps = share("tuxpaint-stamps-default") / "tuxpaint" / "stamps"
    for number, folders in enumerate(scenes.CLASSES.values()):
        for index, name in enumerate(("ash", "birch", "cedar", "cedar2", "douglas")):
            write_stamp(stamps, f"{folders[0]}{name}", (200, 40 * number, 60 * index), 64 + 9 * index)
    write_stamp(stamps, "animals/birds/cartoon/drawn", (0, 255, 0))
    write_stamp(stamps, "animals/birds/little", (0, 255, 0), width=20, height=20)
    write_stamp(stamps, "symbols/one", (0, 255, 0), text="The number one.")
    write_stamp(stamps, "animals/birds/speechless", (0, 255, 0))
    (stamps / "animals/birds/speechless.txt").unlink()
    for name in scenes.PHOTOGRAPHS:
        path = share("opencv-doc") / "doc" / "opencv-doc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    font = share("fonts-noto-color-emoji") / "fonts" / "truetype" / "noto" / "NotoColorEmoji.ttf"
    font.parent.mkdir(parents=True)
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", font)
    names = share("unicode-data") / "unicode" / "emoji" / "emoji-test.txt"
    names.parent.mkdir(parents=True)
    names.write_text(EMOJI, encoding="utf-8")
    for folder, emoji, words in (("annotations", "☺", "face | outlined"), ("annotationsDerived", "x", "y")):
        words_file = share("unicode-cldr-core") / "unicode" / "cldr" / "common" / folder / "en.xml"
        words_file.parent.mkdir(parents=True)
        words_file.write_text(
            f'<ldml><annotations><annotation cp="{emoji}">{words}</annotation>'
            f'<annotation cp="{emoji}" type="tts">spoken</annotation></annotations></ldml>',
            encoding="utf-8",
        )
    for index in range(10):
        for folder in ("animals/birds", "food"):
            path = share("openclipart-png") / "openclipart" / "png" / folder / f"{'abcdefghij'[index]}_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_out((20 * index, 0, len(folder)), 40 + 3 * index, 50).save(path)
    return data_dir


REAL = pytest.param("real", marks=pytest.mark.xdist_group("real data"))


@pytest.fixture(scope="module", params=["small", REAL])
def data_dir(request, small, tmp_path_factory) -> Path:
    """The small packages, then the real ones, with nothing built at first."""
    source = small / "packages" if request.param == "small" else FETCHED
    needed = packages.PACKAGES if request.param == "real" else ()
    if lacking := [package for package in needed if not (source / package).is_dir()]:
        pytest.skip(f"{', '.join(lacking)} not in data/: make data")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "packages").symlink_to(source)
    return folder


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(packages, "SYSTEM", tmp_path_factory.mktemp("system"))


def load(name: str, data_dir: Path, seed: int = 0, **settings) -> DatasetDict:
    return DATASETS[name](seed, data_dir, **SIZES.get(name, {}) | settings)


def content(splits: DatasetDict) -> list:
    return [splits[split].with_format("arrow")[:].to_pylist() for split in ("train", "test")]


def test_every_set_but_the_digits_says_what_it_needs():
    assert packages.NEEDED.keys() == DATASETS.keys() - {"sklearn_digits"}
    assert {package for needed in packages.NEEDED.values() for package in needed} == packages.PACKAGES.keys()


@pytest.mark.parametrize("name", packages.NEEDED)
def test_a_set_whose_package_is_missing_says_which_command_brings_it(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"package {packages.NEEDED[name][0]} is neither in .*: run `make data`"
    ):
        load(name, tmp_path)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("data_dir", ["small"], indirect=True)
def test_a_seed_says_all_and_another_seed_says_something_else(name, data_dir, tmp_path):
    (tmp_path / "packages").symlink_to(data_dir / "packages")
    splits = load(name, data_dir)
    assert set(splits) == {"train", "test"}
    assert splits["train"].features == splits["test"].features
    assert content(load(name, tmp_path)) == content(splits)
    assert content(load(name, data_dir, seed=1)) != content(splits)


def test_equal_seeds_give_equal_scenes(data_dir, tmp_path):
    (tmp_path / "packages").symlink_to(data_dir / "packages")
    assert content(load("scenes", data_dir)) == content(load("scenes", tmp_path))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("scenes", "background"),
        ("scenes", "cutouts"),
        ("emoji_captions", "concept"),
        ("emoji_captions", "emoji"),
        ("tuxpaint_captions", "stamp"),
        ("clipart", "drawing"),
        ("clipart", "image"),
    ],
)
def test_nothing_is_in_both_splits(name, column, data_dir):
    def values(split) -> set:
        rows = split[column]
        if column == "image":
            return {image.tobytes() for image in rows}
        return {value for row in rows for value in (row if isinstance(row, list) else [row])}

    splits = load(name, data_dir, seed=1)
    train, test = values(splits["train"]), values(splits["test"])
    assert train
    assert test
    assert not train & test


def test_things_whose_names_begin_alike_stay_together(data_dir):
    splits = load("tuxpaint_captions", data_dir, seed=1)
    groups = [
        {(Path(stamp).parent, building.subject(Path(stamp).name)) for stamp in splits[split]["stamp"]}
        for split in ("train", "test")
    ]
    assert not groups[0] & groups[1]
    assert not any(stamp.startswith("symbols/") for split in splits.values() for stamp in split["stamp"])


def test_held_out_are_whole_groups_and_no_more_than_their_share():
    groups = [str(number // 3) for number in range(60)]
    draws = {tuple(building.held_out(groups, 0.25, np.random.default_rng(seed))) for seed in range(5)}
    assert len(draws) > 1
    for draw in draws:
        assert sum(draw) == 15
        assert all(len(set(draw[start : start + 3])) == 1 for start in range(0, 60, 3))
    assert not building.held_out(["one"] * 10, 0.5, np.random.default_rng(0)).any()


# Fashion-MNIST


def test_idx_files_are_read_exactly(tmp_path):
    values = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "images.gz", values)
    assert np.array_equal(read_idx(tmp_path / "images.gz"), values)


@pytest.mark.parametrize("damage", ["no idx", "longer", "shorter", "cut"])
def test_a_damaged_idx_file_is_named(damage, tmp_path):
    write_idx(path := tmp_path / "images.gz", np.zeros((2, 3)))
    whole = gzip.decompress(path.read_bytes())
    damaged = {"no idx": b"hello", "longer": whole + b"0", "shorter": whole[:-1], "cut": whole}[damage]
    path.write_bytes(gzip.compress(damaged)[: -9 if damage == "cut" else None])
    with pytest.raises(ValueError, match=r"images\.gz is no whole IDX file of bytes: delete its package's folder and"):
        read_idx(path)


def test_fashion_mnist_is_what_its_files_hold(data_dir):
    splits = DATASETS["fashion_mnist"](0, data_dir)
    assert splits["train"].features["label"].names == GARMENTS
    folder = packages.find("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", data_dir)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        assert splits[split]["label"][:] == read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").tolist()
        assert len(splits[split]) == len(pixels)
        for index in (0, 1, len(pixels) - 1):
            assert splits[split][index]["image"].mode == "L"
            assert np.array_equal(np.asarray(splits[split][index]["image"]), pixels[index])


def test_a_part_of_fashion_mnist_has_as_many_of_each_class_and_begins_the_larger_part(data_dir):
    part, larger = (load("fashion_mnist", data_dir, num_train=count)["train"] for count in (20, 50))
    assert np.bincount(part["label"]).tolist() == [2] * 10
    assert [image.tobytes() for image in part["image"]] == [image.tobytes() for image in larger["image"][:20]]
    assert sorted(np.bincount(load("fashion_mnist", data_dir, num_test=17)["test"]["label"])) == [1] * 3 + [2] * 7


@pytest.mark.parametrize("count", [0, 11])
def test_a_part_that_is_no_part_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} images were asked for, but there are 10: choose 1 to 10"):
        balanced(np.arange(10), count, np.random.default_rng(0))


# Scenes


@pytest.mark.parametrize("square", [True, False])
def test_boxes_and_areas_of_scenes_are_those_of_their_masks(square, data_dir):
    """Of each class as a whole; of a thing alone in its class exactly."""
    alone, wider, taller = 0, 0, 0
    for split in load("scenes", data_dir, square=square).values():
        for row in split:
            wider, taller = wider + (row["width"] > row["height"]), taller + (row["width"] < row["height"])
            mask, objects = np.asarray(row["mask"]), row["objects"]
            assert row["image"].size == row["mask"].size == (row["width"], row["height"])
            assert row["image"].mode == "RGB"
            assert max(row["image"].size) == 48
            assert min(row["image"].size) >= (48 if square else 24)
            assert set(np.unique(mask)) - {0, scenes.IGNORED} == {category + 1 for category in objects["category"]}
            boxes, categories = np.array(objects["bbox"]).reshape(-1, 4), np.array(objects["category"])
            for category in set(objects["category"]):
                rows, columns = (mask == category + 1).nonzero()
                own = boxes[categories == category]
                alone += len(own) == 1
                assert np.array(objects["area"])[categories == category].sum() == len(rows)
                assert own[:, 0].min() == columns.min()
                assert own[:, 1].min() == rows.min()
                assert (own[:, 0] + own[:, 2]).max() == columns.max() + 1
                assert (own[:, 1] + own[:, 3]).max() == rows.max() + 1
    assert alone > 20
    assert (wider > 10) == (taller > 10) == (not square)


def test_scenes_have_typed_objects_of_all_classes_and_may_have_none(data_dir):
    splits = load("scenes", data_dir)
    assert splits["train"].features == scenes.FEATURES
    for split in splits.values():
        counts = [len(objects["category"]) for objects in split["objects"]]
        assert min(counts) == 0
        assert max(counts) <= 4
        assert {category for row in split["objects"] for category in row["category"]} == set(range(6))
        assert split["image_id"][:] == list(range(40))
    empty = load("scenes", data_dir, max_objects=0)["train"]
    assert all(not row["objects"]["bbox"] and not np.asarray(row["mask"]).any() for row in empty)


def test_scenes_of_other_sizes_and_shapes_differ_in_shape_and_a_longer_set_begins_with_the_shorter(data_dir):
    shorter, longer = (load("scenes", data_dir, num_train=count, square=False)["train"] for count in (5, 9))
    assert (
        content(DatasetDict(train=shorter, test=shorter))[0] == content(DatasetDict(train=longer, test=longer))[0][:5]
    )
    assert len({image.size for image in longer["image"]}) > 3
    same, other = (load("scenes", data_dir, seed=seed, num_train=9, num_test=9, square=False) for seed in (0, 1))
    shapes = [tuple(zip(s["width"], s["height"], strict=True)) for s in (same["train"], same["test"], other["train"])]
    assert len(set(shapes)) == 3


def test_half_of_a_class_is_never_held_out_and_all_classes_are_in_both_splits(data_dir):
    used = [
        {name for row in split["cutouts"] for name in row}
        for split in load("scenes", data_dir, num_train=300, num_test=300).values()
    ]
    for folders in scenes.CLASSES.values():
        train, test = (sum(name.startswith(tuple(folders)) for name in names) for names in used)
        assert train > test > 0


def test_stamps_left_out_are_drawn_small_or_without_words(small):
    names = {stamp.name for stamp in read_stamps(small)}
    assert "animals/birds/ash" in names
    assert not names & {f"animals/birds/{name}" for name in ("speechless", "little")}
    drawn = next(stamp for stamp in read_stamps(small) if stamp.name == "animals/birds/cartoon/drawn")
    assert scenes.category_of(drawn) is None
    assert next(s.caption for s in read_stamps(small) if s.name == "animals/birds/ash") == "A ash."


class Drawn:
    """In place of a generator: what it draws, in order."""

    def __init__(self, *values: float):
        self.values = list(values)

    def integers(self, *_):
        return int(self.values.pop(0))

    def uniform(self, *_):
        return self.values.pop(0)


@pytest.mark.parametrize("shift", [0, 9, 10, 11, 20])
def test_what_is_hidden_by_more_than_half_is_ignored(shift):
    """Two squares of 20 x 20 pixels on a black photograph, the second `shift` pixels to the right of the first."""
    red, blue = (255, 0, 0), (0, 0, 255)
    cutouts = [scenes.Cutout(f"{c}", c, Image.new("RGBA", (30, 30), color)) for c, color in ((2, red), (5, blue))]
    # photograph; its part; how many; then of each: class, which, size, left, top
    drawn = Drawn(0, 1.0, 0, 0, 2, 0, 0, 0.5, 5, 7, 1, 0, 0.5, 5 + shift, 7)
    row = scenes.compose(drawn, cutouts, {"black": Image.new("RGB", (60, 40))}, 60, 40, 4)  # type: ignore[arg-type]
    image = np.frombuffer(row["image"]["bytes"][-60 * 40 * 3 :], np.uint8).reshape(40, 60, 3)
    mask = np.frombuffer(row["mask"]["bytes"][-60 * 40 :], np.uint8).reshape(40, 60)
    assert (mask[7:27, 5 + shift : 25 + shift] == 6).all()
    assert ((image == blue).all(-1) == (mask == 6)).all()
    seen = (image == red).all(-1)
    assert seen.sum() == 20 * min(shift, 20)
    assert (mask[seen] == (3 if shift >= 10 else scenes.IGNORED)).all()
    kept = [[5, 7, shift, 20]] if shift >= 10 else []
    assert row["objects"]["bbox"] == [*kept, [5 + shift, 7, 20, 20]]
    assert row["objects"]["category"] == [*([2] if kept else []), 5]
    assert row["objects"]["area"] == [*([20 * shift] if kept else []), 400]
    assert row["cutouts"] == ["2", "5"]


def test_what_is_nowhere_opaque_is_no_object():
    faint = scenes.Cutout("faint", 0, Image.new("RGBA", (30, 30), (255, 0, 0, 90)))
    drawn = Drawn(0, 1.0, 0, 0, 1, 0, 0, 0.5, 5, 7)
    row = scenes.compose(drawn, [faint], {"black": Image.new("RGB", (60, 40))}, 60, 40, 4)  # type: ignore[arg-type]
    assert row["objects"] == {"bbox": [], "category": [], "area": []}
    assert not any(row["mask"]["bytes"][-60 * 40 :])


# Captions


def test_emoji_are_read_without_flags_and_skin_tones(tmp_path):
    (tmp_path / "emoji-test.txt").write_text(EMOJI, encoding="utf-8")
    rows = read_emoji(tmp_path / "emoji-test.txt")
    assert [row["caption"] for row in rows] == [
        "grinning face",
        "beaming face",
        "face with tears of joy",
        "big eyes",
        "smiling face",
        "person running",
        "woman running",
        "cat face",
    ]
    assert rows[4] == {
        "emoji": "☺\ufe0f",
        "caption": "smiling face",
        "group": "Smileys & Emotion",
        "subgroup": "face-smiling",
        "concept": "smiling face",
    }
    assert rows[6]["emoji"] == "\U0001f3c3\u200d♀\ufe0f"
    assert rows[6]["subgroup"] == "person-activity"


@pytest.mark.parametrize(
    ("caption", "concept"),
    [
        ("man running", "running"),
        ("person running", "running"),
        ("women with bunny ears", "with bunny ears"),
        ("people with bunny ears", "with bunny ears"),
        ("family: man, woman, boy", "family"),
        ("man: beard", "person"),
        ("woman\u2019s boot", "boot"),
        ("Mrs. Claus", "claus"),
        ("mermaid", "mermaid"),
    ],
)
def test_a_concept_is_the_same_for_everybody(caption, concept):
    assert concept_of(caption) == concept


def test_a_concept_is_in_one_split_alone_whatever_the_seed(small):
    for seed in range(8):
        splits = load("emoji_captions", small, seed=seed)
        assert len({"running" in splits[split]["concept"] for split in ("train", "test")}) == 2


def test_emoji_have_their_keywords_and_are_drawn(data_dir):
    splits = load("emoji_captions", data_dir, seed=1)
    rows = [row for split in splits.values() for row in split]
    captions = {row["caption"]: row for row in rows}
    assert "outlined" in captions["smiling face"]["keywords"]
    assert "spoken" not in captions["smiling face"]["keywords"]
    pixels = [row["image"].tobytes() for row in rows if row["subgroup"] == "face-smiling"]
    assert len(set(pixels)) == len(pixels)
    for row in rows:
        assert row["image"].size == (64, 64)
        assert row["image"].mode == "RGB"
        assert row["image"].getpixel((63, 0)) == (255, 255, 255)
        assert np.asarray(row["image"]).min() < 250
    assert not any("skin tone" in caption or caption.startswith("flag:") for caption in captions)


def test_keywords_are_read_exactly(small):
    file = packages.find("unicode-cldr-core", "usr/share/unicode/cldr/common/annotations/en.xml", small)
    assert read_keywords(file) == {"☺": ["face", "outlined"]}


# Clip art


def test_clip_art_is_taken_once_without_what_is_huge_empty_linked_or_an_icon(small, tmp_path):
    shutil.copytree(small / "packages" / "openclipart-png", tmp_path / "packages" / "openclipart-png")
    root = packages.find("openclipart-png", "usr/share/openclipart/png", tmp_path)
    before = load("clipart", tmp_path)
    shutil.copy(root / "food/a_01.png", root / "food/z_again.png")
    (root / "food/0_link.png").symlink_to("a_01.png")
    (root / "computer").mkdir()
    cut_out((1, 2, 3), 50, 50).save(root / "computer/icon.png")
    Image.new("RGBA", (50, 50)).save(root / "food/z_empty.png")
    Image.new("RGB", (20, 20)).save(root / "food/z_little.png")
    head = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = ((13).to_bytes(4, "big"), head, zlib.crc32(head).to_bytes(4, "big"), b"\0\0\0\0IDAT")
    (root / "food/z_huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    shutil.rmtree(tmp_path / "built")
    assert content(load("clipart", tmp_path)) == content(before)
    assert before["train"].features["label"].names == ["animals", "food"]
    assert (len(before["train"]), len(before["test"])) == (16, 4)


def test_clip_art_has_the_folder_as_its_label_and_white_behind_it(data_dir):
    for split in load("clipart", data_dir, seed=1).values():
        for row in split.select(range(4)):
            assert split.features["label"].int2str(row["label"]) == row["drawing"].split("/")[0]
            assert row["image"].size == (64, 64)


# What is built is kept


def test_a_set_is_built_once_for_equal_settings(tmp_path):
    calls = []

    def build():
        calls.append(1)
        return load("sklearn_digits", tmp_path)

    for settings in ({"size": 1}, {"size": 1}, {"size": 2}):
        assert len(building.kept(tmp_path, "digits", settings, build)["test"]) == 360
    assert len(calls) == 2
    assert len(list((tmp_path / "built").iterdir())) == 2


def test_a_set_that_was_cut_short_is_built_again(tmp_path, monkeypatch):
    class Torn(DatasetDict):
        def save_to_disk(self, folder):
            super().save_to_disk(folder)
            (Path(folder) / "dataset_dict.json").unlink()
            raise KeyboardInterrupt

    digits = load("sklearn_digits", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        building.kept(tmp_path, "digits", {}, lambda: Torn(digits))
    assert not list((tmp_path / "built").iterdir())
    assert len(building.kept(tmp_path, "digits", {}, lambda: digits)["test"]) == 360


def test_a_set_that_another_process_built_meanwhile_is_taken(tmp_path):
    def build():
        building.kept(tmp_path, "digits", {}, lambda: digits)
        return digits

    digits = load("sklearn_digits", tmp_path)
    assert len(building.kept(tmp_path, "digits", {}, build)["test"]) == 360
    (folder,) = (tmp_path / "built").iterdir()
    assert len(load_from_disk(folder)["test"]) == 360


# Fetching


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """In place of apt-get, which notes its calls and knows packages while the file `lists` is there, and dpkg-deb."""
    programs = tmp_path / "programs"
    programs.mkdir()
    log, lists = tmp_path / "calls", tmp_path / "lists"
    lists.touch()
    get = f"""echo "$@" >> {log}
    case "$*" in
      *update) touch {lists}.own;;
      *Dir::State*download*) [ -e {lists}.own ] && touch some_1.deb;;
      *download*) [ -e {lists} ] && touch some_1.deb;;
    esac || {{ echo "E: no such package" >&2; exit 100; }}"""
    unpack = """mkdir -p all/usr/share/datasets/fashion-mnist all/usr/share/doc/dataset-fashion-mnist
    for f in datasets/fashion-mnist/a.gz datasets/fashion-mnist/manual doc/dataset-fashion-mnist/copyright; do
      echo text > all/usr/share/$f
    done"""
    for name, text in (("apt-get", get), ("dpkg-deb", unpack)):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def fetched(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*") if path.is_file())


KEPT = [
    f"data/packages/dataset-fashion-mnist/usr/share/{name}"
    for name in ("datasets/fashion-mnist/a.gz", "doc/dataset-fashion-mnist/copyright")
]


def test_what_is_read_of_a_package_is_fetched_once(apt, capsys):
    for told in ("fetched: some_1.deb, 0 MB in 2 files", "is in "):
        get_data.main(["fashion_mnist", "--data_dir", str(apt / "data")])
        output = capsys.readouterr().out
        assert "dataset-fashion-mnist: 31 MB to download, licence MIT" in output
        assert told in output
        assert fetched(apt) == KEPT
    assert len((apt / "calls").read_text().splitlines()) == 1


def test_without_package_lists_own_ones_are_used(apt):
    (apt / "lists").unlink()
    get_data.main(["fashion_mnist", "--data_dir", str(apt / "data")])
    assert fetched(apt) == KEPT
    calls = (apt / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["dataset-fashion-mnist", "update", "dataset-fashion-mnist"]
    assert f"Dir::State::Lists={apt / 'data/apt/lists'}" in calls[1]


def test_what_is_installed_is_not_fetched(apt, monkeypatch, capsys):
    installed = apt / "usr/share/datasets/fashion-mnist/x.gz"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(packages, "SYSTEM", apt)
    get_data.main(["fashion_mnist", "--data_dir", str(apt / "data")])
    assert "is installed" in capsys.readouterr().out
    assert not (apt / "calls").exists()
    found = packages.find("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", apt / "data")
    assert found == installed.parent


BY_HAND = r"unpack the Debian package dataset-fashion-mnist by hand so that .*packages/dataset-fashion-mnist/usr/share"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (
            "apt-get",
            f"could not download dataset-fashion-mnist \\(E: no such package\\): check the network, or {BY_HAND}",
        ),
        ("dpkg-deb", f"some_1.deb holds no usr/share/datasets/.* \\(torn\\): {BY_HAND}"),
    ],
)
def test_what_fails_is_said_with_the_way_by_hand_and_leaves_nothing(apt, broken, sentence):
    word = {"apt-get": "E: no such package", "dpkg-deb": "torn"}[broken]
    (apt / "programs" / broken).write_text(f"#!/bin/sh\nmkdir -p all/usr/share/datasets\necho '{word}' >&2\nexit 2\n")
    with pytest.raises(RuntimeError, match=sentence):
        get_data.main(["fashion_mnist", "--data_dir", str(apt / "data")])
    assert fetched(apt) == []
    assert not list((apt / "data/packages").iterdir())


def test_where_there_is_no_apt_the_way_by_hand_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"There is no apt-get here to fetch dataset-fashion-mnist: {BY_HAND}"):
        get_data.main(["fashion_mnist", "--data_dir", str(tmp_path / "data")])


def test_an_unknown_name_is_refused_with_the_known():
    with pytest.raises(ValueError, match="no package for `coco`: choose of fashion_mnist, scenes"):
        get_data.main(["coco"])


# Pictures

NAMES = ["nothing", "bird", "fish"]


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 90, 90))


def panel(picture: Image.Image, index: int, width: int, height: int) -> np.ndarray:
    left = index * (width + pictures.GAP)
    return np.asarray(picture)[pictures.LINE : pictures.LINE + height, left : left + width]


def test_a_segmentation_shows_the_colours_of_its_classes_and_leaves_out_what_is_ignored():
    truth = np.zeros((30, 50), dtype=np.uint8)
    truth[:10], truth[20:, 40:] = 2, 255
    prediction = np.ones((30, 50), dtype=np.uint8)
    picture = pictures.draw_segmentation(grey(50, 30), Image.fromarray(truth), prediction, NAMES)
    assert picture.width == 3 * 50 + 2 * pictures.GAP
    assert (panel(picture, 0, 50, 30) == 90).all()
    for index, values in ((1, truth), (2, np.where(truth == 255, 255, prediction))):
        drawn = panel(picture, index, 50, 30)
        for value, color in ((0, pictures.color_of(0)), (1, pictures.color_of(1)), (255, (255, 255, 255))):
            assert (drawn[values == value] == color).all()
    legend = np.asarray(picture)[pictures.LINE + 30 + pictures.GAP :]
    assert all((legend == pictures.color_of(index)).all(-1).any() for index in range(3))
    assert len({pictures.color_of(index) for index in range(20)} | {(255, 255, 255)}) == 21


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"prediction is a map of \(3, 4\), but the image has \(5, 4\)"):
        pictures.draw_segmentation(grey(4, 5), np.zeros((5, 4)), np.zeros((3, 4)), NAMES)


def test_boxes_lie_on_the_first_and_last_pixels_of_things():
    """COCO's boxes in the truth, corners in what was found: the same box is drawn alike."""
    objects = {"bbox": [[40.0, 30.0, 50.0, 25.0]], "category": [1]}
    found = {"boxes": np.array([[40, 30, 90, 55], [0, 0, 9, 9]]), "labels": np.array([1, 2]), "scores": [0.9, 0.3]}
    picture = pictures.draw_detection(grey(100, 60), objects, found, NAMES)
    assert picture.size == (2 * 100 + pictures.GAP, pictures.LINE + 60)
    outline = np.zeros((60, 100), dtype=bool)
    outline[30:55, 40:90] = True
    outline[31:54, 41:89] = False
    for index in range(2):
        drawn = panel(picture, index, 100, 60)
        below_the_name = np.arange(60) > 30 + pictures.LINE
        own = (drawn == pictures.color_of(1)).all(-1)
        assert np.array_equal(own[below_the_name], outline[below_the_name])
        assert (drawn[:30] == 90).all()
        assert not (drawn == pictures.color_of(2)).all(-1).any()
    lower = pictures.draw_detection(grey(100, 60), objects, found, NAMES, threshold=0.2)
    assert (panel(lower, 1, 100, 60) == pictures.color_of(2)).all(-1).any()


def test_an_image_without_objects_is_drawn_as_it_is():
    nothing = {"bbox": [], "category": [], "boxes": np.zeros((0, 4)), "labels": [], "scores": []}
    picture = pictures.draw_detection(grey(100, 60), nothing, nothing, NAMES)
    assert all((panel(picture, index, 100, 60) == 90).all() for index in range(2))


def test_a_reconstruction_stands_only_where_it_was_masked():
    mask = np.array([[1, 0, 0], [0, 0, 1]])
    picture = pictures.draw_masked(grey(60, 40), mask, np.full((40, 60, 3), 7, dtype=np.uint8))
    hidden = np.kron(mask, np.ones((20, 20))) == 1
    image, seen, filled = (panel(picture, index, 60, 40) for index in range(3))
    assert (image == 90).all()
    assert (seen[hidden] == 128).all()
    assert (seen[~hidden] == 90).all()
    assert (filled[hidden] == 7).all()
    assert (filled[~hidden] == 90).all()


def test_a_mask_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match=r"A mask of \(3, 3\) patches does not divide an image of \(40, 60\)"):
        pictures.draw_masked(grey(60, 40), np.ones((3, 3)), grey(60, 40))


@pytest.mark.parametrize("right", [0, 3, None])
def test_the_right_caption_is_green_and_the_others_are_red(right):
    captions = ["one", "two", "three", "four", "five"]
    correct = captions[right] if right is not None else "six"
    picture = pictures.draw_retrieval(grey(64, 64), captions, correct)
    assert (np.asarray(picture)[:64, :64] == 90).all()
    text = np.asarray(picture)[:, 64 + pictures.GAP :].astype(int)
    for row in range(5):
        red, green, _ = (255 - text[row * pictures.LINE : (row + 1) * pictures.LINE]).sum((0, 1))
        assert (red > green) == (row == right)
    below = text[5 * pictures.LINE :]
    assert (below < 128).any() == (right is None)


def test_pictures_stand_in_a_column():
    column = pictures.below([grey(30, 10), grey(20, 15)])
    assert column.size == (30, 10 + pictures.GAP + 15)
    pixels = np.asarray(column)
    assert (pixels[:10] == 90).all()
    assert (pixels[10 : 10 + pictures.GAP] == 255).all()
    assert (pixels[10 + pictures.GAP :, :20] == 90).all()


def test_a_long_legend_goes_on_in_another_line():
    legend = [(f"a class of number {index}", pictures.color_of(index)) for index in range(12)]
    lines = pictures.lines_of(legend, 300)
    assert len(lines) > 3
    assert all(line.size == (300, pictures.LINE) for line in lines)
    ink = ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(legend[0][0], font=pictures.font())
    assert ink > 50
