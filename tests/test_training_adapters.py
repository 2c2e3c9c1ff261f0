"""LoRA on every head and every member: what learns, what is saved, and that merging leaves a plain model of ours."""

import functools
import sys

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomBackbone
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.training.adapters import add_lora
from modeling_vit_custom.training.adapters import load_lora
from modeling_vit_custom.training.adapters import merge
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.matrix import CELLS
from tests.matrix import HEADS
from tests.matrix import NUM_PICTURES
from tests.matrix import SIZES
from tests.matrix import SOME_NOW
from tests.matrix import inputs
from tests.matrix import make
from tests.matrix import make_config
from tests.matrix import tensors
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

pytest.importorskip("peft")
every_cell = pytest.mark.parametrize(("head", "member"), CELLS)
some_now = pytest.mark.parametrize(("head", "member"), SOME_NOW)
HEAD_MODULES = {
    "classification": {"classifier"},
    "masked images": {"pixel_head"},
    "pre-training": {"pixel_decoder"},
    "segmentation": {"mask_decoder"},
    "segmentation, linear": {"mask_decoder"},
    "detection": {"box_decoder", "class_labels_classifier", "bbox_predictor"},
    "detection tokens": {"class_labels_classifier", "bbox_predictor"},
    "image-text": {"visual_projection", "text_projection"},
}


def outputs(model: nn.Module, given: dict) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return tensors(model.eval()(**given))


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name] - value).abs().max() <= tolerance * value.abs().max().clamp(min=1), name


def train(model: nn.Module, given: dict, folder, **settings) -> ViTCustomTrainer:
    """Two steps."""

    def collate(rows: list[dict]) -> dict:
        at = [row["place"] for row in rows]
        return {k: v[at] if isinstance(v, torch.Tensor) else [v[place] for place in at] for k, v in given.items()}

    arguments = dict(max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, save_strategy="no", use_cpu=True)
    arguments |= dict(report_to="none", disable_tqdm=True, remove_unused_columns=False) | settings
    rows = [{"place": place} for place in range(NUM_PICTURES)]
    trainer = ViTCustomTrainer(
        model=model, args=TrainingArguments(str(folder), **arguments), data_collator=collate, train_dataset=rows
    )
    trainer.train()
    return trainer


@functools.cache
def trained(head: str, member: str, folder):
    """An adapter and the weights before its training; nothing may change it."""
    model = add_lora(make(head, member), {})
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = train(model, inputs(head, model.config, SIZES["native"]), folder)
    return trainer, before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@every_cell
def test_a_model_computes_the_same_with_new_adapters(head, member):
    model = make(head, member)
    given = inputs(head, model.config, SIZES["native"])
    wanted = outputs(model, given)
    assert_same(outputs(add_lora(model, {}), given), wanted, 2e-6)


@some_now
def test_adapters_and_heads_learn_and_nothing_else(head, member, folder):
    trainer, before = trained(head, member, folder)
    model = trainer.model
    assert trainer.counts  # by the model's own count_items, through peft's model
    assert model.count_items.__self__ is model.get_base_model()
    wanted = HEAD_MODULES[head] | (
        {"distillation_classifier"} if getattr(model, "distillation_classifier", None) else set()
    )
    assert set(model.peft_config["default"].modules_to_save) == wanted
    num_adapted = 0
    for name, weight in model.named_parameters():
        adapter, saved = "lora_" in name, ".modules_to_save." in name
        num_adapted += "lora_B" in name
        assert weight.requires_grad == (adapter or saved), name
        assert not (adapter and saved), name  # a head learns whole
        if not weight.requires_grad:
            assert torch.equal(weight, before[name]), name
        elif not saved:  # parts of a head may have no gradient, such as the box of what is no object
            assert not torch.equal(weight, before[name]), name
    assert any(not torch.equal(w, before[name]) for name, w in model.named_parameters() if ".modules_to_save." in name)
    towers = [model.config.vision_config, model.config.text_config] if head == "image-text" else [model.config]
    assert num_adapted == 2 * sum(sum(getattr(t, "depths", [t.num_hidden_layers])) for t in towers)


@some_now
def test_a_saved_adapter_fits_its_model_again(head, member, folder, tmp_path):
    model = trained(head, member, folder)[0].model
    given = inputs(head, model.config, SIZES["native"])
    model.save_pretrained(tmp_path)
    base = make(head, member)
    wanted, fresh = outputs(model, given), outputs(base, given)
    loaded = load_lora(base, tmp_path)
    assert_same(outputs(loaded, given), wanted, 0)
    assert any(not torch.equal(wanted[name], fresh[name]) for name in wanted)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    again = load_lora(make(head, member), tmp_path, is_trainable=True)
    assert {name for name, weight in again.named_parameters() if weight.requires_grad} == {
        name for name, weight in model.named_parameters() if weight.requires_grad
    }


@every_cell
def test_a_merged_model_is_a_plain_one(head, member, folder, tmp_path):
    trained(head, member, folder)[0].model.save_pretrained(tmp_path / "adapter")
    model = load_lora(make(head, member), tmp_path / "adapter")
    given = inputs(head, model.config, SIZES["native"])
    wanted = outputs(model, given)
    merged = merge(model)
    assert type(merged) is type(make(head, member))
    assert_same(outputs(merged, given), wanted, 1e-5)
    assert {name: w.shape for name, w in merged.state_dict().items()} == {
        name: w.shape for name, w in make(head, member).state_dict().items()
    }
    assert all(weight.requires_grad for weight in merged.parameters())
    merged.save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    loaded, info = type(merged).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(outputs(loaded, given), outputs(merged, given), 0)


@pytest.mark.parametrize("model_class", [ViTCustomModel, ViTCustomBackbone])
@pytest.mark.parametrize("member", ["vit", "swin", "pit"])
def test_encoders_and_backbones_take_adapters_too(model_class, member):
    model = fill(model_class(tiny(**VARIANTS[member], out_indices=[1, -1])))
    images = picture(2, 3, 32, 32)
    wanted = outputs(model, {"pixel_values": images})
    adapted = add_lora(model, {})
    assert_same(outputs(adapted, {"pixel_values": images}), wanted, 2e-6)
    learns = {name for name, weight in adapted.named_parameters() if weight.requires_grad and "lora_" not in name}
    assert {name.split("modules_to_save")[0] for name in learns} == {
        f"base_model.model.feature_norms.{name}." for name in getattr(model, "feature_norms", {})
    }


def test_a_recipe_may_set_whatever_peft_knows():
    model = add_lora(make("classification", "vit"), {"r": 2, "target_modules": ["fc1"], "modules_to_save": []})
    learns = {name: w.shape for name, w in model.named_parameters() if w.requires_grad}
    assert len(learns) == 2 * 2
    assert all(".fc1.lora_" in name and 2 in shape for name, shape in learns.items())


def test_an_unknown_setting_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no setting `lora_alhpa`: did you mean `lora_alpha`"):
        add_lora(make("classification", "vit"), {"lora_alhpa": 4})


@pytest.mark.parametrize(
    ("setting", "wrong", "near"),
    [("target_modules", "kproj", "k_proj"), ("modules_to_save", "clasifier", "classifier")],
)
def test_a_module_that_is_not_there_is_refused_with_the_nearest(setting, wrong, near):
    with pytest.raises(ValueError, match=f"`{setting}` names '{wrong}', which ViT.* has not: did you mean `{near}`"):
        add_lora(make("classification", "vit"), {setting: ["q_proj", wrong]})


def test_without_peft_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ImportError, match=r"Adapters need peft, which is not installed: pip install 'modeling-vit-custom\[lora\]'"
    ):
        add_lora(make("classification", "vit"), {})


SETTING = "activation" if "activation_checkpointing" in TrainingArguments.__dataclass_fields__ else "gradient"
CHECKPOINTED = {f"{SETTING}_checkpointing": True}
REENTRANT = CHECKPOINTED | {f"{SETTING}_checkpointing_kwargs": {"use_reentrant": True}}


@pytest.mark.parametrize(
    ("head", "member", "frozen"),
    [
        ("classification", "vit", "all but adapters"),
        ("masked images", "swin", "all but adapters"),
        ("classification", "vit", "embeddings"),
    ],
)
def test_what_learns_learns_with_checkpointed_activations_as_without(head, member, frozen, tmp_path):
    """Everything before the first adapter is frozen, where reentrant checkpoints would stop of themselves."""
    weights = []
    for settings, early in (({}, False), (CHECKPOINTED, False), (CHECKPOINTED, True), (REENTRANT, False)):
        model = make(head, member)
        if early:  # then peft itself lets the embeddings' output have a gradient
            getattr(model, f"{SETTING}_checkpointing_enable")()
        if frozen == "embeddings":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("embeddings" not in name)
        else:
            model = add_lora(model, {})
        hooks = sum(len(module._forward_hooks) for module in model.modules())
        train(model, inputs(head, model.config, SIZES["native"]), tmp_path, **settings)
        assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
        weights.append({name: weight for name, weight in model.named_parameters() if weight.requires_grad})
    for others in weights[1:]:
        assert others.keys() == weights[0].keys()
        for name, weight in weights[0].items():
            torch.testing.assert_close(others[name], weight)


def test_one_more_checkpoint_goes_on_from_the_adapter(tmp_path):
    """Trainer saves the adapter alone, and resumes from it."""
    found = []
    for stop in (None, 1):
        model = add_lora(make("classification", "vit"), {})
        given = inputs("classification", model.config, SIZES["native"])
        output = tmp_path / str(stop)
        trainer = train(
            model, given, output, max_steps=stop or 2, save_strategy="steps", save_steps=1, lr_scheduler_type="constant"
        )
        if stop:
            assert (output / "checkpoint-1" / "adapter_model.safetensors").is_file()
            model = add_lora(make("classification", "vit"), {})
            trainer.args.max_steps = 2
            trainer = ViTCustomTrainer(
                model=model, args=trainer.args, data_collator=trainer.data_collator, train_dataset=trainer.train_dataset
            )
            trainer.train(resume_from_checkpoint=str(output / "checkpoint-1"))
        found.append(outputs(model, given))
    assert_same(found[1], found[0], 0)


def test_every_head_of_the_matrix_is_listed():
    assert HEAD_MODULES.keys() == HEADS.keys()
    assert make_config("classification", "deit").distillation_head
