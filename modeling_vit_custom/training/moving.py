"""Augmentation where masks and boxes move with the pixels, by torchvision's tv_tensors.

H W pixels, n objects.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..near_names import near_miss
from .augmentation import SETTINGS
from .augmentation import VALID
from .augmentation import Augmented
from .augmentation import is_range
from .augmentation import seed_of
from .augmentation import seeded
from .recipe_words import advice

# What a recipe may set for a task whose answers lie in the picture; what nobody asks for is off.
SETTINGS_MOVING: dict[str, Any] = {
    "crop": "none",
    "scale": (0.3, 1.0),  # of the area: smaller parts show few whole objects
    "ratio": SETTINGS["ratio"],
    "scale_jitter": None,  # (0.1, 2.0): "Simple Copy-Paste is a Strong Data Augmentation Method", section 3
    "flip": 0.0,
    "color_jitter": 0.0,
    "interpolation": "bilinear",
}
CROPS = ("none", "resized")
FILTERS = ("nearest", "bilinear", "bicubic")
LEAST = 1  # pixels of a side, below which nothing of an object is visible


def checked_moving(settings: dict[str, Any]) -> dict[str, Any]:
    """All of SETTINGS_MOVING, with these among them.

    Raises:
        ValueError: a setting of pictures without masks and boxes, an unknown one, or a value that cannot be meant.
    """
    for name, value in settings.items():
        if name in SETTINGS and name not in SETTINGS_MOVING:
            raise ValueError(
                f"`{name}` in augmentation is for pictures alone, as masks and boxes could not follow: leave it out, "
                f"or choose of {', '.join(SETTINGS_MOVING)}."
            )
        if name not in SETTINGS_MOVING:
            raise ValueError(f"Augmentation has no setting `{name}`: {advice(name, SETTINGS_MOVING, near_miss)}")
        for key, words in (("crop", CROPS), ("interpolation", FILTERS)):
            if name == key and value not in words:
                raise ValueError(f"`{name}: {value}` in augmentation is none: {advice(value, words, near_miss)}")
        if name in VALID and not VALID[name][0](value):
            raise ValueError(f"`{name}: {value}` in augmentation must be {VALID[name][1]}.")
    whole = SETTINGS_MOVING | settings
    if whole["scale_jitter"] is not None and not is_range(whole["scale_jitter"]):
        raise ValueError("`scale_jitter` in augmentation must be two factors of the size, the smaller first.")
    if whole["scale_jitter"] is not None and whole["crop"] != "none":
        raise ValueError("`scale_jitter` and `crop` in augmentation both choose a part: leave one of them out.")
    for name in ("scale", "ratio"):
        if name in settings and whole["crop"] != "resized":
            raise ValueError(f"`{name}` has an effect only with `crop: resized`: set that too, or leave it out.")
    return whole


class MovingTogether:
    """A row's `image`, `mask` and `objects` after the same random steps, in this order: scale jitter, or a crop; flip;
    colours. Without a setting that changes the size the picture keeps its own.

    Boxes are cut at the edges; objects of which nothing is left are dropped. Where a picture that was made smaller
    leaves room, pixels are `fill` and the mask is `ignore_index`.

    Args:
        size: (H, W) that crops and jittered pictures have.
        settings: as `checked_moving`.
        fill: a colour, 0 to 255.

    Raises:
        ValueError: as `checked_moving`.
    """

    def __init__(self, size: tuple[int, int], settings: dict[str, Any], fill: Sequence[float], ignore_index: int = 255):
        whole = checked_moving(settings)
        filter = v2.InterpolationMode(whole["interpolation"])
        steps: list[Callable] = []
        if whole["scale_jitter"]:
            room = {tv_tensors.Image: [round(value) for value in fill], tv_tensors.Mask: ignore_index}
            steps.append(v2.ScaleJitter(size, tuple(whole["scale_jitter"]), filter))
            steps.append(v2.RandomCrop(size, pad_if_needed=True, fill=room))
        if whole["crop"] == "resized":
            steps.append(v2.RandomResizedCrop(size, tuple(whole["scale"]), tuple(whole["ratio"]), filter))
        if whole["flip"]:
            steps.append(v2.RandomHorizontalFlip(whole["flip"]))
        if whole["color_jitter"]:
            steps.append(v2.ColorJitter(*[whole["color_jitter"]] * 3))
        self.steps = v2.Compose(steps) if steps else None

    def __call__(self, row: dict[str, Any], image: Image.Image) -> dict[str, Any]:
        """
        Args:
            row: with `mask`, `objects` or both; it stays as it was.
            image: the row's picture, as RGB.
        """
        if self.steps is None:
            return {**row, "image": image}
        sample: dict[str, Any] = {"image": v2.functional.pil_to_tensor(image)}
        sample["image"] = tv_tensors.Image(sample["image"])
        if row.get("mask") is not None:
            sample["mask"] = tv_tensors.Mask(torch.from_numpy(np.array(row["mask"])))
        objects = row.get("objects")
        if objects is not None:
            boxes = torch.tensor(objects["bbox"], dtype=torch.float32).reshape(-1, 4)
            canvas = (image.height, image.width)
            sample["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=canvas)  # type: ignore[call-overload]
        made = self.steps(sample)
        changed: dict[str, Any] = {**row, "image": v2.functional.to_pil_image(made["image"])}
        changed |= {
            name: side for name, side in zip(("height", "width"), made["image"].shape[-2:], strict=True) if name in row
        }
        if "mask" in made:
            changed["mask"] = Image.fromarray(made["mask"].numpy())
        if objects is not None:
            changed["objects"] = visible(objects, made["boxes"])
        return changed


def visible(objects: dict[str, Any], boxes: tv_tensors.BoundingBoxes) -> dict[str, Any]:
    """(n, 4), left, top, width, height, cut at the edges by torchvision -> the objects of which something is seen."""
    kept = [number for number, box in enumerate(boxes.tolist()) if min(box[2:]) >= LEAST]
    moved = {**objects, "bbox": boxes.tolist()}
    count = len(objects["bbox"])
    return {
        name: [values[number] for number in kept] if isinstance(values, list) and len(values) == count else values
        for name, values in moved.items()
    }


class AugmentedScenes(Augmented):
    """As Augmented, for rows whose masks and boxes move with the picture.

    Args:
        transform: a row and its RGB picture -> the row, as `MovingTogether`.
    """

    def augment(self, row: dict[str, Any], index: int, copy: int) -> dict[str, Any]:
        image = self.to_rgb(row["image"])
        with seeded(seed_of(self.seed, row["epoch"], index, copy)):
            return {**self.transform(row, image), "copy": copy}
