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
"""DETR's decoder: learned queries that look at each other and at the patches of an image.

B batch, D width, h w grid, d the decoder's width, K heads, Q queries, M keys, n layers.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_stages import DecoderSettings
from .configuration_stages import make_decoder
from .modeling_attention import eager_attention_forward
from .modeling_stages import ViTCustomMLP


def sine_positions(grid: tuple[int, int], width: int, like: torch.Tensor) -> torch.Tensor:
    """() -> (1, h * w, d): sines and cosines in turn of the row, then of the column, a half of the width each.

    Both run to 2 pi over the image, whatever its size (DETR, A.4, and its code's `normalize`).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2, device=like.device, dtype=dtype) * 2 / width)
    halves = []
    for side in grid:
        places = torch.arange(1, side + 1, device=like.device, dtype=dtype) / (side + 1e-6) * 2 * math.pi
        angles = places[:, None] * frequencies
        halves.append(torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1))  # (h or w, d / 2)
    row, column = halves
    row, column = row[:, None].expand(-1, grid[1], -1), column[None].expand(grid[0], -1, -1)
    return torch.cat((row, column), dim=2).flatten(0, 1)[None].to(like.dtype)


class ViTCustomQueryAttention(nn.Module):
    """Attention of queries to themselves or to a memory; where something is counts for whom it attends to, not for
    what it says (DETR, A.3)."""

    is_causal = False

    def __init__(self, config, decoder):
        super().__init__()
        self.config = config
        self.head_dim = decoder.hidden_size // decoder.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(decoder.hidden_size, decoder.hidden_size) for _ in range(4)
        )

    def forward(
        self, queries: torch.Tensor, query_positions: torch.Tensor, memory: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """(B, Q, d), (1, Q, d), (B, M, d), (1, M, d) -> (B, Q, d)"""
        query, key, value = (
            projection(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection, tokens in (
                (self.q_proj, queries + query_positions),
                (self.k_proj, memory + positions),
                (self.v_proj, memory),
            )
        )  # (B, K, Q or M, d / K)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout)
        return self.o_proj(context.flatten(2))


class ViTCustomDetectionLayer(GradientCheckpointingLayer):
    """Queries look at each other, then at the memory, then each is thought over; norms come after (DETR, figure 10)."""

    def __init__(self, config, decoder):
        super().__init__()
        self.self_attention = ViTCustomQueryAttention(config, decoder)
        self.norm1 = nn.LayerNorm(decoder.hidden_size)
        self.cross_attention = ViTCustomQueryAttention(config, decoder)
        self.norm2 = nn.LayerNorm(decoder.hidden_size)
        self.mlp = ViTCustomMLP(config, decoder)
        self.norm3 = nn.LayerNorm(decoder.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, queries: torch.Tensor, query_positions: torch.Tensor, memory: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """(B, Q, d), (1, Q, d), (B, M, d), (1, M, d) -> (B, Q, d)"""
        attended = self.self_attention(queries, query_positions, queries, query_positions)
        queries = self.norm1(queries + self.dropout(attended))
        attended = self.cross_attention(queries, query_positions, memory, positions)
        queries = self.norm2(queries + self.dropout(attended))
        return self.norm3(queries + self.dropout(self.mlp(queries)))


class ViTCustomDetectionDecoder(nn.Module):
    """Learned queries that look at an image ("End-to-End Object Detection with Transformers", 3.2)."""

    def __init__(self, config):
        super().__init__()
        decoder = make_decoder(config, "boxes")
        settings = DecoderSettings(config, hidden_act="relu")
        self.input_projection = nn.Conv2d(decoder.input_size, decoder.hidden_size, kernel_size=1)
        self.query_positions = nn.Parameter(torch.empty(1, config.num_queries, decoder.hidden_size))
        self.layers = nn.ModuleList([ViTCustomDetectionLayer(settings, decoder) for _ in range(decoder.depth)])
        self.norm = nn.LayerNorm(decoder.hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) -> (B, n, Q, d): what the queries are after each layer, normed."""
        image = self.input_projection(patches)
        memory = image.flatten(2).transpose(1, 2)  # (B, h * w, d)
        positions = sine_positions((image.shape[2], image.shape[3]), image.shape[1], memory)
        queries = torch.zeros_like(self.query_positions).expand(len(memory), -1, -1)
        states = []
        for layer in self.layers:
            queries = layer(queries, self.query_positions, memory, positions)
            states.append(self.norm(queries))
        return torch.stack(states, dim=1)
