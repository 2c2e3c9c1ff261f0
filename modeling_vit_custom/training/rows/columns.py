"""Columns of boxes and masks as people have them -> those that the tasks read."""

import io
from typing import Any

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value

from ..columns import Splits
from ..columns import first
from ..images import load
from ..images import load_bytes
from .class_names import Named
from .masks import levels
from .masks import understood
from .scene import DETECTION
from .scene import SEGMENTATION
from .scene import VOID
from .scene import png
from .scene import size_of

MASK_COLUMNS = ("mask", "label", "annotation", "segmentation", "segmentation_mask", "labels", "gt")
CLASS_FIELDS = ("category", "categories", "label", "labels", "category_id")


def inner(kind: Any) -> Any:
    return kind.feature if hasattr(kind, "feature") else kind


def image_and_mask(splits: Splits, task: str, column: str | None) -> tuple[str | None, str | None]:
    """Of rows for segmentation with two columns of pictures, the image's and the mask's."""
    features = first(splits).features
    if task != SEGMENTATION or features is None:
        return column, None
    found = [name for name, kind in features.items() if isinstance(kind, Image) and name != column]
    masks = [name for name in found if name.lower() in MASK_COLUMNS]
    if column is None and "image" in found:
        column = "image"
        found.remove("image")
    if column is None and len(masks) == 1 and len(found) == 2:
        column = next(name for name in found if name not in masks)
        found.remove(column)
    mask = "mask" if "mask" in found else found[0] if len(found) == 1 else masks[0] if len(masks) == 1 else None
    return column, mask


def as_needed(splits: Splits, task: str, names: list[str] | None, dataset: str) -> Splits:
    """With `objects` of bbox and category, width and height; or with `mask` and its `classes`.

    Raises:
        ValueError: a stream, which cannot be searched for classes; boxes without classes.
    """
    features = first(splits).features
    if task == DETECTION and "objects" in features and not is_ready(features):
        refuse_stream(splits, dataset)
        return with_objects(splits, names, dataset)
    if task == SEGMENTATION and "mask" in features and not {"classes", "objects"} & set(features):
        refuse_stream(splits, dataset)
        return with_classes(splits, names, dataset)
    return splits


def refuse_stream(splits: Splits, dataset: str):
    if not isinstance(first(splits), Dataset):
        raise ValueError(f"`dataset: {dataset}` has classes that only a whole reading finds: set `streaming: false`.")


def is_ready(features: Features) -> bool:
    objects = inner(features["objects"])
    named = isinstance(objects, dict) and isinstance(inner(objects.get("category")), ClassLabel)
    return named and {"width", "height"} <= set(features)


def with_objects(splits: Splits, names: list[str] | None, dataset: str) -> Splits:
    rows = {split: [lists_of(row) for row in one.with_format(None)["objects"]] for split, one in splits.items()}
    kinds = inner(first(splits).features["objects"])
    key = next((name for name in CLASS_FIELDS if name in kinds), None)
    if key is None or "bbox" not in kinds:
        raise ValueError(f"`dataset: {dataset}` has objects of {', '.join(kinds)}: give them `bbox` and `category`.")
    values = sorted({value for one in rows.values() for row in one for value in row[key]})
    kind = inner(kinds[key])
    if isinstance(kind, ClassLabel):
        classes, numbers = kind.names, {number: number for number in values}
    elif all(isinstance(value, str) for value in values):
        classes = [str(name) for name in names or values]
        numbers = {name: number for number, name in enumerate(classes)}
    else:
        classes = [str(name) for name in names or [f"class_{number}" for number in range(max(values, default=-1) + 1)]]
        numbers = {number: number for number in range(len(classes))}
    if strange := [value for value in values if value not in numbers]:
        raise ValueError(f"`dataset: {dataset}` has objects of {strange[0]!r}, which `class_names` has not: add it.")
    print(f"`dataset: {dataset}`: boxes are left, top, width, height; classes from objects.{key}: {some(classes)}.")
    boxes = List(List(Value("float32"), length=4))
    made = {}
    for split, one in splits.items():
        objects = [{"bbox": row["bbox"], "category": [numbers[v] for v in row[key]]} for row in rows[split]]
        images = one.with_format(None)["image"]
        sizes = [size_of(io.BytesIO(load_bytes(image))) for image in images]  # type: ignore[arg-type]
        plain = one.remove_columns([name for name in ("objects", "width", "height") if name in one.column_names])
        plain = plain.add_column(
            "objects", objects, feature={"bbox": boxes, "category": List(ClassLabel(names=classes))}
        )
        plain = plain.add_column("width", [w for w, _ in sizes], feature=Value("int32"))
        made[split] = plain.add_column("height", [h for _, h in sizes], feature=Value("int32"))
    return type(splits)(made)


def lists_of(objects: Any) -> dict[str, list]:
    """A list of objects as an object of lists."""
    if isinstance(objects, list):
        keys = objects[0] if objects else ("bbox", *CLASS_FIELDS)
        return {key: [one[key] for one in objects] for key in keys}
    return objects or {key: [] for key in ("bbox", *CLASS_FIELDS)}


def some(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def with_classes(splits: Splits, names: list[str] | None, dataset: str) -> Splits:
    """Masks as numbers of classes, and which of them each holds."""
    splits = splits.cast_column("mask", Image(decode=False))
    held = [
        (f"the mask of row {number} of {split} of {dataset}", mask)
        for split, rows in splits.items()
        for number, mask in enumerate(rows.with_format(None)["mask"])
    ]
    meaning, values = understood(held, load, Named(names or [], source="`class_names`"), dataset)
    print(f"`dataset: {dataset}`: {meaning.said}.")
    made, place = {}, 0
    for split, rows in splits.items():
        own = held[place : place + len(rows)]
        classes = values[place : place + len(rows)]
        place += len(rows)
        if not meaning.is_plain or any(load(mask).mode not in ("P", "L") for _, mask in own):
            arrays = [meaning(levels(load(mask), where)) for where, mask in own]
            filled, classes = [png(one) for one in arrays], [np.unique(one).tolist() for one in arrays]
            rows = rows.remove_columns("mask").add_column("mask", filled, feature=Image())
        numbers = [[number for number in sorted(set(one)) if number != VOID] for one in classes]
        rows = rows.cast_column("mask", Image())
        made[split] = rows.add_column("classes", numbers, feature=List(ClassLabel(names=meaning.names)))
    return type(splits)(made)
