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
"""The repeated part: feed-forward, stochastic depth, layer, stage.

B batch, h w grid, N tokens, D width.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .modeling_attention import ViTCustomAttention


class ViTCustomMLP(nn.Module):
    def __init__(self, config, stage):
        super().__init__()
        self.fc1 = nn.Linear(stage.hidden_size, stage.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(stage.intermediate_size, stage.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
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
        """(B, N, D) -> (B, N, D)"""
        hidden_states = self.dropout(hidden_states)
        if self.scale is not None:
            hidden_states = hidden_states * self.scale
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
        self.attention = ViTCustomAttention(config, stage)
        self.branch1 = ViTCustomBranchEnd(config, stage, layer)
        self.norm2 = nn.LayerNorm(stage.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTCustomMLP(config, stage)
        self.branch2 = ViTCustomBranchEnd(config, stage, layer)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)"""
        if self.norm_placement == "post":  # CODEPATH: the tutorial's encoder, as in the 2017 Transformer
            hidden_states = self.norm1(hidden_states + self.branch1(self.attention(hidden_states, **kwargs)[0]))
            return self.norm2(hidden_states + self.branch2(self.mlp(hidden_states)))
        hidden_states = hidden_states + self.branch1(self.attention(self.norm1(hidden_states), **kwargs)[0])
        return hidden_states + self.branch2(self.mlp(self.norm2(hidden_states)))


class ViTCustomStage(nn.Module):
    """Layers that share a width and a grid."""

    def __init__(self, config, stage):
        super().__init__()
        self.layers = nn.ModuleList([ViTCustomLayer(config, stage, layer) for layer in range(stage.depth)])

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """(B, N, D), (h, w) -> (B, N, D), (h, w)"""
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return hidden_states, grid
