"""Positions: resampling is the identity at home, sin-cos is its formula, prefix tokens come first."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from timm.layers.patch_embed import resample_patch_embed
from torch import nn

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_checks import POSITION_INTERPOLATIONS
from modeling_vit_custom.modeling_embeddings import Masking
from modeling_vit_custom.modeling_embeddings import resample_kernel
from modeling_vit_custom.modeling_embeddings import resample_positions
from modeling_vit_custom.modeling_embeddings import sincos_positions
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

CPU = torch.device("cpu")

every_recipe = pytest.mark.parametrize("recipe", POSITION_INTERPOLATIONS)


@every_recipe
def test_resampling_to_the_same_grid_is_the_identity_even_when_it_is_computed(recipe, monkeypatch):
    """With an offset it would not be; there the shortcut is taken in an export too."""
    monkeypatch.setattr("modeling_vit_custom.modeling_embeddings.is_exporting", lambda: True)
    positions = picture(1, 7 * 5, 8)
    assert torch.equal(resample_positions(positions, (7, 5), (7, 5), recipe), positions)


@every_recipe
def test_resampling_keeps_a_constant_and_transposing_commutes_with_it(recipe):
    constant = torch.full((1, 12, 4), 2.5)
    torch.testing.assert_close(resample_positions(constant, (3, 4), (7, 2), recipe), torch.full((1, 14, 4), 2.5))
    positions = picture(1, 12, 4, dtype=torch.float64)

    def transpose(table, rows, columns):
        return table.view(1, rows, columns, 4).transpose(1, 2).flatten(1, 2)

    one = transpose(resample_positions(positions, (3, 4), (6, 2), recipe), 6, 2)
    other = resample_positions(transpose(positions, 3, 4), (4, 3), (2, 6), recipe)
    tolerance = 1e-6 if POSITION_INTERPOLATIONS[recipe].exactly_float32 else 1e-12
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_recipes_differ_from_each_other():
    """Going to a smaller grid, where antialiasing acts: a recipe that is ignored would be found here."""
    positions = picture(1, 64, 4, dtype=torch.float64)
    tables = [resample_positions(positions, (8, 8), (3, 5), recipe) for recipe in POSITION_INTERPOLATIONS]
    assert all(not torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])


def test_half_precision_positions_are_resampled_in_float32():
    positions = picture(1, 16, 8, dtype=torch.bfloat16)
    expected = resample_positions(positions.float(), (4, 4), (6, 7), "bicubic").bfloat16()
    assert torch.equal(resample_positions(positions, (4, 4), (6, 7), "bicubic"), expected)


def test_sincos_is_big_visions_formula():
    rows, columns, width = 3, 5, 16
    y, x = np.mgrid[:rows, :columns]
    omega = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4 - 1))
    angle_x, angle_y = x.flatten()[:, None] * omega[None], y.flatten()[:, None] * omega[None]
    expected = np.concatenate([np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)], axis=1)
    table = sincos_positions(rows, columns, width, torch.device("cpu"))[0]
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("positioned", "expected"), [(None, 3), (1, 1), (0, 0)])
def test_prefix_tokens_come_first_and_as_many_as_declared_have_a_position(positioned, expected):
    config = tiny(prefix_tokens=["cls", "register", "register"], num_prefix_positions=positioned)
    embeddings = fill(ViTCustomModel(config)).embeddings
    assert embeddings.position_embeddings.shape == (1, expected + 16, 32)
    tokens = embeddings(picture(2, 3, 32, 32))
    positions = embeddings.position_embeddings[:, :expected]
    assert tokens.shape == (2, 3 + 16, 32)
    torch.testing.assert_close(tokens[:1, :expected], embeddings.prefix_tokens[:, :expected] + positions)
    torch.testing.assert_close(tokens[:1, expected:3], embeddings.prefix_tokens[:, expected:])


def test_one_patch_is_enough_and_a_remainder_is_not_seen():
    model = fill(ViTCustomModel(tiny()))
    assert model(picture(1, 3, 8, 8)).last_hidden_state.shape == (1, 2, 32)
    image = picture(1, 3, 39, 47)
    torch.testing.assert_close(model(image).last_hidden_state, model(image[:, :, :32, :40]).last_hidden_state)


@pytest.mark.parametrize("size", [(8, 8), (12, 12), (5, 9), (4, 4)], ids=str)
def test_a_resampled_kernel_is_timms(size):
    kernel = picture(6, 3, 8, 8, dtype=torch.float64)
    theirs = resample_patch_embed(kernel.float(), list(size), interpolation="bilinear", antialias=True)
    torch.testing.assert_close(resample_kernel(kernel, size).float(), theirs, rtol=0, atol=1e-5)


def test_a_larger_kernel_gives_on_enlarged_patches_what_the_kernel_gave_on_the_patches():
    """FlexiViT's aim (section 3.4): exact when patches grow."""
    kernel, patches = picture(6, 3, 8, 8, dtype=torch.float64), picture(5, 3, 8, 8, dtype=torch.float64)
    enlarged = torch.nn.functional.interpolate(patches, size=(12, 16), mode="bilinear", antialias=True)
    products = [
        torch.einsum("dcpq,ncpq->nd", k, p)
        for k, p in ((kernel, patches), (resample_kernel(kernel, (12, 16)), enlarged))
    ]
    torch.testing.assert_close(products[1], products[0], rtol=0, atol=1e-9)


def test_another_patch_size_at_loading_resamples_the_kernel_and_the_same_one_changes_nothing(tmp_path):
    model = fill(ViTCustomModel(tiny(image_size=48)))
    model.save_pretrained(tmp_path)
    weight = model.embeddings.patch_embeddings.weight
    loaded = ViTCustomModel.from_pretrained(tmp_path, patch_size=[12, 16])
    assert torch.equal(loaded.embeddings.patch_embeddings.weight, resample_kernel(weight.detach(), (12, 16)))
    assert (loaded.config.patch_size, loaded.config.patch_kernel_size) == ([12, 16], [12, 16])
    assert loaded(picture(1, 3, 48, 48)).last_hidden_state.shape == (1, 1 + 4 * 3, 32)
    same = ViTCustomModel.from_pretrained(tmp_path, patch_size=8)
    assert torch.equal(same.embeddings.patch_embeddings.weight, weight)
    loaded.save_pretrained(tmp_path / "again")
    again = ViTCustomModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again(picture(1, 3, 48, 48)).pooler_output, loaded(picture(1, 3, 48, 48)).pooler_output)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_parameter_in_another_shape_stays_the_parameter_that_it_was(name, frozen):
    """For an optimizer that holds it, too."""
    config = tiny(**VARIANTS[name])
    model = fill(ViTCustomModel(config)).to(torch.bfloat16)
    model.requires_grad_(not frozen)
    before = dict(model.named_parameters())
    shapes = {key: parameter.shape for key, parameter in before.items()}
    resized = {"embeddings.patch_embeddings.weight"}
    model.resize_patch_embeddings((6, 10))
    if config.position_embedding == "learned":
        model.resize_position_embeddings((5, 7))
        resized |= {key for key in before if "position_embeddings" in key}
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[key] is parameter for key, parameter in before.items())
    assert {key for key, parameter in after.items() if parameter.shape != shapes[key]} == resized
    assert {(p.requires_grad, p.dtype, p.device) for p in after.values()} == {(not frozen, torch.bfloat16, CPU)}
    if not frozen:
        model(picture(1, config.num_channels, 48, 48)).pooler_output.sum().backward()
        assert all(parameter.grad.shape == parameter.shape for parameter in after.values())


@pytest.mark.parametrize("patch_size", [0, "8", 64, [8]], ids=repr)
def test_a_patch_size_that_cannot_be_is_refused_at_loading(patch_size, tmp_path):
    ViTCustomModel(tiny()).save_pretrained(tmp_path)
    with pytest.raises((ValueError, StrictDataclassError), match=r"patch_size|smaller than one patch"):
        ViTCustomModel.from_pretrained(tmp_path, patch_size=patch_size)


def test_overlapping_patches_without_a_bias_are_a_strided_convolution():
    embeddings = fill(ViTCustomModel(tiny(patch_size=8, patch_stride=[4, 3], patch_bias=False))).embeddings
    image = picture(1, 3, 32, 29)
    tokens = embeddings(image)
    patches = nn.functional.unfold(image, (8, 8), stride=(4, 3)).transpose(1, 2)
    expected = patches @ embeddings.patch_embeddings.weight.flatten(1).T + embeddings.positions((7, 8), CPU)[:, 1:]
    torch.testing.assert_close(tokens[:, 1:], expected)


def test_the_norm_of_patches_comes_before_positions_and_the_norm_of_tokens_after():
    for placement, eps in (("patches", 1e-5), ("tokens", 0.5)):
        embeddings = fill(ViTCustomModel(tiny(embeddings_norm=placement, layer_norm_eps=0.5))).embeddings
        assert embeddings.norm.eps == eps
        plain = embeddings.patch_embeddings(picture(1, 3, 32, 32)).flatten(2).transpose(1, 2)
        positions, tokens = embeddings.positions((4, 4), CPU), embeddings(picture(1, 3, 32, 32))
        prefix = embeddings.prefix_tokens + positions[:, :1]
        if placement == "patches":
            expected = torch.cat((prefix, embeddings.norm(plain) + positions[:, 1:]), dim=1)
        else:
            expected = embeddings.norm(torch.cat((prefix, plain + positions[:, 1:]), dim=1))
        torch.testing.assert_close(tokens, expected)


def test_an_offset_is_dinov2s_formula():
    """The original tells interpolate the scale (side + 0.1) / side' and lets it round the size down."""
    positions = picture(1, 16, 4)
    image = positions.view(1, 4, 4, 4).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(image, scale_factor=(6.1 / 4, 3.1 / 4), mode="bicubic")
    resampled = resample_positions(positions, (4, 4), (6, 3), "bicubic_offset")
    assert torch.equal(resampled, expected.flatten(2).transpose(1, 2))


@pytest.fixture
def mask() -> torch.Tensor:
    """Which of the 4 x 4 patches of two images are hidden: not the same, not as many."""
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 2, 7]], mask[1, 4:12] = True, True
    return mask


def test_a_hidden_patch_is_not_seen_and_its_place_is(mask):
    embeddings = fill(ViTCustomModel(tiny())).embeddings
    pixel_values, token = picture(2, 3, 32, 32), picture(1, 1, 32)
    other = pixel_values.clone()
    patches = other.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, h, w, 8, 8), a view
    for image, row in enumerate(mask.view(2, 4, 4)):
        patches[image, :, row] += 100
    masking = Masking(hidden=mask, token=token)
    first, second = (embeddings(pixels, masking) for pixels in (pixel_values, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    expected = embeddings(pixel_values)[:, 1:].clone()
    expected[mask] = (token + embeddings.positions((4, 4), CPU)[:, 1:]).expand(2, -1, -1)[mask]
    torch.testing.assert_close(first[:, 1:], expected)


def test_a_mask_of_another_grid_is_refused(mask):
    embeddings = fill(ViTCustomModel(tiny())).embeddings
    with pytest.raises(ValueError, match=r"here \(2, 16\), got \(2, 12\)"):
        embeddings(picture(2, 3, 32, 32), Masking(hidden=mask[:, :12], token=picture(1, 1, 32)))


def test_visible_patches_are_those_of_the_whole_image_in_the_order_asked_for():
    embeddings = fill(ViTCustomModel(tiny(prefix_tokens=["cls", "register"]))).embeddings
    pixel_values, visible = picture(2, 3, 32, 32), torch.tensor([[3, 0, 9], [15, 8, 8]])
    whole, some = embeddings(pixel_values), embeddings(pixel_values, Masking(visible=visible))
    assert torch.equal(some[:, :2], whole[:, :2])
    for image in range(2):
        assert torch.equal(some[image, 2:], whole[image, 2 + visible[image]])
