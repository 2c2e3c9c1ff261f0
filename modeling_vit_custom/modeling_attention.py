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
"""Multi-head self-attention through transformers' attention interface.

B batch, N tokens, D width, K heads, G windows in an image, M tokens in a window.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .modeling_arguments import is_exporting
from .modeling_geometry import Geometry
from .modeling_geometry import check_back_end
from .modeling_geometry import make_geometries
from .modeling_geometry import rotate


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """3 x (B, K, N, D / K) -> (B, N, K, D / K), (B, K, N, N): attention spelled out, softmax in at least float32."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    dtype = torch.promote_types(scores.dtype, torch.float32)
    probabilities = scores.softmax(dim=-1, dtype=dtype).to(query.dtype)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


class ViTCustomAttention(nn.Module):
    """Self-attention over all tokens ("Attention Is All You Need", 3.2) or within windows ("Swin Transformer", 3.2),
    with optional norms on each head's queries and keys ("Scaling Vision Transformers to 22 Billion Parameters").
    """

    is_causal = False

    def __init__(self, config, stage, layer: int = 0):
        super().__init__()
        self.config, self.stage, self.layer = config, stage, layer
        self.num_heads, self.head_dim = stage.num_attention_heads, stage.hidden_size // stage.num_attention_heads
        self.scaling = self.head_dim**-0.5
        query_bias, key_bias, value_bias = config.qkv_biases
        self.q_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=query_bias)
        self.k_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=key_bias)
        self.v_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=value_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm:  # CODEPATH: ViT-22B and some of timm's ViTs; the others have none
            self.q_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps)
            self.k_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps)
        self.relative_position_bias_table = None
        if config.window_size is not None:  # CODEPATH: Swin
            num_offsets = (2 * config.window_size - 1) ** 2
            self.relative_position_bias_table = nn.Parameter(torch.empty(num_offsets, stage.num_attention_heads))
        self.o_proj = nn.Linear(stage.hidden_size, stage.hidden_size)

    def bias(self, geometry: Geometry, query: torch.Tensor, batch: int) -> torch.Tensor | None:
        """(B * G, K, M, D / K) -> (1 or B * G, K, M, M): relative position biases, and the mask of shifted windows."""
        if self.relative_position_bias_table is None:
            return None
        check_back_end(self.config)  # again: it may have been changed since the model was built
        table = self.relative_position_bias_table[geometry.relative_index].to(query.dtype)
        bias = table.T.unflatten(1, (query.shape[2], -1))[None]  # (1, K, M, M)
        if geometry.mask is None:
            return bias.contiguous()
        return (bias + geometry.mask).repeat(batch, 1, 1, 1)

    def forward(
        self, hidden_states: torch.Tensor, geometry: Geometry | None = None, **kwargs
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, N, D), or (B, h, w, D) for windows -> (B, N, D), and (B, K, N, N) where attentions are asked for.

        Within windows the second is (B * G, K, M, M): image by image, windows row by row, tokens of each row by row,
        after shift and padding. When attentions are asked for, this layer computes them eagerly: the other back-ends
        never hold them. Opacus calls a module with parameters of its own again, by its one tensor, for each image.
        """
        batch = hidden_states.shape[0]
        if hidden_states.ndim == 4:
            rows, columns = hidden_states.shape[1:3]
            if geometry is None:
                geometry = make_geometries(self.config, self.stage, (rows, columns), hidden_states)[self.layer % 2]
            hidden_states = hidden_states.flatten(1, 2)
        geometry = geometry or Geometry()
        if geometry.windows is not None:
            hidden_states = geometry.windows.split(hidden_states)
        query, key, value = (
            projection(hidden_states).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, K, N, D / K)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        if geometry.rotary is not None:
            query, key = rotate(query, geometry.rotary), rotate(key, geometry.rotary)
        attend: Callable = eager_attention_forward
        with_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        if not with_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        bias = self.bias(geometry, query, batch)
        context, probabilities = attend(
            self, query, key, value, bias, scaling=self.scaling, dropout=dropout, **kwargs
        )  # (B, N, K, D / K)
        if is_exporting():  # the decompositions for ONNX give another layout, and a recorded flatten could not view it
            context = context.clone(memory_format=torch.contiguous_format)
        context = context.flatten(2)
        if geometry.windows is not None:
            context = geometry.windows.join(context, batch)
        output = self.o_proj(context)
        return (output, probabilities) if with_attentions else output
