"""Pictures with boxes -> batches for a detector.

Three formats of a box, each in its place: COCO's (left, top, width, height) in pixels of the picture in the data;
(centre x, centre y, width, height) from 0 to 1 of the image's own size inside the model; (left, top, right, bottom) in
pixels again from the processor's `post_process_object_detection(outputs, target_sizes=...)`. The processor is
transformers' DetrImageProcessor: `size={"height": 128, "width": 128}` squashes pictures, so that batches stack, with
`{"shortest_edge": 480, "longest_edge": 800}` they keep their shape.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .images import decode_rgb


def check_objects(name: str, size: tuple[int, int], objects: dict[str, Any], num_labels: int):
    """Raise where a row's objects cannot be meant: transformers' processor would cut boxes off and drop some."""
    width, height = size
    for box, category in zip(objects["bbox"], objects["category"], strict=True):
        left, top, wide, high = box
        if not (wide > 0 and high > 0):
            raise ValueError(f"{name} has the box {list(box)}, which has no area: leave the object out.")
        if not (left >= -1 and top >= -1 and left + wide <= width + 1 and top + high <= height + 1):
            raise ValueError(
                f"{name} has the box {list(box)}, which reaches beyond its {width} x {height} pixels: give (left, top, "
                "width, height) in pixels of this picture, as COCO does."
            )
        if not 0 <= category < num_labels:
            raise ValueError(
                f"{name} has an object of category {category}, but categories are 0 to {num_labels - 1}: set "
                "`num_labels` in the configuration, or map the categories."
            )


class DetectionCollator:
    """Rows `{"image": PIL image, "objects": {"bbox": COCO boxes, "category": ints}}`, with an "image_id" or without, ->
    `pixel_values` (B, C, H, W), `labels`, and `pixel_mask` (B, H, W) where the images' sizes differ.

    Raises:
        ValueError: a box or a category that cannot be meant, or pixels that are not finite; the row is named.
    """

    def __init__(self, image_processor: Callable, num_labels: int | None):
        self.image_processor = image_processor
        self.num_labels = num_labels or 0

    def process(self, position: int, row: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """() -> (C, H, W), labels: one picture by itself, so that its boxes are relative to its own size."""
        image_id = row.get("image_id", position)
        name = f"Row {position} of the batch (image_id {image_id})"
        image, objects = decode_rgb(row["image"], name), row["objects"]
        check_objects(name, image.size, objects, self.num_labels)
        annotations = [
            dict(bbox=box, category_id=category, area=box[2] * box[3], iscrowd=0)
            for box, category in zip(objects["bbox"], objects["category"], strict=True)
        ]
        target = dict(image_id=image_id if isinstance(image_id, int) else position, annotations=annotations)
        made = self.image_processor(image, annotations=target, do_pad=False, return_tensors="pt")
        (pixels,), (labels,) = made["pixel_values"], made["labels"]
        if not pixels.isfinite().all():
            raise ValueError(f"{name} has pixels that are not finite: check image_mean and image_std.")
        return pixels, {key: labels[key] for key in ("class_labels", "boxes", "image_id", "orig_size")}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        pixels, labels = zip(*(self.process(position, row) for position, row in enumerate(rows)), strict=True)
        return pad(pixels) | {"labels": list(labels)}


def pad(pixels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """B x (C, H', W') -> `pixel_values` (B, C, H, W), and `pixel_mask` (B, H, W) if they differ: 0 below and right."""
    height, width = (max(image.shape[side] for image in pixels) for side in (1, 2))
    room = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in pixels]
    batch = {"pixel_values": torch.stack([nn.functional.pad(i, r) for i, r in zip(pixels, room, strict=True)])}
    if any(map(any, room)):
        masks = [nn.functional.pad(torch.ones_like(i[0]), r) for i, r in zip(pixels, room, strict=True)]
        batch["pixel_mask"] = torch.stack(masks).long()
    return batch
