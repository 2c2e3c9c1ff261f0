"""Windows are dealt and gathered without loss, their mask parts what the shift joined; positions are their formulas."""

import itertools

import pytest
import torch

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.modeling_geometry import Windows
from modeling_vit_custom.modeling_geometry import check_back_end
from modeling_vit_custom.modeling_geometry import make_windows
from modeling_vit_custom.modeling_geometry import rotary_positions
from modeling_vit_custom.modeling_geometry import rotate
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

GRIDS = [(6, 6), (7, 5), (2, 9), (1, 1), (3, 3), (4, 12)]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)
every_order = pytest.mark.parametrize("order", ["pad_then_shift", "shift_then_pad"])
every_clamp = pytest.mark.parametrize("clamp", ["joint", "per_axis", "never"])


def windows_of(grid, shifted, order="pad_then_shift", clamp="joint", window_size=3) -> Windows:
    config = tiny(**VARIANTS["swin"] | dict(window_size=window_size, window_pad_order=order, window_clamp=clamp))
    return make_windows(config, grid, shifted)


@every_grid
@every_order
@every_clamp
@pytest.mark.parametrize("shifted", [False, True])
def test_joining_undoes_splitting(grid, order, clamp, shifted):
    windows = windows_of(grid, shifted, order, clamp)
    tokens = picture(2, grid[0] * grid[1], 4)
    dealt = windows.split(tokens)
    assert dealt.shape[1] == windows.window[0] * windows.window[1]
    assert torch.equal(windows.join(dealt, batch=2), tokens)


def places(windows: Windows) -> list[list[tuple[int, int] | None]]:
    """Which place of the grid each token of each window comes from; None where it is padding."""
    rows, columns = windows.grid
    numbers = torch.arange(1, rows * columns + 1, dtype=torch.float32)[None, :, None]
    dealt = windows.split(numbers)[..., 0].long()
    return [[divmod(number - 1, columns) if number else None for number in row] for row in dealt.tolist()]


@pytest.mark.parametrize(
    ("grid", "order"),
    [(grid, "pad_then_shift") for grid in GRIDS] + [((6, 6), "shift_then_pad"), ((9, 12), "shift_then_pad")],
    ids=str,
)
@every_clamp
def test_the_mask_parts_exactly_what_the_shift_brought_together(grid, order, clamp):
    """Two tokens of a window may see each other if they are as far apart in the window as they are in the image.

    timm's order has this only without padding: it masks the padding's place, and what it wrapped around is elsewhere.
    """
    windows = windows_of(grid, True, order, clamp)
    mask = windows.mask(torch.float64, torch.device("cpu"))
    if mask is None:
        assert windows.shift == (0, 0)
        return
    assert set(mask.unique().tolist()) <= {0.0, -100.0}
    assert torch.equal(mask, mask.transpose(2, 3))
    width = windows.window[1]
    for window, row in zip(mask[:, 0], places(windows), strict=True):
        for (i, a), (j, b) in itertools.combinations(enumerate(row), 2):
            if a is not None and b is not None:
                inside = (i // width - j // width, i % width - j % width)
                assert (window[i, j] == 0) == ((a[0] - b[0], a[1] - b[1]) == inside)


def test_clamping_is_as_documented():
    """A grid of 2 x 9 under windows of 3: the words of the three implementations."""
    assert windows_of((2, 9), True, clamp="joint")[1:3] == ((2, 2), (0, 0))
    assert windows_of((2, 9), True, clamp="per_axis")[1:3] == ((2, 3), (0, 1))
    assert windows_of((2, 9), True, clamp="never")[1:3] == ((3, 3), (1, 1))
    assert windows_of((3, 9), True, clamp="joint")[1:3] == ((3, 3), (0, 0))
    assert windows_of((4, 9), True, clamp="joint")[1:3] == ((3, 3), (1, 1))


@pytest.mark.parametrize("window", [(3, 3), (2, 2), (1, 3)], ids=str)
def test_the_relative_index_looks_up_the_offset_of_each_pair(window):
    """In a table whose entry for an offset is the offset: clamped windows look at its middle."""
    offsets = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    index = Windows(window, window, (0, 0), True).relative_index(3, torch.device("cpu"))
    places = list(itertools.product(range(window[0]), range(window[1])))
    expected = [[a[0] - b[0], a[1] - b[1]] for a in places for b in places]
    assert offsets[index].tolist() == expected


def test_rotation_keeps_lengths_and_makes_scores_depend_on_offsets_alone():
    """On a square grid; the prefix tokens are not turned."""
    rotary = rotary_positions((4, 4), 8, 100.0, torch.device("cpu"))
    rotary = rotary[0].double(), rotary[1].double()
    same = picture(1, 2, 1, 8, dtype=torch.float64).expand(1, 2, 3 + 16, 8)
    turned = rotate(same, rotary)
    assert torch.equal(turned[:, :, :3], same[:, :, :3])
    torch.testing.assert_close(turned.norm(dim=-1), same.norm(dim=-1))
    scores = (turned[:, :, 3:] @ turned[:, :, 3:].transpose(2, 3)).unflatten(3, (4, 4)).unflatten(2, (4, 4))
    torch.testing.assert_close(scores[:, :, 1:, 1:, 1:, 1:], scores[:, :, :-1, :-1, :-1, :-1], rtol=0, atol=1e-6)
    assert scores[0, 0, 0, 0].flatten().unique().numel() > 10


def test_rotary_positions_run_from_minus_one_to_one_on_both_axes():
    cos, sin = rotary_positions((2, 5), 8, 100.0, torch.device("cpu"))
    centres = torch.cartesian_prod(torch.tensor([-0.5, 0.5]), torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8]))
    angles = torch.cat([centres[:, :1] * torch.tensor([1, 0.1]), centres[:, 1:] * torch.tensor([1, 0.1])], dim=1)
    angles = 2 * torch.pi * torch.cat([angles, angles], dim=1)
    torch.testing.assert_close(cos, angles.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin, angles.sin(), rtol=0, atol=1e-6)


def test_a_tokens_neighbourhood_grows_window_by_window():
    """Of two layers the first looks into its own window alone, the second into the shifted one."""
    settings = VARIANTS["swin"] | dict(hidden_sizes=[16], depths=[2], num_attention_heads=[2], final_norm="none")
    one, two = (fill(ViTCustomModel(tiny(**settings | dict(depths=[depth])))) for depth in (1, 2))
    two.stages[0].layers[0].load_state_dict(one.stages[0].layers[0].state_dict())
    image = picture(1, 3, 24, 24)  # a grid of 12 x 12, in windows of 3 x 3
    changed = image.clone()
    changed[:, :, :2, :2] += 1
    reach = []
    for model in (one, two):
        difference = (model(changed).last_hidden_state - model(image).last_hidden_state).abs().amax(-1)
        reach.append({divmod(place, 12) for place in difference[0].nonzero().flatten().tolist()})
    first = set(itertools.product(range(3), range(3)))
    assert reach[0] == first
    # Shifted by one, windows end after rows 0, 3, 6 and 9; what the shift wraps around is masked to nothing (e^-100).
    assert reach[1] == set(itertools.product(range(4), range(4)))


def test_a_back_end_that_cannot_add_biases_is_refused_by_name():
    config = tiny(**VARIANTS["swin"])
    config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"'flex_attention'` cannot add .* use 'sdpa'"):
        check_back_end(config)
    model = ViTCustomModel(tiny(**VARIANTS["swin"]))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2'` cannot add"):
        model(picture(1, 3, 32, 32))
