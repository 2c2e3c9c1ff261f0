"""Parity: our model with timm's weights is timm's model, and goes back to it bit for bit. No network."""

import json

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.layers import SwiGLU
from timm.models._hub import save_for_hf
from torch import nn

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion import timm_sources
from modeling_vit_custom.conversion.equal_configs import differing
from modeling_vit_custom.conversion.equal_configs import lost_in_training
from modeling_vit_custom.conversion.rename import choose
from modeling_vit_custom.conversion.rename import into_ours
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.conversion.rename import load
from modeling_vit_custom.conversion.sources import Checkpoint
from modeling_vit_custom.conversion.timm_sources import from_timm
from modeling_vit_custom.conversion.timm_sources import source_of
from modeling_vit_custom.conversion.timm_sources import to_timm
from modeling_vit_custom.conversion.trace import trace_ours
from modeling_vit_custom.modeling_geometry import rotary_positions
from tests.support import PRESETS
from tests.support import fill
from tests.support import formula
from tests.support import picture

# float64: the bound of the project. float32: relative to the largest value.
BOUNDS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
SMALL = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=7)
SWIN = dict(embed_dim=8, num_heads=(1, 2, 4, 8), num_classes=7)  # depths, windows and sizes are the member's own
PIT = dict(img_size=120, base_dims=(8, 8, 8), num_classes=7)
# An architecture of timm, for its switches, and what makes it small.
VITS = {
    "vit": ("vit_base_patch16_224", {}),
    "vit, layer scale, qk norm": ("vit_base_patch16_224", dict(init_values=0.1, qk_norm=True)),
    "vit, mean pooling": ("vit_base_patch16_224", dict(class_token=False, global_pool="avg")),
    "vit, no bias, tanh": ("vit_base_patch16_224", dict(qkv_bias=False, act_layer="gelu_tanh")),
    "vit, relu, wide": ("vit_base_patch16_224", dict(act_layer="relu", mlp_ratio=3)),
    "vit, no final norm": ("vit_base_patch16_224", dict(final_norm=False)),
    "vit, no positions": ("vit_base_patch16_224", dict(pos_embed="none")),
    "vit, oblong": ("vit_base_patch16_224", dict(img_size=(24, 40), patch_size=(8, 4))),
    "mae": ("vit_base_patch16_224.mae", dict(num_classes=0)),
    "flexivit": ("flexivit_base", {}),
    "deit": ("deit_small_patch16_224", {}),
    "deit, distilled": ("deit_small_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", dict(num_classes=0)),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", dict(num_classes=0)),
    "dinov2, giant": ("vit_giant_patch14_dinov2", dict(num_classes=0)),
    "dinov2, giant, registers": ("vit_giant_patch14_reg4_dinov2", {}),
}
DINOV3 = {
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3, class token": ("vit_small_patch16_dinov3", dict(global_pool="token", num_classes=0)),
    "dinov3, biases": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3, gated": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "dinov3, mean then norm": ("vit_small_patch16_dinov3", dict(use_fc_norm=True)),
}
SWINS = {
    "swin, window 7": ("swin_tiny_patch4_window7_224", {}),
    "swin, window 12": ("swin_base_patch4_window12_384", dict(depths=(2, 2, 6, 2))),
}
PITS = {
    "pit": ("pit_ti_224", {}),
    "pit, patches of 14": ("pit_b_224", dict(img_size=105)),
    "pit, distilled": ("pit_s_distilled_224", dict(heads=(3, 6, 12))),
    "pit, oblong": ("pit_ti_224", dict(img_size=(120, 88))),
}
PLAIN = VITS | DINOV3
ALL = PLAIN | SWINS | PITS


def make(name, dtype=torch.float32, **changes):
    """A small model of timm with weights by formula, stored in float32 as files are."""
    architecture, own = ALL[name]
    small = SMALL | dict(dynamic_img_size=True) if name in PLAIN else SWIN if name in SWINS else PIT
    return fill(timm.create_model(architecture, **small | own | changes)).to(dtype)


def same_tables(model):
    """timm's model with our rotary tables in the place of its own, which are rounded in another order."""
    width = model.embed_dim // model.blocks[0].attn.num_heads

    def get_embed(shape):
        cos, sin = rotary_positions(tuple(shape), width, model.rope.temperature, torch.device("cpu"))
        return torch.cat((sin, cos), dim=-1)

    model.rope.get_embed = get_embed
    return model


def pixels(dtype, height, width):
    return picture(2 if height < 200 else 1, 3, height, width, dtype=dtype).requires_grad_()


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_equal_models(theirs, ours, size, bound, own=True):
    """Embeddings, layers, outputs, and the gradients of pixels and (of `own` tensors) parameters."""
    source, inputs = source_of(theirs), [pixels(next(ours.parameters()).dtype, *size) for _ in range(2)]
    expected, found = source.trace(theirs, inputs[0]), trace_ours(ours, inputs[1])
    assert sum("layers" in name for name in expected) == sum(ours.config.depths)
    assert ("logits" in expected) == (theirs.num_classes > 0)
    assert ("distillation_logits" in expected) == ours.config.distillation_head
    for name, tensor in expected.items():
        assert tensor.shape == found[name].shape, name
        assert relative(found[name], tensor) <= bound, name
    last = list(expected)[-1]
    for trace in (expected, found):
        (trace[last] * formula("scalar", trace[last].shape)).sum().backward()
    assert relative(inputs[1].grad, inputs[0].grad) <= bound
    if own:
        assert_equal_gradients(theirs, ours, bound)


def assert_equal_gradients(theirs, ours, bound):
    table = source_of(theirs).tables(ours.config, theirs.num_classes > 0)["timm"]
    tensors = theirs.state_dict() | {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    converted, _ = into_ours(tensors, table)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    # Within the largest gradient of the model: that of the key's bias is zero but for rounding.
    largest = max(converted[name].abs().max() for name in gradients)
    for name, gradient in gradients.items():
        assert (converted[name] - gradient).abs().max() <= bound * largest, name


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_layers_logits_and_gradients_are_timms(name, dtype, bound):
    theirs = make(name, dtype)
    ours = from_timm(theirs)
    assert next(ours.parameters()).dtype == dtype
    theirs = same_tables(theirs) if name in DINOV3 and dtype == torch.float64 else theirs
    assert_equal_models(theirs, ours, theirs.patch_embed.img_size, bound)


# timm's VisionTransformer and Eva take other sizes with dynamic_img_size=True (whole patches) or after set_input_size.
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@pytest.mark.parametrize("size", [(64, 64), (40, 72), (16, 24)], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_other_sizes_are_timms(name, size, dtype, bound):
    theirs = make(name, dtype)
    ours = from_timm(theirs)
    theirs = same_tables(theirs) if name in DINOV3 and dtype == torch.float64 else theirs
    assert_equal_models(theirs, ours, size, bound, own=False)


# timm's SwinTransformer is built for one size: with strict_img_size=False it takes others, but goes on with the shifts
# of the one that it was built for; set_input_size(size, window_size) makes it what a model built for that size is.
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
@pytest.mark.parametrize("size", [(256, 256), (224, 320)], ids=str)
def test_other_sizes_of_swin_are_those_of_a_timm_model_built_for_them(size, dtype, bound):
    ours, theirs = from_timm(make("swin, window 7", dtype)), make("swin, window 7", dtype, img_size=size)
    assert_equal_models(theirs, ours, size, bound)


def test_a_timm_swin_that_is_resized_is_traced_as_one_built_for_that_size():
    size, source = (224, 288), timm_sources.SOURCES[0]
    resized, built = make("swin, window 7"), make("swin, window 7", img_size=size)
    first, second = (source.trace(model, pixels(torch.float32, *size)) for model in (resized, built))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert resized.patch_embed.img_size == (224, 224)


def test_what_sizes_timm_takes():
    swin, pit, vit = make("swin, window 7"), make("pit"), make("vit")
    accepts = {
        (swin, (224, 224)): True,
        (swin, (256, 320)): True,
        (swin, (196, 196)): True,  # a last grid of 7 x 7, from 49
        (swin, (192, 224)): False,  # of 6 x 7: smaller than a window
        (swin, (226, 224)): False,
        (pit, (120, 120)): True,
        (pit, (128, 120)): False,
        (vit, (40, 72)): True,
        (vit, (41, 72)): False,
    }
    for (model, size), answer in accepts.items():
        assert source_of(model).accepts(model, *size) == answer, (type(model).__name__, size)


def test_rotary_tables_of_timm_are_ours_but_for_rounding():
    """In float32 too: timm divides by wavelengths, transformers and ours multiply by frequencies."""
    theirs = make("dinov3")
    cos, sin = rotary_positions((5, 9), 12, 100.0, torch.device("cpu"))
    assert (theirs.rope.get_embed((5, 9)) - torch.cat((sin, cos), dim=-1)).abs().max() < 2e-6
    theirs = theirs.double()
    assert_equal_models(theirs, from_timm(theirs), (40, 72), 1e-6, own=False)


@pytest.mark.parametrize("name", ALL)
def test_a_round_trip_gives_equal_tensors_and_equal_files(name, tmp_path):
    theirs = make(name)
    ours = from_timm(theirs)
    back = to_timm(ours)
    assert type(back) is type(theirs)
    first, second = theirs.state_dict(), back.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], tensor) for key, tensor in second.items())
    again = from_timm(back)
    assert again.config.to_dict() == ours.config.to_dict()
    for number, model in enumerate((theirs, back)):
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    for number, model in enumerate((ours, again)):
        save_file(model.state_dict(), tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_folders_of_timm_are_read_and_written(name, tmp_path):
    """As timm saves them for the Hub; and what we write as one, timm loads."""
    theirs = make(name)
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    config, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    checkpoint = Checkpoint(config, tensors)
    source = next(source for source in timm_sources.SOURCES if source.recognises(checkpoint))
    assert source is source_of(theirs)
    read, head = source.read_config(checkpoint), source.has_head(checkpoint)
    assert head == (theirs.num_classes > 0)
    in_memory = from_timm(theirs).config
    assert not differing(in_memory, read, head)
    assert not lost_in_training(in_memory, read)
    assert sum(parameter.numel() for parameter in source.build(checkpoint).parameters()) > 0
    written = source.write_config(read, head)
    assert written == json.loads(json.dumps(written))
    (tmp_path / "config.json").write_text(json.dumps(written))
    size = theirs.patch_embed.img_size
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixels(torch.float32, *size)), theirs(pixels(torch.float32, *size)))


# timm's name of a preset, where ours says more than timm does.
RENAMED = {
    "vit_base_patch16_224_mae": "vit_base_patch16_224.mae",
    "vit_large_patch16_224_mae": "vit_large_patch16_224.mae",
}
RENAMED["vit_huge_patch14_224_mae"] = "vit_huge_patch14_224.mae"
FULL = [(preset, RENAMED.get(preset.stem, preset.stem)) for preset in PRESETS]
FULL = [(preset, name) for preset, name in FULL if timm.is_model(name)]


def test_timm_knows_most_presets():
    assert {preset.stem for preset in PRESETS} - {preset.stem for preset, _ in FULL} <= {
        "tutorial_vit",
        "vit_small_patch16_224_big_vision",
    }


@pytest.mark.parametrize(("preset", "name"), FULL, ids=lambda value: getattr(value, "stem", ""))
def test_keys_and_shapes_of_full_size_presets_both_ways(preset, name, monkeypatch):
    monkeypatch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *values: tensor)  # slow, on meta too
    config = ViTCustomConfig.from_pretrained(preset)
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=config.num_labels)
        expected = (ViTCustomForImageClassification if config.num_labels else ViTCustomModel)(config).state_dict()
    ours = from_timm(theirs)
    found = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    if name.endswith("reg4_dinov2"):  # timm adds the class token's position to the token itself, the original holds it
        name_of_table = "embeddings.position_embeddings"
        found[name_of_table] = torch.Size((1, found[name_of_table][1] + 1, config.hidden_size))
    if config.final_norm == "pooled" and ours.config.final_norm == "all":  # CLIP's, which timm puts before its pooling
        found = {key.replace("norm.", "pooled_norm.") if key.startswith("norm.") else key: found[key] for key in found}
    assert found == {key: tensor.shape for key, tensor in expected.items()}
    table = source_of(theirs).tables(ours.config, theirs.num_classes > 0)["timm"]
    back = into_theirs(ours.state_dict(), table)
    assert {key: t.shape for key, t in back.items()} == {key: t.shape for key, t in theirs.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "renames"),
    [
        ("deit3", {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}),
        ("pit, distilled", {"transformers.1.pool.": "pools.0.", "transformers.2.pool.": "pools.1."}),
        (
            "swin, window 7",
            {"head.fc.": "head."} | {f"layers.{s}.downsample": f"layers.{s - 1}.downsample" for s in (1, 2, 3)},
        ),
    ],
    ids=str,
)
def test_both_spellings_of_timms_files_give_the_same_tensors(name, renames):
    theirs = make(name)
    tensors, old = theirs.state_dict(), {}
    for key, tensor in tensors.items():
        for new, other in renames.items():
            if new in key:
                key = key.replace(new, other)
                break
        old[key] = tensor
    assert old.keys() != tensors.keys()
    source, ours = source_of(theirs), from_timm(theirs)
    tables = source.tables(ours.config, head=True)
    assert (choose(tables, old), choose(tables, tensors)) == ("original", "timm")
    model, _ = load(ViTCustomForImageClassification, ours.config, old, tables["original"])
    assert all(torch.equal(tensor, ours.state_dict()[key]) for key, tensor in model.state_dict().items())
    spelled = source.in_timms_names(ours.config, old)
    assert spelled.keys() == tensors.keys()
    assert all(torch.equal(spelled[key], tensor) for key, tensor in tensors.items())


class Norm(nn.LayerNorm):
    def __init__(self, size, **kwargs):
        super().__init__(size, eps=1e-3, **kwargs)


LOST = [
    ("vit", dict(pool_include_prefix=True, global_pool="avg"), "pool_include_prefix=True"),
    ("vit", dict(global_pool="map"), "global_pool='map'"),
    ("vit", dict(proj_drop_rate=0.1), "proj_drop"),
    ("vit", dict(drop_rate=0.1), "drop_rate"),
    ("vit", dict(patch_drop_rate=0.1), "patch_drop_rate"),
    ("vit", dict(block_fn=timm.models.vision_transformer.ResPostBlock), "blocks of the kind ResPostBlock"),
    ("vit", dict(attn_layer="diff"), "attention of the kind DiffAttention"),
    ("vit", dict(mlp_layer=SwiGLU), "a feed-forward of the kind SwiGLU"),
    ("vit", dict(scale_attn_norm=True), "scale_attn_norm"),
    ("vit", dict(scale_mlp_norm=True), "scale_mlp_norm"),
    ("vit", dict(proj_bias=False), "an output projection without bias"),
    ("vit", dict(act_layer="hard_swish"), "has no counterpart here"),
    ("vit", dict(norm_layer="rmsnorm"), "norms of the kind RmsNorm"),
    ("vit", dict(embed_norm_layer="layernorm"), "embed_norm_layer"),
    ("vit", dict(dynamic_img_pad=True), "dynamic_img_pad=True"),
    ("deit, distilled", dict(fc_norm=True), "fc_norm=True"),
    ("dinov3", dict(rope_rotate_half=False), "interleaved rotary positions"),
    ("dinov3", dict(rope_type="cat"), "rotary positions of the kind RotaryEmbeddingCat"),
    ("dinov3", dict(use_abs_pos_emb=True), "learned positions beside the rotary ones"),
    ("dinov3", dict(use_fc_norm=True, use_post_transformer_norm=True), "two final norms"),
    ("dinov3", dict(rope_jitter_coords=2.0), "rotary positions with jitter_coords"),
    ("dinov3", dict(rope_grid_indexing="xy"), "rotary positions on another grid"),
    ("dinov3", dict(qkv_fused=False), "qkv_fused=False"),
    ("dinov3", dict(attn_type="rope"), "attention of the kind AttentionRope"),
    ("dinov3", dict(scale_mlp=True), "scale_mlp_norm"),
    ("dinov3, gated", dict(swiglu_align_to=0), "a feed-forward of the kind GluMlp"),
    ("dinov3", dict(attn_only_layer_scale=True), "attn_only_layer_scale=True"),
    ("swin, window 7", dict(always_partition=True), "always_partition=True"),
    ("swin, window 7", dict(global_pool="max"), "global_pool='max'"),
    ("swin, window 7", dict(mlp_ratio=(4, 4, 4, 2)), "feed-forwards of several widths"),
    ("swin, window 7", dict(norm_layer=Norm), "another eps than 1e-5"),
    ("swin, window 7", dict(head_dim=16), "heads whose widths do not add up"),
    ("pit", dict(global_pool=""), "global_pool=''"),
    ("pit", dict(pos_drop_rate=0.1), "pos_drop_rate"),
]


@pytest.mark.parametrize(("name", "changes", "message"), LOST, ids=str)
def test_what_a_conversion_would_lose_is_refused(name, changes, message):
    architecture, own = ALL[name]
    small = SMALL if name in PLAIN else SWIN if name in SWINS else PIT
    with pytest.raises(ValueError, match=message):
        from_timm(timm.create_model(architecture, **small | own | changes))


def test_drop_path_that_is_neither_linear_nor_constant_is_refused():
    theirs = make("vit", drop_path_rate=0.2)
    theirs.blocks[1].drop_path1.drop_prob = 0.15
    with pytest.raises(ValueError, match="neither linear nor constant"):
        from_timm(theirs)


def test_windows_that_timm_has_shrunk_get_the_two_sided_report():
    """For 112 pixels the last grids are 7 and 4 wide: timm holds smaller tables for those windows."""
    with pytest.raises(ValueError, match=r"relative_position_bias_table: \(49, 8\) in the source, \(169, 8\) in the m"):
        from_timm(make("swin, window 7", img_size=112))


def test_tensors_that_no_row_names_are_refused_by_name():
    theirs = make("vit")
    theirs.extra = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"in the source, not in the model: extra"):
        from_timm(theirs)


def test_other_classes_of_timm_are_refused_by_name():
    theirs = timm.create_model("beit_base_patch16_224", img_size=32, embed_dim=48, depth=1, num_heads=4)
    with pytest.raises(ValueError, match=r"no conversion of timm's Beit: use a model of SwinTransformer, Pooling"):
        from_timm(theirs)
    with pytest.raises(ValueError, match=r"timm-vit reads timm's VisionTransformer .* not SwinTransformer"):
        timm_sources.SOURCES[3].convert(make("swin, window 7"), {})


@pytest.mark.parametrize("name", ["vit", "dinov3", "swin, window 7", "pit"])
def test_rates_come_along(name):
    rates = dict(drop_path_rate=0.3, attn_drop_rate=0.1) | (dict(pos_drop_rate=0.2) if name in PLAIN else {})
    config = from_timm(make(name, **rates)).config
    assert (config.drop_path_rate, config.drop_path_schedule) == (0.3, "linear")
    assert config.attention_probs_dropout_prob == 0.1
    assert config.embeddings_dropout_prob == (0.2 if name in PLAIN else 0.0)


def test_labels_come_along():
    settings = {name: value for name, value in SMALL.items() if name != "num_classes"}
    config = {"architecture": "vit_base_patch16_224", "num_classes": 7, "model_args": settings}
    config["pretrained_cfg"] = {"num_classes": 1000, "label_names": [*"abcdefg"]}  # of the file it was trained from
    source = timm_sources.SOURCES[3]
    ours = source.read_config(Checkpoint(config, {}))
    assert source.read_config(Checkpoint(config | {"pretrained_cfg": {"num_classes": 1000}}, {})).num_labels == 7
    assert (ours.id2label, ours.label2id["c"]) == (dict(enumerate("abcdefg")), 2)
    assert source.write_config(ours, head=True)["pretrained_cfg"]["label_names"] == [*"abcdefg"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(position_interpolation="bicubic"), r"`position_interpolation` 'bicubic' \(only 'bicubic_antialias'\)"),
        (dict(layer_norm_eps=1e-12), r"`layer_norm_eps` 1e-12 \(only 1e-06\)"),
        (dict(prefix_tokens=["cls", "register"], num_prefix_positions=1), "`num_prefix_positions` 1"),
        (dict(norm_placement="post"), "`norm_placement` 'post'"),
        (dict(window_size=7, prefix_tokens=[], position_embedding="none", pooling="mean"), "timm-swin cannot hold"),
    ],
    ids=str,
)
def test_what_timm_cannot_hold_is_refused_by_name(changes, message):
    settings = dict(image_size=32, patch_size=8, hidden_sizes=[48], depths=[2], num_attention_heads=[4])
    config = ViTCustomConfig(**settings | dict(position_interpolation="bicubic_antialias") | changes)
    with pytest.raises(ValueError, match=message):
        to_timm(ViTCustomModel(config))


def test_image_processors_say_what_timm_does_to_a_picture():
    said = dict(input_size=[3, 224, 224], crop_pct=0.9, interpolation="bicubic", mean=[0.5] * 3, std=[0.25] * 3)
    source = timm_sources.SOURCES[3]
    settings = source.read_processor(Checkpoint({"architecture": "vit_base_patch16_224", "pretrained_cfg": said}, {}))
    assert settings["size"] == {"shortest_edge": 248}  # floor(224 / 0.9)
    assert settings["crop_size"] == {"height": 224, "width": 224}
    assert (settings["resample"], settings["image_mean"], settings["image_std"]) == (3, [0.5] * 3, [0.25] * 3)
    squash = source.read_processor(Checkpoint({"pretrained_cfg": said | dict(crop_pct=1.0, crop_mode="squash")}, {}))
    assert (squash["size"], squash["do_center_crop"]) == ({"height": 224, "width": 224}, False)
    border = Checkpoint({"pretrained_cfg": said | dict(crop_mode="border")}, {})
    assert source.read_processor(border) is None
    assert "border" in source.notes(border)[-1]
    written = source.with_processor({"pretrained_cfg": {"input_size": [3, 224, 224]}}, settings)["pretrained_cfg"]
    assert source.read_processor(Checkpoint({"pretrained_cfg": written}, {})) == settings


@pytest.mark.parametrize(
    "changes", [{}, dict(crop_mode="squash"), dict(crop_pct=1.0, interpolation="bilinear")], ids=str
)
def test_a_real_picture_comes_out_as_timm_makes_it(changes):
    """But for one grey level, where transformers resizes with torch and timm with PIL; and the side of an odd rest."""
    data = dict(input_size=(3, 224, 224), crop_pct=0.9, crop_mode="center", interpolation="bicubic")
    data |= dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)) | changes
    settings = timm_sources.SOURCES[3].read_processor(Checkpoint({"pretrained_cfg": data}, {}))
    processor = getattr(transformers, settings["image_processor_type"]).from_dict(settings)
    photograph = Image.fromarray(load_sample_image("china.jpg")).crop((0, 0, 610, 427))
    theirs = timm.data.create_transform(**data)(photograph)
    ours = processor(photograph, return_tensors="pt")["pixel_values"][0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1.01 / 255 / 0.224
    assert (ours - theirs).abs().mean() < 5e-3
