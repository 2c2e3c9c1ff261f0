"""Parity of every preset up to the base size with the same model in transformers and timm, at equal random weights.

Too heavy for every run: `make test-matrix` runs it and writes the differences into docs/parity.md.
"""

import json

import pytest
import torch

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion import as_in
from modeling_vit_custom.conversion.certificate import differences
from modeling_vit_custom.conversion.parity import largest
from modeling_vit_custom.conversion.returning import as_new
from tests.support import PRESETS
from tests.support import ROOT

pytestmark = pytest.mark.full_size
LARGEST = 110_000_000  # parameters: the base size of every family


SIZES = json.loads((ROOT / "tests/golden/presets.json").read_text())
UP_TO_BASE = [preset for preset in PRESETS if SIZES[preset.stem]["parameters"] <= LARGEST]


@pytest.mark.parametrize("library", ["transformers", "timm"])
@pytest.mark.parametrize("preset", UP_TO_BASE, ids=lambda preset: preset.stem)
def test_a_full_size_preset_is_the_model_of_another_library(preset, library, record_property):
    config = ViTCustomConfig.from_pretrained(preset)
    head = config.num_labels > 0
    try:
        source, config = as_in(config, library, head)
    except ValueError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model = (ViTCustomForImageClassification if head else ViTCustomModel)(config)
    with torch.no_grad():
        for parameter in model.parameters():  # attention far from uniform, norms and biases that act
            parameter.add_(torch.randn_like(parameter) * 0.05)
    checkpoint = as_new(config, head, model.state_dict(), source.name, None, None)[1]
    found, why = differences(model, config, checkpoint, source)  # raises beyond the bars
    assert found, why
    other = "yes" if all(by_size["other"] for by_size in found.values()) else "native size only"
    record_property("parity", (preset.stem, source.name, other, largest(found)))
