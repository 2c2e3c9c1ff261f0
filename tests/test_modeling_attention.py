"""Attention is its formula."""

import pytest
import torch

from modeling_vit_custom.modeling_attention import ViTCustomAttention
from modeling_vit_custom.modeling_attention import eager_attention_forward
from tests.support import fill
from tests.support import picture
from tests.support import tiny


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_is_its_formula(qk_norm):
    """Head by head, with loops; LayerNorm on each head's queries and keys where it is asked for."""
    config = tiny(qk_norm=qk_norm)
    config._attn_implementation = "eager"
    attention = fill(ViTCustomAttention(config, config.stages[0])).double()
    tokens = picture(2, 5, 32, dtype=torch.float64)
    output, probabilities = attention(tokens, output_attentions=True)
    for image in range(2):
        heads = []
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            query, key, value = (
                tokens[image] @ projection.weight[rows].T + projection.bias[rows]
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            if qk_norm:
                query, key = attention.q_norm(query), attention.k_norm(key)
            weights = torch.softmax(query @ key.T / 8**0.5, dim=-1)
            torch.testing.assert_close(probabilities[image, head], weights, rtol=0, atol=1e-12)
            heads.append(weights @ value)
        expected = torch.cat(heads, dim=-1) @ attention.o_proj.weight.T + attention.o_proj.bias
        torch.testing.assert_close(output[image], expected, rtol=0, atol=1e-12)


def test_a_mask_is_added_to_the_scores():
    query, key, value = (picture(1, 2, 4, 8, dtype=torch.float64) for _ in range(3))
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., 3] = torch.finfo(torch.float64).min
    module = torch.nn.Module().eval()
    masked, probabilities = eager_attention_forward(module, query, key, value, mask, scaling=0.5)
    without, _ = eager_attention_forward(module, query, key[:, :, :3], value[:, :, :3], None, scaling=0.5)
    torch.testing.assert_close(masked, without)
    assert not probabilities[..., 3].any()
