"""Outlines of objects -> masks, by pycocotools: polygons, and COCO's run lengths.

H W pixels.
"""

import io
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from ...common import extra
from .scene import VOID
from .scene import Scene
from .scene import Scenes
from .scene import png

BACKGROUND = "background"


def inside(outline: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Polygons [[x, y, x, y, ...], ...] or run lengths {"size": [H, W], "counts": ...} -> (H, W) of truths.

    Raises:
        ImportError: pycocotools is not installed.
        ValueError: it is neither, or of another size.
    """
    with extra("detection", "Outlines of objects need"):
        from pycocotools import mask as coco
    width, height = size
    is_runs = isinstance(outline, dict)
    if is_runs and list(outline.get("size", ())) != [height, width]:
        raise ValueError(
            f"{where} has run lengths of size {outline.get('size')} for a picture of {width} x {height}: COCO writes "
            "[height, width] there."
        )
    if not is_runs and not (
        isinstance(outline, list)
        and outline
        and all(isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0 for one in outline)
    ):
        raise ValueError(
            f"{where} has no outline, polygons of three points or more or run lengths: write its `segmentation`, or "
            "leave it out."
        )
    try:
        if not is_runs:
            runs = coco.merge(coco.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            if sum(outline["counts"]) != height * width:
                raise ValueError(f"they sum to {sum(outline['counts'])}, not {height * width}")
            runs = coco.frPyObjects(outline, height, width)
        else:
            runs = outline
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its arrays, by numpy 2
            return coco.decode(runs).astype(bool)
    except Exception as error:  # of a module in C
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{where} has an outline that cannot be read ({said}): write it again.") from error


def paint(scene: Scene, outlines: Iterable[tuple[int, np.ndarray]]) -> bool:
    """Gives the scene its mask, numbers of classes plus 1, smaller objects over larger; whether 0 is left."""
    width, height = scene.size
    mask = np.zeros((height, width), np.uint8)
    for category, where in sorted(outlines, key=lambda one: -int(one[1].sum())):
        mask[where] = category + 1
    scene.mask = png(mask)
    scene.classes = np.unique(mask).tolist()
    return 0 in scene.classes


def with_background(made: Scenes, is_open: bool) -> Scenes:
    """Painted scenes, with the numbers of their classes: what no outline covers is background, if there is such."""
    if len(made.names) >= VOID:
        raise ValueError(f"A mask holds {VOID - 1} classes, and here are {len(made.names)}: leave some out.")
    lower = [name.casefold() for name in made.names]
    if is_open and BACKGROUND not in lower:
        made.said.append(f"pixels that no outline covers are a class of their own, {BACKGROUND}")
        made.names = [BACKGROUND, *made.names]
        return made
    table = np.arange(-1, 255)
    if is_open:
        table[0] = lower.index(BACKGROUND)
        made.said.append(f"pixels that no outline covers are {made.names[table[0]]}, a class that is named")
    else:
        made.said.append("outlines cover every pixel, so that there is no background")
    for scene in made.scenes:
        if scene.mask is not None:
            mask = table[np.asarray(Image.open(io.BytesIO(scene.mask["bytes"])))]
            scene.mask, scene.classes = png(mask), np.unique(mask).tolist()
    return made
