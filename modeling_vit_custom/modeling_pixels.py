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
"""Pixels as what a model is to predict: which of them are hidden from it, and patches of them.

B batch, C channels, H W pixels, h w grid.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .configuration_checks import pair
from .configuration_stages import grid_at
from .modeling_arguments import may_look


def total_stride(config) -> tuple[int, int]:
    """The pixels, down and across, that one token of the last stage stands for."""
    # CODEPATH: Swin and PiT halve the grid between stages, ViT does not
    halvings = len(config.depths) - 1 if config.downsample != "none" else 0
    height, width = pair(config.patch_stride or config.patch_size)
    return height * 2**halvings, width * 2**halvings


def fit(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, C, H', W'), (H, W) -> (B, C, H, W): cut off, or filled up with zeros, at the bottom and the right."""
    return nn.functional.pad(images, (0, size[1] - images.shape[3], 0, size[0] - images.shape[2]))


def join_blocks(blocks: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """(B, C * p * q, h, w) -> (B, C, h * p, w * q): each token's p x q pixels at their place; PixelShuffle, for any
    rectangle."""
    image = blocks.unflatten(1, (-1, *block)).permute(0, 1, 4, 2, 5, 3)  # (B, C, h, p, w, q)
    return image.flatten(4, 5).flatten(2, 3)


def patchify(pixel_values: torch.Tensor, patch_size: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) -> (B, h * w, p * q * C): whole patches of p x q pixels, the channels of a pixel side by side."""
    height, width = patch_size
    rows, columns = pixel_values.shape[2] // height, pixel_values.shape[3] // width
    image = pixel_values[:, :, : rows * height, : columns * width]
    image = image.unflatten(3, (columns, width)).unflatten(2, (rows, height))  # (B, C, h, p, w, q)
    return image.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def hidden_pixels(config, bool_masked_pos: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, h * w), (H, W) -> (B, 1, H, W), bool: the pixels that hidden patches see and no visible patch does.

    Where patches overlap (PiT), a pixel of a hidden patch may show in its neighbour. Pixels that no token of the last
    stage stands for, which nothing reconstructs, do not count either.
    """
    height, width = size
    hidden = bool_masked_pos.bool().unflatten(1, grid_at(config, height, width, stage=0))
    patches = torch.stack((hidden, ~hidden), dim=1).float()  # (B, 2, h, w)
    kernel = patches.new_ones(2, 1, *pair(config.patch_size))
    stride = pair(config.patch_stride or config.patch_size)
    counts = nn.functional.conv_transpose2d(patches, kernel, stride=stride, groups=2)  # (B, 2, H', W')
    by_hidden, by_visible = (counts > 0.5).split(1, dim=1)
    ends = [n * step for n, step in zip(grid_at(config, height, width), total_stride(config), strict=True)]
    return fit((by_hidden & ~by_visible)[:, :, : ends[0], : ends[1]], size)


def check_hidden(bool_masked_pos: torch.Tensor, pixels: torch.Tensor):
    """(B, h * w), (B, 1, H, W) -> nothing; raises where nothing is hidden, or all of an image.

    Values are looked at on CPU only: elsewhere it would stall the device, and a loss over no pixel is NaN.
    """
    if not may_look(pixels):
        return
    if not pixels.any():
        raise ValueError(
            "`bool_masked_pos` hides no pixel, so there is nothing to reconstruct: set more of its entries to 1; where "
            "patches overlap, neighbours together."
        )
    if bool_masked_pos.bool().all(dim=1).any():
        raise ValueError("`bool_masked_pos` hides the whole of an image: leave some of its entries 0.")
