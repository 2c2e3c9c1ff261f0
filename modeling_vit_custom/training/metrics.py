"""Metrics that need no download: modules of Hugging Face evaluate, beside this file; and figures of trivial answers."""

import math
import uuid
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import torch
from datasets import Dataset
from torch import nn
from torchvision.ops import box_convert

from ..common import extra
from ..configuration_checks import pair
from ..modeling_pixels import hidden_pixels
from ..modeling_pixels import patchify


def load(name: str) -> evaluate.EvaluationModule:
    """A file of this folder as a module of Hugging Face evaluate, which never asks the Hub for it.

    In memory and under a name of its own: otherwise two processes that compute at once would share a file.
    """
    path = Path(__file__).with_name(f"{name}.py")
    return evaluate.load(str(path), experiment_id=uuid.uuid4().hex, keep_in_memory=True)


def classification(logits: Any, labels: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """(N, L), (N) -> accuracy, top_5_accuracy, ece; with names, each class too: see classification_metrics.py."""
    metric = load("classification_metrics")
    return metric.compute(predictions=logits, references=labels, class_names=class_names)


def multi_label(logits: Any, labels: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """(N, L), (N, L) -> map, f1_micro, f1_macro; with names, each class too: see multi_label_metrics.py."""
    return load("multi_label_metrics").compute(predictions=logits, references=labels, class_names=class_names)


def regression(found: Any, truth: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """(N, L), (N, L) -> mae, rmse, r2; with names, of each number too: see regression_metrics.py."""
    return load("regression_metrics").compute(predictions=found, references=truth, names=names)


def mean_iou(found: Any, truth: Any, config: Any) -> dict[str, float]:
    """Two maps of classes (N, H, W) -> the mean over classes of intersection over union, and that of each class."""
    names, ignored = list(config.id2label.values()), config.semantic_loss_ignore_index
    metric = load("segmentation_metrics")
    return metric.compute(predictions=found, references=truth, class_names=names, ignore_index=ignored)


def most_frequent(batches: Iterable[dict[str, torch.Tensor]], config: Any) -> int:
    """The class that most pixels of the batches' `labels` (B, H, W) are of."""
    counts = torch.zeros(config.num_labels, dtype=torch.long)
    for batch in batches:
        seen = batch["labels"][batch["labels"] != config.semantic_loss_ignore_index]
        counts += torch.bincount(seen, minlength=config.num_labels)
    return int(counts.argmax())


def in_pixels(label: dict[str, Any], size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """A target as the model has it -> as torchmetrics wants it: corners in pixels of an image of (height, width)."""
    corners = box_convert(torch.as_tensor(label["boxes"]).reshape(-1, 4), "cxcywh", "xyxy")
    return {
        "boxes": corners * torch.tensor([size[1], size[0], size[1], size[0]]),
        "labels": torch.as_tensor(label["class_labels"]).long(),
    }


def average_precision(
    found: list[dict], truth: list[dict], class_names: Sequence[str] | None = None
) -> dict[str, float]:
    """COCO's mean average precision over overlaps of 0.5 to 0.95, and at 0.5 and 0.75; with names, of each class.

    Raises:
        ImportError: the packages that compute it are an extra, and not installed.
    """
    with extra("detection", "Average precision needs"):
        import pycocotools  # noqa: F401
        import torchmetrics  # noqa: F401
    return load("detection_metrics").compute(predictions=found, references=truth, class_names=class_names)


def corners_of(row: dict[str, Any]) -> torch.Tensor:
    """The boxes of a data set's row, (n, 4): corners as shares of the image."""
    corners = box_convert(torch.tensor(row["objects"]["bbox"]).reshape(-1, 4), "xywh", "xyxy")
    return corners / torch.tensor([row["width"], row["height"]] * 2)


def constant_boxes(train: Dataset, test: Dataset, num_labels: int) -> dict[str, float]:
    """Average precision of one answer for all images: each class's mean box, scored by its frequency."""
    train, test = (rows.select_columns(["objects", "width", "height"]) for rows in (train, test))
    boxes = torch.cat([torch.zeros(0, 4), *(corners_of(row) for row in train)])
    classes = torch.cat([torch.zeros(0).long(), *(torch.tensor(row["objects"]["category"]).long() for row in train)])
    seen = [label for label in range(num_labels) if (classes == label).any()]
    means = torch.stack([boxes[classes == label].mean(0) for label in seen]) if seen else boxes
    scores = torch.tensor([(classes == label).float().mean() for label in seen])
    found, truth = [], []
    for row in test:
        sides = torch.tensor([row["width"], row["height"]] * 2)
        found.append(dict(boxes=means * sides, labels=torch.tensor(seen), scores=scores))
        truth.append(dict(boxes=corners_of(row) * sides, labels=torch.tensor(row["objects"]["category"]).long()))
    return average_precision(found, truth)


def retrieval(images: Any, texts: Any) -> dict[str, float]:
    """Embeddings of pairs (N, E), (N, E) -> how often the partner is among the first 1 or 5 of all N, both ways."""
    return load("retrieval_metrics").compute(predictions=images, references=texts)


def chance(count: int) -> dict[str, float]:
    return {
        f"{name}_recall_{k}": min(k / count, 1.0) if count else math.nan
        for name in ("caption", "image")
        for k in (1, 5)
    }


def mean_colour_error(batches: Iterable[dict[str, torch.Tensor]], config: Any) -> float:
    """SimMIM's loss of an answer that paints all that is hidden in the mean colour of what is visible."""
    total = count = 0.0
    for batch in batches:
        pixels = batch["pixel_values"]
        hidden = hidden_pixels(config, batch["bool_masked_pos"], tuple(pixels.shape[2:])).to(pixels.dtype)
        mean = (pixels * (1 - hidden)).sum((2, 3), keepdim=True) / (1 - hidden).sum((2, 3), keepdim=True).clamp(min=1)
        total += ((pixels - mean).abs() * hidden).sum().item() / pixels.shape[1]
        count += hidden.sum().item()
    return total / count if count else math.nan


def flat_patch_error(batches: Iterable[dict[str, torch.Tensor]], config: Any) -> float:
    """MAE's loss of an answer that knows of each patch its own mean: more than any model is told."""
    total = count = 0.0
    for batch in batches:
        target = patchify(batch["pixel_values"], pair(config.patch_size))
        target = target - target.mean(-1, keepdim=True)
        if config.norm_pix_loss:
            target = target / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        total += target.square().mean(-1).sum().item()
        count += target.shape[0] * target.shape[1]
    return total / count if count else math.nan


def unpatchify(logits: torch.Tensor, pixel_values: torch.Tensor, config: Any) -> torch.Tensor:
    """(B, h * w, p * q * C), (B, C, H, W) -> (B, C, H, W): predicted patches as images. Where they were predicted
    without their mean and deviation, they get those of the true patch."""
    height, width = pair(config.patch_size)
    if config.norm_pix_loss:
        truth = patchify(pixel_values, (height, width))
        logits = logits * (truth.var(-1, keepdim=True) + 1e-6).sqrt() + truth.mean(-1, keepdim=True)
    grid = pixel_values.shape[2] // height, pixel_values.shape[3] // width
    image = logits.unflatten(2, (height, width, -1)).unflatten(1, grid).permute(0, 5, 1, 3, 2, 4)
    image = image.flatten(4, 5).flatten(2, 3)
    below, right = (whole - part for whole, part in zip(pixel_values.shape[2:], image.shape[2:], strict=True))
    return nn.functional.pad(image, (0, right, 0, below))
