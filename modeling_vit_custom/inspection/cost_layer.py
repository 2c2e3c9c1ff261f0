"""What one layer costs, part by part, from the configuration alone."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration_vit_custom import StageConfig
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_geometry import make_windows
from .counters import kept_bytes
from .counters import peak_bytes

Grid = tuple[int, int]


@dataclass(frozen=True)
class Cost:
    """Of a part: its parameters; and for one batch its multiply-accumulates, the bytes that autograd keeps of it for
    the backward pass, and the most bytes alive at once while it runs without autograd, weights aside."""

    parameters: int = 0
    macs: int = 0
    kept: int = 0
    peak: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        peak = max(self.peak, other.peak)
        return Cost(self.parameters + other.parameters, self.macs + other.macs, self.kept + other.kept, peak)


class Run(NamedTuple):
    """How a model is run: images at once, the type of weights and pixels, transformers' back-end "sdpa" or "eager", and
    whether each layer is run again in the backward pass, so that only its input is kept."""

    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    attention: str = "sdpa"
    checkpointing: bool = False

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    @property
    def precise(self) -> int:
        """Bytes of a number in what is computed in at least float32: softmax and its sums."""
        return max(self.size, 4)


def num_tokens(config: ViTCustomConfig, run: Run, grid: Grid) -> int:
    """Of a whole batch."""
    return run.batch_size * (len(config.prefix_tokens) + grid[0] * grid[1])


def linear(rows: int, inputs: int, outputs: int, bias: bool = True) -> Cost:
    return Cost(outputs * (inputs + bias), rows * inputs * outputs)


@lru_cache
def activation(name: str) -> tuple[int, int]:
    """How many numbers for each of its inputs an activation and the linear layer after it keep, and hold at its peak.

    Seen on a small matrix rather than listed: transformers knows some thirty activations.
    """
    matrix, weight = torch.ones(8, 8), nn.Parameter(torch.ones(8, 8))
    kept = kept_bytes(lambda inputs: ACT2FN[name](inputs * weight) @ weight, matrix, [matrix, weight])
    peak = peak_bytes(lambda: ACT2FN[name](matrix.clone()), [])
    return kept // matrix.nbytes, peak // matrix.nbytes


class Attended(NamedTuple):
    """What a layer's attention looks at, in numbers for a whole batch.

    Args:
        tokens: that are projected to queries, keys and values: all, and padding.
        groups, within: groups of tokens that see each other, and how many these are.
        joined: tokens alive in what the output projection sees.
        joining: tokens alive at most between the products and the output.
        dealt: whether dealing the tokens to windows copies them.
        masked: whether each window has a mask of its own.
    """

    tokens: int
    groups: int
    within: int
    joined: int
    joining: int
    dealt: bool = False
    masked: bool = False


def attended(config: ViTCustomConfig, run: Run, layer: int, grid: Grid) -> Attended:
    tokens = num_tokens(config, run, grid)
    if config.window_size is None:
        return Attended(tokens, run.batch_size, tokens // run.batch_size, tokens, joining=2 * tokens)
    windows = make_windows(config, grid, shifted=layer % 2 == 1)
    (bottom, right), (height, width), shifted = windows.padding(), windows.window, any(windows.shift)
    padded = run.batch_size * (grid[0] + bottom) * (grid[1] + right)
    rolled_whole, rolled_cut = shifted and windows.pad_first, shifted and not windows.pad_first
    # What is cut off a single image in one piece leaves a view, which keeps the padding alive.
    view = run.batch_size == 1 and (not right or 1 in grid) and not rolled_cut
    copied = rolled_cut or (right and not view)
    joining = padded * (1 + (grid[1] > width) + rolled_whole) + tokens * bool(copied)
    return Attended(
        tokens=padded,
        groups=padded // (height * width),
        within=height * width,
        joined=padded if view else tokens,
        joining=max(joining, padded + tokens),
        dealt=bool(bottom or right or shifted or grid[1] > width),
        masked=shifted,
    )


def geometry_bytes(config: ViTCustomConfig, run: Run, stage: StageConfig, grid: Grid) -> tuple[int, int]:
    """What the layers of a stage share: the rotary tables, or where pairs of tokens look for their bias, which are
    kept; and the mask of shifted windows, which is not."""
    if config.window_size is not None:
        even, odd = (attended(config, run, layer, grid) for layer in (0, 1))
        return even.within**2 * 8, odd.masked * odd.groups // run.batch_size * odd.within**2 * run.size
    rotary = config.position_embedding == "rotary"
    return rotary * 2 * grid[0] * grid[1] * (stage.hidden_size // stage.num_attention_heads) * run.size, 0


def layer_parts(
    config: ViTCustomConfig, run: Run, stage: StageConfig, layer: int, grid: Grid, held: int
) -> dict[str, Cost]:
    """The parts of one layer; `held` bytes stay alive around it."""
    tokens, shape = num_tokens(config, run, grid), attended(config, run, layer, grid)
    stream = tokens * stage.hidden_size * run.size
    pre = config.norm_placement == "pre"  # there, what was normed or attended has a name until the layer ends
    return {
        "attention projections": projections(config, run, stage, tokens, shape),
        "attention products": products(config, run, stage, shape, held + stream * (2 if pre else 1)),
        "feed-forward": feed_forward(config, run, stage, tokens, held + stream * (4 if pre else 2)),
        "norms and residuals": residuals(config, run, stage, tokens, stage.drop_path_rates[layer]),
    }


def projections(config: ViTCustomConfig, run: Run, stage: StageConfig, tokens: int, shape: Attended) -> Cost:
    """Keep what they see, and with the products the queries, keys and values."""
    width, heads = stage.hidden_size, stage.num_attention_heads
    cost = linear(tokens, width, width)
    for bias in config.qkv_biases:
        cost += linear(shape.tokens, width, width, bias)
    numbers = (4 * shape.tokens + shape.joined) * width
    if config.qk_norm:
        cost += Cost(4 * width // heads)
        numbers += 2 * shape.tokens * (width + 2 * heads)
    return cost + Cost(kept=numbers * run.size)


def products(config: ViTCustomConfig, run: Run, stage: StageConfig, shape: Attended, before: int) -> Cost:
    """A fused kernel keeps a number for each query; spelled out, attention keeps its probabilities.

    torch spells it out in training where a bias wants its gradient, and on CPU where probabilities are dropped.
    """
    width, heads, biased = stage.hidden_size, stage.num_attention_heads, config.window_size is not None
    pairs, inner = shape.groups * shape.within**2 * heads, shape.tokens * width * run.size
    dropped, lower = config.attention_probs_dropout_prob > 0, run.size < run.precise
    turned = config.qk_norm or config.position_embedding == "rotary"  # laid out head by head, as then the output is
    kept = shape.tokens * heads * run.precise + turned * inner
    if run.attention == "eager":
        kept = pairs * (run.precise + run.size * (2 if dropped else lower))
    elif biased or dropped:  # all of it in float32 at least
        kept = pairs * run.precise * (3 if dropped else 1) + 3 * shape.tokens * width * (run.precise - run.size)
    table = (2 * config.window_size - 1) ** 2 * heads if config.window_size is not None else 0
    bias = biased * (pairs if shape.masked else pairs // shape.groups) * run.size
    making = pairs // run.batch_size * run.size if shape.masked else bias  # of which `bias` is made
    attend, joining = inner, shape.joining * width * run.size
    if run.attention == "eager":  # which hands its probabilities on
        joining += pairs * run.size
        attend = max(pairs * (run.size + run.precise * (1 + lower)), 2 * pairs * run.size + 2 * inner)
    peak = before + (3 + shape.dealt) * inner + bias + max(making, attend, joining)
    return Cost(table, 2 * shape.groups * shape.within**2 * width, kept, peak)


def feed_forward(config: ViTCustomConfig, run: Run, stage: StageConfig, tokens: int, before: int) -> Cost:
    """Keeps what it sees, and of its inner units what the activation and a gate's product want."""
    width, inner, gated = stage.hidden_size, stage.intermediate_size, config.gated_mlp
    kept, peak = activation(config.hidden_act)
    cost = linear(tokens, width, inner) + linear(tokens, inner, width)
    if gated:  # the gated units and the product are kept too; both and the gate are there at once
        cost, kept, peak = cost + linear(tokens, width, inner), kept + 2, max(peak, 3)
    return cost + Cost(0, 0, tokens * (width + kept * inner) * run.size, before + tokens * peak * inner * run.size)


def residuals(config: ViTCustomConfig, run: Run, stage: StageConfig, tokens: int, drop_path_rate: float) -> Cost:
    """Each LayerNorm keeps its input, means and deviations; LayerScale and dropout keep what they multiply."""
    scaled, dropped = config.layer_scale_init_value is not None, config.hidden_dropout_prob > 0
    numbers = tokens * (stage.hidden_size * (1 + scaled + dropped) + 2) + run.batch_size * (drop_path_rate > 0)
    return Cost(2 * (2 + scaled) * stage.hidden_size, kept=2 * numbers * run.size)
