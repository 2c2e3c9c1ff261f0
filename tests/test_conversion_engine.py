"""The engine of all conversions: tables are inverted bit for bit, and nothing is lost without a word."""

import pytest
import torch

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion.equal_configs import TRAINING
from modeling_vit_custom.conversion.equal_configs import differing
from modeling_vit_custom.conversion.equal_configs import function
from modeling_vit_custom.conversion.rename import choose
from modeling_vit_custom.conversion.rename import differences
from modeling_vit_custom.conversion.rename import into_ours
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.conversion.rename import join
from modeling_vit_custom.conversion.rename import kept
from modeling_vit_custom.conversion.rename import load
from modeling_vit_custom.conversion.rename import permute
from modeling_vit_custom.conversion.rename import prefixed
from modeling_vit_custom.conversion.rename import reshape
from modeling_vit_custom.conversion.rename import row
from modeling_vit_custom.conversion.rename import split
from tests.support import formula
from tests.support import tiny

TABLE = [
    row("layers.{s}.down.{p}", "stages.{s+1}.down.{p}"),
    row("blocks.{n}.qkv.{p}", ("q.{n}.{p}", "k.{n}.{p}", "v.{n}.{p}"), split(3)),
    row("fold.{n}.bias", ("fold.q.{n}", None, "fold.v.{n}"), split(3)),
    row(("cls", "registers"), "prefix", join(1, 2)),
    row(("cls0", "registers0"), "prefix0", join(1, 0)),
    row("class_embedding", "class", reshape(theirs=(-1,), ours=(1, 1, -1))),
    row("pos", "positions", reshape(theirs=(1, 4, 2, 3), ours=(1, 4, -1)), permute(0, 2, 1)),
    *kept("text.{rest}", "mask_token"),
]
# The nominal size is no part of the function, and the widths that the ratio means are.
LEFT_OUT = ("image_size", "mlp_ratio")
SHAPES = {
    "layers.0.down.weight": (3, 2),
    "layers.11.down.bias": (3,),
    "blocks.10.qkv.weight": (9, 2),
    "blocks.10.qkv.bias": (9,),
    "cls": (1, 1, 4),
    "registers": (1, 2, 4),
    "cls0": (1, 1, 4),
    "registers0": (1, 0, 4),
    "class_embedding": (5,),
    "pos": (1, 4, 2, 3),
    "text.encoder.layers.0.weight": (2, 2),
    "mask_token": (1, 4),
}


def source():
    tensors = {name: formula(name, torch.Size(shape)) for name, shape in SHAPES.items()}
    return tensors | {"fold.3.bias": torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0, 4.0])}


def test_a_table_is_inverted_bit_for_bit():
    theirs = source()
    ours, aside = into_ours(theirs, TABLE)
    assert aside.keys() == {"text.encoder.layers.0.weight", "mask_token"}
    assert "stages.1.down.weight" in ours
    assert "stages.12.down.bias" in ours
    assert torch.equal(ours["k.10.weight"], theirs["blocks.10.qkv.weight"][3:6])
    assert torch.equal(ours["prefix"][:, 1:], theirs["registers"])
    assert torch.equal(ours["positions"][0, 4], theirs["pos"][0, :, 1, 1])
    assert torch.equal(ours["fold.v.3"], torch.tensor([3.0, 4.0]))
    back = into_theirs(ours, TABLE, aside)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


def test_what_comes_out_shares_no_memory_with_the_source():
    """safetensors refuses shared memory, and training ours must not train theirs."""
    theirs = source()
    pointers = {tensor.untyped_storage().data_ptr() for tensor in theirs.values() if tensor.numel()}
    ours, _ = into_ours(theirs, TABLE)
    found = [tensor.untyped_storage().data_ptr() for tensor in ours.values()]
    assert len({*found}) == len(found)
    assert not pointers & {*found}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strange": torch.ones(2)}, "no counterpart: strange"),
        ({"blocks.10.qkv.weight": torch.ones(10, 2)}, r"blocks\.10\.qkv\.weight: \[\(10, 2\)\], 3 does not divide"),
        ({"fold.3.bias": torch.ones(6)}, r"fold\.3\.bias: the part that ours does not hold is not zero"),
        ({"registers": None}, "missing: registers"),
    ],
    ids=str,
)
def test_what_a_table_cannot_take_is_named(change, message):
    tensors = {name: tensor for name, tensor in (source() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        into_ours(tensors, TABLE)


def test_what_the_target_has_no_place_for_is_named():
    with pytest.raises(ValueError, match=r"no place for:\n  no counterpart: vit.q_norm.weight"):
        into_theirs({"vit.q_norm.weight": torch.ones(2)}, TABLE)


def test_a_table_below_a_module_and_the_spelling_that_knows_most_names():
    rows = prefixed([row("fc.{p}", "mlp.{p}"), *kept("mask")], "model.", "vit.")
    ours, aside = into_ours({"model.fc.bias": torch.ones(1), "model.mask": torch.ones(1)}, rows)
    assert (ours.keys(), aside.keys()) == ({"vit.mlp.bias"}, {"model.mask"})
    tables = {"old": [row("encoder.{n}.{p}", "x.{n}.{p}")], "new": [row("layers.{n}.{p}", "x.{n}.{p}")]}
    assert choose(tables, ["layers.0.weight", "layers.1.bias", "encoder.0.weight"]) == "new"


def test_the_two_sided_list_names_what_is_missing_unexpected_and_mis_shaped():
    expected = {"a": torch.ones(2), "b": torch.ones(2)}
    found = {"b": torch.ones(3), "c": torch.ones(1), "text.x": torch.ones(1)}
    assert differences(found, expected, TABLE) == [
        "  b: (3,) in the source, (2,) in the model",
        "  in the source, not in the model: c",
        "  missing from the source: a",
    ]


def test_nothing_is_loaded_where_anything_does_not_fit():
    config = tiny(depths=[1])
    names = ViTCustomModel(config).state_dict()
    table = [row(name, name) for name in names]
    tensors = {name: torch.zeros_like(tensor) for name, tensor in names.items() if name != "norm.bias"}
    with pytest.raises(ValueError, match=r"does not fit ViTCustomModel:\n  missing from the source: norm\.bias$"):
        load(ViTCustomModel, config, tensors, table)
    model, aside = load(ViTCustomModel, config, tensors | {"norm.bias": torch.ones(32)}, table)
    assert (model.norm.bias == 1).all()
    assert not model.norm.weight.any()
    assert aside == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(qkv_bias=True), dict(qkv_bias=[True, True, True])),
        (dict(mlp_ratio=4), dict(intermediate_size=128)),
        (dict(patch_size=8), dict(patch_size=[8, 8], patch_stride=8)),
        (dict(drop_path_rate=0.1), dict(hidden_dropout_prob=0.2)),
        (dict(drop_path_schedule="constant"), dict(initializer_range=0.1, problem_type="regression")),
        (dict(window_clamp="never"), dict(window_clamp="joint")),  # without windows
    ],
    ids=str,
)
def test_one_function_in_two_spellings_is_one_function(one, other):
    assert differing(tiny(**one), tiny(**other), head=True) == {}


@pytest.mark.parametrize(
    "change",
    [
        dict(layer_norm_eps=1e-5),
        dict(hidden_act="relu"),
        dict(position_interpolation="bilinear"),
        dict(position_grid=[2, 2]),
        dict(qkv_bias=[True, False, True]),
        dict(layer_scale_init_value=1.0),
        dict(num_labels=6),
        dict(pooling="mean"),
    ],
    ids=str,
)
def test_another_function_is_another_function(change):
    assert differing(tiny(**change), tiny(), head=True).keys() & {*change, "layer_scale", "id2label"}


def test_every_field_of_a_configuration_counts_as_function_or_as_training():
    """A new field changes what two configurations must agree in: it cannot be overlooked."""
    pyramid = dict(hidden_sizes=[32, 32], depths=[1, 1], num_attention_heads=[4, 4])
    everything = (
        tiny(),
        tiny(window_size=2, position_embedding="none", prefix_tokens=[], pooling="mean"),
        tiny(position_embedding="rotary"),
    )
    everything += tiny(head_hidden_size=8, **pyramid), tiny(distillation_head=False)
    seen = {name for config in everything for name in function(config, head=True)} | {*TRAINING, *LEFT_OUT}
    assert {name for name in ViTCustomConfig.__annotations__ if not name.startswith("_")} - {"auto_classes"} <= seen
