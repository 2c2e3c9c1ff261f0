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
"""Pixels -> patches, prefix tokens, positions.

B batch, C channels, H W pixels, h w grid, P prefix tokens, N tokens (P + h * w), D width.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .configuration_vit_custom import POSITION_INTERPOLATIONS
from .configuration_vit_custom import pair

# torch 2.6 cannot tell export from compilation: there, compiled models resample at the native size too.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def sincos_positions(rows: int, columns: int, width: int, device: torch.device) -> torch.Tensor:
    """() -> (1, h * w, D), float32: sines and cosines of the column, then of the row, a quarter of the width each.

    Fixed frequencies 10000^(-k / (D / 4 - 1)), as in "Better plain ViT baselines for ImageNet-1k" (Beyer et al. 2022).
    """
    frequencies = 10000.0 ** -torch.linspace(0, 1, width // 4, device=device)
    row, column = torch.meshgrid(
        torch.arange(rows, device=device, dtype=torch.float32),
        torch.arange(columns, device=device, dtype=torch.float32),
        indexing="ij",
    )
    angles = [axis.flatten()[:, None] * frequencies for axis in (column, row)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


def resample_positions(
    positions: torch.Tensor, from_grid: Sequence[int], to_grid: Sequence[int], recipe: str
) -> torch.Tensor:
    """(1, h * w, D) -> (1, h' * w', D): the same picture of positions drawn on another grid, computed in float32.

    At equal grids the input itself comes back; an exported program always resamples, since a shortcut would fix its
    size, and resampling to the same size is the identity.
    """
    if not is_exporting() and tuple(from_grid) == tuple(to_grid):
        return positions
    mode, antialias = POSITION_INTERPOLATIONS[recipe]
    image = positions.unflatten(1, tuple(from_grid)).permute(0, 3, 1, 2)
    dtype = torch.promote_types(image.dtype, torch.float32)
    image = nn.functional.interpolate(image.to(dtype), size=tuple(to_grid), mode=mode, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(positions.dtype)


class ViTCustomEmbeddings(nn.Module):
    """An image as tokens: prefix tokens, then one a patch, row by row ("An Image is Worth 16x16 Words", 3.1)."""

    def __init__(self, config):
        super().__init__()
        width, patch_size = config.hidden_sizes[0], pair(config.patch_size)
        self.config = config
        self.patch_embeddings = nn.Conv2d(config.num_channels, width, kernel_size=patch_size, stride=patch_size)
        self.prefix_tokens = None
        if config.prefix_tokens:  # CODEPATH: big_vision's mean-pooled ViTs have no prefix token
            self.prefix_tokens = nn.Parameter(torch.empty(1, len(config.prefix_tokens), width))
        self.position_embeddings = None
        if config.position_embedding == "learned":  # CODEPATH: big_vision's S/16 has fixed positions, ViT learns them
            rows, columns = config.position_grid
            num_positions = config.num_positioned_prefix_tokens + rows * columns
            self.position_embeddings = nn.Parameter(torch.empty(1, num_positions, width))
        self.dropout = nn.Dropout(config.embeddings_dropout_prob)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """() -> (1, p, D), (1, h * w, D): the p prefix tokens' positions, and the patches' on `position_grid`."""
        config = self.config
        if config.position_embedding == "learned":  # CODEPATH: see the constructor
            return self.position_embeddings.tensor_split((config.num_positioned_prefix_tokens,), dim=1)
        rows, columns = config.position_grid
        table = sincos_positions(rows, columns, config.hidden_sizes[0], self.patch_embeddings.weight.device)
        return table[:, :0], table

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """() -> (1, P + h * w, D): a position for each token at any grid; prefix tokens without one get zero."""
        prefix, table = self.tables()
        table = resample_positions(table, self.config.position_grid, grid, self.config.position_interpolation)
        none = table.new_zeros(1, len(self.config.prefix_tokens) - prefix.shape[1], table.shape[2])
        return torch.cat((prefix, none, table), dim=1)

    def resize_positions(self, grid: tuple[int, int]):
        """Draw the learned positions on `grid` for good."""
        if self.config.position_embedding != "learned":
            raise ValueError("Only learned positions can be resized: fixed ones are resampled at each call.")
        prefix, table = self.tables()
        table = resample_positions(table, self.config.position_grid, grid, self.config.position_interpolation)
        self.position_embeddings = nn.Parameter(torch.cat((prefix, table), dim=1).detach())
        self.config.position_grid = list(grid)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, C, H, W) -> (B, P + h * w, D), (h, w). Pixels beyond the last whole patch are not seen."""
        config = self.config
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
            raise ValueError(
                f"`pixel_values` must be (batch, num_channels, height, width) with num_channels={config.num_channels}, "
                f"got {tuple(pixel_values.shape)}: convert the images, or set `num_channels` in the configuration."
            )
        height, width = pixel_values.shape[2:]
        patch_height, patch_width = pair(config.patch_size)
        if height < patch_height or width < patch_width:
            raise ValueError(
                f"An image of {height} x {width} pixels is smaller than one patch of {patch_height} x {patch_width}: "
                "resize the images to at least one patch."
            )
        patches = self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype))  # (B, D, h, w)
        grid = (patches.shape[2], patches.shape[3])
        hidden_states = patches.flatten(2).transpose(1, 2)  # (B, h * w, D)
        if self.prefix_tokens is not None:
            prefix_tokens = self.prefix_tokens.expand(hidden_states.shape[0], -1, -1)
            hidden_states = torch.cat((prefix_tokens.to(hidden_states.dtype), hidden_states), dim=1)
        if config.position_embedding != "none":  # CODEPATH: an ablation, and the way of models with relative positions
            hidden_states = hidden_states + self.positions(grid).to(hidden_states.dtype)
        return self.dropout(hidden_states), grid
