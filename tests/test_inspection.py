"""The cost model says what the counters count; the counters count what can be counted by hand."""

import pytest
import torch
from torch import nn

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.inspection import RECOMPUTED
from modeling_vit_custom.inspection import Cost
from modeling_vit_custom.inspection import Run
from modeling_vit_custom.inspection import cost
from modeling_vit_custom.inspection import count_kept_bytes
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from modeling_vit_custom.inspection import count_peak_bytes
from modeling_vit_custom.inspection import largest
from modeling_vit_custom.inspection import memory
from modeling_vit_custom.inspection import total
from modeling_vit_custom.inspection.cost_layer import activation
from tests.support import PRESETS
from tests.support import VARIANTS
from tests.support import tiny

# What no variant of the other tests has, and what acts in training alone.
MEMBERS = VARIANTS | {
    "dropout": dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, embeddings_dropout_prob=0.1),
    "drop_path": dict(drop_path_rate=0.2, layer_scale_init_value=0.1, norm_placement="post"),
    "cls_mean": dict(pooling="cls_mean", hidden_act="relu"),
    "no_head": dict(num_labels=0, final_norm="pooled", hidden_act="quick_gelu"),
    "swin_dropout": VARIANTS["swin"] | dict(attention_probs_dropout_prob=0.1),
    "swin_padded": VARIANTS["swin"] | dict(window_size=5, window_clamp="never"),
}
# Batch, height and width: grids that a window divides and does not, smaller than a window, a single patch, odd merges.
IMAGES = ((2, 32, 32), (1, 32, 32), (3, 40, 56), (2, 16, 60), (1, 20, 9), (1, 8, 8))
members = pytest.mark.parametrize("member", MEMBERS)
runs = pytest.mark.parametrize(
    ("attention", "dtype"),
    [("sdpa", torch.float32), ("eager", torch.float32), ("sdpa", torch.bfloat16), ("eager", torch.bfloat16)],
    ids=lambda value: str(value).removeprefix("torch."),
)


def build(config: ViTCustomConfig, attention: str, dtype: torch.dtype = torch.float32):
    config._attn_implementation = attention
    return ViTCustomForImageClassification(config).to(dtype)


@members
def test_parameters_and_macs_are_counted_without_a_difference(member):
    config = tiny(**MEMBERS[member])
    with torch.device("meta"):
        model = build(config, "eager")
    assert total(cost(config)).parameters == count_parameters(model)
    for batch_size, *size in IMAGES:
        expected = count_macs(model, batch_size, config.num_channels, *size)
        assert total(cost(config, size, Run(batch_size))).macs == expected, size


@members
@runs
def test_what_autograd_keeps_is_counted_to_the_byte(member, attention, dtype):
    config = tiny(**MEMBERS[member])
    model = build(config, attention, dtype).train()
    for batch_size, *size in IMAGES:
        expected = count_kept_bytes(model, batch_size, config.num_channels, *size)
        assert total(cost(config, size, Run(batch_size, dtype, attention))).kept == expected, size


@members
@runs
def test_the_peak_of_a_forward_pass_is_met(member, attention, dtype):
    config = tiny(**MEMBERS[member])
    model = build(config, attention, dtype).eval()
    for batch_size, *size in IMAGES:
        expected = count_peak_bytes(model, batch_size, config.num_channels, *size)
        assert total(cost(config, size, Run(batch_size, dtype, attention))).peak == pytest.approx(expected, rel=0.03)


@members
def test_with_checkpointing_only_the_layers_inputs_are_kept(member):
    config = tiny(**MEMBERS[member])
    model = build(config, "sdpa").train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    costs = cost(config, (40, 56), Run(2, checkpointing=True))
    recomputed = costs.pop(RECOMPUTED)
    assert total(costs).kept == count_kept_bytes(model, 2, config.num_channels, 40, 56)
    every_layer = total(cost(config, (40, 56), Run(2))).kept - total(costs).kept
    assert every_layer / config.num_hidden_layers <= recomputed.kept <= every_layer


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "pit_ti_distilled_224"])
def test_the_memory_of_whole_presets(name):
    (preset,) = (preset for preset in PRESETS if preset.stem == name)
    config = ViTCustomConfig.from_pretrained(preset)
    model, expected = build(config, "sdpa").train(), total(cost(config, 200, Run(2)))
    assert expected.kept == count_kept_bytes(model, 2, 3, 200, 200)
    assert expected.peak == pytest.approx(count_peak_bytes(model.eval(), 2, 3, 200, 200), rel=0.02)


def test_the_counters_count_what_can_be_counted_by_hand():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.GELU(), nn.Linear(8, 2))
    assert count_kept_bytes(model, 3, 4) == 4 * 3 * (4 + 8 + 8)  # the input, and the inner units twice
    assert count_peak_bytes(model, 3, 4) == 4 * 3 * (4 + 8 + 8)  # while the GELU runs, the same
    assert count_macs(model, 3, 4) == 3 * (4 * 8 + 8 * 2)
    assert count_parameters(model) == 4 * 8 + 8 * 2 + 2


@pytest.mark.parametrize(
    ("name", "kept", "alive"), [("relu", 1, 2), ("gelu", 2, 2), ("silu", 2, 2), ("quick_gelu", 3, 3)]
)
def test_what_activations_keep(name, kept, alive):
    """ReLU's output is all that its gradient and the next layer need; QuickGELU has a sigmoid between."""
    assert activation(name) == (kept, alive)


def test_costs_add_up():
    one, other = Cost(1, 2, 3, 4), Cost(10, 20, 30, 2)
    assert one + other == Cost(11, 22, 33, 4)
    assert total({("a", "b"): one, ("a", "c"): other}) == Cost(11, 22, 33, 4)


def test_the_quadratic_term_is_vits_and_not_swins():
    """At twice the side, four times the tokens: products in windows grow with their number, others with its square."""

    def products(side: int, **settings) -> int:
        parts = cost(tiny(**settings), side).items()
        return sum(part.macs for (_, what), part in parts if what == "attention products")

    windows = VARIANTS["swin"] | dict(window_size=4)
    assert products(512, prefix_tokens=[], pooling="mean") == 16 * products(256, prefix_tokens=[], pooling="mean")
    assert products(512, **windows) == 4 * products(256, **windows)


@pytest.mark.parametrize("training", [False, True])
def test_the_largest_batch_fits_and_one_more_does_not(training):
    config = tiny()

    def needed(batch_size: int) -> int:
        return sum(memory(config, None, Run(batch_size), training).values())

    for batch_size in (1, 2, 7, 64):
        available = needed(batch_size)
        assert largest(lambda number: needed(number) <= available) == batch_size  # noqa: B023
        assert largest(lambda number: needed(number) < available) == batch_size - 1  # noqa: B023


def test_memory_of_training_holds_the_weights_four_times_and_of_inference_once():
    config = tiny()
    costs = total(cost(config, None, Run(dtype=torch.bfloat16)))
    assert sum(memory(config, None, Run(dtype=torch.bfloat16), True).values()) == 8 * costs.parameters + costs.kept
    assert sum(memory(config, None, Run(dtype=torch.bfloat16), False).values()) == 2 * costs.parameters + costs.peak


def test_an_image_smaller_than_a_patch_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="smaller than one patch of 8 x 8: give a larger `image_size`"):
        cost(tiny(), (7, 40))
