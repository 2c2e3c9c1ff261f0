"""Parity: our model with another library's weights is that library's model. No network, random weights."""

import pytest
import timm
import torch
import transformers
from packaging import version
from safetensors.torch import load_file

from modeling_vit_custom.conversion import from_timm
from modeling_vit_custom.conversion import from_transformers
from modeling_vit_custom.conversion import timm_vit
from modeling_vit_custom.conversion import transformers_vit
from tests.support import fill
from tests.support import formula
from tests.support import picture

# float64: the bound of the project. float32: relative to the largest value.
BOUNDS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]

TIMM = {
    "plain": {},
    "layer scale, qk norm": dict(init_values=0.1, qk_norm=True),
    "mean pooling": dict(class_token=False, global_pool="avg"),
    "no bias, tanh": dict(qkv_bias=False, act_layer="gelu_tanh"),
    "relu, wide": dict(act_layer="relu", mlp_ratio=3),
    "positions on the grid only": dict(no_embed_class=True),
    "quick gelu": dict(act_layer="quick_gelu"),
}


def timm_model(dtype, img_size=32, **changes):
    settings = dict(img_size=img_size, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=7)
    model = timm.models.VisionTransformer(**settings | changes | dict(dynamic_img_size=True))
    return fill(model).to(dtype)


def transformers_model(dtype, make=transformers.ViTForImageClassification, **changes):
    settings = dict(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
    # Its eager softmax is in float32 whatever the model is, so float64 parity exists under SDPA alone.
    config = transformers.ViTConfig(
        **settings | dict(intermediate_size=96, id2label=dict(enumerate("abcdefg"))) | changes
    )
    config._attn_implementation = "sdpa"
    return fill(make(config)).to(dtype)


def pixels(dtype, height=32, width=32):
    return picture(3, 3, height, width, dtype=dtype).requires_grad_()


def scalar(logits):
    return (logits * formula("scalar", logits.shape)).sum()


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_gradients_agree(theirs, ours, convert, inputs, bound):
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    converted, own = convert(gradients), {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert converted.keys() == own.keys()
    # Within the largest gradient of the model: that of the key's bias is zero but for rounding.
    largest = max(gradient.abs().max() for gradient in converted.values())
    for name, gradient in converted.items():
        assert (own[name] - gradient).abs().max() <= bound * largest, name
    assert relative(inputs[1].grad, inputs[0].grad) <= bound


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@pytest.mark.parametrize("name", TIMM)
def test_logits_hidden_states_and_gradients_are_timms(name, dtype, bound):
    theirs = timm_model(dtype, **TIMM[name])
    ours = from_timm(theirs).eval()
    inputs = pixels(dtype), pixels(dtype)
    intermediates = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda module, arguments, output: intermediates.append(output))
    expected, output = theirs(inputs[0]), ours(inputs[1], output_hidden_states=True)
    assert relative(output.logits, expected) <= bound
    for hidden_states, intermediate in zip(output.hidden_states[1:], intermediates, strict=True):
        assert relative(hidden_states, intermediate) <= bound
    scalar(expected).backward()
    scalar(output.logits).backward()
    assert_gradients_agree(theirs, ours, timm_vit.convert_state_dict, inputs, bound)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@pytest.mark.parametrize("changes", [{}, dict(qkv_bias=False, hidden_act="relu"), dict(image_size=24)], ids=str)
def test_logits_hidden_states_and_gradients_are_transformers(changes, dtype, bound):
    theirs = transformers_model(dtype, **changes)
    ours = from_transformers(theirs).eval()
    side = theirs.config.image_size
    inputs = pixels(dtype, side, side), pixels(dtype, side, side)
    expected, output = (model(x, output_hidden_states=True) for model, x in zip((theirs, ours), inputs, strict=True))
    assert relative(output.logits, expected.logits) <= bound
    for hidden_states, intermediate in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert relative(hidden_states, intermediate) <= bound
    scalar(expected.logits).backward()
    scalar(output.logits).backward()
    assert_gradients_agree(theirs, ours, transformers_vit.convert_state_dict, inputs, bound)


def test_the_bare_model_is_transformers_but_for_its_random_pooler():
    theirs = transformers_model(torch.float64, transformers.ViTModel)
    ours = from_transformers(theirs).eval()
    expected, output = theirs(pixels(torch.float64)), ours(pixels(torch.float64))
    assert relative(output.last_hidden_state, expected.last_hidden_state) <= 1e-9
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


@pytest.mark.parametrize("size", [(48, 48), (40, 64), (16, 24)], ids=str)
def test_other_sizes_are_timms(size):
    """timm resamples positions with antialiasing, in float32 whatever the model is; our conversion says so."""
    theirs, inputs = timm_model(torch.float32), pixels(torch.float32, *size)
    assert relative(from_timm(theirs).eval()(inputs).logits, theirs(inputs)) <= 1e-5


@pytest.mark.parametrize("size", [(48, 48), (64, 64), (16, 16)], ids=str)
def test_other_sizes_are_transformers(size):
    theirs, inputs = transformers_model(torch.float64), pixels(torch.float64, *size)
    expected = theirs(inputs, interpolate_pos_encoding=True).logits
    assert relative(from_transformers(theirs).eval()(inputs).logits, expected) <= 1e-9


def test_both_spellings_of_transformers_give_the_same_tensors(tmp_path):
    """On disk and on the Hub `encoder.layer.N.attention.attention.query`, in memory `layers.N.attention.q_proj`."""
    theirs = transformers_model(torch.float32)
    theirs.save_pretrained(tmp_path)
    on_disk, in_memory = load_file(tmp_path / "model.safetensors"), theirs.state_dict()
    assert "vit.encoder.layer.0.attention.attention.query.weight" in on_disk
    if version.parse(transformers.__version__) >= version.parse("5.9"):
        assert "vit.layers.0.attention.q_proj.weight" in in_memory
    first, second = map(transformers_vit.convert_state_dict, (on_disk, in_memory))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_what_a_table_does_not_name_is_refused_by_name():
    theirs = timm_model(torch.float32, pre_norm=True)
    with pytest.raises(ValueError, match=r"norm_pre\.bias, norm_pre\.weight"):
        from_timm(theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pool_include_prefix=True, global_pool="avg"), "pool_include_prefix=True"),
        (dict(global_pool="map"), "global_pool='map'"),
        (dict(reg_tokens=2), "register tokens"),
        (dict(proj_drop_rate=0.1), "proj_drop"),
        (dict(block_fn=timm.models.vision_transformer.ResPostBlock), "blocks of the kind ResPostBlock"),
        (dict(act_layer="hard_swish"), "has no counterpart here"),
    ],
    ids=str,
)
def test_what_a_conversion_would_lose_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_timm(timm_model(torch.float32, **changes))


def test_the_rates_and_labels_of_a_source_come_along():
    rates = dict(drop_path_rate=0.3, pos_drop_rate=0.2, attn_drop_rate=0.1)
    config = from_timm(timm_model(torch.float32, **rates)).config
    assert config.drop_path_rate == pytest.approx(0.3)
    assert (config.embeddings_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.1)
    settings = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1, problem_type="regression")
    config = from_transformers(transformers_model(torch.float32, **settings, id2label={0: "a", 1: "b"})).config
    assert (config.hidden_dropout_prob, config.embeddings_dropout_prob) == (0.2, 0.2)
    assert (config.attention_probs_dropout_prob, config.problem_type) == (0.1, "regression")
    assert config.id2label == {0: "a", 1: "b"}


def test_a_model_without_a_final_norm():
    theirs = timm_model(torch.float64, final_norm=False)
    assert relative(from_timm(theirs).eval()(pixels(torch.float64)).logits, theirs(pixels(torch.float64))) <= 1e-9


def test_a_source_of_another_shape_gets_the_two_sided_list():
    theirs = transformers_model(torch.float32)
    theirs.classifier = torch.nn.Linear(48, 9, bias=False)
    with pytest.raises(
        ValueError, match=r"(?s)missing from the source: classifier.bias.*\(9, 48\) in the source, \(7, 48\)"
    ):
        from_transformers(theirs)
