"""Images and data sets of any kind: pixels beside numpy's, the same rows from every layout, what is broken named."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image as ImageFeature
from PIL import Image

from modeling_vit_custom.training.images import CorruptImage
from modeling_vit_custom.training.images import decode
from modeling_vit_custom.training.images import decode_rgb
from modeling_vit_custom.training.images import to_rgb
from modeling_vit_custom.training.sources import load_source
from modeling_vit_custom.training.streams import NumberedStream

CLASSES = ("cat", "dog", "owl")


def noise(*shape: int, high: int = 256, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=dtype)


def through(image: Image.Image, kind: str = "PNG", **settings) -> Image.Image:
    """Written and read again, as a file is."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return decode({"bytes": file.getvalue(), "path": None})


def pixels(image: Image.Image) -> np.ndarray:
    made = to_rgb(image)
    assert made.mode == "RGB"
    assert np.array_equal(np.asarray(to_rgb(made)), np.asarray(made))  # it is done once and for all
    return np.asarray(made).astype(int)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[:, :, None], 3, 2).astype(int)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# Pixels


def test_plain_modes():
    rgb, levels = noise(7, 5, 3), noise(7, 5)
    assert np.array_equal(pixels(through(Image.fromarray(rgb))), rgb)
    assert np.array_equal(pixels(through(Image.fromarray(levels))), grey(levels))
    bits = levels > 127
    assert np.array_equal(pixels(through(Image.fromarray(bits))), grey(bits * 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    levels = noise(9, 8, high=65536, dtype=np.uint16)
    levels[0, :5] = [0, 128, 129, 257, 65535]
    expected = np.round(levels / 257)
    image = through(Image.fromarray(levels), kind)
    assert np.array_equal(pixels(image), grey(expected))
    assert pixels(image)[0, :5, 0].tolist() == [0, 0, 1, 1, 255]
    assert np.array_equal(pixels(image), pixels(Image.fromarray(levels.astype(np.int32))))
    assert np.array_equal(pixels(image), pixels(Image.fromarray(levels.astype(np.float32))))


def test_wide_grey_that_holds_eight_bits_stays_and_shares_are_of_white():
    levels = noise(6, 6)
    assert np.array_equal(pixels(Image.fromarray(levels.astype(np.int32))), grey(levels))
    assert np.array_equal(pixels(Image.fromarray(levels.astype(np.float32))), grey(levels))
    assert np.array_equal(pixels(Image.fromarray((levels / 255).astype(np.float32))), grey(levels))
    dark = Image.fromarray((levels % 200).astype(np.uint16))  # a dark image of 16 bits, in a mode that says so
    assert np.array_equal(pixels(dark), grey(np.round((levels % 200) / 257)))


@pytest.mark.parametrize("wrong", [-1.0, 70000.0, float("nan")])
def test_grey_beyond_any_rule_is_refused(wrong):
    levels = np.zeros((2, 2), np.float32)
    levels[1, 1] = wrong
    with pytest.raises(ValueError, match="neither 8 nor 16 bits"):
        to_rgb(Image.fromarray(levels))
    with pytest.raises(CorruptImage, match=r"^row 3 cannot be made RGB: its grey levels go"):
        decode_rgb(Image.fromarray(levels), "row 3")


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return colour * share + 255 * (1 - share)


def test_transparency_is_on_white():
    rgba = noise(8, 9, 4)
    assert np.abs(pixels(through(Image.fromarray(rgba))) - on_white(rgba[:, :, :3], rgba[:, :, 3])).max() <= 1
    both = noise(8, 9, 2)
    image = through(Image.merge("LA", [Image.fromarray(np.ascontiguousarray(both[:, :, i])) for i in (0, 1)]))
    assert image.mode == "LA"
    assert np.abs(pixels(image) - on_white(grey(both[:, :, 0]), both[:, :, 1])).max() <= 1
    webp = through(Image.fromarray(rgba), "WEBP", lossless=True, exact=True)
    assert np.abs(pixels(webp) - on_white(rgba[:, :, :3], rgba[:, :, 3])).max() <= 1


def palette() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    places, colours = noise(6, 7, high=4), noise(4, 3, seed=1)
    image = Image.fromarray(places).convert("P")
    image.frombytes(places.tobytes())
    image.putpalette(colours.reshape(-1).tolist())
    return image, places, colours


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette(kind):
    image, places, colours = palette()
    assert np.array_equal(pixels(through(image, kind)), colours[places])
    expected = np.where((places == 2)[:, :, None], 255, colours[places])
    assert np.array_equal(pixels(through(image, kind, transparency=2)), expected)


def test_a_palette_with_an_alpha_for_each_colour():
    image, places, colours = palette()
    alphas = np.array([0, 100, 200, 255], np.uint8)
    image = through(image, transparency=alphas.tobytes())
    assert image.mode == "P"
    assert np.abs(pixels(image) - on_white(colours[places], alphas[places])).max() <= 1


def test_a_transparent_level_of_grey():
    levels = noise(6, 7, high=4)
    expected = np.where(levels == 1, 255, levels)
    assert np.array_equal(pixels(through(Image.fromarray(levels), transparency=1)), grey(expected))
    wide = levels.astype(np.uint16) * 1000
    expected = np.where(levels == 1, 255, np.round(wide / 257))
    assert np.array_equal(pixels(through(Image.fromarray(wide), transparency=1000)), grey(expected))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])  # Pillow writes Adobe's inverted values into a JPEG, and turns them
def test_four_inks(kind):
    inks = np.broadcast_to(noise(4, seed=3), (8, 8, 4)).copy()
    inks[:, :, 3] //= 2
    image = through(
        Image.frombytes("CMYK", (8, 8), inks.tobytes()), kind, **({"quality": 100} if kind == "JPEG" else {})
    )
    assert image.mode == "CMYK"
    share = inks.astype(float) / 255
    expected = 255 * (1 - share[:, :, :3]) * (1 - share[:, :, 3:])
    assert np.abs(pixels(image) - expected).max() <= (4 if kind == "JPEG" else 1)


def test_luminance_and_chrominance():
    ycc = np.broadcast_to(np.array([90, 140, 100], np.uint8), (4, 4, 3)).copy()
    y, blue, red = 90.0, 140 - 128.0, 100 - 128.0
    expected = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]  # JFIF 1.02, page 3
    assert np.abs(pixels(Image.frombytes("YCbCr", (4, 4), ycc.tobytes()))[0, 0] - expected).max() <= 1


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_turned_as_exif_says(orientation):
    colours, exif = noise(3, 5, 3), Image.Exif()
    exif[0x0112] = orientation
    image = through(Image.fromarray(colours), exif=exif.tobytes())
    assert np.array_equal(pixels(image), TURNED[orientation](colours))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200))]
    settings = {"lossless": True} if kind == "WEBP" else {}
    image = through(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
    assert image.n_frames == 3
    image.seek(2)
    assert np.array_equal(pixels(image), np.asarray(frames[0]))


# Files that are not whole


def huge_header() -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def jpeg(seed: int = 0, side: int = 32) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(side, side, 3, seed=seed)).save(file, "JPEG", quality=95)
    return file.getvalue()


HOSTILE = {
    "text": (b"this is no picture", "no image of a format that Pillow reads"),
    "empty": (b"", "the file is empty"),
    "truncated": (jpeg()[:-400], "truncated"),
    "header": (jpeg()[:20], "no image"),
    "bomb": (huge_header(), "more pixels than a safe image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_named(name, tmp_path):
    content, words = HOSTILE[name]
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(content)
    with pytest.raises(CorruptImage, match=words) as error:
        decode({"bytes": None, "path": str(path)}, "row 4")
    assert str(error.value).startswith(f"{path} (row 4) cannot be decoded: ")
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)
    with pytest.raises(CorruptImage, match=rf"^row 7 cannot.*{words}"):
        decode({"bytes": content, "path": None}, "row 7")


def test_no_file_and_no_image(tmp_path):
    with pytest.raises(CorruptImage, match=r"none\.jpg .*no such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(CorruptImage, match=r"row 2 .*has no image"):
        decode({"bytes": None, "path": None}, "row 2")


def test_a_large_photograph_is_none_of_a_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32 - 1)  # Pillow warns from here on, which is an error in tests
    assert decode(jpeg()).size == (32, 32)
    with pytest.raises(CorruptImage, match="more pixels"):
        decode(jpeg(side=64))


# The same rows from every layout


def write_folder(folder: Path, splits=("train", "test"), per_class: int = 4):
    for split in splits:
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(per_class):
                image = noise(8, 8, 3, seed=1000 * len(split) + 100 * number + i)
                Image.fromarray(image).save(place / f"{i}.png")


def write_tar(path: Path, rows: list[dict[str, bytes]]):
    """A WebDataset shard: files of one sample follow each other, with one name and different endings."""
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows):
            for ending, content in row.items():
                info = tarfile.TarInfo(f"{path.stem}-{number:05}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def files_of(folder: Path, split: str) -> list[tuple[bytes, int]]:
    return [(f.read_bytes(), i) for i, name in enumerate(CLASSES) for f in sorted((folder / split / name).glob("*"))]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    write_folder(root / "folder")
    saved = {}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASSES))})
    for kind in ("parquet", "arrow", "tar", "json", "plain"):
        (root / kind).mkdir()
    for split in ("train", "test"):
        rows = files_of(root / "folder", split)
        columns = {"image": [{"bytes": b, "path": None} for b, _ in rows], "label": [label for _, label in rows]}
        saved[split] = Dataset.from_dict(columns, features=features)
        saved[split].to_parquet(root / "parquet" / f"{split}-00000-of-00001.parquet")
        texts = {"picture": columns["image"], "kind": [CLASSES[label] for label in columns["label"]]}
        kinds = Features({"picture": ImageFeature(), "kind": datasets.Value("string")})
        Dataset.from_dict(texts, features=kinds).to_parquet(root / "plain" / f"{split}.parquet")
        half = len(rows) // 2
        for part, some in enumerate((rows[:half], rows[half:])):
            write_tar(root / "tar" / f"{split}-{part}.tar", [{"png": b, "cls": str(i).encode()} for b, i in some])
            write_tar(
                root / "json" / f"{split}-{part}.tar",
                [{"png": b, "json": json.dumps({"label": CLASSES[i]}).encode()} for b, i in some],
            )
    DatasetDict(saved).save_to_disk(root / "saved")
    for split in saved:
        file = next((root / "saved" / split).glob("*.arrow"))
        (root / "arrow" / f"{split}.arrow").write_bytes(file.read_bytes())
    return root


NAMED = {"class_names": list(CLASSES)}
LAYOUTS = {
    "folder": {},
    "parquet": {},
    "parquet/*.parquet": {},
    "arrow": {},
    "saved": {},
    "plain": dict(label_column="kind", settings=NAMED),
    "tar": dict(label_column="cls", settings=NAMED),
    "json": dict(label_column="json.label", settings=NAMED),
}


def content_of(rows) -> list:
    return [(np.asarray(row["image"]).tobytes(), row["label"]) for row in rows]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(layouts, layout, streaming):
    splits = load_source(str(layouts / layout), streaming=streaming, **{"settings": {}} | LAYOUTS[layout])
    assert list(splits) == ["train", "test"]
    for split, rows in splits.items():
        assert rows.features["label"].names == list(CLASSES)
        expected = [(np.asarray(decode_rgb(b)).tobytes(), label) for b, label in files_of(layouts / "folder", split)]
        rows = NumberedStream(rows, endless=False) if streaming else rows
        assert content_of(rows) == expected


def test_rows_are_as_run_and_tasks_use_them(layouts):
    rows = load_source(str(layouts / "folder"), settings={})["train"]
    assert {"image", "label"} <= set(rows.column_names)
    assert np.bincount(rows["label"]).tolist() == [4, 4, 4]
    assert rows.select([5, 2])[0]["image"].tobytes() == rows[5]["image"].tobytes()
    assert rows.select_columns(["label"])[0] == {"label": 0}
    assert [image.mode for image in rows["image"]] == ["RGB"] * 12
    assert [row["label"] for row in rows.__getitems__([0, 11])] == [0, 2]


def test_texts_and_numbers_become_classes(layouts, tmp_path):
    splits = load_source(str(layouts / "plain"), settings={}, label_column="kind")
    assert splits["train"].features["label"].names == sorted(CLASSES)
    columns = {"image": [{"bytes": jpeg(i), "path": None} for i in range(6)], "age": [30, 4, 30, 4, 30, 4]}
    features = Features({"image": ImageFeature(), "age": datasets.Value("int64")})
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "ages.parquet")
    splits = load_source(str(tmp_path), settings={}, label_column="age", test_share=0.4)
    assert splits["train"].features["label"].names == ["4", "30"]
    assert sorted([*splits["train"]["label"], *splits["test"]["label"]]) == [0, 0, 0, 1, 1, 1]


def test_a_part_is_held_out_by_class_and_seed(tmp_path, capsys):
    write_folder(tmp_path, [""], per_class=10)
    first, again, other = (load_source(str(tmp_path), settings={}, split_seed=seed) for seed in (1, 1, 2))
    assert "no held-out split: 20% of each class is held out by `split_seed: 1`" in capsys.readouterr().out
    assert np.bincount(first["test"]["label"]).tolist() == [2, 2, 2]
    assert content_of(first["test"]) == content_of(again["test"]) != content_of(other["test"])
    assert not {row[0] for row in content_of(first["test"])} & {row[0] for row in content_of(first["train"])}


def test_a_part_of_a_stream_is_held_out_whatever_its_order(tmp_path, capsys):
    write_folder(tmp_path, [""], per_class=30)
    splits = load_source(str(tmp_path), settings={}, streaming=True, test_share=0.3)
    assert "by a hash" in capsys.readouterr().out
    train, test = (content_of(NumberedStream(rows, endless=False)) for rows in splits.values())
    assert len(train) + len(test) == 90
    assert 15 < len(test) < 40
    assert not set(train) & set(test)
    shuffled = content_of(NumberedStream(splits["train"], shuffle_buffer=8, endless=False))
    assert sorted(shuffled) == sorted(train)
    assert shuffled != train


# What is ambiguous, or not there, or broken


def test_what_is_ambiguous_is_asked_for(layouts, tmp_path):
    with pytest.raises(ValueError, match=r"no column of classes: add `label_column: kind`.*picture|kind"):
        load_source(str(layouts / "plain"), settings={})
    columns = {"a": [{"bytes": jpeg(), "path": None}], "b": [{"bytes": jpeg(), "path": None}], "label": [0]}
    features = Features({"a": ImageFeature(), "b": ImageFeature(), "label": ClassLabel(names=["x"])})
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "two.parquet")
    with pytest.raises(ValueError, match="several columns of images, a, b: add `image_column: a`"):
        load_source(str(tmp_path), settings={})
    with pytest.raises(ValueError, match="`image_column: c` is no column"):
        load_source(str(tmp_path), settings={}, image_column="c")
    with pytest.raises(ValueError, match="`label_column: c` is no column"):
        load_source(str(tmp_path), settings={}, image_column="a", label_column="c")
    with pytest.raises(ValueError, match="a stream cannot be searched"):
        load_source(str(layouts / "plain"), settings={}, label_column="kind", streaming=True)
    with pytest.raises(ValueError, match="labels that `class_names` has not: owl"):
        load_source(str(layouts / "plain"), settings={"class_names": ["cat", "dog"]}, label_column="kind")
    few = load_source(str(layouts / "tar"), settings={"class_names": ["a"]}, label_column="cls", streaming=True)
    with pytest.raises(ValueError, match="has the label 1, which `class_names` has not"):
        list(NumberedStream(few["train"], endless=False))
    with pytest.raises(ValueError, match="unknown key `classes`"):
        load_source(str(layouts / "plain"), settings={"classes": 1})
    (tmp_path / "x.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match="holds arrow and parquet files"):
        load_source(str(tmp_path), settings={})


def test_splits_that_do_not_fit(tmp_path):
    write_folder(tmp_path / "three", ["train", "test", "val"], per_class=1)
    with pytest.raises(ValueError, match=r"has test and val: say which .*`held_out: test`"):
        load_source(str(tmp_path / "three"), settings={})
    val = load_source(str(tmp_path / "three"), settings={"held_out": "val"})["test"]
    assert len(val) == 3
    for word in ("VAL", "validation", "dev"):  # other words for it
        assert load_source(str(tmp_path / "three"), settings={"held_out": word})["test"]["image"] == val["image"]
    with pytest.raises(ValueError, match=r"`held_out: vla` is no split .* choose of test, train, val"):
        load_source(str(tmp_path / "three"), settings={"held_out": "vla"})
    write_folder(tmp_path / "stray", ["train", "test"], per_class=1)
    Image.new("RGB", (2, 2)).save(tmp_path / "stray" / "logo.png")
    with pytest.raises(ValueError, match=r"has test, train, and .*logo\.png outside"):
        load_source(str(tmp_path / "stray"), settings={})
    write_folder(tmp_path / "only", ["test"], per_class=1)
    with pytest.raises(ValueError, match="has no split `train`, only test"):
        load_source(str(tmp_path / "only"), settings={})
    for split, names in (("train", ["x", "y"]), ("test", ["x", "z"])):
        features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
        columns = {"image": [{"bytes": jpeg(), "path": None}], "label": [0]}
        (tmp_path / "classes").mkdir(exist_ok=True)
        Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "classes" / split)
    DatasetDict(
        {split: Dataset.load_from_disk(tmp_path / "classes" / split) for split in ("train", "test")}
    ).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"different classes \(only one of them has y, z\)"):
        load_source(str(tmp_path / "saved"), settings={})


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="neither built in nor a file or folder"):
        load_source(str(tmp_path / "none"), settings={})
    with pytest.raises(FileNotFoundError, match="No file is called"):
        load_source(str(tmp_path / "*.tar"), settings={})
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no images"):
        load_source(str(tmp_path / "empty"), settings={})
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(FileNotFoundError, match="holds no images"):
        load_source(str(tmp_path / "empty"), settings={})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match="cannot be read as parquet files"):
        load_source(str(tmp_path / "broken.parquet"), settings={})


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_is_fetched_offline(monkeypatch, streaming):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(ConnectionError, match=r"`dataset: nobody/nothing` is no folder here .*HF_HUB_OFFLINE"):
        load_source("nobody/nothing", settings={}, streaming=streaming)


def test_corrupt_images_are_named_or_left_out(tmp_path, capsys):
    write_folder(tmp_path)
    for number, name in enumerate(("text", "empty", "truncated", "bomb")):
        (tmp_path / "train" / CLASSES[number % 3] / f"9{number}.jpg").write_bytes(HOSTILE[name][0])
    rows = load_source(str(tmp_path), settings={})["train"]
    assert len(rows) == 16
    with pytest.raises(
        CorruptImage, match=r"cat/90\.jpg \(row 4 of train of .*\) cannot be decoded: it is no image"
    ) as error:
        list(rows)
    assert str(error.value).endswith("Repair or remove it, or set `corrupt_images: skip`.")
    capsys.readouterr()
    splits = load_source(str(tmp_path), settings={}, corrupt="skip")
    said = capsys.readouterr().out
    assert "Left out 4 corrupt of 16 images of train" in said
    assert "90.jpg" in said
    assert "And 1 more." in said
    assert len(content_of(splits["train"])) == 12
    stream = load_source(str(tmp_path), settings={}, streaming=True)["train"]
    with pytest.raises(CorruptImage, match=r"90\.jpg.* or set `corrupt_images: skip`"):
        list(NumberedStream(stream, endless=False))
    capsys.readouterr()
    streamed = content_of(NumberedStream(stream, endless=False, corrupt="skip"))
    assert "Pass 0 of the stream left out 4 corrupt images" in capsys.readouterr().out
    assert streamed == content_of(splits["train"])


def test_nothing_but_corrupt_images(tmp_path):
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes(b"none")
    with pytest.raises(CorruptImage, match=r"Every image of train of .* is corrupt"):
        load_source(str(tmp_path), settings={}, corrupt="skip")
    write_folder(tmp_path, ["test"])
    stream = load_source(str(tmp_path), settings={}, streaming=True)["train"]
    with pytest.raises(CorruptImage, match="Every image of the stream is corrupt"):
        list(NumberedStream(stream, corrupt="skip"))


def test_rows_without_a_label_are_refused_where_labels_count_and_divided_where_not(tmp_path):
    kinds = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    pictures = [Image.fromarray(noise(4, 4, 3, seed=number)) for number in range(20)]
    for missing in (-1, None):
        labels = [number % 2 for number in range(19)] + [missing]
        place = tmp_path / str(missing)
        Dataset.from_dict({"image": pictures, "label": labels}, features=kinds).save_to_disk(place)
        settings = dict(settings={}, streaming=False, split_seed=0, test_share=0.2)
        with pytest.raises(ValueError, match=r"^`label_column: label` of `dataset: .*` has rows without a label"):
            load_source(str(place), **settings, needs_label=True)
        splits = load_source(str(place), **settings, needs_label=False)
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 16, "test": 4}


def table(tmp_path, column: str, values: list) -> Path:
    """Pictures of their own, and a metadata.csv with a column."""
    for number in range(len(values)):
        Image.fromarray(noise(4, 4, 3, seed=number)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,{value}" for number, value in enumerate(values)]
    (tmp_path / "metadata.csv").write_text("\n".join([f"file_name,{column}", *lines]))
    return tmp_path


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["01", "02", "10"], ["01", "02", "10"]),
        (["1", "2", "10"], ["1", "2", "10"]),
        (["None", "NA", "crack"], ["NA", "None", "crack"]),
        (["True", "False", "True"], ["false", "true"]),
    ],
)
def test_labels_of_a_table_are_what_is_written(values, classes, tmp_path):
    folder = table(tmp_path, "kind", values * 4)
    splits = load_source(str(folder), settings={}, label_column="kind")
    kind = splits["train"].features["label"]
    assert kind.names == classes
    told = {kind.int2str(label).lower() for rows in splits.values() for label in rows["label"]}
    assert told == {name.lower() for name in values}


def test_numbers_of_a_table_stay_numbers_and_what_is_empty_is_none(tmp_path):
    rows = load_source(str(table(tmp_path, "a,b,c", ["7,0.5,", "8,1e-3,x"] * 4)), settings={}, needs_label=False)[
        "train"
    ]
    assert {(row["a"], row["b"], row["c"]) for row in rows.remove_columns("image").with_format(None)} == {
        (7, 0.5, None),
        (8, 1e-3, "x"),
    }


def saved_splits(place: Path, **sizes: int) -> str:
    kinds = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    made = {}
    for name, size in sizes.items():
        pictures = [Image.fromarray(noise(4, 4, 3, seed=number)) for number in range(size)]
        labels = [number % 2 for number in range(size)]
        made[name] = Dataset.from_dict({"image": pictures, "label": labels}, features=kinds)
    DatasetDict(made).save_to_disk(place)
    return str(place)


def test_no_split_goes_without_a_word(tmp_path, capsys):
    assert len(load_source(saved_splits(tmp_path / "a", train=8, Test=3), settings={})["test"]) == 3
    with pytest.raises(ValueError, match="has holdout beside train: say which is held out, by `held_out: holdout`"):
        load_source(saved_splits(tmp_path / "b", train=8, holdout=3), settings={})
    assert len(load_source(str(tmp_path / "b"), settings={"held_out": "holdout"})["test"]) == 3
    load_source(saved_splits(tmp_path / "c", train=8, test=3, extra=5), settings={})
    assert "left out are the splits extra." in capsys.readouterr().out


@pytest.mark.parametrize("group_column", [None, "patient"])
def test_what_a_stream_holds_out_is_found_again_without_one(group_column, tmp_path):
    folder = table(tmp_path, "kind,patient", [f"{'ab'[n % 2]},{n // 3}" for n in range(30)])
    asked = dict(settings={"class_names": ["a", "b"]}, label_column="kind", group_column=group_column, split_seed=4)
    stream = load_source(str(folder), streaming=True, **asked)
    again = load_source(str(folder), as_stream=True, **asked)
    for name in ("train", "test"):
        rows = [row["label"] for row in stream[name]]
        assert rows == again[name]["label"]
        assert 0 < len(rows) < 30


def test_stems_are_of_names_that_are_there(tmp_path):
    with pytest.raises(ValueError, match="`group_column: stem` goes by files' names, which are not there"):
        load_source(saved_splits(tmp_path / "a", train=9), settings={}, group_column="stem")
