"""Mixup and CutMix: labels are mixed where batches are made, pixels on the device; and the loss that takes both kinds
of labels, whatever the classifier.

B batch, C channels, H W pixels, L labels.
"""

import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .augmentation import seed_of
from .collators import name_of

PARTNER, RATIO, BOX = "mix_partner", "mix_ratio", "mix_box"


def draw_box(rng: np.random.Generator, height: int, width: int, ratio: float) -> tuple[int, int, int, int]:
    """-> top, left, bottom, right of a box of the share `1 - ratio`, around a pixel that is drawn; what would lie
    outside the image is cut off ("CutMix", 3.1)."""
    down, across = (int(side * math.sqrt(1 - ratio)) for side in (height, width))
    top, left = int(rng.integers(height)) - down // 2, int(rng.integers(width)) - across // 2
    return max(top, 0), max(left, 0), min(top + down, height), min(left + across, width)


def teacher_mix(probabilities: torch.Tensor, partner: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """(B, L), (B), (B) -> (B, L): mixed as the labels are, each row with its partner's; for a teacher's predictions
    that were made before."""
    weight = ratio.to(probabilities.dtype)[:, None]
    return weight * probabilities + (1 - weight) * probabilities[partner]


class MixPixels:
    """A step on the device, `(inputs, training) -> inputs`: takes Mix's three tensors out of the batch and mixes
    `pixel_values` (B, C, H, W) by them, to floats in the range they had. A batch without them passes."""

    def __call__(self, inputs: dict[str, Any], training: bool = True) -> dict[str, Any]:
        if PARTNER not in inputs:
            return inputs
        rest = dict(inputs)
        partner, ratio, box = (rest.pop(name) for name in (PARTNER, RATIO, BOX))
        pixels = inputs["pixel_values"]
        pixels = pixels if pixels.is_floating_point() else pixels.float()
        top, left, bottom, right = box[:, :, None].unbind(1)  # (B, 1) each
        rows, columns = (torch.arange(side, device=box.device) for side in pixels.shape[2:])
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
        empty = (bottom <= top) | (right <= left)
        weight = torch.where(empty, ratio[:, None], 1.0)[:, :, None] * ~inside  # (B, H, W): of the own image
        # lerp gives each end exactly, so that CutMix's pixels are those of one image or the other.
        mixed = torch.lerp(pixels[partner], pixels, weight[:, None].to(pixels.dtype))
        return {**rest, "pixel_values": mixed}


class Mix:
    """A collator around another for classification: of training rows, which have a `copy` (Augmented), the labels
    become probabilities (B, L), smoothed and mixed, and the pixels are mixed with those of the batch in reverse order,
    as DeiT does ("Training data-efficient image transformers", table 9). Other rows pass untouched, so that an
    evaluation has the same collator. One draw a batch, by the seed and the batch's rows, epoch and copies alone.

    To the batch it adds `mix_partner` (B); `mix_ratio` (B), the weight of the own image; and `mix_box` (B, 4): top,
    left, bottom, right of what CutMix takes from the partner, or an empty box, which means Mixup. MixPixels goes by
    them, on the device, or here if `on_device` is False.

    transformers' Trainer needs `remove_unused_columns=False`, and `compute_loss_func=soft_cross_entropy` for a model
    that takes floating-point labels for something else.

    Args:
        collate: rows -> `pixel_values` (B, C, H, W), of uint8 or of floats: mixing commutes with normalisation; and
            `labels` (B), class ids.
        mixup_alpha: of Beta(alpha, alpha), from which Mixup's ratio is drawn ("mixup", section 2); 0 turns it off.
        cutmix_alpha: of CutMix's, likewise.
        prob: how likely a batch is mixed.
        switch_prob: how likely it is then mixed by CutMix, where both are on.
        label_smoothing: the share of each label that is spread over all classes.

    Raises:
        ValueError: settings or labels that cannot be meant, or training rows without `index` or `epoch`.
    """

    def __init__(
        self,
        collate: Callable,
        num_labels: int,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
        seed: int = 0,
        on_device: bool = True,
    ):
        if min(mixup_alpha, cutmix_alpha) < 0:
            raise ValueError(f"`mixup_alpha` {mixup_alpha} and `cutmix_alpha` {cutmix_alpha} must be 0 (off) or more.")
        shares = dict(prob=prob, switch_prob=switch_prob, label_smoothing=label_smoothing)
        if wrong := [name for name, value in shares.items() if not 0 <= value <= 1]:
            raise ValueError(f"`{wrong[0]}` must be from 0 to 1, got {shares[wrong[0]]}.")
        self.collate, self.num_labels, self.seed = collate, num_labels, seed
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.prob, self.switch_prob, self.label_smoothing = prob, switch_prob, label_smoothing
        self.step = None if on_device else MixPixels()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(rows)
        if "copy" not in rows[0]:
            return batch
        labels = self.smooth(batch["labels"])
        if not (self.mixup_alpha or self.cutmix_alpha):
            return {**batch, "labels": labels}
        ratio, box = self.draw(self.generator(rows), *batch["pixel_values"].shape[2:])
        partner, ratios = torch.arange(len(rows)).flip(0), torch.full((len(rows),), ratio)
        mixed = {PARTNER: partner, RATIO: ratios, BOX: torch.tensor([box] * len(rows))}
        batch = {**batch, "labels": teacher_mix(labels, partner, ratios), **mixed}
        return self.step(batch) if self.step else batch

    def generator(self, rows: list[dict[str, Any]]) -> np.random.Generator:
        for position, row in enumerate(rows):
            if lacking := [name for name in ("epoch", "index", "copy") if name not in row]:
                raise ValueError(f"{name_of(position, row)} has no `{lacking[0]}`: wrap the data set, Augmented(rows).")
        of_rows = [int(row[name]) for row in rows for name in ("epoch", "index", "copy")]
        return np.random.default_rng(seed_of(self.seed, *of_rows))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> tuple[float, tuple[int, int, int, int]]:
        """-> the weight of the own image, and CutMix's box or an empty one"""
        nothing = (0, 0, 0, 0)
        if rng.random() >= self.prob:
            return 1.0, nothing
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < self.switch_prob)
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        ratio = float(rng.beta(alpha, alpha))
        if not cut:
            return ratio, nothing
        top, left, bottom, right = box = draw_box(rng, height, width, ratio)
        pixels = height * width
        return (pixels - (bottom - top) * (right - left)) / pixels, box

    def smooth(self, labels: torch.Tensor) -> torch.Tensor:
        """(B) -> (B, L)"""
        if labels.is_floating_point() or labels.dim() != 1:
            raise ValueError(
                f"Mix takes one class id an image, got labels of {labels.dtype} and shape {tuple(labels.shape)}: give "
                "it a collator that leaves the ids as they are."
            )
        if wrong := labels[(labels < 0) | (labels >= self.num_labels)].tolist():
            raise ValueError(f"Mix got label {wrong[0]}, but labels are 0 to {self.num_labels - 1}: set `num_labels`.")
        hot = nn.functional.one_hot(labels.long(), self.num_labels).float()
        return hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_labels


def logits_of(outputs: Any) -> list[torch.Tensor]:
    """What a classifier gives -> its logits (B, L), of each head if it is distilled."""
    if not isinstance(outputs, Mapping):
        return [outputs[0]]
    heads = [outputs.get(name) for name in ("cls_logits", "distillation_logits")]
    return [head for head in heads if head is not None] or [outputs["logits"]]


def soft_cross_entropy(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """outputs with logits (B, L), labels (B) or probabilities (B, L) -> scalar: the cross-entropy, the mean over the
    batch; or, given how many elements the labels of a whole optimizer step have (`num_items_in_batch`, as transformers'
    Trainer counts them), this batch's share of that step's mean. For Trainer's `compute_loss_func`.

    A label of -100 is ignored. Of a distilled model, the mean of its heads' losses.

    Raises:
        ValueError: probabilities of another shape than the logits, or, on a CPU, that do not sum to 1.
    """
    heads = logits_of(outputs)
    num_labels = heads[0].shape[-1]
    labels = labels.to(heads[0].device)
    soft = labels.is_floating_point()
    if soft and labels.shape != heads[0].shape:
        raise ValueError(
            f"Probabilities of shape {tuple(labels.shape)} do not fit logits of {tuple(heads[0].shape)}: set "
            "`num_labels` of the model and of Mix to the same number."
        )
    if soft and labels.device.type == "cpu" and not ((labels.sum(-1) - 1).abs() < 0.01).all():
        raise ValueError("Floating-point labels must be probabilities: make each image's labels sum to 1.")
    labels = labels if soft else labels.reshape(-1).long()
    elements = (labels != -100).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    count = elements.clamp(min=1) / (num_labels if soft else 1)
    losses = []
    for logits in heads:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = labels.to(logits.dtype) if soft else labels
        losses.append(nn.functional.cross_entropy(logits, target, reduction="sum") / count.to(logits.device))
    return torch.stack(losses).mean()
