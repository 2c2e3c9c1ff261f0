"""One picture with what is annotated in it, whatever the layout on disk, and the row that is made of it.

H W pixels.
"""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from datasets import ClassLabel
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value
from PIL import Image as PILImage

from ..detection_data import check_objects
from ..folders import Parts
from ..image_folders import Rows
from ..layouts import split_of
from ..metadata import file
from ..picture_formats import picture_endings

DETECTION, SEGMENTATION = "object-detection", "image-segmentation"
DENSE = (DETECTION, SEGMENTATION)
VOID = 255  # of a mask: pixels that do not count
TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap width and height


@dataclass(frozen=True)
class File:
    path: Path
    parts: Parts  # below the folder that was listed
    split: str | None = None  # by `data_files`

    @property
    def ending(self) -> str:
        return self.path.suffix.lower()

    @property
    def stem(self) -> str:
        return normalize("NFC", self.path.stem)


@dataclass
class Scene:
    path: Path
    split: str | None
    size: tuple[int, int]  # width, height as people see it; (0, 0) of a file that is no whole picture
    boxes: list[list[float]] = field(default_factory=list)  # left, top, width, height in pixels
    categories: list[int] = field(default_factory=list)
    mask: dict[str, Any] | None = None  # as datasets.Image has it
    classes: list[int] = field(default_factory=list)  # that the mask holds


@dataclass
class Scenes:
    scenes: list[Scene]
    names: list[str]
    said: list[str]


def is_picture(one: File) -> bool:
    return one.ending in picture_endings()


def split_in(parts: Parts) -> str | None:
    """By the first folder that is a split's, as `train` or `train2017`."""
    for folder in parts[:-1]:
        if name := split_of(re.sub(r"[-_ ]?\d+$", "", folder)):
            return name
    return None


def size_of(path: Path) -> tuple[int, int]:
    """Width and height, turned as EXIF says; (0, 0) of a broken file, which is named when it is decoded."""
    try:
        with PILImage.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(0x0112) in TURNED else (width, height)
    except Exception:  # decoders raise whatever they like
        return 0, 0


def png(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) -> a picture as datasets.Image has it, held in memory."""
    held = io.BytesIO()
    PILImage.fromarray(mask.astype(np.uint8)).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


def same_size(where: str, told: tuple[int, int], path: Path, size: tuple[int, int]):
    """
    Raises:
        ValueError: an annotation was made for another size than the picture has.
    """
    if size != (0, 0) and told != size:
        raise ValueError(
            f"{where} says {told[0]} x {told[1]} pixels of {path}, which has {size[0]} x {size[1]}: annotate the "
            "picture that is there, or put the annotated one back."
        )


def rows_of(made: Scenes, task: str, dataset: str) -> Rows:
    """
    Raises:
        ValueError: no class, a name that two classes share, a box or class that cannot be meant, or pictures in a split
            and pictures outside.
    """
    names = [normalize("NFC", str(name)) for name in made.names]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"`dataset: {dataset}` has two classes that are called {twins[0]}: rename one.")
    if not names:
        raise ValueError(f"`dataset: {dataset}` names no class: add `class_names: [...]` to `dataset_settings`.")
    splits: dict[str, list[dict[str, Any]]] = defaultdict(list)
    inside = {scene.split for scene in made.scenes}
    if None in inside and len(inside) > 1:
        lone = next(scene.path for scene in made.scenes if scene.split is None)
        others = ", ".join(sorted(one for one in inside if one))
        raise ValueError(f"`dataset: {dataset}` has {others}, and {lone} outside: move it into a split, or remove it.")
    for scene in made.scenes:
        splits[scene.split or "train"].append(row_of(scene, task, len(names)))
    return Rows(dict(splits), features_of(task, names), made.said)


def row_of(scene: Scene, task: str, num_labels: int) -> dict[str, Any]:
    row: dict[str, Any] = {"image": file(scene.path), "width": scene.size[0], "height": scene.size[1]}
    if task == SEGMENTATION:
        return row | {"mask": scene.mask, "classes": scene.classes}
    objects = {"bbox": scene.boxes, "category": scene.categories}
    if scene.size != (0, 0):
        check_objects(str(scene.path), scene.size, objects, num_labels)
    return row | {"objects": objects}


def features_of(task: str, names: Sequence[str]) -> Features:
    kinds: dict[str, Any] = {"image": Image(), "width": Value("int32"), "height": Value("int32")}
    classes = List(ClassLabel(names=list(names)))
    if task == SEGMENTATION:
        return Features(kinds | {"mask": Image(), "classes": classes})
    boxes = List(List(Value("float32"), length=4))
    return Features(kinds | {"objects": {"bbox": boxes, "category": classes}})
