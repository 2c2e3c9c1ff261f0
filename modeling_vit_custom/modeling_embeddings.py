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
from typing import NamedTuple

import torch
from torch import nn

from .configuration_checks import POSITION_INTERPOLATIONS
from .configuration_checks import pair
from .configuration_stages import grid_at
from .modeling_arguments import is_exporting


def sincos_positions(rows: int, columns: int, width: int, device: torch.device, like_mae: bool = False) -> torch.Tensor:
    """() -> (1, h * w, D), float32: sines and cosines of the column, then of the row, a quarter of the width each.

    Fixed frequencies 10000^(-k / (D / 4 - 1)), as in "Better plain ViT baselines for ImageNet-1k" (Beyer et al. 2022);
    or 10000^(-k / (D / 4)) in double precision, so that the tables in MAE's released files come out to the last bit.
    """
    frequencies = 10000.0 ** -torch.linspace(0, 1, width // 4, device=device)
    if like_mae:
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no other
        frequencies = 1 / 10000.0 ** (torch.arange(width // 4, device=device, dtype=exact) / (width // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, device=device, dtype=frequencies.dtype),
        torch.arange(columns, device=device, dtype=frequencies.dtype),
        indexing="ij",
    )
    angles = [axis.flatten()[:, None] * frequencies for axis in (column, row)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()[None]


def resample_positions(
    positions: torch.Tensor, from_grid: Sequence[int], to_grid: Sequence[int], recipe: str
) -> torch.Tensor:
    """(1, h * w, D) -> (1, h' * w', D): the same picture of positions drawn on another grid, in float32 at least.

    At equal grids the input itself comes back; an exported program always resamples, since a shortcut would fix its
    size, and resampling to the same size is the identity. With an offset it is not, and an export has one size.
    """
    how = POSITION_INTERPOLATIONS[recipe]
    if (how.offset or not is_exporting()) and tuple(from_grid) == tuple(to_grid):
        return positions
    image = positions.unflatten(1, tuple(from_grid)).permute(0, 3, 1, 2)
    image = image.to(torch.float32 if how.exactly_float32 else torch.promote_types(image.dtype, torch.float32))
    target: dict = {"size": tuple(to_grid)}
    if how.offset:  # CODEPATH: DINOv2's own code tells interpolate a scale that this offset makes slightly wrong
        scales = [(new + how.offset) / old for new, old in zip(to_grid, from_grid, strict=True)]
        target = {"scale_factor": tuple(scales)}
    image = nn.functional.interpolate(
        image, mode=how.mode, antialias=how.antialias, align_corners=how.align_corners, **target
    )
    return image.flatten(2).transpose(1, 2).to(positions.dtype)


def resample_kernel(kernel: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(D, C, p, q) -> (D, C, p', q'): the kernel that gives on resized patches what this one gives on the original.

    The pseudo-inverse of the patches' bilinear resize ("FlexiViT: One Model for All Patch Sizes", section 3.4).
    """
    num_pixels = kernel.shape[2] * kernel.shape[3]
    pixels = torch.eye(num_pixels, dtype=torch.float64, device=kernel.device).unflatten(1, kernel.shape[2:])[:, None]
    resized = nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    matrix = torch.linalg.pinv(resized.flatten(1))  # (p' * q', p * q): patches p -> p' are `resized` transposed
    return (kernel.flatten(2).double() @ matrix.T).unflatten(2, size).to(kernel.dtype)


def draw_positions(table: torch.Tensor, config, grid: tuple[int, int]) -> torch.Tensor:
    """(n, P' + h' * w', D) -> (n, P + h * w, D): positions drawn on a grid; 0 for prefix tokens that have none."""
    prefix, patches = table.tensor_split((config.num_positioned_prefix_tokens,), dim=1)
    patches = resample_positions(patches, config.position_grid, grid, config.position_interpolation)
    none = patches.new_zeros(table.shape[0], len(config.prefix_tokens) - prefix.shape[1], table.shape[2])
    return torch.cat((prefix, none, patches), dim=1)


def redraw_positions(table: torch.Tensor, config, grid: tuple[int, int]) -> torch.Tensor:
    """(n, P' + h' * w', D) -> (n, P' + h * w, D): the same for good, as values of a parameter."""
    parts = config.num_positioned_prefix_tokens, len(config.prefix_tokens)
    prefix, _, patches = draw_positions(table.detach(), config, grid).tensor_split(parts, dim=1)
    return torch.cat((prefix, patches), dim=1)


def reshape_parameter(module: nn.Module, name: str, values: torch.Tensor):
    """(...) -> nothing: give a parameter values of another shape. It stays the same object: frozen if it was, and known
    to optimizers that were made before."""
    parameter = module.get_parameter(name)
    if parameter.is_meta and hasattr(module, "_hf_hook"):
        raise ValueError(f"`{name}` is offloaded, so it cannot be resized: resize first, then offload the model.")
    parameter.data, parameter.grad = values, None


class Masking(NamedTuple):
    """What an encoder is not shown of its patches."""

    hidden: torch.Tensor | None = None  # (B, h * w), bool: those that `token` replaces
    token: torch.Tensor | None = None  # (1, 1, D)
    visible: torch.Tensor | None = None  # (B, n), integers: the only ones that stay, in this order

    def replace(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, h * w, D) -> (B, h * w, D)"""
        if self.hidden is None or self.token is None:
            return patches
        if self.hidden.shape != patches.shape[:2]:
            raise ValueError(
                f"`bool_masked_pos` must be (batch, patches), here {tuple(patches.shape[:2])}, got "
                f"{tuple(self.hidden.shape)}: make one entry for each patch of each image."
            )
        return torch.where(self.hidden[:, :, None].bool(), self.token.to(patches.dtype), patches)

    def select(self, hidden_states: torch.Tensor, num_prefix_tokens: int) -> torch.Tensor:
        """(B, P + h * w, D) -> (B, P + n, D)"""
        if self.visible is None:
            return hidden_states
        prefix, patches = hidden_states.tensor_split((num_prefix_tokens,), dim=1)
        places = self.visible[:, :, None].expand(-1, -1, patches.shape[2])
        return torch.cat((prefix, patches.gather(1, places)), dim=1)


NOTHING_MASKED = Masking()


def patch_grid(config, pixel_values: torch.Tensor) -> tuple[int, int]:
    """(B, C, H, W) -> (h, w)"""
    height, width = pixel_values.shape[2:]
    return grid_at(config, height, width, stage=0)


class ViTCustomEmbeddings(nn.Module):
    """An image as tokens: prefix tokens, then one a patch, row by row ("An Image is Worth 16x16 Words", 3.1)."""

    def __init__(self, config):
        super().__init__()
        width, patch_size = config.hidden_sizes[0], pair(config.patch_size)
        self.config = config
        self.patch_embeddings = nn.Conv2d(
            config.num_channels, width, patch_size, pair(config.patch_stride or patch_size), bias=config.patch_bias
        )
        self.norm = None
        if config.embeddings_norm != "none":  # CODEPATH: Swin's stem ("patches"), CLIP's image tower ("tokens")
            # Swin's is 1e-5 in every implementation, whatever the eps of its layers.
            self.norm = nn.LayerNorm(width, eps=1e-5 if config.embeddings_norm == "patches" else config.layer_norm_eps)
        self.prefix_tokens = None
        if config.prefix_tokens:  # CODEPATH: big_vision's mean-pooled ViTs have no prefix token
            self.prefix_tokens = nn.Parameter(torch.empty(1, len(config.prefix_tokens), width))
        self.position_embeddings = None
        if config.position_embedding == "learned":  # CODEPATH: big_vision's S/16 has fixed positions, ViT learns them
            rows, columns = config.position_grid
            num_positions = config.num_positioned_prefix_tokens + rows * columns
            self.position_embeddings = nn.Parameter(torch.empty(1, num_positions, width))
        self.dropout = nn.Dropout(config.embeddings_dropout_prob)

    def positions(self, grid: tuple[int, int], device: torch.device) -> torch.Tensor:
        """() -> (1, P + h * w, D): a position for each token at any grid; prefix tokens without one get zero."""
        config = self.config
        if config.position_embedding == "sincos":  # CODEPATH: big_vision's S/16; its formula holds for every grid
            table = sincos_positions(*grid, config.hidden_sizes[0], device)
            return nn.functional.pad(table, (0, 0, len(config.prefix_tokens), 0))
        return draw_positions(self.position_embeddings, config, grid)

    def resize_positions(self, grid: tuple[int, int]):
        """Draw the learned positions on `grid` for good."""
        if self.position_embeddings is None:
            raise ValueError("Only learned positions can be resized: the others are computed for each call's grid.")
        table = redraw_positions(self.position_embeddings, self.config, grid)
        reshape_parameter(self, "position_embeddings", table)

    def forward(self, pixel_values: torch.Tensor, masking: Masking = NOTHING_MASKED) -> torch.Tensor:
        """(B, C, H, W) -> (B, P + h * w, D). Pixels beyond the last whole patch are not seen."""
        config = self.config
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
        if config.embeddings_norm == "patches":  # CODEPATH: Swin
            hidden_states = self.norm(hidden_states)
        hidden_states = masking.replace(hidden_states)
        if self.prefix_tokens is not None:
            prefix_tokens = self.prefix_tokens.expand(hidden_states.shape[0], -1, -1)
            hidden_states = torch.cat((prefix_tokens.to(hidden_states.dtype), hidden_states), dim=1)
        if config.position_embedding in ("learned", "sincos"):  # CODEPATH: Swin's and DINOv3's are in their attention
            hidden_states = hidden_states + self.positions(grid, hidden_states.device).to(hidden_states.dtype)
        hidden_states = self.dropout(masking.select(hidden_states, len(config.prefix_tokens)))
        if config.embeddings_norm == "tokens":  # CODEPATH: CLIP's image tower, and timm's ViTs with `pre_norm`
            hidden_states = self.norm(hidden_states)
        return hidden_states
