"""Groups of parameters: timm's for the members that timm has, the formula for every other, none forgotten or twice."""

import re
from types import SimpleNamespace

import pytest
import timm.optim
import torch
import torchvision
import transformers
from torch import nn
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom import ViTCustomForPreTraining
from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion.timm_sources import from_timm
from modeling_vit_custom.training.parameter_groups import make_optimizer
from modeling_vit_custom.training.parameter_groups import optimizer_cls_and_kwargs
from modeling_vit_custom.training.parameter_groups import parameter_groups
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny
from tests.test_conversion_timm import ALL
from tests.test_conversion_timm import PITS
from tests.test_conversion_timm import make
from tests.test_modeling_dual_encoder import configured

DECODER = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
DETR = tiny(**DECODER, num_queries=3)
YOLOS = tiny(prefix_tokens=["cls", "detection", "detection"], layer_position_embeddings=True)
HEADS = {
    "segmentation": lambda: ViTCustomForSemanticSegmentation(tiny()),
    "detection, decoder": lambda: ViTCustomForObjectDetection(DETR),
    "detection, tokens": lambda: ViTCustomForObjectDetection(YOLOS),
    "mae": lambda: ViTCustomForPreTraining(tiny(**DECODER)),
    "simmim": lambda: ViTCustomForMaskedImageModeling(tiny()),
    "dual encoder": lambda: ViTCustomDualEncoder(configured()),
    "bare": lambda: ViTCustomModel(tiny()),
}
LAYER = re.compile(r"stages\.(\d+)\.(?:layers\.(\d+)|downsample)\.")


def described(groups):
    """name -> (lr_scale, decays)"""
    found = {}
    for group in groups:
        assert len(group["names"]) == len(group["params"])
        for name in group["names"]:
            assert name not in found
            found[name] = group["lr_scale"], group["weight_decay"] > 0
    return found


def timm_groups(model, layer_decay):
    without = model.no_weight_decay()
    if layer_decay == 1:
        return timm.optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=without)
    return timm.optim.param_groups_layer_decay(model, 0.05, without, layer_decay=layer_decay)


# With layer decay no exception is needed: timm's ids hold for all of its ViT, DeiT, DeiT-III, CLIP, DINOv2, DINOv3 and
# Swin. Its PiT says nothing about layers (no `group_matcher`; timm then takes twelve tensors at a time for a layer), so
# there only the weight decay is compared, and the formula below is the law.
CASES = [(name, 1.0) for name in ALL] + [(name, 0.75) for name in ALL if name not in PITS]


@pytest.mark.parametrize(("name", "layer_decay"), CASES)
def test_groups_are_timms(name, layer_decay):
    """Each parameter of timm's is filled with its group's number, which our conversion carries to ours."""
    theirs = make(name, num_classes=7)
    expected = timm_groups(theirs, layer_decay)
    with torch.no_grad():
        for number, group in enumerate(expected):
            for parameter in group["params"]:
                parameter.fill_(number)
    ours = from_timm(theirs)
    groups = parameter_groups(ours, 1.0, 0.05, layer_decay)
    assert sum(len(group["params"]) for group in groups) == len(list(ours.parameters()))
    for group in groups:
        for parameter_name, parameter in zip(group["names"], group["params"], strict=True):
            numbers = parameter.unique()
            assert len(numbers) == 1, parameter_name  # tokens that are one parameter here were of one group there
            theirs = expected[int(numbers)]
            assert group["weight_decay"] == theirs["weight_decay"], parameter_name
            assert group["lr_scale"] == pytest.approx(theirs.get("lr_scale", 1), rel=1e-12), parameter_name


def expected_scale(name, depths, layer_decay):
    """By names, where the code goes by modules."""
    if "text_model" in name or "decoder" in name:
        return 1
    found = LAYER.search(name)
    if found:
        stage, layer = int(found[1]), int(found[2] or 0)
        depth = sum(depths[:stage]) + layer + 1
    elif "embeddings" in name or name == "mask_token":
        depth = 0
    elif re.search(r"(^|\.)norm\.", name):
        depth = sum(depths)
    else:
        depth = sum(depths) + 1
    return layer_decay ** (sum(depths) + 1 - depth)


@pytest.mark.parametrize("name", [*VARIANTS, *HEADS])
def test_every_parameter_is_there_once_at_its_layers_rate(name):
    model = HEADS[name]() if name in HEADS else ViTCustomForImageClassification(tiny(**VARIANTS[name]))
    config = getattr(model.config, "vision_config", model.config)
    groups = parameter_groups(model, learning_rate=0.5, weight_decay=0.05, layer_decay=0.6)
    found = described(groups)
    assert found.keys() == dict(model.named_parameters()).keys()
    for parameter_name, (scale, _) in found.items():
        assert scale == pytest.approx(expected_scale(parameter_name, config.depths, 0.6)), parameter_name
    assert all(group["lr"] == 0.5 * group["lr_scale"] for group in groups)
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales)  # from the embeddings to the head
    assert len({group["name"] for group in groups}) == len(groups)
    flat = parameter_groups(model, 0.5, 0.05)
    assert [(group["name"], group["lr"]) for group in flat] == [("model, decay", 0.5), ("model, no decay", 0.5)]
    assert {n: decays for n, (_, decays) in described(flat).items()} == {n: decays for n, (_, decays) in found.items()}


# Of more than one axis, and without decay, each of which is no map.
MATRICES_WITHOUT_DECAY = {
    "segmentation": {"vit.embeddings.prefix_tokens", "vit.embeddings.position_embeddings"}
    | {"mask_decoder.class_embeddings"},
    "detection, decoder": {"vit.embeddings.prefix_tokens", "vit.embeddings.position_embeddings"}
    | {"box_decoder.query_positions"},
    "detection, tokens": {"vit.embeddings.prefix_tokens", "vit.embeddings.position_embeddings"}
    | {"vit.stages.0.layer_position_embeddings"},
    "mae": {"vit.embeddings.prefix_tokens", "vit.embeddings.position_embeddings", "pixel_decoder.mask_token"},
    "simmim": {"vit.embeddings.prefix_tokens", "vit.embeddings.position_embeddings", "mask_token"},
    "dual encoder": {
        "vision_model.embeddings.prefix_tokens",
        "vision_model.embeddings.position_embeddings",
        "text_model.embeddings.position_embedding.weight",
    },
    "bare": {"embeddings.prefix_tokens", "embeddings.position_embeddings"},
}


def matrices_without_decay(model):
    found = described(parameter_groups(model, 1.0, 0.05))
    parameters = dict(model.named_parameters())
    assert not any(decays for name, (_, decays) in found.items() if parameters[name].ndim < 2)
    return {name for name, (_, decays) in found.items() if not decays and parameters[name].ndim > 1}


@pytest.mark.parametrize("name", HEADS)
def test_tokens_and_positions_of_heads_do_not_decay(name):
    assert matrices_without_decay(HEADS[name]()) == MATRICES_WITHOUT_DECAY[name]


VIT = transformers.ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
)
SWIN = transformers.SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2)
FOREIGN = {
    "transformers vit": (
        lambda: transformers.ViTForImageClassification(VIT),
        {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    ),
    "transformers swin": (
        lambda: transformers.SwinModel(SWIN),
        {f"encoder.layers.{n}.blocks.0.attention.relative_position_bias.relative_position_bias_table" for n in (0, 1)},
    ),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 16),
        {"class_token", "encoder.pos_embedding"},
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tokens_and_positions_of_others_models_do_not_decay(name):
    build, expected = FOREIGN[name]
    model = build()
    found = matrices_without_decay(model)
    modules = re.compile(r"\.(self|relative_position_bias)(?=\.)")  # transformers 5.5 calls them otherwise
    assert {modules.sub("", one) for one in found} == {modules.sub("", one) for one in expected}
    with pytest.raises(ValueError, match=r"no backbone of this package.*`layer_decay: 0.75`.*set it to 1"):
        parameter_groups(model, 1.0, 0.05, layer_decay=0.75)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext", "swinv2_cr_tiny_224", "levit_128s"])
def test_weight_decay_of_timms_models_is_what_they_declare(name):
    model = timm.create_model(name)
    declared = getattr(model, "no_weight_decay", set)()
    decaying = {
        id(parameter)
        for group in timm.optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=declared)
        for parameter in group["params"]
        if group["weight_decay"]
    }
    groups = parameter_groups(model, 1.0, 0.05)
    assert {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]} == decaying


def test_frozen_parameters_are_left_out_and_tied_ones_are_there_once():
    model = ViTCustomForImageClassification(tiny(**VARIANTS["deit"]))
    model.distillation_classifier.weight = model.classifier.weight
    model.vit.embeddings.requires_grad_(False)
    found = described(parameter_groups(model, 1.0, 0.05, 0.5))
    assert "distillation_classifier.weight" not in found
    assert found["classifier.weight"] == (1, True)
    assert not any("embeddings" in name for name in found)
    with pytest.raises(ValueError, match="no parameter to train: unfreeze"):
        parameter_groups(model.requires_grad_(False), 1.0, 0.05)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])  # DDP's, torch.compile's
def test_wrappers_change_names_and_nothing_else(name):
    model, wrapped = ViTCustomForImageClassification(tiny()), nn.Module()
    wrapped.add_module(name, model)
    expected = described(parameter_groups(model, 1.0, 0.05, 0.5))
    found = described(parameter_groups(wrapped, 1.0, 0.05, 0.5))
    assert found == {f"{name}.{key}": answer for key, answer in expected.items()}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_an_adapter_learns_as_the_layer_that_it_adapts():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    model = peft.get_peft_model(ViTCustomForImageClassification(tiny()), settings)
    layer, head = "base_model.model.vit.stages.0.layers.{}.attention.q_proj.lora_{}.default.weight", "base_model.model."
    saved = head + "classifier.modules_to_save.default."
    assert described(parameter_groups(model, 1.0, 0.05, 0.5)) == {
        layer.format(0, "A"): (0.25, True),
        layer.format(0, "B"): (0.25, True),
        layer.format(1, "A"): (0.5, True),
        layer.format(1, "B"): (0.5, True),
        saved + "weight": (1, True),
        saved + "bias": (1, False),
    }


def test_a_parameter_that_zero_3_holds_elsewhere_has_the_shape_that_it_is_told():
    model = nn.Linear(3, 2)
    model.weight = nn.Parameter(torch.empty(0))
    model.weight.ds_shape = torch.Size((2, 3))
    assert described(parameter_groups(model, 1.0, 0.05)) == {"weight": (1, True), "bias": (1, False)}


@pytest.mark.parametrize("layer_decay", [0, -1, 1.5])
def test_a_layer_decay_that_cannot_be_meant_is_refused(layer_decay):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        parameter_groups(ViTCustomModel(tiny()), 1.0, 0.05, layer_decay)


def arguments(tmp_path, **changes):
    return TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **changes)


def test_one_step_is_the_formula(tmp_path):
    """w - lr * scale * (gradient + decay * w), for plain gradient descent."""
    model = fill(ViTCustomForImageClassification(tiny()))
    args = arguments(tmp_path, optim="sgd", learning_rate=0.1, weight_decay=0.3)
    optimizer = make_optimizer(args, model, layer_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(picture(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    found = described(optimizer.param_groups)
    for name, parameter in model.named_parameters():
        scale, decays = found[name]
        expected = before[name] - 0.1 * scale * (parameter.grad + (0.3 * before[name] if decays else 0))
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "rmsprop", "adagrad"])
def test_transformers_optimizers_take_the_groups(optim, tmp_path):
    args = arguments(tmp_path, optim=optim, learning_rate=0.1, weight_decay=0.3, adam_beta2=0.9)
    model = ViTCustomForImageClassification(tiny())
    optimizer = make_optimizer(args, model, layer_decay=0.5)
    cls, kwargs = transformers.Trainer.get_optimizer_cls_and_kwargs(args, model)
    assert type(optimizer) is cls
    assert described(optimizer.param_groups) == described(parameter_groups(model, 0.1, 0.3, 0.5))
    assert {group["lr"] for group in optimizer.param_groups} == {0.1 * 0.5**n for n in range(4)}
    for name, value in kwargs.items():
        assert name == "lr" or all(group[name] == value for group in optimizer.param_groups)


def test_trainer_takes_them_as_its_own_argument_and_its_schedule_scales_all_rates(tmp_path):
    args = arguments(tmp_path, learning_rate=0.1, warmup_steps=10, max_steps=20)
    model = ViTCustomForImageClassification(tiny())
    trainer = transformers.Trainer(model, args, optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args, model, 0.5))
    trainer.create_optimizer_and_scheduler(20)
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    assert len(trainer.optimizer.param_groups) == 8
    assert all(group["lr"] == pytest.approx(0.01 * group["lr_scale"]) for group in trainer.optimizer.param_groups)


@pytest.mark.parametrize("optim", ["galore_adamw", "galore_adamw_layerwise", "apollo_adamw", "lomo", "adalomo"])
def test_optimizers_that_group_the_parameters_themselves_are_refused(optim, tmp_path):
    with pytest.raises(ValueError, match=f"`optim: {optim}` groups the parameters itself: choose another"):
        make_optimizer(arguments(tmp_path, optim=optim), ViTCustomModel(tiny()))


def test_what_is_no_optimizer_but_makes_one_is_refused(monkeypatch):
    monkeypatch.setattr(transformers.Trainer, "get_optimizer_cls_and_kwargs", lambda *args: (lambda: None, {}))
    with pytest.raises(ValueError, match="`optim: dion` groups the parameters itself"):
        make_optimizer(SimpleNamespace(optim="dion"), ViTCustomModel(tiny()))
