"""Every preset builds with exactly the parameters and multiply-accumulates of an independent implementation."""

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
import timm
import torch

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.configuration_checks import pair
from modeling_vit_custom.conversion.timm_sources import source_of
from modeling_vit_custom.inspection import Run
from modeling_vit_custom.inspection import cost
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from modeling_vit_custom.inspection import total
from tests.support import PRESETS
from tests.support import ROOT
from tests.support import often

GOLDEN = json.loads((ROOT / "tests/golden/presets.json").read_text())
# Published counts (parameters, and GMACs with the digits that they are published with), a second witness beside the
# golden file; the tables of the papers and of timm, None where these are silent.
PUBLISHED = {
    "vit_tiny_patch16_224": (5_717_416, "1.2537"),
    "vit_small_patch32_224": (22_878_952, "1.1429"),
    "vit_small_patch16_224": (22_050_664, "4.5989"),
    "vit_base_patch32_224": (88_224_232, "4.4092"),
    "vit_base_patch16_224": (86_567_656, "17.5638"),
    "vit_base_patch16_384": (86_859_496, "55.4844"),
    "vit_large_patch16_224": (304_326_632, "61.5547"),
    "vit_large_patch16_384": (304_715_752, "191.0663"),
    "vit_large_patch32_224": (305_510_400, "15.3765"),
    "vit_huge_patch14_224": (630_764_800, "167.2938"),
    "tutorial_vit": (66_918_154, "13.8448"),
    "flexivit_base": (86_589_160, "20.2701"),
    "deit_tiny_patch16_224": (5_717_416, "1.2537"),
    "deit_small_patch16_224": (22_050_664, "4.5989"),
    "deit_base_patch16_224": (86_567_656, "17.5638"),
    "deit_base_patch16_384": (86_859_496, "55.4844"),
    "deit_tiny_distilled_patch16_224": (5_910_800, "1.2610"),
    "deit_small_distilled_patch16_224": (22_436_432, "4.6241"),
    "deit_base_distilled_patch16_224": (87_338_192, "17.6568"),
    "deit_base_distilled_patch16_384": (87_630_032, "55.5913"),
    "deit3_small_patch16_224": (22_059_496, "4.5989"),
    "deit3_medium_patch16_224": (38_849_512, "7.9910"),
    "deit3_base_patch16_224": (86_585_320, "17.5638"),
    "deit3_large_patch16_224": (304_374_760, "61.5547"),
    "deit3_huge_patch14_224": (632_126_440, "167.2951"),
    "swin_tiny_patch4_window7_224": (28_288_354, "4.4906"),
    "swin_small_patch4_window7_224": (49_606_258, "8.7409"),
    "swin_base_patch4_window7_224": (87_768_224, "15.4309"),
    "swin_base_patch4_window12_384": (87_903_584, "47.0831"),
    "swin_large_patch4_window7_224": (196_532_476, "34.4758"),
    "swin_large_patch4_window12_384": (196_735_516, "103.9191"),
    "pit_ti_224": (4_847_272, "0.6991"),
    "pit_xs_224": (10_618_888, "1.3947"),
    "pit_s_224": (23_461_912, "2.8708"),
    "pit_b_224": (73_764_840, "12.4019"),
    "pit_ti_distilled_224": (5_104_336, None),
    "pit_xs_distilled_224": (11_003_984, None),
    "pit_s_distilled_224": (24_039_056, None),
    "pit_b_distilled_224": (74_790_096, None),
    "vit_small_patch14_dinov2": (22_056_192, None),
    "vit_base_patch14_dinov2": (86_579_712, None),
    "vit_large_patch14_dinov2": (304_367_616, None),
    "vit_giant_patch14_dinov2": (1_136_479_232, None),
    "vit_small_patch16_dinov3": (21_586_944, "6.245"),
    "vit_small_plus_patch16_dinov3": (28_683_264, "8.093"),
    "vit_base_patch16_dinov3": (85_641_216, "23.57"),
    "vit_large_patch16_dinov3": (303_079_424, "82.37"),
    "vit_huge_plus_patch16_dinov3": (840_509_440, "224.8"),
    "vit_7b_patch16_dinov3": (6_716_030_976, "1774.7"),
    "vit_base_patch32_clip_quickgelu_224": (None, "4.41"),
    "vit_base_patch16_clip_quickgelu_224": (None, "17.56"),
    "vit_large_patch14_clip_quickgelu_224": (None, "81.01"),
    "vit_large_patch14_clip_quickgelu_336": (None, "190.96"),
}
# Where timm has the model under another name, and what makes it the published one.
TIMM = {
    "*_mae": dict(num_classes=0),
    "*dinov3*": dict(num_classes=0, global_pool="token"),
    "*clip*": dict(num_classes=0),
    "*big_vision": dict(class_token=False, global_pool="avg", fc_norm=False, pos_embed="none"),
}
# The fields in which a preset follows its authors' code where timm's port does otherwise.
CONSTANT = {"drop_path_schedule": "constant"}
DIFFERS = {
    "deit*": {"position_interpolation": "bicubic"},
    "deit3*": CONSTANT | {"layer_scale_init_value": 1e-4},
    "swin*": {"window_pad_order": "pad_then_shift", "window_clamp": "joint"},
    "*patch14_dinov2": CONSTANT | {"position_interpolation": "bicubic_offset"},
    "*reg4_dinov2": CONSTANT | {"num_prefix_positions": 1},
    "*dinov3*": CONSTANT,
    "*clip*": {"position_interpolation": "bicubic", "final_norm": "pooled"},
    "*_mae": {"position_interpolation": "bicubic"},
    "flexivit*": {"position_interpolation": "bilinear_antialias", "hidden_act": "gelu_pytorch_tanh"},
    "*big_vision": {
        "position_embedding": "sincos",
        "position_interpolation": "bilinear_antialias",
        "hidden_act": "gelu_pytorch_tanh",
        "head_hidden_size": 384,
    },
}
presets = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
ONE_OF_EACH = """deit3_small_patch16_224 deit_tiny_distilled_patch16_224 flexivit_base pit_ti_distilled_224 tutorial_vit
    swin_tiny_patch4_window7_224 vit_base_patch32_clip_quickgelu_224 vit_small_patch14_reg4_dinov2
    vit_small_patch16_224_big_vision vit_small_patch16_dinov3 vit_tiny_patch16_224""".split()


def matching(table: dict[str, dict], name: str) -> dict:
    """The entries of all patterns that fit a name, those of later ones first in rank."""
    return {key: value for pattern, row in table.items() if fnmatch(name, pattern) for key, value in row.items()}


def test_there_is_a_golden_count_for_every_preset_and_no_other():
    assert {preset.stem for preset in PRESETS} == GOLDEN.keys() >= PUBLISHED.keys()


@presets
def test_counts(preset: Path):
    config = ViTCustomConfig.from_pretrained(preset)
    config._attn_implementation = "eager"  # all its products are counted on every device
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    golden = GOLDEN[preset.stem]["parameters"], GOLDEN[preset.stem]["macs"]
    assert (count_parameters(model), count_macs(model, 1, 3, *pair(config.image_size))) == golden
    assert (total(cost(config)).parameters, total(cost(config)).macs) == golden


@pytest.mark.parametrize("name", often(GOLDEN, ONE_OF_EACH))
def test_the_cost_model_at_sides_that_no_patch_no_merge_and_no_window_divides(name: str):
    """One of them is below a window."""
    config = ViTCustomConfig.from_pretrained(PRESETS[0].parent / f"{name}.json")
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    assert total(cost(config, (50, 233), Run(batch_size=3))).macs == count_macs(model, 3, 3, 50, 233)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_counts(name: str):
    parameters, gmacs = PUBLISHED[name]
    digits = len(gmacs.split(".")[1]) if gmacs else 0
    assert parameters in (None, GOLDEN[name]["parameters"])
    assert gmacs in (None, f"{GOLDEN[name]['macs'] / 1e9:.{digits}f}")


def settled(config: ViTCustomConfig) -> dict:
    """Every setting with its defaults worked out, so that two spellings of one model are equal."""
    settings = config.to_dict()
    for name in ("mlp_ratio", "intermediate_size", "drop_path_rate"):
        del settings[name]
    return settings | dict(
        image_size=pair(config.image_size),
        patch_size=pair(config.patch_size),
        patch_stride=pair(config.patch_stride or config.patch_size),
        qkv_bias=config.qkv_biases,
        num_prefix_positions=config.num_positioned_prefix_tokens,
        widths=[(stage.hidden_size, stage.intermediate_size) for stage in config.stages],
    )


@pytest.mark.parametrize(
    "preset", [preset for preset in PRESETS if "tutorial" not in preset.stem], ids=lambda p: p.stem
)
def test_a_preset_is_timms_model_in_all_that_a_count_does_not_see(preset: Path):
    """Heads, activation, eps, bias, positions: what the conversion reads off timm's model, and where it differs."""
    name = preset.stem.removesuffix("_mae").removesuffix("_big_vision")
    with torch.device("meta"):
        model = timm.create_model(name, **matching(TIMM, preset.stem))
    theirs = settled(source_of(model).convert(model, {}))
    ours = settled(ViTCustomConfig.from_pretrained(preset))
    assert {key: value for key, value in ours.items() if value != theirs[key]} == matching(DIFFERS, preset.stem)


@presets
def test_a_preset_is_a_config_json_that_sets_fields_only(preset: Path):
    settings = json.loads(preset.read_text())
    written = ViTCustomConfig.from_pretrained(preset).to_dict()
    num_labels = settings.pop("num_labels")
    assert num_labels == len(written["id2label"])
    assert {key: written[key] for key in settings} == settings
