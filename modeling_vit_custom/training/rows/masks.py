"""Masks as pictures: in a folder beside the images, or in a column.

A mask holds numbers of classes (grey, or a palette's), 0 and 255 alone (background and foreground), or a colour for
each class. 255 among numbers is void: such pixels do not count. What a data set's masks are is decided of all of them.

H W pixels.
"""

import re
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from PIL import Image

from ..folders import Parts
from ..metadata import file
from .class_names import Colour
from .class_names import Named
from .class_names import read_names
from .scene import VOID
from .scene import File
from .scene import Scene
from .scene import Scenes
from .scene import is_picture
from .scene import png
from .scene import same_size
from .scene import size_of
from .scene import split_in
from .voc import CLASSES as VOC_CLASSES
from .voc import lists_of

IMAGES = ("images", "image", "imgs", "img", "jpegimages")
MASKS = (
    *("masks", "mask", "labels", "annotations", "gt", "segmentation", "segmentations", "segmentationclass"),
    *("ground_truth", "annots", "seg"),
)
SUFFIX = re.compile(r"[-_ .](masks?|labels?|labelids|gt|seg|segmentation|annotation|annots?)$", re.IGNORECASE)
LOSSY = (".jpg", ".jpeg", ".webp")
MOST_COLOURS = 64


def kind_in(parts: Parts) -> tuple[str | None, Parts]:
    """ "image" or "mask" by the last folder that says so, and the other parts, by which the two are paired."""
    for place in reversed(range(len(parts) - 1)):
        word = parts[place].lower()
        if word in IMAGES or word in MASKS:
            kind = "image" if word in IMAGES else "mask"
            return kind, (*parts[:place], *parts[place + 1 : -1], normalize("NFC", Path(parts[-1]).stem))
    return None, ()


def pairs_of(files: list[File]) -> tuple[list[tuple[File, File]], list[File], list[File]]:
    """Images with their masks; images and masks without a partner.

    Raises:
        ValueError: two masks of one image, or the other way round.
    """
    sides: dict[str, dict[Parts, File]] = {"image": {}, "mask": {}}
    for one in filter(is_picture, files):
        kind, key = kind_in(one.parts)
        if kind is None:
            continue
        if key in sides[kind]:
            raise ValueError(f"{sides[kind][key].path} and {one.path} are two {kind}s of one name: rename one.")
        sides[kind][key] = one
    images, masks = sides["image"], sides["mask"]
    for key in [key for key in masks if key not in images]:
        short = (*key[:-1], SUFFIX.sub("", key[-1]))
        if short != key and short in images:
            if short in masks:
                raise ValueError(f"{masks[short].path} and {masks[key].path} are two masks of one image: leave one.")
            masks[short] = masks.pop(key)
    paired = [(images[key], masks[key]) for key in images if key in masks]
    lone = [one for key, one in images.items() if key not in masks]
    return paired, lone, [one for key, one in masks.items() if key not in images]


def levels(image: Image.Image, where: str) -> np.ndarray:
    """-> (H, W) of numbers, or (H, W, 3) of colours."""
    if image.mode in ("P", "L", "1", "I") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        return values.astype(np.uint8) * VOID if image.mode == "1" else values
    if image.mode not in ("RGB", "RGBA", "LA"):
        raise ValueError(f"{where} is a mask of mode {image.mode}: write grey numbers of classes, a palette, or RGB.")
    colours = np.asarray(image.convert("RGB"))
    grey = (colours == colours[..., :1]).all()
    return colours[..., 0] if grey else colours


def distinct(values: np.ndarray) -> list[Any]:
    if values.ndim == 2:
        return np.unique(values).tolist()
    return [tuple(one) for one in np.unique(values.reshape(-1, 3), axis=0).tolist()]


@dataclass
class Meaning:
    """Values of masks -> numbers of classes."""

    names: list[str]
    table: dict[Any, int]
    said: str
    is_plain: bool = False  # the values are the numbers

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self.is_plain:
            return values
        made = np.full(values.shape[:2], VOID, np.uint8)
        if values.ndim == 2 and any(isinstance(key, tuple) for key in self.table):
            values = np.repeat(values[..., None], 3, 2)  # greys among colours
        for value, number in self.table.items():
            made[(values == np.asarray(value)).all(-1) if values.ndim == 3 else values == value] = number
        return made


def meaning_of(seen: Counter, named: Named, dataset: str, where: dict[Any, str]) -> Meaning:
    """
    Args:
        seen: each value of all masks; where: a file that holds it.

    Raises:
        ValueError: a number above the classes, a colour without one, or values that could be either.
    """
    source = f"classes from {named.source}" if named.names else ""
    if named.colours or any(isinstance(value, tuple) for value in seen):
        return of_colours(seen, named, dataset, where, source)
    values = sorted(seen)
    if values in ([0, VOID], [VOID]) and len(named.names) in (0, 2):
        names = named.names or ["background", "foreground"]
        return Meaning(
            names,
            {0: 0, VOID: 1},
            f"masks of 0 and 255 are {names[0]} and {names[1]}; {source or 'no file names them'}",
        )
    numbers = [value for value in values if value != VOID]
    void = ", and 255 is void" if VOID in values else ""
    if not numbers:
        raise ValueError(f"`dataset: {dataset}` has masks of 255 alone, which is void: write numbers of classes.")
    most = max(numbers)
    if most > VOID:
        raise ValueError(f"{where[most]} has a pixel of class {most}, and classes are 0 to 254: map them.")
    if named.names:
        if most >= len(named.names):
            raise ValueError(
                f"{where[most]} has a pixel of class {most}, and {named.source} names {len(named.names)}: add its name."
            )
        return Meaning(named.names, {}, f"masks hold numbers of classes{void}; {source}", True)
    if most > 20 and 2 * len(numbers) < most:
        raise ValueError(
            f"{where[most]} has a pixel of class {most}, and most numbers below are in no mask: add "
            "`class_names: [...]` to `dataset_settings` if they are classes."
        )
    names = [f"class_{number}" for number in range(most + 1)]
    return Meaning(
        names, {}, f"masks hold numbers of classes{void}; class_0 to class_{most}, as no file names them", True
    )


def of_colours(seen: Counter, named: Named, dataset: str, where: dict[Any, str], source: str) -> Meaning:
    colours: dict[Colour, str] = {}
    for value in seen:
        colours.setdefault(value if isinstance(value, tuple) else (value,) * 3, where[value])
    if named.colours:
        if strange := sorted(set(colours) - set(named.colours)):
            raise ValueError(f"{colours[strange[0]]} has the colour {strange[0]}, which no class has: add it.")
        return Meaning(named.names, dict(named.colours), f"masks hold colours; {source}")
    if len(colours) > MOST_COLOURS:
        raise ValueError(
            f"`dataset: {dataset}` has masks of {len(colours)} colours, too many for classes: add class_dict.csv with "
            "name, r, g, b of each."
        )
    table = {colour: number for number, colour in enumerate(sorted(colours))}
    if named.names and len(named.names) != len(table):
        raise ValueError(
            f"`dataset: {dataset}` has masks of {len(table)} colours, and {named.source} names {len(named.names)}: add "
            "class_dict.csv with name, r, g, b of each."
        )
    names = named.names or [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in table]
    listed = ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in list(table)[:5])
    return Meaning(
        names, table, f"masks hold colours, in the order of their red, green, blue: {listed}; {source or 'named so'}"
    )


def understood(masks: Iterable[tuple[str, Any]], decode: Callable[[Any], Image.Image], named: Named, dataset: str):
    """Masks by name -> their meaning, and the values of each."""
    seen: Counter = Counter()
    where: dict[Any, str] = {}
    values = []
    for name, held in masks:
        try:
            own = distinct(levels(decode(held), name))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{name} is a mask that cannot be decoded ({error}): repair it, or remove it.") from error
        if len(own) > 1024:
            raise ValueError(f"{name} has {len(own)} values, too many for a mask: write one number for each class.")
        seen.update(own)
        for value in own:
            where.setdefault(value, name)
        values.append(own)
    return meaning_of(seen, named, dataset, where), values


def read_masks(files: list[File], dataset: str, told: list[str] | None, is_voc: bool = False) -> Scenes:
    """
    Raises:
        ValueError: one sentence that names the mask and the fix.
    """
    paired, lone, spare = pairs_of(files)
    lists = lists_of(files, "Segmentation") if is_voc else {}
    if not paired:
        raise ValueError(f"`dataset: {dataset}` has no mask with the name of an image: call both files the same.")
    if lossy := [mask.path for _, mask in paired if mask.ending in LOSSY]:
        raise ValueError(f"{lossy[0]} is a mask in a format that changes numbers of classes: write masks as PNG.")
    named = read_names(files, told)
    meaning, values = understood(((str(mask.path), mask.path) for _, mask in paired), Image.open, named, dataset)
    if is_voc and not named.names and meaning.is_plain and len(meaning.names) <= len(VOC_CLASSES):
        meaning.names, meaning.said = VOC_CLASSES, "masks hold VOC's numbers of classes, and 255 is void"
    made = Scenes([], meaning.names, [f"images and masks, {len(paired)} pairs by name; {meaning.said}"])
    for (image, mask), own in zip(paired, values, strict=True):
        if lists and image.stem not in lists:
            continue
        size, of_mask = size_of(image.path), size_of(mask.path)
        same_size(str(mask.path), of_mask, image.path, size)
        split = image.split or lists.get(image.stem) or split_in(image.parts)
        scene = Scene(image.path, split, size, mask=file(mask.path))
        numbers = own
        if not is_ready(mask.path, meaning):
            with Image.open(mask.path) as held:
                filled = meaning(levels(held, str(mask.path)))
            scene.mask, numbers = png(filled), np.unique(filled).tolist()
        scene.classes = [number for number in numbers if number != VOID]
        made.scenes.append(scene)
    for what, which in (("images without a mask", lone), ("masks without an image", spare)):
        if which:
            made.said.append(f"{len(which)} {what} are left out ({'/'.join(which[0].parts)})")
    return made


def is_ready(path: Path, meaning: Meaning) -> bool:
    """The file itself holds one number of a class for each pixel."""
    with Image.open(path) as image:
        return meaning.is_plain and image.mode in ("P", "L")
