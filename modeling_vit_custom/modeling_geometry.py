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
"""What a grid means to attention: windows, their mask, relative and rotary positions. All of it is computed from the
grid of each call and passed on; nothing is stored.

B batch, h w grid, K heads, G windows in an image, M tokens in a window, D width.
"""

from typing import NamedTuple

import torch
from torch import nn

from .configuration_checks import pair


class Windows(NamedTuple):
    """How the tokens of a grid are dealt to windows ("Swin Transformer", section 3.2): `join` undoes `split`."""

    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]
    pad_first: bool  # transformers pads, then shifts; timm shifts, then pads

    def padding(self) -> tuple[int, int]:
        """Rows at the bottom and columns at the right that complete the last windows."""
        (rows, columns), (height, width) = self.grid, self.window
        return -rows % height, -columns % width

    def roll(self, image: torch.Tensor, direction: int) -> torch.Tensor:
        """(B, h, w, D) -> (B, h, w, D): cyclically, by the shift."""
        if not any(self.shift):
            return image
        return image.roll((direction * self.shift[0], direction * self.shift[1]), dims=(1, 2))

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) -> (B, h', w', D): zeros that take part in attention, as in every implementation."""
        bottom, right = self.padding()
        return nn.functional.pad(image, (0, 0, 0, right, 0, bottom)) if bottom or right else image

    def deal(self, image: torch.Tensor) -> torch.Tensor:
        """(B, h', w', D) -> (B * G, M, D): windows row by row, and the tokens of each row by row."""
        (height, width), (batch, rows, columns, size) = self.window, image.shape
        down, across = rows // height, columns // width
        image = image.view(batch, down, height, across, width, size).transpose(2, 3)
        return image.reshape(batch * down * across, height * width, size)

    def split(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, h * w, D) -> (B * G, M, D)"""
        image = hidden_states.unflatten(1, self.grid)
        image = self.roll(self.pad(image), -1) if self.pad_first else self.pad(self.roll(image, -1))
        return self.deal(image)

    def join(self, windows: torch.Tensor, batch: int) -> torch.Tensor:
        """(B * G, M, D) -> (B, h * w, D)"""
        (rows, columns), (bottom, right), (height, width) = self.grid, self.padding(), self.window
        down, across, size = (rows + bottom) // height, (columns + right) // width, windows.shape[-1]
        image = windows.view(batch, down, across, height, width, size).transpose(2, 3)
        image = image.reshape(batch, rows + bottom, columns + right, size)
        if self.pad_first:
            return self.roll(image, 1)[:, :rows, :columns].flatten(1, 2)
        return self.roll(image[:, :rows, :columns], 1).flatten(1, 2)

    def mask(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """() -> (G, 1, M, M): -100 between tokens that the shift has brought together from afar; 0 elsewhere."""
        if not any(self.shift):
            return None
        regions = []
        for side, padding, window, shift in zip(self.grid, self.padding(), self.window, self.shift, strict=True):
            place = torch.arange(side + padding, device=device)
            regions.append((place >= side + padding - window).long() + (place >= side + padding - shift).long())
        labels = self.deal((regions[0][:, None] * 3 + regions[1])[None, :, :, None])  # (G, M, 1)
        return (labels != labels.transpose(1, 2)).to(dtype)[:, None] * -100.0

    def relative_index(self, table_side: int, device: torch.device) -> torch.Tensor:
        """() -> (M * M): where in a table of (2 * table_side - 1)^2 relative positions each pair of tokens looks.

        A window that was clamped looks at the middle of the table: its offsets keep their meaning.
        """
        rows, columns = (torch.arange(side, device=device) for side in self.window)
        row, column = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
        down, across = ((axis[:, None] - axis + table_side - 1) for axis in (row, column))
        return (down * (2 * table_side - 1) + across).flatten()


def make_windows(config, grid: tuple[int, int], shifted: bool) -> Windows:
    """The windows of a layer on a grid. The words are configuration_vit_custom.py's."""
    window = pair(config.window_size)
    shift = pair(config.window_size // 2 if shifted else 0)
    # CODEPATH: checkpoints of Microsoft's and transformers' Swin
    if config.window_clamp == "joint" and min(grid) <= config.window_size:
        window, shift = pair(min(grid)), (0, 0)
    elif config.window_clamp == "per_axis":  # CODEPATH: timm's Swin; neither for the backbones with "never"
        (rows, columns), side = grid, config.window_size
        window = (min(rows, side), min(columns, side))
        shift = (shift[0] if rows > side else 0, shift[1] if columns > side else 0)
    return Windows(grid, window, shift, config.window_pad_order == "pad_then_shift")


def rotary_positions(
    grid: tuple[int, int], width: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """() -> 2 x (h * w, D / K), float32: cosines and sines of each patch's row and column, from -1 to 1 over the image.

    A quarter of a head's width for each axis, then the same again ("DINOv3", section 3.2; RoFormer for the rotation).
    """
    how: dict = {"device": device, "dtype": torch.float32}
    frequencies = 1 / theta ** torch.arange(0, 1, 4 / width, **how)
    centres = [2 * torch.arange(0.5, side, **how) / side - 1 for side in grid]
    row, column = (axis.flatten() for axis in torch.meshgrid(*centres, indexing="ij"))
    # In this order of products: it decides the last bits, and transformers' has it too.
    angles = torch.cat([2 * torch.pi * axis[:, None] * frequencies for axis in (row, column)], dim=1).tile(2)
    return angles.cos(), angles.sin()


def rotate(heads: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, K, N, D / K) -> (B, K, N, D / K): the patch tokens turned by their positions, prefix tokens as they were."""
    cos, sin = rotary
    prefix, patches = heads.tensor_split((heads.shape[2] - cos.shape[0],), dim=2)
    first, second = patches.chunk(2, dim=-1)
    return torch.cat((prefix, patches * cos + torch.cat((-second, first), dim=-1) * sin), dim=2)


class Geometry(NamedTuple):
    """What a layer's attention has to know of the grid; nothing where it looks at the whole image unpositioned."""

    windows: Windows | None = None
    mask: torch.Tensor | None = None  # (G, 1, M, M)
    relative_index: torch.Tensor | None = None  # (M * M)
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None  # 2 x (h * w, D / K)


def make_geometries(config, stage, grid: tuple[int, int], like: torch.Tensor) -> tuple[Geometry, Geometry]:
    """(B, N, D), (h, w) -> the geometry of a stage's even layers, and of its odd ones, as such tokens need it."""
    if config.window_size is not None:  # CODEPATH: Swin; the others attend over the whole image
        pairs = [make_windows(config, grid, shifted) for shifted in (False, True)]
        index = pairs[0].relative_index(config.window_size, like.device)
        even, odd = (Geometry(windows, windows.mask(like.dtype, like.device), index) for windows in pairs)
        return even, odd
    if config.position_embedding == "rotary":  # CODEPATH: DINOv3; the others add positions to the embeddings
        width = stage.hidden_size // stage.num_attention_heads
        cos, sin = rotary_positions(grid, width, config.rope_theta, like.device)
        geometry = Geometry(rotary=(cos.to(like.dtype), sin.to(like.dtype)))
        return geometry, geometry
    return Geometry(), Geometry()


def check_back_end(config):
    """Raise where the attention back-end cannot compute what the configuration asks for."""
    back_end = config._attn_implementation
    if config.window_size is not None and back_end not in (None, "eager", "sdpa"):  # CODEPATH: Swin
        raise ValueError(
            f"`attn_implementation='{back_end}'` cannot add the relative position biases that "
            "`window_size` brings: use 'sdpa' or 'eager'."
        )
