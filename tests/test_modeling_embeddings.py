"""Positions: resampling is the identity at home, sin-cos is its formula, prefix tokens come first."""

import numpy as np
import pytest
import torch

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_vit_custom import POSITION_INTERPOLATIONS
from modeling_vit_custom.modeling_embeddings import resample_positions
from modeling_vit_custom.modeling_embeddings import sincos_positions
from tests.support import fill
from tests.support import picture
from tests.support import tiny

every_recipe = pytest.mark.parametrize("recipe", POSITION_INTERPOLATIONS)


@every_recipe
def test_resampling_to_the_same_grid_is_the_identity_even_when_it_is_computed(recipe, monkeypatch):
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
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_recipes_differ_from_each_other():
    """Going to a smaller grid, where antialiasing acts: a recipe that is ignored would be found here."""
    tables = [resample_positions(picture(1, 64, 4), (8, 8), (3, 5), recipe) for recipe in POSITION_INTERPOLATIONS]
    assert all(not torch.allclose(a, b) for i, a in enumerate(tables) for b in tables[:i])


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
    tokens, grid = embeddings(picture(2, 3, 32, 32))
    positions = embeddings.position_embeddings[:, :expected]
    assert grid == (4, 4)
    torch.testing.assert_close(tokens[:1, :expected], embeddings.prefix_tokens[:, :expected] + positions)
    torch.testing.assert_close(tokens[:1, expected:3], embeddings.prefix_tokens[:, expected:])


def test_one_patch_is_enough_and_a_remainder_is_not_seen():
    model = fill(ViTCustomModel(tiny()))
    assert model(picture(1, 3, 8, 8)).last_hidden_state.shape == (1, 2, 32)
    image = picture(1, 3, 39, 47)
    torch.testing.assert_close(model(image).last_hidden_state, model(image[:, :, :32, :40]).last_hidden_state)
