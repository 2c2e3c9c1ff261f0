"""Losses of one's own in front of ViTCustomTrainer and behind it, each with what it is over a whole batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer

from modeling_vit_custom.training.trainer import ViTCustomTrainer

WEIGHTS = torch.tensor([1.0, 2.0, 5.0, 0.5, 3.0], dtype=torch.float64)


def penalty(model: nn.Module) -> torch.Tensor:
    return 10 * model.get_parameter("classifier.weight").square().sum()


def forward(model, inputs) -> tuple:
    outputs = model(pixel_values=inputs["pixel_values"])
    return outputs, outputs.logits, inputs["labels"]


class OfMean(Trainer):
    """The commonest loss of one's own: a mean over its own batch, which passes over the count."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs, logits, labels = forward(model, inputs)
        loss = functional.cross_entropy(logits, labels)
        return (loss, outputs) if return_outputs else loss


class OfSum(Trainer):
    """A weighted sum by the count, which is keyword-only."""

    def compute_loss(self, model, inputs, *, return_outputs=False, num_items_in_batch=None):
        outputs, logits, labels = forward(model, inputs)
        loss = functional.cross_entropy(logits, labels, WEIGHTS, reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class OfKeywords(Trainer):
    """Both, added."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs, logits, labels = forward(model, inputs)
        loss = functional.cross_entropy(logits, labels, WEIGHTS, reduction="sum") / kwargs["num_items_in_batch"]
        loss = loss + functional.cross_entropy(logits, labels)
        return (loss, outputs) if return_outputs else loss


class OfSuper(Trainer):
    """The model's loss, doubled, and a term that no row has a part in."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        answer = super().compute_loss(model, inputs, *args, **kwargs)
        loss = 2 * (answer[0] if isinstance(answer, tuple) else answer) + penalty(model_in(model))
        return (loss, *answer[1:]) if isinstance(answer, tuple) else loss


class OfOutputs(Trainer):
    """What the model computes with the count is thrown away."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        _, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        loss = functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


def model_in(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)  # within DistributedDataParallel


def mean(model, pixel_values, labels) -> torch.Tensor:
    return functional.cross_entropy(model(pixel_values).logits, labels)


def by_count(model, pixel_values, labels) -> torch.Tensor:
    return functional.cross_entropy(model(pixel_values).logits, labels, WEIGHTS, reduction="sum") / len(labels)


class OwnLoss(NamedTuple):
    theirs: type
    whole: Callable


OWN = {
    "mean": OwnLoss(OfMean, mean),
    "sum": OwnLoss(OfSum, by_count),
    "both": OwnLoss(OfKeywords, lambda model, **batch: by_count(model, **batch) + mean(model, **batch)),
    "super": OwnLoss(OfSuper, lambda model, **batch: 2 * mean(model, **batch) + penalty(model)),
    "outputs": OwnLoss(OfOutputs, mean),
}


def behind(theirs: type) -> type:
    """class MyTrainer(ViTCustomTrainer, YourTrainer): ..."""
    return type("Behind", (ViTCustomTrainer, theirs), {})


def in_front(theirs: type) -> type:
    """class MyTrainer(ViTCustomTrainer): def compute_loss ..."""
    return type("InFront", (theirs, ViTCustomTrainer), {})
