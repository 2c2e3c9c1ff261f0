"""What models of real size cost at growing images: multiply-accumulates by formula or counter, and seconds."""

import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from .cost import cost
from .cost import total
from .counters import count_macs
from .speed import interleaved


def macs_at(model: Any, side: int) -> dict[str, int]:
    """Multiply-accumulates of one square image: all, and those of tokens with tokens (none in a CNN).

    This family's by the formula, others' counted; `model` may be on `meta`.
    """
    if hasattr(model.config, "patch_size"):
        parts = cost(model.config, side)
        return {
            "all": total(parts).macs,
            "attention": sum(part.macs for (_, what), part in parts.items() if "products" in what),
        }
    return {"all": count_macs(model, 1, model.config.num_channels, side, side), "attention": 0}


@torch.no_grad()
def seconds_at(models: Mapping[str, nn.Module], side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a forward pass of one square image, in each round; the models take turns."""
    pixel_values = torch.randn(1, 3, side, side)
    tasks = {name: partial(model, pixel_values) for name, model in models.items()}
    return interleaved(tasks, rounds)


def growth(sides: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent of the cost in the number of pixels, up to the largest image from the one nearest to half its side:
    1 is linear. A step that long hides that windows and patches do not divide every side."""
    place = min(range(len(sides) - 1), key=lambda index: abs(sides[index] - sides[-1] / 2))
    return math.log(costs[-1] / costs[place]) / (2 * math.log(sides[-1] / sides[place]))


def overtakes(sides: Iterable[int], costs: Sequence[float], others: Sequence[float]) -> int | None:
    """The smallest side from which on the first is cheaper than the other at every larger one too; None if never."""
    since = None
    for side, value, other in zip(sides, costs, others, strict=True):
        since = (since or side) if value < other else None
    return since
