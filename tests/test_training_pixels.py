"""One way to RGB: training, collators, evaluation and the shipped processor see one picture, and so does `pipeline`,
or training says which pictures it sees otherwise."""

import io
from importlib.metadata import version

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from packaging.version import Version
from PIL import Image
from PIL import ImageOps
from transformers import AutoImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training import DetectionCollator
from modeling_vit_custom.training import ImageCollator
from modeling_vit_custom.training import SegmentationCollator
from modeling_vit_custom.training.augmentation import Augmented
from modeling_vit_custom.training.augmentation import Normalise
from modeling_vit_custom.training.augmentation import Prepared
from modeling_vit_custom.training.images import OTHERWISE
from modeling_vit_custom.training.images import CorruptImage
from modeling_vit_custom.training.images import decode_rgb
from modeling_vit_custom.training.images import seen_otherwise
from modeling_vit_custom.training.images import to_rgb
from modeling_vit_custom.training.tasks import TASKS
from tests import clean_process
from tests.support import tiny

SIZE = (32, 24)  # as wide as the processor makes it, so that EXIF's turn shows
ORIENTATION = 274  # of EXIF


def noise(*shape: int, dtype=np.uint8, high: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, high, shape, dtype=dtype))


def turned(orientation: int) -> Image.Image:
    picture = noise(24, 32, 3)
    picture.getexif()[ORIENTATION] = orientation
    return picture


def keyed() -> Image.Image:
    """A palette with a transparent colour, and an opaque one of the same red."""
    picture = Image.new("P", SIZE, 1)
    picture.putpalette([200, 9, 9, 200, 9, 9, 30, 90, 200])
    picture.paste(0, (8, 6, 24, 18))
    picture.info["transparency"] = 0
    return picture


def square(alpha: int = 255) -> Image.Image:
    """Black on nothing."""
    icon = Image.new("RGBA", SIZE)
    icon.paste((0, 0, 0, alpha), (8, 6, 24, 18))
    return icon


def grey_key() -> Image.Image:
    """Grey with a transparent level, which the newest processors put on white after the change to RGB, too."""
    picture = noise(24, 32)
    picture.info["transparency"] = 7
    return picture


PLAIN = {  # a picture, and the kind of file that holds it
    "1": (noise(24, 32).convert("1"), "PNG"),
    "L": (noise(24, 32), "PNG"),
    "P": (noise(24, 32, 3).quantize(16), "PNG"),
    "GIF": (noise(24, 32, 3).quantize(16), "GIF"),
    "RGB": (noise(24, 32, 3), "PNG"),
    "JPEG": (noise(24, 32, 3), "JPEG"),
    "CMYK": (noise(24, 32, 3).convert("CMYK"), "JPEG"),
    "opaque": (noise(24, 32, 3).convert("RGBA"), "PNG"),
    **{f"EXIF {orientation}": (turned(orientation), "JPEG") for orientation in (3, 5, 6, 8)},
}
OTHER = {
    "RGBA": ("transparent", square(), "PNG"),
    "half": ("transparent", square(100), "WEBP"),
    "LA": ("transparent", square().convert("LA"), "PNG"),
    "keyed": ("transparent", keyed(), "PNG"),
    "key": ("transparent", grey_key(), "PNG"),
    "I;16": ("deeper than 8 bits", noise(24, 32, dtype=np.uint16, high=65536), "PNG"),
    "I": ("deeper than 8 bits", noise(24, 32, dtype=np.int32, high=65536), "TIFF"),
    "F": ("deeper than 8 bits", Image.fromarray(np.full((24, 32), 20000, np.float32)), "TIFF"),
    "shares": ("of shares of white", Image.fromarray(np.full((24, 32), 0.3, np.float32)), "TIFF"),
    "fractions": ("of fractions of grey levels", Image.fromarray(np.full((24, 32), 99.7, np.float32)), "TIFF"),
}


def written(picture: Image.Image, kind: str) -> bytes:
    file, settings = io.BytesIO(), dict(exif=picture.getexif()) if kind in ("JPEG", "PNG") else {}
    picture.save(file, kind, **settings | (dict(lossless=True) if kind == "WEBP" else {}))
    return file.getvalue()


FILES = {name: written(*rest) for name, rest in PLAIN.items()} | {
    name: written(*rest) for name, (_, *rest) in OTHER.items()
}


def processor_of(task: str):
    config = tiny(image_size=SIZE[::-1], patch_size=8)
    return TASKS[task].processor(config, DatasetDict(), {})


@pytest.mark.parametrize("name", FILES)
def test_every_way_of_training_sees_one_picture(name):
    picture = Image.open(io.BytesIO(FILES[name]))
    seen = to_rgb(Image.open(io.BytesIO(FILES[name])))
    processor, rows = processor_of("image-classification"), [{"image": picture, "label": 0}]
    expected = processor([seen], return_tensors="pt")["pixel_values"]
    assert torch.equal(ImageCollator(processor, 1)(rows)["pixel_values"], expected)
    evaluated = Prepared(rows, processor)[0]["image"]
    assert torch.equal(Normalise.of(processor)({"pixel_values": evaluated[None]})["pixel_values"], expected)
    assert torch.equal(Augmented(rows, lambda image: torch.from_numpy(np.array(image)))[0]["image"],
                       torch.from_numpy(np.array(seen)))  # fmt: skip
    masks = processor_of("image-segmentation")
    row = {"image": picture, "mask": np.zeros(seen.size[::-1], np.uint8)}
    assert torch.equal(
        SegmentationCollator(masks, 1)([row])["pixel_values"], masks([seen], return_tensors="pt")["pixel_values"]
    )
    boxes, row = processor_of("object-detection"), {"image": picture, "objects": {"bbox": [], "category": []}}
    assert torch.equal(
        DetectionCollator(boxes, 1)([row])["pixel_values"], boxes([seen], return_tensors="pt")["pixel_values"]
    )


@pytest.mark.parametrize("task", ["image-classification", "image-segmentation", "object-detection", "pre-training"])
@pytest.mark.parametrize("name", ["RGBA", "half", "LA", "keyed", "key"])
def test_the_shipped_processor_itself_puts_transparency_on_white(task, name, tmp_path):
    """As transformers' do from 5.21 on; older ones leave it out, as Pillow does."""
    processor_of(task).save_pretrained(tmp_path)
    shipped = AutoImageProcessor.from_pretrained(tmp_path)
    picture = Image.open(io.BytesIO(FILES[name]))
    assert shipped.do_convert_rgb is True
    seen = to_rgb(picture) if Version(version("transformers")) >= Version("5.21") else picture.convert("RGB")
    found, expected = (shipped([one], return_tensors="pt")["pixel_values"] for one in (picture, seen))
    assert torch.equal(found, expected)


def test_a_mask_is_of_the_picture_as_it_is_seen():
    picture, mask = turned(6), np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 3
    collate = SegmentationCollator(processor_of("image-segmentation"), 3)
    with pytest.raises(ValueError, match="has a mask of 32 x 24 pixels for an image of 24 x 32"):
        collate([{"image": picture, "mask": mask}])
    own = Image.fromarray(mask)
    own.getexif()[ORIENTATION] = 6  # of a mask that was turned with its picture
    upright = np.asarray(ImageOps.exif_transpose(own))
    turned_too, plain = (collate([{"image": picture, "mask": one}])["labels"] for one in (own, upright))
    assert torch.equal(turned_too, plain)


def test_a_picture_that_cannot_be_rgb_names_its_row():
    rows = [
        {"image": noise(8, 8), "label": 0},
        {"image": Image.fromarray(np.full((8, 8), -1.0, np.float32)), "label": 0},
    ]
    with pytest.raises(CorruptImage, match="Row 1 of the batch cannot be made RGB: its grey levels go from -1"):
        ImageCollator(processor_of("image-classification"), 1)(rows)


@pytest.mark.parametrize("name", FILES)
def test_what_pipeline_sees_otherwise_is_known_by_its_kind(name):
    picture = Image.open(io.BytesIO(FILES[name]))
    kind = seen_otherwise(picture)
    assert kind == (OTHER[name][0] if name in OTHER else None)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(FILES[name]))).convert("RGB")  # as `pipeline`
    assert (kind is None) == np.array_equal(np.asarray(theirs), np.asarray(to_rgb(picture)))


@pytest.mark.parametrize("name", OTHER)
def test_the_two_lines_make_what_training_sees(name, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(FILES[name])
    scope = dict(np=np, Image=Image, ImageOps=ImageOps, path=path)
    lines = OTHERWISE[OTHER[name][0]]
    assert len(lines) == 2
    exec("\n".join(lines), scope)
    made = scope["image"].convert("RGB")  # as pipeline does
    assert np.array_equal(np.asarray(made), np.asarray(decode_rgb(path)))


def test_pipeline_sees_the_pixels_of_training_in_a_clean_process(tmp_path):
    torch.manual_seed(0)
    config = tiny(image_size=SIZE[::-1], patch_size=8, num_labels=2)
    processor, folder = processor_of("image-classification"), tmp_path / "checkpoint"
    ViTCustomForImageClassification(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in PLAIN:
        (pictures / name).write_bytes(FILES[name])
    answers = clean_process.run(
        {"pixels": (clean_process.pixels_of_pipeline, dict(source=str(folder), pictures=str(pictures)))},
        tmp_path / "work",
    )
    rows = [{"image": Image.open(io.BytesIO(FILES[name]))} for name in PLAIN]
    trained = torch.stack([row["image"] for row in Prepared(rows, processor)])
    made = Normalise.of(processor)({"pixel_values": trained})["pixel_values"]
    for name, pixels in zip(PLAIN, made, strict=True):
        assert answers["pixels"][name] == clean_process.digest(pixels), name
