"""Presets by their names: in a checkout, in a wheel, in recipes; and not with a checkpoint's code."""

import json
import re

import pytest
import torch
import yaml

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import list_presets
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train
from modeling_vit_custom.training.data import DATASETS
from modeling_vit_custom.training.run import new_model
from modeling_vit_custom.training.tasks import TASKS
from tests.forking import stranger
from tests.support import PRESETS
from tests.support import ROOT
from tests.support import tiny

HEADS = sorted((ROOT / "configs/models/heads").glob("*.json"))
FILES = {path.stem: path for path in (*PRESETS, *HEADS)}


def test_every_file_is_a_preset_and_a_pattern_chooses_some():
    assert list_presets() == sorted(FILES)
    assert list_presets("swin*") == sorted(name for name in FILES if name.startswith("swin"))
    assert list_presets("*_384") == sorted(name for name in FILES if name.endswith("_384"))
    assert list_presets("no_such*") == []


@pytest.mark.parametrize("name", FILES)
def test_a_preset_is_what_its_file_says(name):
    kind = json.loads(FILES[name].read_text())["model_type"]
    classes = {one.model_type: one for one in (ViTCustomConfig, ViTCustomDualEncoderConfig)}
    assert classes[kind].from_preset(name).to_dict() == classes[kind].from_pretrained(FILES[name]).to_dict()
    (other,) = classes.keys() - {kind}
    with pytest.raises(ValueError, match=f"'{name}' has the model type {kind}, and this class {other}"):
        classes[other].from_preset(name)


def test_other_values_are_taken_and_slips_are_told():
    config = ViTCustomConfig.from_preset("deit_small_patch16_224", num_labels=5, image_size=64)
    assert (config.num_labels, config.image_size, config.hidden_sizes) == (5, 64, [384])
    with pytest.raises(ValueError, match="no preset 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'"):
        ViTCustomConfig.from_preset("deit_smal_patch16_224")
    with pytest.raises(ValueError, match=r"no preset 'resnet50': `list_presets\(\)` has the names"):
        ViTCustomConfig.from_preset("resnet50")
    with pytest.raises(Exception, match="did you mean `num_labels`"):
        ViTCustomConfig.from_preset("deit_small_patch16_224", num_lables=5)


@pytest.mark.parametrize(
    "name", [name for name in modeling_vit_custom.__all__ if name.startswith("ViTCustom") and "Config" not in name]
)
def test_any_model_can_be_made_of_a_preset(name):
    made = getattr(modeling_vit_custom, name)
    if name == "ViTCustomPreTrainedModel":
        assert made.from_preset.__func__ is ViTCustomForImageClassification.from_preset.__func__
        return
    preset = "clip_vit_base_patch32_224" if made is ViTCustomDualEncoder else "deit_tiny_patch16_224"
    preset = "yolos_tiny" if "Detection" in name else preset
    with torch.device("meta"):
        model = made.from_preset(preset)
    assert type(model) is made
    assert model.config.to_dict() == made(type(model.config).from_preset(preset)).config.to_dict()


def test_new_weights_are_those_of_the_seed():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(ViTCustomForImageClassification.from_preset("vit_tiny_patch16_224", num_labels=3, depths=[1]))
    assert models[0].classifier.out_features == 3
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


STRANGER = """
import sys, transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[0], trust_remote_code=True)
try:
    type(config).from_preset("pit_ti_224")
except FileNotFoundError as error:
    print(error)
"""


def test_a_checkpoints_code_has_none_and_says_where_they_are(tmp_path):
    tiny().save_pretrained(tmp_path / "checkpoint")
    done = stranger().call(STRANGER, [tmp_path / "checkpoint"])
    assert done.stdout == "A checkpoint's code has no presets: install the package modeling-vit-custom.\n", done.stderr


def recipe(tmp_path, **settings):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(dict(dataset="sklearn_digits", output_dir=str(tmp_path / "run")) | settings))
    return read_recipe(path)


def test_a_recipes_preset_has_the_classes_of_the_data(tmp_path):
    asked = recipe(tmp_path, preset="deit_tiny_patch16_224", config_overrides=dict(depths=[2], image_size=32))
    splits = DATASETS["sklearn_digits"](0, tmp_path)
    config = new_model(asked, TASKS["image-classification"], splits).config
    assert (config.num_labels, config.depths, config.image_size, config.hidden_sizes) == (10, [2], 32, [192])
    assert asked.resolved()["preset"] == "deit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            dict(preset="deit_tinny_patch16_224"),
            "There is no preset 'deit_tinny_patch16_224': did you mean 'deit_tiny_patch16_224'?",
        ),
        (dict(preset="resnet50"), "There is no preset 'resnet50': `list_presets()` has the names."),
    ],
)
def test_a_recipes_slip_is_told_before_the_data_are_read(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        recipe(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(init_from="runs/mae"), "`preset` and `init_from`: a checkpoint has a configuration of its own"),
        (dict(model_type="resnet"), "`preset` and `model_type`: presets are of this package's models"),
        (
            dict(task="zero-shot-image-classification"),
            "`preset` and `task: zero-shot-image-classification`: the captions decide on the text tower",
        ),
    ],
)
def test_what_a_preset_does_not_go_with_is_told_before_the_data_are_read(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"sets {sentence}, so leave one of them out.")):
        train(recipe(tmp_path, preset="deit_tiny_patch16_224", **settings))
