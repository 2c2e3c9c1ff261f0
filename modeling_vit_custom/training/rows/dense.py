"""Folders with boxes or masks -> rows, for the same path that all other data sets take."""

from typing import Any

from datasets import DatasetDict
from datasets import IterableDatasetDict

from ..columns import Splits
from ..folders import Listing
from ..folders import tell
from ..metadata import METADATA
from ..splits import choose_splits
from .coco import coco_files
from .coco import read_coco
from .masks import kind_in
from .masks import pairs_of
from .masks import read_masks
from .scene import DETECTION
from .scene import SEGMENTATION
from .scene import File
from .scene import Scenes
from .scene import is_picture
from .scene import rows_of
from .voc import read_voc
from .voc import voc_files
from .yolo import labelled
from .yolo import read_yolo

LOOKED = {
    DETECTION: "COCO's JSON, metadata.jsonl with objects, Pascal VOC's Annotations/*.xml, YOLO's labels/*.txt",
    SEGMENTATION: "masks/ beside images/, COCO's JSON, YOLO's outlines in labels/*.txt, VOC's SegmentationClass/",
}


def files_of(found: dict[str, Listing]) -> list[File]:
    return [File(path, parts, split or None) for split, one in found.items() for path, parts in one.files]


def layouts_in(files: list[File]) -> dict[str, str]:
    """A layout's name -> the evidence, in the order in which they are asked for."""
    found = {}
    if jsons := coco_files(files):
        found["coco"] = f"COCO's lists in {'/'.join(jsons[0].parts)}"
    if xmls := voc_files(files):
        found["voc"] = f"{len(xmls)} XML files of Pascal VOC ({'/'.join(xmls[0].parts)})"
    masks = [one for one in files if is_picture(one) and kind_in(one.parts)[0] == "mask"]
    if masks and pairs_of(files)[0]:
        is_voc = any(part == "SegmentationClass" for part in masks[0].parts)
        found["voc masks" if is_voc else "masks"] = (
            f"{len(masks)} masks with the names of images ({'/'.join(masks[0].parts)})"
        )
    if texts := labelled(files):
        found["yolo"] = f"{len(texts)} text files with the names of pictures ({min(map(str, texts.values()))})"
    return found


BY_TASK = {DETECTION: ("coco", "voc", "yolo"), SEGMENTATION: ("coco", "masks", "voc masks", "yolo")}


def read_scenes(layout: str, files: list[File], dataset: str, task: str, told: list[str] | None) -> Scenes:
    if layout == "coco":
        return read_coco(files, dataset, task)
    if layout == "yolo":
        return read_yolo(files, dataset, task, told)
    if layout == "voc":
        return read_voc(files, dataset, told)
    return read_masks(files, dataset, told, layout == "voc masks")


def scenes(
    found: dict[str, Listing], dataset: str, settings: dict[str, Any], streaming: bool, whole: bool | None, task: str
) -> Splits | None:
    """The splits that are used, or None where the folder has none of these layouts, and other readers may.

    Raises:
        ValueError: two of them, or files that are not as the layout says; the sentence names the file and the fix.
    """
    files = files_of(found)
    layouts = {name: why for name, why in layouts_in(files).items() if name in BY_TASK[task]}
    if len(layouts) > 1:
        raise ValueError(
            f"`dataset: {dataset}` has {' and '.join(layouts.values())}, both for {task}: keep one, or "
            "choose files by `data_files` in `dataset_settings`."
        )
    if not layouts:
        if any(one.path.name in METADATA for one in files):  # its columns tell
            return None
        raise ValueError(
            f"`task: {task}` finds nothing to learn from in `dataset: {dataset}`; it looks for {LOOKED[task]}: "
            "write one (docs/data_layouts.md)."
        )
    (layout,) = layouts
    rows = rows_of(read_scenes(layout, files, dataset, task, settings.get("class_names")), task, dataset)
    names = choose_splits(rows.splits, settings.get("held_out"), dataset, whole)
    if "all" in names:
        rows.splits = {"all": [row for one in rows.splits.values() for row in one]}
    else:
        rows.splits = {name: rows.splits[old] for name, old in names.items()}
    tell(dataset, [], rows.said)
    kind = IterableDatasetDict if streaming else DatasetDict
    return kind({name: rows.dataset(name, streaming) for name in rows.splits})
