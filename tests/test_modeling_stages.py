"""Stochastic depth drops both branches for whole images, and keeps the mean; a stage's entry halves the grid."""

import pytest
import torch
from torch import nn

from modeling_vit_custom.modeling_geometry import Geometry
from modeling_vit_custom.modeling_stages import ViTCustomBranchEnd
from modeling_vit_custom.modeling_stages import ViTCustomConvPool
from modeling_vit_custom.modeling_stages import ViTCustomLayer
from modeling_vit_custom.modeling_stages import ViTCustomMerge
from modeling_vit_custom.modeling_stages import ViTCustomMLP
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny


def test_rates_grow_linearly_over_the_layers_of_all_stages():
    config = tiny(hidden_sizes=[32, 32], depths=[2, 3], num_attention_heads=[4, 4], drop_path_rate=0.4)
    assert [rate for stage in config.stages for rate in stage.drop_path_rates] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_branch_is_dropped_for_whole_images_and_its_mean_is_kept():
    torch.manual_seed(0)
    config = tiny(drop_path_rate=0.25)
    end = ViTCustomBranchEnd(config, config.stages[0], layer=1).train()
    ones = torch.ones(4000, 3, 32)
    dropped = end.end(ones)
    factors = dropped[:, 0, 0]
    assert torch.equal(dropped, factors[:, None, None].expand_as(ones))
    assert factors.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs(factors.mean() - 1) < 0.03
    assert torch.equal(end.eval().end(ones), ones)


@pytest.mark.parametrize("branch", ["branch1", "branch2"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_both_branches_have_an_end_that_acts(branch, placement):
    """With a branch scaled to nothing the layer is the other branch alone."""
    config = tiny(layer_scale_init_value=1.0, norm_placement=placement)
    layer = fill(ViTCustomLayer(config, config.stages[0], layer=0))
    tokens = picture(2, 17, 32)
    full = layer(tokens, Geometry())
    nn.init.zeros_(getattr(layer, branch).scale)
    first, second = layer.norm1(tokens), layer.norm2(tokens)
    if placement == "pre":
        alone = layer.branch2(layer.mlp(second)) if branch == "branch1" else layer.branch1(layer.attention(first))
        expected = tokens + alone
    else:
        middle = layer.norm1(tokens + layer.branch1(layer.attention(tokens)))
        expected = layer.norm2(middle + layer.branch2(layer.mlp(middle)))
    torch.testing.assert_close(layer(tokens, Geometry()), expected)
    assert not torch.allclose(full, expected)


def test_layer_scale_scales():
    config = tiny(layer_scale_init_value=1.0)
    end = fill(ViTCustomBranchEnd(config, config.stages[0], layer=0))
    tokens = picture(2, 5, 32)
    assert torch.equal(end(tokens), tokens * end.scale)


@pytest.mark.parametrize("branch", ["branch1", "branch2"])
def test_a_layer_drops_either_branch(branch):
    """With the other branch scaled to nothing, some images of a layer in training pass unchanged, and some do not."""
    torch.manual_seed(0)
    config = tiny(layer_scale_init_value=1.0, drop_path_rate=0.5)
    layer = fill(ViTCustomLayer(config, config.stages[0], layer=1)).train()
    nn.init.zeros_(layer.branch2.scale if branch == "branch1" else layer.branch1.scale)
    tokens = picture(64, 5, 32)
    unchanged = (layer(tokens, Geometry()) == tokens).flatten(1).all(dim=1)
    assert 16 < unchanged.sum() < 48


def test_a_constant_schedule_gives_every_layer_the_rate():
    config = tiny(depths=[3], drop_path_rate=0.2, drop_path_schedule="constant")
    assert config.stages[0].drop_path_rates == (0.2, 0.2, 0.2)


def test_a_gate_multiplies_the_inner_units():
    config = tiny(gated_mlp=True, hidden_act="silu", intermediate_size=24)
    mlp, tokens = fill(ViTCustomMLP(config, config.stages[0])), picture(2, 5, 32)
    expected = mlp.fc2(nn.functional.silu(mlp.gate(tokens)) * mlp.fc1(tokens))
    torch.testing.assert_close(mlp(tokens), expected)


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 1)], ids=str)
def test_merging_reads_two_by_two_neighbours_and_zeros_beyond_the_edge(grid):
    config = tiny(**VARIANTS["swin"])
    merge, tokens = fill(ViTCustomMerge(config, config.stages[1])), picture(2, grid[0] * grid[1], 16)
    assert merge.norm.eps == 1e-5
    merged, (rows, columns) = merge(tokens, grid)
    assert (rows, columns) == (-(-grid[0] // 2), -(-grid[1] // 2))
    image = torch.zeros(2, 2 * rows, 2 * columns, 16)
    image[:, : grid[0], : grid[1]] = tokens.unflatten(1, grid)
    for row in range(rows):
        for column in range(columns):
            two = [image[:, 2 * row + down, 2 * column + right] for right in (0, 1) for down in (0, 1)]
            expected = merge.reduction(merge.norm(torch.cat(two, dim=-1)))
            torch.testing.assert_close(merged[:, row * columns + column], expected)


def test_pooling_by_convolution_leaves_prefix_tokens_to_a_linear_map():
    config = tiny(**VARIANTS["pit"])
    pool, tokens = fill(ViTCustomConvPool(config, config.stages[1])), picture(2, 2 + 15, 16)
    pooled, grid = pool(tokens, (3, 5))
    assert grid == (2, 3)
    torch.testing.assert_close(pooled[:, :2], pool.prefix(tokens[:, :2]))
    expected = pool.conv(tokens[:, 2:].transpose(1, 2).unflatten(2, (3, 5)))
    torch.testing.assert_close(pooled[:, 2:].transpose(1, 2).unflatten(2, grid), expected)
