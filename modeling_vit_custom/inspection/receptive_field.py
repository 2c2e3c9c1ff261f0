"""What part of an image a place of a feature map depends on: by its kernels, and by its gradients.

B batch, C channels, H W pixels, h w grid, P prefix tokens, D width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig

from ..modeling_embeddings import patch_grid
from .attention_distance import Grid

Kernel = tuple[int, int]  # its side, its stride


def receptive_field(kernels: Iterable[Kernel]) -> tuple[int, int]:
    """-> the side in pixels that one place sees after these kernels in a row, and the pixels between two places.

    A kernel of side k widens the field by k - 1 of the places before it ("Computing Receptive Fields of Convolutional
    Neural Networks", equation 2).
    """
    side, jump = 1, 1
    for size, stride in kernels:
        side += (size - 1) * jump
        jump *= stride
    return side, jump


def resnet_fields(config: ResNetConfig) -> dict[str, int]:
    """The side in pixels of the receptive field of each stage of transformers' ResNet, along its longest path."""
    kernels: list[Kernel] = [(7, 2), (3, 2)]
    fields = {"stem": receptive_field(kernels)[0]}
    for number, depth in enumerate(config.depths or (), 1):
        for layer in range(depth):
            stride = 2 if layer == 0 and (number > 1 or config.downsample_in_first_stage) else 1
            first, middle = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
            kernels += {"basic": [(3, stride), (3, 1)], "bottleneck": [(1, first), (3, middle), (1, 1)]}[
                config.layer_type
            ]
        fields[f"stage {number}"] = receptive_field(kernels)[0]
    return fields


def feature_maps(model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """(B, C, H, W) -> (B, D, h, w) of each layer of this family, or of each stage of a CNN of transformers."""
    base = model.base_model
    if not hasattr(base, "stages"):
        maps = base(pixel_values, output_hidden_states=True).hidden_states
        return {f"stage {number}" if number else "stem": one for number, one in enumerate(maps)}
    step = base.embeddings(pixel_values), patch_grid(base.config, pixel_values)
    found: dict[str, torch.Tensor] = {}
    for stage in base.stages:
        for step in stage.steps(*step):  # noqa: B020  # the last step of a stage enters the next
            found[f"layer {len(found) + 1}"] = as_map(*step)
    return found


def as_map(hidden_states: torch.Tensor, grid: Grid) -> torch.Tensor:
    """(B, P + h * w, D) -> (B, D, h, w)"""
    return hidden_states[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)


def effective_fields(model: nn.Module, pixel_values: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    """(B, C, H, W) -> (H, W) for each feature map: how strongly its middle place depends on each pixel, as a mean over
    images ("Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", section 3).

    It is the absolute gradient of a random sum of the channels there: a plain sum has none after a LayerNorm.
    """
    generator = torch.Generator().manual_seed(seed)
    pixel_values = pixel_values.detach().requires_grad_()
    fields = {}
    for name, one in feature_maps(model, pixel_values).items():
        middle = one[:, :, one.shape[2] // 2, one.shape[3] // 2]
        weights = torch.randn(middle.shape, generator=generator, dtype=middle.dtype)
        (gradient,) = torch.autograd.grad((middle * weights).sum(), pixel_values, retain_graph=True)
        fields[name] = gradient.abs().mean((0, 1))
    return fields


def radius(field: torch.Tensor) -> float:
    """(H, W) -> (): the mean distance in pixels from a field's centre of gravity, weighted by the field."""
    weights = (field / field.sum()).double()
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in weights.shape)
    down = rows - (weights.sum(1) * rows).sum()
    across = columns - (weights.sum(0) * columns).sum()
    return (weights * torch.hypot(down[:, None], across[None])).sum().item()
