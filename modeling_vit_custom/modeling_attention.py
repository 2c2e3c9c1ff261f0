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

B batch, N tokens, D width, K heads.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


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
    """Self-attention over all tokens ("Attention Is All You Need", 3.2), with optional norms on each head's queries and
    keys ("Scaling Vision Transformers to 22 Billion Parameters", 2.1)."""

    is_causal = False

    def __init__(self, config, stage):
        super().__init__()
        self.config = config
        self.head_dim = stage.hidden_size // stage.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(stage.hidden_size, stage.hidden_size, bias=config.qkv_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm:  # CODEPATH: ViT-22B and some of timm's ViTs; the others have none
            self.q_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps)
            self.k_norm = nn.LayerNorm(self.head_dim, eps=config.layer_norm_eps)
        self.o_proj = nn.Linear(stage.hidden_size, stage.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, N, D) -> (B, N, D), (B, K, N, N): the second is None where the back-end does not form it.

        When attentions are asked for, this layer computes them eagerly: the other back-ends never hold them.
        """
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, K, N, D / K)
        if self.q_norm is not None:
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        attend: Callable = eager_attention_forward
        if not kwargs.get("output_attentions", self.config.output_attentions):
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, probabilities = attend(
            self, query, key, value, None, scaling=self.scaling, dropout=dropout, **kwargs
        )  # (B, N, K, D / K)
        return self.o_proj(context.flatten(2)), probabilities
