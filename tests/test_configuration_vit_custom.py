"""Impossible settings are refused with a sentence that names the fix; what is possible survives a round trip."""

import json
import threading

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.near_names import near_miss
from tests.support import VARIANTS
from tests.support import fill
from tests.support import tiny

TWO = dict(depths=[1, 1], num_attention_heads=[4, 4])
DISTILLED = dict(prefix_tokens=["cls", "distillation"], distillation_head=True)
REFUSED = [
    (dict(num_attention_heads=[5]), "`num_attention_heads` must divide `hidden_sizes`: 5 does not divide 32"),
    (dict(image_size=7), "smaller than one patch: it needs at least 8"),
    (dict(problem_type="classification"), "`problem_type` must be one of .*soft_label_classification"),
    (dict(depths=[2, 2]), "need one entry per stage each"),
    (dict(depths=[0]), "`depths` must hold positive numbers"),
    (dict(hidden_sizes=[32, 64], depths=[1, 1], num_attention_heads=[4, 4]), "make `hidden_sizes` equal"),
    (dict(patch_size=[8]), "`patch_size` must be a positive side or a pair"),
    (dict(prefix_tokens=["register", "cls"]), "at most one 'cls', first"),
    (dict(prefix_tokens=["clss"]), "at most one 'cls', first"),
    (dict(prefix_tokens=[]), "`pooling='cls'` needs the token: put 'cls' in `prefix_tokens`"),
    (dict(num_prefix_positions=2), "`num_prefix_positions` must be 0 to the 1"),
    (dict(position_embedding="sincos", hidden_sizes=[30], num_attention_heads=[5]), "a width that 4 divides, got 30"),
    (dict(position_embedding="sincos", num_prefix_positions=1), "leave `num_prefix_positions` out"),
    (dict(position_embedding="relative"), "`position_embedding` must be one of learned, sincos, rotary, none"),
    (dict(position_embedding="rotary", num_attention_heads=[16]), "needs heads whose width 4 divides, got 32 / 16"),
    (dict(position_embedding="rotary", num_prefix_positions=1), "'rotary'` gives prefix tokens no position"),
    (dict(distillation_head=True), "`distillation_head=True` needs the token: put 'distillation' in"),
    (dict(prefix_tokens=["cls", "distillation", "distillation"]), "at most one 'distillation'"),
    (dict(window_size=4), "have no place for prefix tokens: empty `prefix_tokens`"),
    (dict(window_size=0, prefix_tokens=[], pooling="mean"), "`window_size` must be positive, got 0"),
    (dict(window_size=4, prefix_tokens=[], pooling="mean", position_embedding="rotary"), "to 'none' rather than"),
    (dict(downsample="merge"), "have no place for prefix tokens"),
    (dict(downsample="pool"), "`downsample` must be one of none, merge, conv"),
    (dict(**TWO, hidden_sizes=[32, 48], downsample="conv"), "to be a multiple of the one before"),
    (dict(window_clamp="always"), "`window_clamp` must be one of joint, per_axis, never"),
    (dict(window_pad_order="pad"), "`window_pad_order` must be one of pad_then_shift, shift_then_pad"),
    (dict(embeddings_norm="all"), "`embeddings_norm` must be one of none, patches, tokens"),
    (dict(drop_path_schedule="cosine"), "`drop_path_schedule` must be one of linear, constant"),
    (dict(patch_stride=0), "`patch_stride` must be a positive side"),
    (dict(qkv_bias=[True, False]), "a list of three for query, key and value"),
    (dict(pooling="cls_mean", final_norm="pooled"), "set `final_norm` to 'all'"),
    (dict(**DISTILLED, pooling="cls_mean"), "set `pooling` to 'cls'"),
    (dict(out_indices=[]), "name no feature map: leave both out"),
    (dict(rope_theta=-1.0), "`rope_theta` must be positive"),
    (dict(position_interpolation="cubic"), "`position_interpolation` must be one of bicubic"),
    (dict(hidden_act="gellu"), "`hidden_act` must be one of .*gelu"),
    (dict(norm_placement="before"), "`norm_placement` must be one of pre, post"),
    (dict(final_norm=""), "`final_norm` must be one of all, pooled, none"),
    (dict(pooling="max"), "`pooling` must be one of cls, mean"),
    (dict(drop_path_rate=1.0), "`drop_path_rate` is a probability"),
    (dict(hidden_dropout_prob=-0.1), "`hidden_dropout_prob` is a probability"),
    (dict(num_channels=0), "`num_channels` must be positive"),
    (dict(layer_norm_eps=float("nan")), "`layer_norm_eps` must be positive"),
    (dict(layer_scale_init_value=float("nan")), "`layer_scale_init_value` must be positive"),
    (dict(initializer_range=0), "`initializer_range` must be positive"),
    (dict(mlp_ratio=0.01), "leaves no width for the feed-forward"),
    (dict(hidden_sizes=[32] * 2, depths=[1] * 2, num_attention_heads=[4] * 2, intermediate_size=8), "of one stage"),
    (dict(mlp_ratio=float("inf")), "`mlp_ratio` must be finite"),
    (dict(depths=2), r"^`depths` must be a list of integers, got 2: write \[2\]\.$"),
    (dict(hidden_sizes=64.0), r"^`hidden_sizes` must be a list of integers, got 64.0: write \[64\]\.$"),
    (dict(prefix_tokens="cls"), r"^`prefix_tokens` must be a list of words, got 'cls': write \['cls'\]\.$"),
    (dict(qkv_bias="yes"), "^`qkv_bias` must be true or false or a list of true and false, got 'yes'.$"),
    (dict(layer_norm_eps="1e-06"), "^`layer_norm_eps` must be a number.*, got '1e-06': write 1.0e-06 without quotes"),
    (dict(image_size="32"), "^`image_size` must be an integer or a list of integers, got '32': write 32 without"),
    (dict(num_channels=3.0), "^`num_channels` must be an integer, got 3.0: write 3.$"),
    (dict(num_queries="nan"), "^`num_queries` must be an integer, got 'nan'.$"),
    (dict(hidden_act=None), "^`hidden_act` must be a word, got None.$"),
    (dict(intermediate_size=64.5), "^`intermediate_size` must be an integer, got 64.5.$"),
    (dict(hidden_sizes="32"), r"^`hidden_sizes` must be a list of integers, got '32': write \[32\]\.$"),
    (dict(num_labels="3"), "^`num_labels` must be an integer from 0 on, got '3'.$"),
    (dict(num_labels=-1), "^`num_labels` must be an integer from 0 on, got -1.$"),
    (dict(id2label=["a", "b"]), r"^`id2label` must be numbers and names of classes, as {0: 'cat', 1: 'dog'}, got"),
    (dict(id2label={"a": 0}), r"^`id2label` must be numbers and names of classes"),
    (dict(label2id=["a"]), r"^`label2id` must be numbers and names of classes, as {'cat': 0, 'dog': 1}, got"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_impossible_settings_are_refused_with_the_fix(changes, message):
    with pytest.raises(StrictDataclassError, match=message) as refused:
        tiny(**changes)
    assert isinstance(refused.value, ValueError)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("maps", [dict(out_features=["stage3"]), dict(out_indices=[3])], ids=str)
def test_maps_that_the_model_does_not_have_are_refused_with_those_that_it_has(maps):
    with pytest.raises(ValueError, match=r"stage_names:? \['stem', 'stage1', 'stage2'\]"):
        tiny(**maps)


def test_settings_that_became_impossible_are_refused_before_a_model_is_built():
    config = tiny()
    config.num_attention_heads = [3]
    with pytest.raises(ValueError, match="3 does not divide 32"):
        ViTCustomModel(config)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_configuration_survives_its_round_trip(name, tmp_path):
    config = tiny(**VARIANTS[name])
    config.save_pretrained(tmp_path)
    again = ViTCustomConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()


def test_constructor_values_are_kept_as_given():
    config = tiny(image_size=[32, 40], patch_size=8)
    assert (config.image_size, config.patch_size, config.position_grid) == ([32, 40], 8, None)


@pytest.mark.parametrize(
    "settings",
    [
        dict(hidden_sizes=(32,), depths=(2,), num_attention_heads=(4,)),
        dict(prefix_tokens=(), pooling="mean"),
        dict(image_size=(32, 40), patch_size=torch.Size([8, 8]), qkv_bias=(True, False, True)),
        dict(out_indices=(0, 2)),
        dict(out_features=("stem", "stage1")),
        dict(hidden_sizes=np.array([32]), depths=range(2, 3), layer_norm_eps=np.float64(1e-5)),
        dict(image_size=np.int64(32), drop_path_rate=torch.tensor(0.5)),
    ],
    ids=lambda value: ",".join(value),
)
def test_what_stands_for_a_list_or_a_number_is_one(settings, tmp_path):
    given, later = tiny(**settings), tiny()
    for name in settings:
        setattr(later, name, settings[name])
    given.save_pretrained(tmp_path)
    again = ViTCustomConfig.from_pretrained(tmp_path)
    for name in settings:
        value = getattr(again, name)
        assert type(value) is type(getattr(given, name)) is type(getattr(later, name)) in (int, float, list, str)
        assert value == getattr(given, name) == getattr(later, name)


def test_towers_and_later_assignments_are_judged_in_the_same_sentences():
    config = tiny()
    with pytest.raises(ValueError, match=r"^`depths` must be a list of integers, got 3: write \[3\]\.$"):
        config.depths = 3
    assert ViTCustomDualEncoderConfig(vision_config=dict(hidden_sizes=(768,))).vision_config.hidden_sizes == [768]
    with pytest.raises(ValueError, match=r"^`num_attention_heads` must divide .*: 5 does not divide 768\.$"):
        ViTCustomDualEncoderConfig(vision_config=dict(num_attention_heads=(5,)))
    with pytest.raises(ValueError, match=r"^`projection_dim` must be an integer, got '16': write 16 without quotes"):
        ViTCustomDualEncoderConfig(projection_dim="16")


def test_the_views_of_a_pyramid():
    config = tiny(hidden_sizes=[32, 32], depths=[1, 2], num_attention_heads=[4, 8], mlp_ratio=1.5)
    assert (config.hidden_size, config.num_hidden_layers, config.grid) == (32, 3, (4, 4))
    assert [(stage.index, stage.depth, stage.num_attention_heads) for stage in config.stages] == [(0, 1, 4), (1, 2, 8)]
    assert {stage.intermediate_size for stage in config.stages} == {48}


@pytest.mark.parametrize(("view", "field"), [("hidden_size", "hidden_sizes"), ("num_hidden_layers", "depths")])
def test_a_view_cannot_be_set_and_says_what_can(view, field):
    with pytest.raises(ValueError, match=f"`{view}`: did you mean `{field}`"):
        tiny(**{view: 8})


STRAYS = dict(
    num_label=3,
    image_siz=5,
    lock=threading.Lock(),
    device=torch.device("cpu"),
    cast=torch.float16,
    mixed={1: 2, "a": 3},
    unread=torch.empty(2, device="meta"),
)


@pytest.mark.parametrize("name", STRAYS)
def test_an_attribute_that_could_not_be_read_again_is_left_out_of_the_file_and_named(name, tmp_path, caplog):
    model = fill(ViTCustomForImageClassification(tiny()))
    setattr(model.config, name, STRAYS[name])
    model.save_pretrained(tmp_path)
    assert f"without the configuration's attribute `{name}`: " in caplog.text
    assert getattr(model.config, name) is STRAYS[name]
    again = ViTCustomForImageClassification.from_pretrained(tmp_path)
    assert not hasattr(again.config, name)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_numbers_paths_and_sets_of_strangers_are_written_as_json_has_them(tmp_path, caplog):
    config = tiny()
    config.label2id = {"cat": np.int64(0)}
    config.run, config.tags, config.mean, config._note = tmp_path, {"b", "a"}, torch.tensor(0.5), np.float32(2)
    config.save_pretrained(tmp_path)
    assert "without" not in caplog.text
    assert config.run is tmp_path
    again = json.loads((tmp_path / "config.json").read_text())
    assert again["label2id"] == {"cat": 0}
    assert (again["run"], again["tags"], again["mean"], again["_note"]) == (str(tmp_path), ["a", "b"], 0.5, 2.0)


IMPOSSIBLE = dict(drop_path_rate=1.5, problem_type="classes", pooling="max", hidden_act="gellu", initializer_range=0.0)


@pytest.mark.parametrize("name", [*IMPOSSIBLE, "temperature"])
def test_weights_are_saved_whatever_became_impossible_and_an_argument_puts_it_right(name, tmp_path, caplog):
    model = fill(ViTCustomModel(tiny()))
    right = getattr(model.config, name, None)
    setattr(model.config, name, IMPOSSIBLE.get(name, 0.5))
    model.save_pretrained(tmp_path)
    assert "config.json needs repair" in caplog.text
    assert name in caplog.text
    if name in IMPOSSIBLE:
        with pytest.raises(ValueError, match=f"^`{name}`"):
            ViTCustomModel.from_pretrained(tmp_path)
    again = ViTCustomModel.from_pretrained(tmp_path, **{name: right} if name in IMPOSSIBLE else {})
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_weights_are_saved_even_where_no_configuration_can_be_written(tmp_path, caplog):
    model = ViTCustomModel(tiny())
    model.config.depths.append("two")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert "has no config.json" in caplog.text


def test_what_trainer_sets_on_every_model_is_not_written(tmp_path):
    config = tiny()
    config.use_cache = False
    config.save_pretrained(tmp_path)
    assert "use_cache" not in (tmp_path / "config.json").read_text()


def test_attentions_asked_for_by_the_configuration_can_be_saved_whatever_the_backend(tmp_path):
    model = ViTCustomModel(tiny(output_attentions=True, attn_implementation="sdpa"))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lables", "labels"),
        ("hiden_sizes", "hidden_sizes"),
        ("depht", "depths"),
        ("abel", None),
        ("label_ids", None),
        ("lr", None),
        ("class_labels", None),
    ],
)
def test_a_near_miss_is_two_edits_away_at_most(word, meant):
    assert near_miss(word, ["labels", "hidden_sizes", "depths"]) == meant
