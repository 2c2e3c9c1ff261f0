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
"""The repeated part: feed-forward, stochastic depth, layer; stage entries, stage.

B batch, h w grid, P prefix tokens, N tokens (P + h * w), D width.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import draw_positions
from .modeling_embeddings import redraw_positions
from .modeling_embeddings import reshape_parameter
from .modeling_geometry import Geometry
from .modeling_geometry import make_geometries


class ViTCustomMLP(nn.Module):
    """The feed-forward, whose inner units a gate may multiply ("GLU Variants Improve Transformer", equation 6)."""

    def __init__(self, config, stage):
        super().__init__()
        self.fc1 = nn.Linear(stage.hidden_size, stage.intermediate_size)
        self.gate = None
        if config.gated_mlp:  # CODEPATH: DINOv2 giant and some of DINOv3
            self.gate = nn.Linear(stage.hidden_size, stage.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(stage.intermediate_size, stage.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        if self.gate is not None:
            return self.fc2(self.activation(self.gate(hidden_states)) * self.fc1(hidden_states))
        return self.fc2(self.activation(self.fc1(hidden_states)))


class ViTCustomBranchEnd(nn.Module):
    """The end of a residual branch: dropout, LayerScale ("Going deeper with Image Transformers", 2.1) and stochastic
    depth ("Deep Networks with Stochastic Depth", 3), drawn for each image rather than for a batch."""

    def __init__(self, config, stage, layer: int):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.scale = None
        if config.layer_scale_init_value is not None:  # CODEPATH: DeiT-III and DINOv2, not ViT
            self.scale = nn.Parameter(torch.empty(stage.hidden_size))
        self.drop_path_rate = stage.drop_path_rates[layer]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D): LayerScale alone, as Opacus repeats this call, and could not repeat random draws."""
        return hidden_states if self.scale is None else hidden_states * self.scale

    def end(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        hidden_states = self(self.dropout(hidden_states))
        if self.training and self.drop_path_rate > 0:
            keep = 1 - self.drop_path_rate
            kept = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(keep)
            hidden_states = hidden_states * kept / keep
        return hidden_states


class ViTCustomLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward, each on a residual branch ("An Image is Worth 16x16 Words", equations 2 and 3)."""

    def __init__(self, config, stage, layer: int):
        super().__init__()
        self.norm_placement = config.norm_placement
        self.norm1 = nn.LayerNorm(stage.hidden_size, eps=config.layer_norm_eps)
        self.attention = ViTCustomAttention(config, stage, layer)
        self.branch1 = ViTCustomBranchEnd(config, stage, layer)
        self.norm2 = nn.LayerNorm(stage.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTCustomMLP(config, stage)
        self.branch2 = ViTCustomBranchEnd(config, stage, layer)

    def attend(self, hidden_states: torch.Tensor, geometry: Geometry, **kwargs) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        if geometry.windows is not None:
            hidden_states = hidden_states.unflatten(1, geometry.windows.grid)  # (B, h, w, D)
        attended = self.attention(hidden_states, geometry=geometry, **kwargs)
        return attended[0] if isinstance(attended, tuple) else attended

    def forward(self, hidden_states: torch.Tensor, geometry: Geometry, **kwargs) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        if self.norm_placement == "post":  # CODEPATH: the tutorial's encoder, as in the 2017 Transformer
            hidden_states = self.norm1(hidden_states + self.branch1.end(self.attend(hidden_states, geometry, **kwargs)))
            return self.norm2(hidden_states + self.branch2.end(self.mlp(hidden_states)))
        attended = self.attend(self.norm1(hidden_states), geometry, **kwargs)
        hidden_states = hidden_states + self.branch1.end(attended)
        return hidden_states + self.branch2.end(self.mlp(self.norm2(hidden_states)))


class ViTCustomSameGrid(nn.Module):
    """The entry of a stage that changes nothing."""

    def __init__(self, config, stage):
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, N, D), (h, w) -> (B, N, D), (h, w)"""
        return hidden_states, grid


class ViTCustomMerge(nn.Module):
    """Two by two neighbours as one token ("Swin Transformer", section 3.1)."""

    def __init__(self, config, stage):
        super().__init__()
        self.norm = nn.LayerNorm(4 * stage.input_size, eps=1e-5)  # in every implementation, whatever the layers' eps
        self.reduction = nn.Linear(4 * stage.input_size, stage.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, h * w, D), (h, w) -> (B, h' * w', D'), (h', w'): half the sides, rounded up; odd sides get zeros."""
        rows, columns = grid
        image = hidden_states.unflatten(1, grid)
        if rows % 2 or columns % 2:
            image = nn.functional.pad(image, (0, 0, 0, columns % 2, 0, rows % 2))
        # The order of the public weights: down the left column, then down the right.
        neighbours = [image[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        image = torch.cat(neighbours, dim=-1)  # (B, h', w', 4 * D)
        return self.reduction(self.norm(image.flatten(1, 2))), (image.shape[1], image.shape[2])


class ViTCustomDepthwiseConv(nn.Conv2d):
    """A name of its own: of an nn.Conv2d whose input has its channels last in memory, Opacus gets gradients wrong."""


class ViTCustomConvPool(nn.Module):
    """A depthwise convolution for the patches, a linear map for the prefix tokens ("Rethinking Spatial Dimensions of
    Vision Transformers", section 3.2)."""

    def __init__(self, config, stage):
        super().__init__()
        self.num_prefix_tokens = len(config.prefix_tokens)
        old, new = stage.input_size, stage.hidden_size
        self.conv = ViTCustomDepthwiseConv(old, new, kernel_size=3, stride=2, padding=1, groups=old)
        self.prefix = None
        if config.prefix_tokens:  # CODEPATH: every public PiT; a mean-pooled one has no token to map
            self.prefix = nn.Linear(old, new)

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, P + h * w, D), (h, w) -> (B, P + h' * w', D'), (h', w'): half the sides, rounded up."""
        prefix, patches = hidden_states.tensor_split((self.num_prefix_tokens,), dim=1)
        image = self.conv(patches.transpose(1, 2).unflatten(2, grid))  # (B, D', h', w')
        patches = image.flatten(2).transpose(1, 2)
        if self.prefix is not None:
            patches = torch.cat((self.prefix(prefix), patches), dim=1)
        return patches, (image.shape[2], image.shape[3])


DOWNSAMPLE = {"none": ViTCustomSameGrid, "merge": ViTCustomMerge, "conv": ViTCustomConvPool}


class ViTCustomStage(nn.Module):
    """Layers that share a width and a grid."""

    def __init__(self, config, stage):
        super().__init__()
        self.config, self.stage = config, stage
        self.downsample = DOWNSAMPLE[stage.downsample](config, stage)
        self.layers = nn.ModuleList([ViTCustomLayer(config, stage, layer) for layer in range(stage.depth)])
        self.layer_position_embeddings = None
        if config.layer_position_embeddings and stage.depth > 1:  # CODEPATH: YOLOS S and B
            rows, columns = config.position_grid
            num_positions = config.num_positioned_prefix_tokens + rows * columns
            table = torch.empty(stage.depth - 1, num_positions, stage.hidden_size)
            self.layer_position_embeddings = nn.Parameter(table)

    def resize_positions(self, grid: tuple[int, int]):
        """Draw the learned positions on `grid` for good."""
        if self.layer_position_embeddings is not None:
            table = redraw_positions(self.layer_position_embeddings, self.config, grid)
            reshape_parameter(self, "layer_position_embeddings", table)

    def steps(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs
    ) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
        """(B, N, D), (h, w) -> (B, N', D'), (h', w') after each layer."""
        hidden_states, grid = self.downsample(hidden_states, grid=grid)
        geometries = make_geometries(self.config, self.stage, grid, hidden_states)
        positions = None
        if self.layer_position_embeddings is not None:
            positions = draw_positions(self.layer_position_embeddings, self.config, grid).to(hidden_states.dtype)
        for index, layer in enumerate(self.layers):
            if index and positions is not None:
                hidden_states = hidden_states + positions[index - 1].to(hidden_states.device)  # of a device map
            hidden_states = layer(hidden_states, geometry=geometries[index % 2], **kwargs)
            yield hidden_states, grid

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int], every_layer: bool = False, **kwargs):
        """(B, N, D), (h, w) -> (B, N', D'), (h', w'); or the list of these after each layer."""
        steps = self.steps(hidden_states, grid, **kwargs)
        if every_layer:
            return list(steps)
        for step in steps:
            hidden_states, grid = step
        return hidden_states, grid
