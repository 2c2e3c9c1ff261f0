"""Attention maps and rollout: stitched windows, shares that stay shares, and purity, for every member and head."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig
from transformers import ViTModel

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom import ViTCustomForPreTraining
from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion import from_transformers
from modeling_vit_custom.inspection import attention_maps
from modeling_vit_custom.inspection import draw_attention
from modeling_vit_custom.inspection import enlarge
from modeling_vit_custom.inspection import layer_attentions
from modeling_vit_custom.inspection import rollout
from modeling_vit_custom.inspection.attention_maps import before_downsampling
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

SIZE = (40, 24)  # pixels; divides no window of the pyramids
SEES_WINDOWS = ("swin", "swin_timm")
PYRAMIDS = (*SEES_WINDOWS, "pit")


def made(name: str, **changes):
    model = fill(ViTCustomModel(tiny(**VARIANTS[name] | changes)))
    height, width = (32, 24) if name == "no_positions" else SIZE
    return model, picture(2, model.config.num_channels, height, width)


variants = pytest.mark.parametrize("name", VARIANTS)


@variants
def test_each_row_sums_to_one_and_is_no_less_than_nothing(name):
    model, images = made(name)
    layers = layer_attentions(model, images)
    assert len(layers) == model.config.num_hidden_layers
    for layer in layers:
        matrix = layer.matrix()
        assert matrix.shape[2:] == (layer.num_tokens, layer.num_tokens)
        assert (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), atol=1e-5, rtol=0)


@variants
def test_maps_are_rows_of_the_matrix(name):
    """What is computed window by window is what the whole matrix says."""
    model, images = made(name)
    pools_cls = model.config.pooling == "cls"
    for layer, seen in zip(layer_attentions(model, images), attention_maps(model, images), strict=True):
        rows = layer.matrix()
        wanted = rows[:, :, 0] if pools_cls else rows[:, :, layer.num_prefix_tokens :].mean(2)
        wanted = wanted[..., layer.num_prefix_tokens :].unflatten(-1, layer.grid)
        torch.testing.assert_close(seen, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", SEES_WINDOWS)
def test_stitched_windows_are_attention_over_all_tokens_with_a_mask(name):
    """Each pair of tokens by hand: queries and keys of a hook, the table of relative positions, the shifted windows."""
    model, images = made(name)
    for stage in range(3):
        for number in range(model.config.depths[stage]):
            layer = layer_attentions(model, images)[sum(model.config.depths[:stage]) + number]
            windows, (rows, columns) = layer.windows, layer.grid
            where = {}
            down, across = (
                -(-side // window) * window for side, window in zip(layer.grid, windows.window, strict=True)
            )
            for row in range(rows):
                for column in range(columns):
                    if windows.pad_first:
                        y, x = (row - windows.shift[0]) % down, (column - windows.shift[1]) % across
                    else:
                        y, x = (row - windows.shift[0]) % rows, (column - windows.shift[1]) % columns
                    regions = []
                    for place, size, window, shift in zip(
                        (y, x), (down, across), windows.window, windows.shift, strict=True
                    ):
                        regions.append(0 if not shift else (place >= size - window) + (place >= size - shift))
                    where[row * columns + column] = (y // windows.window[0], x // windows.window[1], *regions)
            matrix = layer.matrix()
            for one in where:
                for other in where:
                    if where[one] != where[other]:
                        assert (matrix[:, :, one, other] < 1e-6).all()
            sizes = Counter(where.values())
            seen = (matrix > 1e-12).sum(-1)
            for token, window in where.items():
                assert (seen[:, :, token] == sizes[window]).all()


@variants
def test_rollout_is_the_product_of_the_mixed_matrices(name):
    model, images = made(name)
    layers = layer_attentions(model, images)
    shares = torch.zeros(2, 1, layers[-1].num_tokens)
    if model.config.pooling == "cls":
        shares[..., 0] = 1
    else:
        shares[..., layers[-1].num_prefix_tokens :] = 1 / (layers[-1].grid[0] * layers[-1].grid[1])
    for layer in reversed(layers):
        mixed = 0.5 * torch.eye(layer.num_tokens) + 0.5 * layer.matrix().mean(1)
        shares = shares @ mixed
        if layer.previous:
            shares = before_downsampling(shares, layer)
    rolled = rollout(model, images)
    grid = layers[0].previous[0] if layers[0].previous else layers[0].grid
    assert rolled.shape == (2, *grid)
    wanted = shares[:, 0, layers[0].num_prefix_tokens :].unflatten(-1, grid)
    torch.testing.assert_close(rolled, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_nothing_is_lost_where_a_stage_merges_patches(name):
    model, images = made(name)
    for layer in layer_attentions(model, images):
        if layer.previous is None:
            continue
        shares = torch.rand(2, 1, layer.num_tokens)
        below = before_downsampling(shares, layer)
        torch.testing.assert_close(below.sum(-1), shares.sum(-1))
        assert (below >= 0).all()
        one = torch.zeros(1, 1, layer.num_tokens)
        one[..., -1] = 1  # the last patch is made of the last ones below
        (rows, columns), kind = layer.previous
        image = before_downsampling(one, layer)[0, 0, layer.num_prefix_tokens :].unflatten(-1, (rows, columns))
        touched = image.nonzero().amin(0).tolist()
        first = [2 * (side - 1) - (kind == "conv") for side in layer.grid]
        assert touched == first


def test_rollout_of_attention_that_looks_everywhere_alike_is_flat():
    model, images = made("vit")
    for layer in model.stages[0].layers:
        torch.nn.init.zeros_(layer.attention.q_proj.weight)
        torch.nn.init.zeros_(layer.attention.q_proj.bias)
    rolled = rollout(model, images)
    torch.testing.assert_close(rolled, torch.full_like(rolled, rolled.mean().item()))
    tokens = 1 + rolled[0].numel()
    # Of two layers: 1 - (1 / 2)^2 of the class token is spread over all tokens.
    assert rolled[0].sum().item() == pytest.approx(0.75 * (tokens - 1) / tokens)


def test_class_token_attention_is_transformers_own():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    theirs = ViTModel._from_config(config, attn_implementation="eager").eval()
    images = picture(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs(images, output_attentions=True).attentions
    for seen, attention in zip(attention_maps(from_transformers(theirs), images), wanted, strict=True):
        torch.testing.assert_close(seen.flatten(2), attention[:, :, 0, 1:], atol=1e-6, rtol=1e-5)


def test_another_prefix_token_can_be_asked_for():
    model, images = made("deit")
    for layer, seen in zip(layer_attentions(model, images), attention_maps(model, images, query=1), strict=True):
        torch.testing.assert_close(seen.flatten(2), layer.matrix()[:, :, 1, 2:])
    assert not torch.allclose(rollout(model, images), rollout(model, images, query=1))
    with pytest.raises(ValueError, match="There are 2 prefix tokens, and no number 2"):
        rollout(model, images, query=2)


HEADS = (
    ViTCustomForImageClassification,
    ViTCustomForSemanticSegmentation,
    ViTCustomForObjectDetection,
    ViTCustomForPreTraining,
)
DECODER = dict(decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
def test_any_head_and_back_end_shows_its_encoder(head, back_end):
    model = fill(head._from_config(tiny(**DECODER), attn_implementation=back_end))
    alone = ViTCustomModel(copy.deepcopy(model.config))
    alone.load_state_dict(model.base_model.state_dict())
    images = picture(1, 3, 32, 32)
    for one, other in zip(attention_maps(model, images), attention_maps(alone, images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_looking_changes_nothing():
    model, images = made("pit", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.5)
    model.train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = (rollout(model, images) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_padded_pictures_are_seen_as_they_are_alone(name):
    """And padding gets nothing."""
    model = fill(ViTCustomModel(tiny(**VARIANTS[name])))
    patch = 16 if name == "swin" else 8
    images, mask = torch.zeros(2, 3, 48, 64), torch.zeros(2, 48, 64)
    sizes = [(48, 2 * patch), (2 * patch, 64)]
    for number, (height, width) in enumerate(sizes):
        images[number, :, :height, :width] = picture(3, height, width)
        mask[number, :height, :width] = 1
    together, rolled = attention_maps(model, images, mask), rollout(model, images, mask)
    for number, (height, width) in enumerate(sizes):
        cut = images[number : number + 1, :, :height, :width]
        for layer, alone in zip(together, attention_maps(model, cut), strict=True):
            rows, columns = alone.shape[2:]
            torch.testing.assert_close(layer[number, :, :rows, :columns], alone[0])
            assert layer[number].sum() == pytest.approx(alone[0].sum().item(), rel=1e-5)
        alone = rollout(model, cut)[0]
        torch.testing.assert_close(rolled[number, : alone.shape[0], : alone.shape[1]], alone)
        assert rolled[number].sum() == pytest.approx(alone.sum().item(), rel=1e-5)


def test_maps_are_enlarged_patch_by_patch():
    maps = torch.rand(2, 3, 4, 5)
    grown = enlarge(maps, (32, 40))
    assert torch.equal(grown[:, :, ::8, ::8], maps)
    assert torch.equal(grown, maps.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_a_picture_is_lightest_where_the_model_looked():
    image = Image.new("RGB", (64, 48), (90, 90, 90))
    attention, rolled = torch.zeros(2, 6, 8), torch.zeros(6, 8)
    attention[:, 1, 1], rolled[4, 6] = 1.0, 1.0
    drawn = np.asarray(draw_attention(image, attention, rolled, "of layer 1").convert("L"), dtype=int)[16:226]
    mean, roll = drawn[:, 284 : 284 + 280], drawn[:, 568 : 568 + 280]
    for panel, (row, column) in ((mean, (1, 1)), (roll, (4, 6))):
        y, x = np.unravel_index(panel.argmax(), panel.shape)
        assert abs(y / 35 - row - 0.5) < 0.6
        assert abs(x / 35 - column - 0.5) < 0.6


def test_a_model_of_another_library_is_refused():
    with pytest.raises(ValueError, match="ViTModel is no model of this package: convert it first"):
        rollout(ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)), picture(1, 3, 32, 32))
