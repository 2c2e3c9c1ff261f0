"""Answers drawn on pictures."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..training.pictures import below
from ..training.pictures import color_of
from ..training.pictures import draw_box
from ..training.pictures import lines_of
from ..training.pictures import text_lines

OPACITY = 140  # of 255: the picture stays visible below a mask
LEAST = 320  # pixels of width, so that words can be read


def enlarged(image: Image.Image) -> Image.Image:
    """A small picture at a whole multiple of its size."""
    times = -(-LEAST // image.width)
    return image if times <= 1 else image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def captioned(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    shown = enlarged(image)
    return below([shown, text_lines(lines, shown.width)])


def with_masks(image: Image.Image, records: Sequence[dict[str, Any]]) -> Image.Image:
    """Each class in its colour over the picture, and a legend with its share of the pixels."""
    shown = image.copy()
    for one in records:
        layer = Image.new("RGB", image.size, color_of(one["index"]))
        shown.paste(layer, mask=one["mask"].point(lambda value: value and OPACITY))
    shown = enlarged(shown)
    legend = [(f"{one['label']} {one['score']:.1%}", color_of(one["index"])) for one in records]
    return below([shown, *lines_of(legend, shown.width)])


def with_boxes(image: Image.Image, records: Sequence[dict[str, Any]]) -> Image.Image:
    shown = enlarged(image)
    scale = shown.width / image.width
    shown = shown.copy() if shown is image else shown
    for one in reversed(records):  # the surest is on top
        box = [scale * side for side in one["box"].values()]
        draw_box(shown, box, f"{one['label']} {one['score']:.2f}", color_of(one["index"]))
    return shown
