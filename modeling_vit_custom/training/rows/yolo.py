"""YOLO: a text file for each picture, a line for each object: its class, and the centre, width and height of its box as
shares of the picture; or the class and the points of an outline.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from .outlines import inside
from .outlines import paint
from .outlines import with_background
from .scene import SEGMENTATION
from .scene import File
from .scene import Scene
from .scene import Scenes
from .scene import is_picture
from .scene import size_of
from .scene import split_in

SPLITS = ("train", "val", "test")
LISTS = ("classes.txt", "obj.names")
SLACK = 1e-3  # of a share: what decimals lose
VOIDLESS = 254  # classes that a mask holds without names


def settings_of(files: list[File]) -> tuple[Path | None, dict[str, Any]]:
    """The YAML file with `names`, and its content."""
    for one in sorted(files, key=lambda one: len(one.parts)):
        if one.ending in (".yaml", ".yml"):
            try:
                content = yaml.safe_load(one.path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                said = str(error).splitlines()[0]
                raise ValueError(f"{one.path} cannot be read ({said}): write it again.") from error
            if isinstance(content, dict) and "names" in content:
                return one.path, content
    return None, {}


def label_of(one: File) -> Path:
    """images/train/1.jpg -> labels/train/1.txt: the last folder `images` is replaced; else beside the picture."""
    folders = [part.lower() for part in one.parts[:-1]]
    if "images" not in folders:
        return one.path.with_suffix(".txt")
    place = len(folders) - 1 - folders[::-1].index("images")
    root = one.path.parents[len(one.parts) - 1]
    parts = [*one.parts[:place], "labels", *one.parts[place + 1 : -1]]
    return root.joinpath(*parts, one.path.stem + ".txt")


def labelled(files: list[File]) -> dict[Path, Path]:
    """A picture -> its text file, where it is there."""
    there = {one.path for one in files if one.ending == ".txt"}
    found = {one.path: label for one in files if is_picture(one) and (label := label_of(one)) in there}
    return found if any(map(holds_numbers, found.values())) else {}  # else captions


def holds_numbers(label: Path) -> bool:
    words = label.read_text(encoding="utf-8", errors="replace").split("\n")[0].split()
    return len(words) > 4 and all(re.fullmatch(r"[-+.\deE]+", word) for word in words)


def names_of(files: list[File]) -> tuple[list[str] | None, str]:
    path, content = settings_of(files)
    if path is not None:
        names = content["names"]
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise ValueError(f"{path} has `names` of the numbers {sorted(names)}: count from 0 without gaps.")
            names = [names[number] for number in range(len(names))]
        return [str(name) for name in names], path.name
    for one in files:
        if one.path.name.lower() in LISTS:
            return [line.strip() for line in one.path.read_text("utf-8").splitlines() if line.strip()], one.path.name
    return None, ""


def splits_of(files: list[File]) -> dict[Path, str]:
    """A picture -> its split, where the YAML file names folders or lists of them."""
    path, content = settings_of(files)
    found: dict[Path, str] = {}
    if path is None:
        return found
    bases = [path.parent / str(content.get("path") or ""), path.parent]
    for split in SPLITS:
        told = content.get(split) or []
        for text in told if isinstance(told, list) else [told]:
            names = [str(text), str(text).removeprefix("../")]
            places = [place.resolve() for base in bases for name in names if (place := base / name).exists()]
            if not places:
                if split == "test":
                    continue
                raise FileNotFoundError(f"{path} names {text!r} for {split}, which is not there: correct its path.")
            lines = places[0].read_text("utf-8").split("\n") if places[0].is_file() else []
            named = {(places[0].parent / line.strip()).resolve() for line in lines if line.strip()}
            for one in files:
                real = one.path.resolve()
                if real in named or places[0] in real.parents:
                    found[one.path] = split
    return found


def lines_of(label: Path) -> list[tuple[int, list[float], str]]:
    made = []
    for number, line in enumerate(label.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{label}, line {number},"
        try:
            category, *values = (float(word) for word in line.split())
        except ValueError:
            raise ValueError(f"{where} is no row of numbers: write the class, then shares of the picture.") from None
        if category != int(category) or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
            raise ValueError(f"{where} has {1 + len(values)} numbers: write a class and 4 of a box, or an outline.")
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            raise ValueError(f"{where} has numbers outside 0 to 1: divide pixels by the picture's width and height.")
        made.append((int(category), values, where))
    return made


def box_of(values: list[float], size: tuple[int, int]) -> list[float]:
    """Shares of a box or of an outline's points -> left, top, width, height in pixels."""
    width, height = size
    if len(values) == 4:
        x, y, wide, high = values
        return [(x - wide / 2) * width, (y - high / 2) * height, wide * width, high * height]
    xs, ys = values[::2], values[1::2]
    return [min(xs) * width, min(ys) * height, (max(xs) - min(xs)) * width, (max(ys) - min(ys)) * height]


def read_yolo(files: list[File], dataset: str, task: str, told: list[str] | None) -> Scenes:
    """
    Raises:
        ValueError, FileNotFoundError: one sentence that names the file, the line and the fix.
    """
    labels, splits, (names, source) = labelled(files), splits_of(files), names_of(files)
    made, most, is_open, without = Scenes([], [], []), -1, False, 0
    names, source = (told, "`class_names`") if told else (names, source)
    for one in filter(is_picture, files):
        split = one.split or splits.get(one.path) or split_in(one.parts)
        if splits and not one.split and one.path not in splits:
            continue
        scene, outlines = Scene(one.path, split, size_of(one.path)), []
        without += one.path not in labels
        for category, values, where in lines_of(labels[one.path]) if one.path in labels else []:
            if not 0 <= category < (len(names) if names else VOIDLESS):
                raise ValueError(f"{where} has class {category}, but {source or 'a mask'} has fewer: add its name.")
            most = max(most, category)
            if task != SEGMENTATION:
                scene.boxes.append(box_of(values, scene.size))
                scene.categories.append(category)
            elif len(values) == 4:
                raise ValueError(f"{where} is a box and no outline: choose `task: object-detection`.")
            elif scene.size != (0, 0):
                points = [value * scene.size[place % 2] for place, value in enumerate(values)]
                outlines.append((category, inside([points], scene.size, where)))
        if task == SEGMENTATION and scene.size != (0, 0):
            is_open |= paint(scene, outlines)
        made.scenes.append(scene)
    made.names = names or [f"class_{number}" for number in range(most + 1)]
    made.said.append(f"YOLO, {len(labels)} text files; classes from {source or 'their numbers, as no file names them'}")
    if without:
        made.said.append(f"{without} pictures have no text file, which in YOLO says that they show no object")
    if splits and (left := sum(map(is_picture, files)) - len(made.scenes)):
        made.said.append(f"{left} pictures in no split of the YAML file are left out")
    return with_background(made, is_open) if task == SEGMENTATION else made
