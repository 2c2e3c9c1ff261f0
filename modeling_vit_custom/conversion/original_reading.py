"""What files without a configuration say by their names and shapes, and what they do not."""

import math
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import torch

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig

Tensors = Mapping[str, torch.Tensor]
# Heads of every published ViT, DeiT, DINOv2 and Segmenter of a width: no tensor's shape tells them.
HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1536: 24}


def num_heads(width: int, preset: ViTCustomConfig | None) -> int:
    """
    Raises:
        ValueError: the width is not a published one, and no preset tells; or the preset has another.
    """
    if preset is not None and preset.hidden_sizes[0] != width:
        raise ValueError(
            f"The preset has a width of {preset.hidden_sizes[0]}, the file one of {width}: name a preset of the same "
            "sizes."
        )
    if preset is not None:
        return preset.num_attention_heads[0]
    if width not in HEADS:
        raise ValueError(
            f"No tensor says how many attention heads share a width of {width}, and no published model has it: name a "
            "preset of the same sizes with `--preset`."
        )
    return HEADS[width]


def depth(names: Iterable[str], pattern: str) -> int:
    """How many layers there are: one more than the largest number that `pattern` finds."""
    found = [int(match[1]) for name in names if (match := re.fullmatch(pattern, name))]
    return max(found) + 1


def position_grid(num_positions: int, prefix: Sequence[int], preset: ViTCustomConfig | None) -> tuple[int, list[int]]:
    """(how many prefix tokens have a position, the grid of the others): the first count that leaves a square, or the
    preset's grid.

    Raises:
        ValueError: none does.
    """
    known = list((preset.position_grid or preset.grid) if preset is not None else ())
    for count in prefix:
        if known and math.prod(known) == num_positions - count:
            return count, known
    for count in prefix:
        side = math.isqrt(num_positions - count)
        if side * side == num_positions - count:
            return count, [side, side]
    raise ValueError(
        f"The {num_positions} positions of this file are no square grid beside {' or '.join(map(str, prefix))} prefix "
        "tokens: name a preset of the same image size with `--preset`."
    )


def image_size(grid: Sequence[int], patch: Sequence[int], stride: Sequence[int] | None = None) -> Any:
    """The size whose patches fill the grid: a side, or a pair."""
    sides = [(n - 1) * s + p for n, p, s in zip(grid, patch, stride or patch, strict=True)]
    return sides[0] if sides[0] == sides[1] else sides


def num_labels(tensors: Tensors, name: str = "head.weight") -> int:
    return tensors[name].shape[0] if name in tensors else 0


def side(size: Any) -> Any:
    height, width = pair(size)
    return height if height == width else [height, width]
