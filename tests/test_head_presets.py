"""The presets of whole tasks have the published counts: of the papers' code, or of transformers' own models."""

import json

import pytest
import torch
from transformers import CLIPConfig
from transformers import CLIPModel
from transformers import ViTMAEConfig
from transformers import ViTMAEForPreTraining
from transformers import YolosConfig
from transformers import YolosForObjectDetection

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom.configuration_checks import pair
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from tests.support import ROOT

FOLDER = ROOT / "configs/models/heads"
PRESETS = sorted(path.stem for path in FOLDER.glob("*.json"))
# Parameters as the original code counts them, without the ImageNet classifier that Segmenter carries along unused, and
# without the sine and cosine table that MAE's decoder holds; GMACs with the digits that are published.
PUBLISHED = {
    "segmenter_tiny_patch16_512": (6_713_388, "12.64"),
    "segmenter_small_patch16_512": (26_033_964, "38.40"),
    "segmenter_base_patch16_512": (102_497_580, "129.29"),
    "segmenter_large_patch16_640": (333_234_476, "671.07"),
    "segmenter_base_patch8_linear_512": (88_466_838, "658.44"),
    "yolos_tiny": (6_488_736, None),
    "yolos_small": (30_684_768, None),
    "yolos_base": (127_798_368, None),
    "mae_vit_base_patch16_224": (111_907_840 - 197 * 512, "9.7811"),
    "mae_vit_large_patch16_224": (329_541_888 - 197 * 512, "20.7558"),
    "mae_vit_huge_patch14_224": (657_074_508 - 257 * 512, "48.5619"),
    "clip_vit_base_patch32_224": (151_277_313, None),
    "clip_vit_base_patch16_224": (149_620_737, None),
    "clip_vit_large_patch14_224": (427_616_513, None),
    "clip_vit_large_patch14_336": (427_944_193, None),
}


def build(name: str) -> torch.nn.Module:
    path = FOLDER / f"{name}.json"
    settings = json.loads(path.read_text())
    dual = settings["model_type"] == ViTCustomDualEncoderConfig.model_type
    config = (ViTCustomDualEncoderConfig if dual else ViTCustomConfig).from_pretrained(path)
    with torch.device("meta"):
        return getattr(modeling_vit_custom, settings["architectures"][0])(config).eval()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_of_a_task_has_the_published_counts(name):
    parameters, macs = PUBLISHED.get(name, (None, None))
    model = build(name)
    assert parameters in (None, count_parameters(model))
    if macs is not None:
        shape = model.config.num_channels, *pair(model.config.image_size)
        counted = count_macs(model, 1, *shape) / 1e9
        if name.startswith("mae"):  # theirs predicts pixels for the class token too, and drops them
            counted += model.pixel_decoder.prediction.weight.numel() / 1e9
        assert f"{counted:.{len(macs.split('.')[1])}f}" == macs


def test_every_published_count_has_its_preset():
    assert PUBLISHED.keys() < set(PRESETS)


THEIRS = {
    "yolos_tiny": lambda: YolosForObjectDetection(
        YolosConfig(
            **dict(hidden_size=192, num_attention_heads=3, intermediate_size=768, image_size=[800, 1333]),
            use_mid_position_embeddings=False,
            num_labels=91,
        )
    ),
    "mae_vit_base_patch16_224": lambda: ViTMAEForPreTraining(ViTMAEConfig()),
    "clip_vit_base_patch32_224": lambda: CLIPModel(CLIPConfig()),
}


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_own_model_is_as_large(name):
    with torch.device("meta"):
        theirs = THEIRS[name]()
    table = theirs.decoder.decoder_pos_embed.numel() if name.startswith("mae") else 0
    assert count_parameters(build(name)) == theirs.num_parameters() - table
