"""Losses that weigh classes, for a training in which some are rare.

The law: a step's loss is the sum of w * loss over its items, divided by the number of its items, as without weights.
So any split into batches, accumulated steps and processes gives one gradient, and a batch of one class counts for what
it is (torch's weighted mean divides by the weights, and a batch of one image would count as if it had none). The mean
weight over the training images is 1. So over all of them the loss is torch's weighted mean: the loss of a set in which
each image stands as often as its weight says.

B batch, L classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from ..modeling_heads import classification_loss
from ..near_names import near_miss
from .mixing import logits_of
from .mixing import soft_cross_entropy
from .targets import MULTI
from .targets import NUMBERS
from .targets import SINGLE

BALANCED = "balanced"


def weights_of(
    setting: str | Mapping[str, float], counts: Mapping[str, int], num_images: int, problem_type: str = SINGLE
) -> torch.Tensor:
    """-> (L), or for several labels an image (2, L): of a class's absence, and of its presence.

    Args:
        setting: "balanced", N / (number of classes * images of the class), as scikit-learn has it; of several labels
            N / (2 * images with it) and N / (2 * images without it), whose ratio is torch's usual `pos_weight`. Or a
            weight for each class that is named, and 1 for the others; of several labels that of its presence beside
            its absence. Only the ratio of weights counts: their mean over the images is made 1.
        counts: of each class, in order, the images of training that show it.

    Raises:
        ValueError: another word, a name that is no class, a weight that is no positive number.
    """
    check(setting, list(counts))
    there = torch.tensor(list(counts.values()), dtype=torch.float64)
    if problem_type == MULTI:
        shares = torch.stack((num_images - there, there))  # of no and yes
        weights = shares.clamp(min=1).reciprocal() if setting == BALANCED else torch.ones_like(shares)
    else:
        shares = there[None]
        weights = shares.clamp(min=1).reciprocal() if setting == BALANCED else torch.ones_like(shares)
    if not isinstance(setting, str):
        weights[-1] = torch.tensor([float(setting.get(name, 1.0)) for name in counts])
    weights = weights * num_images / (weights * shares).sum(0 if problem_type == MULTI else None)
    weights = torch.where(shares > 0, weights, 1.0)  # of what no image shows nothing is known
    return (weights if problem_type == MULTI else weights[0]).float()


def check(setting: Any, names: list[str]):
    if isinstance(setting, str):
        if setting != BALANCED:
            raise ValueError(
                f"`class_weights: {setting}` is none: write `{BALANCED}`, or a weight for each class as in "
                f"`class_weights: {{{names[0]}: 2.0}}`."
            )
        return
    for name, weight in setting.items():
        if name not in names:
            near = near_miss(str(name), names)
            hint = f"did you mean `{near}`?" if near else f"the data have {', '.join(names[:10])}."
            raise ValueError(f"`class_weights` has `{name}`, which is no class: {hint}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise ValueError(f"`class_weights` gives `{name}` the weight {weight!r}: write a number above 0.")


def tell_weights(weights: torch.Tensor, names: list[str]):
    """In one line, the largest first; of several labels that of a class's presence beside its absence."""
    values = (weights[1] / weights[0] if weights.dim() == 2 else weights).tolist()
    ranked = sorted(zip(values, names, strict=True), reverse=True)
    words = [f"{name} {value:.3g}" for value, name in ranked]
    shown = words if len(words) <= 12 else [*words[:3], "...", *words[-3:]]
    print(f"Weights in the loss: {', '.join(shown)}.")


@dataclass
class Weighted:
    """What a training batch's `labels` become: with the weights that its loss goes by."""

    labels: torch.Tensor  # (B), or (B, L)
    weights: torch.Tensor  # (L) or (2, L); of numbers, of their squared errors


class Weigh:
    """A device step, `(inputs, training) -> inputs`: of a training batch, the labels with the classes' weights. An
    evaluation's loss has none, so that it can be compared with other runs."""

    def __init__(self, weights: torch.Tensor):
        self.weights = weights

    def __call__(self, inputs: dict[str, Any], training: bool = True) -> dict[str, Any]:
        if not training:
            return inputs
        labels = inputs["labels"]
        if self.weights.device != labels.device:
            self.weights = self.weights.to(labels.device)  # once
        return inputs | {"labels": Weighted(labels, self.weights)}


class ClassLoss:
    """The loss of a classifier's logits that `problem_type` names, of anyone's model: each item weighs as its class
    where the labels are `Weighted`. For Trainer's `compute_loss_func`. Of a distilled model, the mean of its heads'.
    """

    def __init__(self, problem_type: str = SINGLE):
        self.problem_type = problem_type

    def __call__(
        self, outputs: Any, labels: torch.Tensor | Weighted, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """`logits` (B, L); (B) or (B, L) -> ()"""
        if not isinstance(labels, Weighted):
            if self.problem_type == SINGLE:
                return soft_cross_entropy(outputs, labels, num_items_in_batch)
            heads = logits_of(outputs)
            config = SimpleNamespace(problem_type=self.problem_type, num_labels=heads[0].shape[1])
            losses = [classification_loss(labels, head, config, num_items_in_batch) for head in heads]
        else:
            losses = [self.weighted(head, labels, num_items_in_batch) for head in logits_of(outputs)]
        return torch.stack(losses).mean()

    def weighted(
        self, logits: torch.Tensor, given: Weighted, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """(B, L) -> ()"""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels, weights = given.labels.to(logits.device), given.weights.to(logits)
        counted = ((labels != -100) | labels.is_floating_point()).sum().clamp(min=1)
        elements = counted if num_items_in_batch is None else num_items_in_batch
        if self.problem_type == NUMBERS:
            return (weights * (logits - labels.reshape(logits.shape)).square()).sum() / elements
        if self.problem_type == MULTI:
            labels = labels.to(logits.dtype)
            weight = torch.lerp(weights[0].expand_as(labels), weights[1].expand_as(labels), labels)
            return functional.binary_cross_entropy_with_logits(logits, labels, weight, reduction="sum") / elements
        soft = labels.is_floating_point()  # of Mixup or smoothed: torch weighs each class's share
        target = labels.to(logits.dtype) if soft else labels.reshape(-1).long()
        loss = functional.cross_entropy(logits, target, weights, reduction="sum")
        return loss / (elements / logits.shape[1] if soft else elements)
