"""COCO: JSON files of `images`, `annotations` and `categories`; one for each split, or one for all."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ..layouts import split_of
from .outlines import inside
from .outlines import paint
from .outlines import with_background
from .scene import SEGMENTATION
from .scene import File
from .scene import Scene
from .scene import Scenes
from .scene import is_picture
from .scene import same_size
from .scene import size_of
from .scene import split_in

KEYS = ("images", "annotations", "categories")
HEAD = "instances"  # of COCO's own names: captions and keypoints have other files


def coco_files(files: list[File]) -> list[File]:
    """The JSON files that hold the three lists; of COCO's own folder those of instances."""
    found = [one for one in files if one.ending == ".json" and is_coco(one.path)]
    named = [one for one in found if one.path.name.startswith(HEAD)]
    return named or found


def is_coco(path: Path) -> bool:
    text = path.read_bytes()
    if not all(f'"{key}"'.encode() in text for key in KEYS):
        return False
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no whole JSON ({error}): write it again.") from error
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS)


def split_of_json(one: File) -> str | None:
    """Of instances_train2017.json, of train/_annotations.coco.json."""
    words = re.split(r"[^A-Za-z]+", one.path.stem)
    return one.split or next((name for word in words if (name := split_of(word))), None) or split_in(one.parts)


def read_coco(files: list[File], dataset: str, task: str) -> Scenes:
    """
    Raises:
        ValueError, FileNotFoundError: one sentence that names the file, the number and the fix.
    """
    tables = coco_files(files)
    splits = [split_of_json(one) for one in tables]
    if len(set(splits)) < len(splits):
        twice = next(split for split in splits if splits.count(split) > 1)
        both = " and ".join("/".join(o.parts) for o, s in zip(tables, splits, strict=True) if s == twice)
        raise ValueError(f"`dataset: {dataset}` has two COCO files for {twice or 'all'}, {both}: leave one.")
    pictures = Pictures(files)
    made, categories, is_open = Scenes([], [], []), None, False
    for one, split in zip(tables, splits, strict=True):
        content = json.loads(one.path.read_bytes())
        own = categories_of(content, one.path)
        if categories not in (None, own):
            raise ValueError(f"{tables[0].path} and {one.path} have different categories: give both the same.")
        categories = own
        is_open |= add(made, content, one, split, list(own), pictures, task)
    made.names = list((categories or {}).values())
    used = {scene.path for scene in made.scenes}
    if lone := [str(path) for path in pictures.all if path not in used]:
        made.said.append(f"{len(lone)} pictures that no COCO file names are left out ({lone[0]})")
    made.said.insert(0, f"COCO, {', '.join('/'.join(one.parts) for one in tables)}; classes in the order of their ids")
    return with_background(made, is_open) if task == SEGMENTATION else made


def categories_of(content: dict[str, Any], path: Path) -> dict[int, str]:
    found = [(one.get("id"), one.get("name")) for one in content["categories"]]
    refuse_twice([number for number, _ in found], "category id", path)
    if wrong := [one for one in found if not isinstance(one[0], int) or not one[1]]:
        raise ValueError(f"{path} has the category {wrong[0]}: give it an `id`, a whole number, and a `name`.")
    return {number: str(name) for number, name in sorted(found)}


def refuse_twice(numbers: list[Any], what: str, path: Path):
    if twice := [one for one, count in Counter(map(repr, numbers)).items() if count > 1]:
        raise ValueError(f"{path} has the {what} {twice[0]} twice: give each its own.")


def add(
    made: Scenes,
    content: dict[str, Any],
    one: File,
    split: str | None,
    ids: list[int],
    pictures: "Pictures",
    task: str,
) -> bool:
    """Whether a pixel is left that no outline covers."""
    path, numbers = one.path, {number: place for place, number in enumerate(ids)}
    refuse_twice([image.get("id") for image in content["images"]], "image id", path)
    refuse_twice([image.get("file_name") for image in content["images"]], "file_name", path)
    refuse_twice([item["id"] for item in content["annotations"] if "id" in item], "annotation id", path)
    objects: dict[Any, list[dict[str, Any]]] = {image.get("id"): [] for image in content["images"]}
    for item in content["annotations"]:
        if item.get("image_id") not in objects:
            raise ValueError(
                f"{path}: annotation {item.get('id')} is of image {item.get('image_id')}: it is not there."
            )
        if item.get("category_id") not in numbers:
            raise ValueError(
                f"{path}: annotation {item.get('id')} is of category {item.get('category_id')}, which `categories` "
                "has not: add it."
            )
        objects[item["image_id"]].append(item)
    crowds = flat = 0
    is_open = False
    for image in content["images"]:
        place = pictures.find(image.get("file_name"), one, split)
        size = size_of(place)
        if "width" in image and "height" in image:
            same_size(str(path), (image["width"], image["height"]), place, size)
        scene, outlines = Scene(place, split, size), []
        for item in objects[image.get("id")]:
            category, where = numbers[item["category_id"]], f"{path}: annotation {item.get('id')}"
            if task == SEGMENTATION:
                if size != (0, 0):
                    outlines.append((category, inside(item.get("segmentation"), size, where)))
                continue
            box = item.get("bbox")
            if not (isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)):
                raise ValueError(f"{where} has the `bbox` {box}: give left, top, width, height in pixels.")
            if item.get("iscrowd"):
                crowds += 1
            elif not (box[2] > 0 and box[3] > 0):
                flat += 1
            else:
                scene.boxes.append([float(x) for x in box])
                scene.categories.append(category)
        if task == SEGMENTATION and size != (0, 0):
            is_open |= paint(scene, outlines)
        made.scenes.append(scene)
    if crowds:
        made.said.append(f"{crowds} boxes of crowds (`iscrowd`) in {path.name} are left out")
    if flat:
        made.said.append(f"{flat} boxes without area in {path.name} are left out")
    return is_open


class Pictures:
    """Where the pictures lie that a table names."""

    def __init__(self, files: list[File]):
        self.all = {one.path: one for one in files if is_picture(one)}
        self.by_name: dict[str, list[File]] = {}
        for one in self.all.values():
            self.by_name.setdefault(normalize("NFC", one.path.name), []).append(one)

    def find(self, name: Any, table: File, split: str | None) -> Path:
        """
        Raises:
            FileNotFoundError: no file is called so below the data's folder.
            ValueError: several are, and neither the split nor the table's folder tells which.
        """
        if not name or not isinstance(name, str):
            raise ValueError(f"{table.path} has an image without `file_name`: write it.")
        parts = tuple(part for part in normalize("NFC", name).replace("\\", "/").split("/") if part not in ("", "."))
        found = [
            one
            for one in self.by_name.get(parts[-1], [])
            if tuple(normalize("NFC", part) for part in one.path.parts[-len(parts) :]) == parts
        ]
        for rule in (
            lambda one: split is not None and split in (one.split, split_in(one.parts)),
            lambda one: one.path == table.path.parent.joinpath(*parts),
        ):
            if len(found) > 1 and (fitting := [one for one in found if rule(one)]):
                found = fitting
        if not found:
            raise FileNotFoundError(f"{table.path} names {name!r}, no picture there: put it back, or remove its rows.")
        if len(found) > 1:
            raise ValueError(f"{table.path} names {name!r}, which are {found[0].path} and {found[1].path}: rename one.")
        return found[0].path
