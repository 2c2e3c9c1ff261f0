# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What detections are worth: which prediction is meant for which object, and how far it is from it.

A box is (centre x, centre y, width, height), each from 0 to 1 of its own image's size.
n decoder layers, B batch, Q queries, L labels, M matched pairs.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.loss.loss_for_object_detection import HungarianMatcher
from transformers.loss.loss_for_object_detection import generalized_box_iou
from transformers.utils import is_scipy_available


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """(M, 4) -> (M, 4): left, top, right and bottom, instead of centre and size."""
    centre, size = boxes.split(2, dim=1)
    return torch.cat((centre - size / 2, centre + size / 2), dim=1)


def identity(value):
    """A number where it is a tensor's, else as it is."""
    return value.tolist()[0] if isinstance(value, torch.Tensor) and value.ndim else value


def image_name(index: int, target: Any) -> str:
    """An image of a batch, as a person finds it."""
    return f"Image {index} of the batch" + (
        f" (image_id {identity(target['image_id'])})" if "image_id" in target else ""
    )


def check_targets(labels: Any, num_labels: int):
    """Raise where `labels` cannot be meant, and name the image."""
    if not isinstance(labels, (list, tuple)):
        raise ValueError(f"`labels` must be a list of one dictionary an image, got a {type(labels).__name__}.")
    for index, target in enumerate(labels):
        held = target if isinstance(target, Mapping) else {}
        missing = [f"`{key}`" for key in ("class_labels", "boxes") if not isinstance(held.get(key), torch.Tensor)]
        problem = f"has no tensor {' and '.join(missing)}: give both, empty ones for an image without objects"
        if not missing:
            problem = next(target_problems(held["class_labels"].cpu(), held["boxes"].cpu(), num_labels), "")
        if problem:
            raise ValueError(f"{image_name(index, held)} {problem}.")


def target_problems(class_labels: torch.Tensor, boxes: torch.Tensor, num_labels: int) -> Iterator[str]:
    """(n), (n, 4) -> what is wrong with one image's objects, half a sentence each; later ones rest on those before."""
    if class_labels.shape != boxes.shape[:1] or boxes.shape[1:] != (4,):
        yield (
            f"has `class_labels` of shape {tuple(class_labels.shape)} and `boxes` of shape {tuple(boxes.shape)}: they "
            "must be (objects) and (objects, 4), of no objects (0) and (0, 4)"
        )
    if class_labels.is_floating_point() and len(class_labels):
        yield f"has `class_labels` of type {class_labels.dtype}: give integer class ids"
    wrong = class_labels[(class_labels < 0) | (class_labels >= num_labels)]
    if len(wrong):
        yield (
            f"has an object of class {int(wrong[0])}, but `num_labels` is {num_labels}, so classes are 0 to "
            f"{num_labels - 1}: set `num_labels`, or map the classes"
        )
    if not boxes.isfinite().all():
        yield "has a box that is not finite: clean the data"
    tolerance = max(1e-3, 2 * torch.finfo(boxes.dtype).eps) if boxes.is_floating_point() else 0.0
    pixels, flat = boxes.max(dim=1).values > 1 + tolerance, boxes[:, 2:].min(dim=1).values <= 0
    sides = corners(boxes)
    beyond = ((sides < -tolerance) | (sides > 1 + tolerance)).any(dim=1)
    form = "(centre x, centre y, width, height), each divided by the image's own size"
    for found, problem in (
        (pixels, f"has numbers above 1, as if in pixels: give {form}"),
        (flat, "has no area: leave the object out"),
        (beyond, f"reaches beyond the image: cut it off there; if it holds corners, give {form}"),
    ):
        if found.any():
            yield f"has the box {[round(side, 4) for side in boxes[found][0].tolist()]}, which {problem}"


def check_sizes(labels: list[dict], pixel_mask: torch.Tensor):
    """Raise where boxes are relative to the padded batch: transformers' processors make them so when they pad."""
    mask = pixel_mask.bool()
    own_sizes = torch.stack((mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)), dim=1).tolist()
    for index, (target, own_size) in enumerate(zip(labels, own_sizes, strict=True)):
        size = [int(side) for side in target.get("size", own_size)]
        if size != own_size:
            raise ValueError(
                f"{image_name(index, target)} has boxes relative to {size} pixels (its `size`), but is {own_size} "
                "without its padding: process pictures with `do_pad=False`, one at a time, and pad them afterwards."
            )


def match(logits: torch.Tensor, boxes: torch.Tensor, targets: list[dict], config) -> list[tuple[torch.Tensor, ...]]:
    """(B, Q, L + 1), (B, Q, 4) -> for each image (M) queries and (M) objects: the cheapest pairs (DETR, equation 1)."""
    if not any(len(target["boxes"]) for target in targets):  # transformers' matcher cannot reshape nothing
        none = torch.zeros(0, dtype=torch.int64)
        return [(none, none) for _ in targets]
    if not is_scipy_available():
        raise ImportError(
            "Training a detector matches predictions to objects by scipy: install it (pip install scipy)."
        )
    matcher = HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    return matcher({"logits": logits, "pred_boxes": boxes}, targets)


def layer_losses(
    logits: torch.Tensor, boxes: torch.Tensor, targets: list[dict], config, num_items: torch.Tensor
) -> dict[str, torch.Tensor]:
    """(B, Q, L + 1), (B, Q, 4) -> the scalars of one layer ("End-to-End Object Detection with Transformers", 3.1)."""
    (num_images, num_queries), no_object = logits.shape[:2], logits.shape[2] - 1
    matches = match(logits, boxes, targets, config)
    image = torch.cat([torch.full_like(queries, index) for index, (queries, _) in enumerate(matches)])  # (M)
    query = torch.cat([queries for queries, _ in matches])
    pairs = list(zip(targets, matches, strict=True))
    classes = torch.cat([target["class_labels"][objects] for target, (_, objects) in pairs])
    wanted = torch.cat([target["boxes"][objects] for target, (_, objects) in pairs])  # (M, 4)
    all_classes = torch.full((num_images, num_queries), no_object, device=logits.device)
    all_classes[image, query] = classes
    weight = torch.ones_like(logits[0, 0])
    weight[no_object] = config.eos_coefficient
    nll = nn.functional.cross_entropy(logits.flatten(0, 1), all_classes.flatten(), weight, reduction="sum")
    found = boxes[image, query]
    overlap = generalized_box_iou(corners(found), corners(wanted)).diag()
    count, images = num_items.to(logits.dtype)
    total_weight = count + (images * num_queries - count) * config.eos_coefficient
    said = (logits.argmax(-1) != no_object).sum(1)
    objects = torch.tensor([len(target["boxes"]) for target in targets], device=said.device)
    return {
        "loss_ce": nll / total_weight.clamp(min=torch.finfo(logits.dtype).tiny),
        "cardinality_error": (said - objects).abs().sum() / images,
        "loss_bbox": (found - wanted).abs().sum() / count.clamp(min=1),
        "loss_giou": (1 - overlap).sum() / count.clamp(min=1),
    }


def count_boxes(labels: list[dict], num_queries: int) -> torch.Tensor:
    """() -> (2): the boxes that find a query, and the images: what the losses of a batch are means over."""
    boxes = sum(min(len(target["boxes"]), num_queries) for target in labels)
    return torch.tensor([boxes, len(labels)])


def detection_loss(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    labels: list[dict],
    config,
    num_items_in_batch: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(n, B, Q, L + 1), (n, B, Q, 4) -> scalar, its parts: of the last layer, and of those before under their number.

    The means over this batch, as transformers' own; or, given what `count_items` counts in a whole optimizer step, this
    batch's share of that step's means, so that any split gives one gradient. An image with more objects than queries
    counts as many as it has queries, where transformers counts all.

    Raises:
        ValueError: labels that cannot be meant, predictions that are not finite; the image is named.
        ImportError: scipy is not installed.
    """
    check_targets(labels, config.num_labels)
    if len(labels) != logits.shape[1]:
        raise ValueError(f"`labels` must hold one dictionary an image, got {len(labels)} for {logits.shape[1]} images.")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, boxes = logits.to(dtype), boxes.to(dtype)
    finite = logits.isfinite().all(dim=3) & boxes.isfinite().all(dim=3)
    if not finite.all():  # the matcher would take them for bad predictions, and go on
        index = int(finite.all(dim=2).all(dim=0).int().argmin())
        raise ValueError(
            f"{image_name(index, labels[index])} has predictions that are not finite: look at its pixels and at the "
            "weights; a lower learning rate or clipped gradients may help."
        )
    targets = [
        {"class_labels": t["class_labels"].to(logits.device).long(), "boxes": t["boxes"].to(boxes)} for t in labels
    ]
    num_items = count_boxes(labels, logits.shape[2]) if num_items_in_batch is None else num_items_in_batch
    loss = logits.new_zeros(())
    parts: dict[str, torch.Tensor] = {}
    for layer in range(-1, len(logits) - 1):  # the last first, as transformers lists them
        losses = layer_losses(logits[layer], boxes[layer], targets, config, num_items.to(logits.device))
        loss = loss + losses["loss_ce"] + config.bbox_loss_coefficient * losses["loss_bbox"]
        loss = loss + config.giou_loss_coefficient * losses["loss_giou"]
        parts |= {name if layer < 0 else f"{name}_{layer}": value for name, value in losses.items()}
    return loss, parts
