"""Stochastic depth drops both branches for whole images, and keeps the mean."""

import pytest
import torch
from torch import nn

from modeling_vit_custom.modeling_stages import ViTCustomBranchEnd
from modeling_vit_custom.modeling_stages import ViTCustomLayer
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
    dropped = end(ones)
    factors = dropped[:, 0, 0]
    assert torch.equal(dropped, factors[:, None, None].expand_as(ones))
    assert factors.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs(factors.mean() - 1) < 0.03
    assert torch.equal(end.eval()(ones), ones)


@pytest.mark.parametrize("branch", ["branch1", "branch2"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_both_branches_have_an_end_that_acts(branch, placement):
    """With a branch scaled to nothing the layer is the other branch alone."""
    config = tiny(layer_scale_init_value=1.0, norm_placement=placement)
    layer = fill(ViTCustomLayer(config, config.stages[0], layer=0))
    tokens = picture(2, 17, 32)
    full = layer(tokens)
    nn.init.zeros_(getattr(layer, branch).scale)
    first, second = layer.norm1(tokens), layer.norm2(tokens)
    if placement == "pre":
        alone = layer.branch2(layer.mlp(second)) if branch == "branch1" else layer.branch1(layer.attention(first)[0])
        expected = tokens + alone
    else:
        middle = layer.norm1(tokens + layer.branch1(layer.attention(tokens)[0]))
        expected = layer.norm2(middle + layer.branch2(layer.mlp(middle)))
    torch.testing.assert_close(layer(tokens), expected)
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
    unchanged = (layer(tokens) == tokens).flatten(1).all(dim=1)
    assert 16 < unchanged.sum() < 48
