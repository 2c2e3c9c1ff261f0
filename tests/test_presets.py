"""Every preset builds with exactly the parameters and multiply-accumulates of an independent implementation."""

import json
from pathlib import Path

import pytest
import timm
import torch

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.configuration_vit_custom import pair
from modeling_vit_custom.conversion.timm_vit import convert_config
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from tests.support import PRESETS
from tests.support import ROOT

GOLDEN = json.loads((ROOT / "tests/golden/presets.json").read_text())
# The papers' published counts (parameters, and GMACs of the closed form), a second witness beside the golden file.
PUBLISHED = {
    "vit_tiny_patch16_224": (5_717_416, 1.2537),
    "vit_small_patch32_224": (22_878_952, 1.1429),
    "vit_small_patch16_224": (22_050_664, 4.5989),
    "vit_base_patch32_224": (88_224_232, 4.4092),
    "vit_base_patch16_224": (86_567_656, 17.5638),
    "vit_base_patch16_384": (86_859_496, 55.4844),
    "vit_large_patch16_224": (304_326_632, 61.5547),
    "vit_large_patch16_384": (304_715_752, 191.0663),
    "vit_large_patch32_224": (305_510_400, 15.3765),
    "vit_huge_patch14_224": (630_764_800, 167.2938),
    "tutorial_vit": (66_918_154, 13.8448),
}


def test_there_is_a_golden_count_for_every_preset_and_no_other():
    assert {preset.stem for preset in PRESETS} == GOLDEN.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_counts(preset: Path):
    config = ViTCustomConfig.from_pretrained(preset)
    config._attn_implementation = "eager"  # all its products are counted on every device
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    assert count_parameters(model) == GOLDEN[preset.stem]["parameters"]
    assert count_macs(model, 1, 3, *pair(config.image_size)) == GOLDEN[preset.stem]["macs"]
    parameters, gmacs = PUBLISHED[preset.stem]
    assert (count_parameters(model), round(GOLDEN[preset.stem]["macs"] / 1e9, 4)) == (parameters, gmacs)


@pytest.mark.parametrize(
    "preset", [preset for preset in PRESETS if "tutorial" not in preset.stem], ids=lambda p: p.stem
)
def test_a_preset_is_timms_model_in_all_that_a_count_does_not_see(preset: Path):
    """Heads, activation, eps, bias, positions: what `from_timm` reads off timm's model of the same name."""
    with torch.device("meta"):
        theirs = convert_config(timm.create_model(preset.stem)).to_dict()
    ours = ViTCustomConfig.from_pretrained(preset).to_dict()
    side = ours["image_size"]
    ours |= dict(image_size=[side, side], patch_size=[ours["patch_size"]] * 2, num_prefix_positions=1)
    ours |= dict(intermediate_size=int(ours["hidden_sizes"][0] * ours["mlp_ratio"]))
    assert ours == theirs


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_preset_is_a_config_json_that_sets_fields_only(preset: Path):
    settings = json.loads(preset.read_text())
    written = ViTCustomConfig.from_pretrained(preset).to_dict()
    num_labels = settings.pop("num_labels")
    assert num_labels == len(written["id2label"])
    assert {key: written[key] for key in settings} == settings
