"""What scripts/compare.py measures of trained models, given as objects; nothing here trains.

B batch, C channels, H W pixels.
"""

import statistics
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..modeling_embeddings import patch_grid
from .attention_distance import attention_distances
from .attention_distance import uniform_distance
from .corruptions import STRENGTHS
from .corruptions import corrupt
from .counters import count_parameters
from .receptive_field import effective_fields
from .receptive_field import radius
from .resolution import macs_at
from .resolution import seconds_at
from .speed import interleaved

BATCH = 500


@torch.no_grad()
def accuracy(model: Any, pixel_values: torch.Tensor, labels: torch.Tensor) -> float:
    """(B, C, H, W), (B) -> ()"""
    model.eval()
    answers = torch.cat([model(images).logits.argmax(-1) for images in pixel_values.split(BATCH)])
    return (answers == labels).double().mean().item()


def sensitivity(
    models: Mapping[str, Any],
    prepare: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, dict[str, Any]]:
    """(B, C, H, W) bytes, which `prepare` makes `pixel_values` -> the accuracy of each model on clean pictures, and at
    each strength of each corruption. All models see the same pictures."""
    clean = prepare(images)
    found: dict[str, dict[str, Any]] = {
        name: {"clean": accuracy(model, clean, labels)} for name, model in models.items()
    }
    for corruption, strengths in STRENGTHS.items():
        for seed, strength in enumerate(strengths):
            worse = prepare(corrupt(corruption, images, strength, seed))
            for name, model in models.items():
                found[name].setdefault(corruption, []).append(accuracy(model, worse, labels))
    return found


def untrained(model: Any, seed: int) -> Any:
    """A model of the same configuration with initial weights; nobody else's random numbers change."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return type(model)(model.config).eval()


def radii(model: nn.Module, pixel_values: torch.Tensor) -> dict[str, float]:
    """(B, C, H, W) -> pixels, for each feature map."""
    return {name: radius(field) for name, field in effective_fields(model.eval(), pixel_values).items()}


def where_attention_looks(models: Sequence[Any], pixel_values: torch.Tensor) -> dict[str, Any]:
    """Plain ViTs of one kind, a seed each -> [seed][layer][head] in pixels, trained and untrained."""
    fresh = [untrained(model, seed) for seed, model in enumerate(models)]
    grid = patch_grid(models[0].config, pixel_values)
    stride = [side // count for side, count in zip(pixel_values.shape[2:], grid, strict=True)]
    return {
        "trained": [attention_distances(model.eval(), pixel_values) for model in models],
        "initial": [attention_distances(model, pixel_values) for model in fresh],
        "uniform": uniform_distance(grid, (stride[0], stride[1])),
    }


def size_and_speed(models: Mapping[str, Any], side: int, batch: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Parameters, multiply-accumulates of an image, and the median seconds of a forward and backward pass in turns."""
    pixel_values = torch.randn(batch, 3, side, side)

    def step(model: Any):
        model.train().zero_grad()
        model(pixel_values).logits.square().mean().backward()

    macs = {name: macs_at(model.eval(), side)["all"] for name, model in models.items()}
    seconds = interleaved({name: partial(step, model) for name, model in models.items()}, rounds)
    return {
        name: {
            "parameters": count_parameters(model),
            "macs": macs[name],
            "step_seconds": statistics.median(seconds[name]),
        }
        for name, model in models.items()
    }


def cost_of_resolution(
    make: Mapping[str, Callable[[], Any]], sides: Sequence[int], timed_sides: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Multiply-accumulates at all `sides`, seconds of each round at some; `make` builds each model."""
    with torch.device("meta"):
        shapes = built(make)
    macs = {name: [macs_at(model, side) for side in sides] for name, model in shapes.items()}
    models = built(make)
    seconds: dict[str, list[list[float]]] = {name: [] for name in make}
    for side in timed_sides:
        for name, values in seconds_at(models, side, rounds).items():
            seconds[name].append(values)
    return dict(sides=list(sides), timed_sides=list(timed_sides), macs=macs, seconds=seconds, rounds=rounds)


def built(make: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: build().eval() for name, build in make.items()}
