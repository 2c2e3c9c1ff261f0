"""Numbers are learned as if they had mean 0 and deviation 1 in training, and a checkpoint answers in their units.

The weights are always those of the units, so every checkpoint is whole. An optimizer's step alone sees the head as that
of the standardised numbers: y = mean + deviation * z, so a row of the head's weights is divided by its deviation before
the step and multiplied after it, and gradients arrive multiplied.

L numbers, ... any further dimensions.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from .adapters import outermost

SAVED = ".modules_to_save.default"  # as peft calls a head that it trains whole


class StandardisedSteps(TrainerCallback):
    """Of a head for numbers, whatever the optimizer.

    Args:
        mean, deviation (L): of training's numbers.
        names: the head's tensors that have a row for each number.
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, names: set[str]):
        self.mean, self.deviation, self.names = mean, deviation, names
        self.handles: list[Any] = []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.on_train_end(args, state, control)
        named = outermost(model).named_parameters()
        self.head = [p for name, p in named if p.requires_grad and name.replace(SAVED, "") in self.names]
        plain = getattr(optimizer, "optimizer", optimizer)  # accelerate's holds torch's
        self.handles = [weight.register_hook(partial(self.of_standardised, weight)) for weight in self.head]
        self.handles += [
            plain.register_step_pre_hook(lambda *_: self.change(inverse=True)),
            plain.register_step_post_hook(lambda *_: self.change(inverse=False)),
        ]

    def on_train_end(self, args, state, control, **kwargs):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def of_standardised(self, weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """(L, ...) -> (L, ...): before it is added up and clipped."""
        return gradient * column(self.deviation, weight)

    @torch.no_grad()
    def change(self, inverse: bool):
        """To the head of the standardised numbers, or back."""
        for weight in self.head:
            scale = column(self.deviation, weight)
            shift = column(self.mean, weight) if weight.dim() == 1 else 0.0
            weight.copy_((weight - shift) / scale if inverse else weight * scale + shift)


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(L) -> (L, 1 ...), of the type of a head's tensor (L, ...)"""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))


def begin_at(model: nn.Module, names: set[str], rows: list[int], mean: torch.Tensor, deviation: torch.Tensor):
    """The `rows` of a new head for standardised numbers -> in units."""
    tensors = model.state_dict()
    for name in names:
        new = tensors[name][rows]
        scaled = new * column(deviation[rows], new)
        tensors[name][rows] = scaled + mean[rows].to(new) if new.dim() == 1 else scaled


def mean_and_deviation(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (L), (L); of equal numbers the deviation is 1"""
    labels = rows["label"]
    values = torch.tensor([[row[name] for name in rows.features["label"]] for row in labels], dtype=torch.float64)
    deviation = values.std(0, correction=0)
    return values.mean(0), torch.where(deviation > 0, deviation, 1.0)
