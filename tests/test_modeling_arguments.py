"""Slips of names, and pixels that no processor made, get a sentence; what libraries pass is let through."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.utils import TransformersKwargs

import modeling_vit_custom
from modeling_vit_custom.modeling_arguments import LIBRARY_NAMES
from modeling_vit_custom.modeling_arguments import OF_EVERY_MODEL
from modeling_vit_custom.modeling_arguments import may_look
from modeling_vit_custom.near_names import near_miss
from tests import matrix
from tests.support import picture
from tests.support import tiny

# One cell for each class of ours; the two that are no heads are built from the classifier's configuration.
CLASSES = {matrix.HEADS[head].class_name: head for head in matrix.HEADS} | {
    "ViTCustomModel": "classification",
    "ViTCustomBackbone": "classification",
}
every_class = pytest.mark.parametrize("class_name", CLASSES)
# What processors, collators, tokenizers, Trainer, peft and pipelines are known to hand to a model.
PASSED = """attention_mask bool_masked_pos cache_position class_labels decoder_input_ids head_mask image_sizes input_ids
    inputs_embeds interpolate_pos_encoding label_ids length mask_labels num_items_in_batch offset_mapping original_sizes
    output_attentions output_hidden_states past_key_values pixel_attention_mask pixel_mask position_ids return_dict
    return_loss spatial_shapes special_tokens_mask target_sizes task_ids token_type_ids use_cache""".split()


def make(class_name):
    head = CLASSES[class_name]
    config = matrix.make_config(head, "vit")
    given = matrix.without_targets(matrix.inputs(head, config, (32, 32)))
    return getattr(modeling_vit_custom, class_name)(config).eval(), given


def test_every_public_model_is_here():
    models = {name for name in modeling_vit_custom.__all__ if name.startswith("ViTCustom") and "Config" not in name}
    assert models - {"ViTCustomPreTrainedModel", "ViTCustomObjectDetectionOutput"} == set(CLASSES)


@every_class
@pytest.mark.parametrize(
    ("slip", "meant"),
    [("output_attention", "output_attentions"), ("output_hiden_states", "output_hidden_states")],
)
def test_a_slip_of_a_name_that_every_model_takes_is_told(class_name, slip, meant):
    model, given = make(class_name)
    with pytest.raises(TypeError, match=f"{class_name} takes no `{slip}`: did you mean `{meant}`"):
        model(**given, **{slip: True})


@pytest.mark.parametrize(
    ("class_name", "slip", "meant"),
    [
        ("ViTCustomForImageClassification", "lables", "labels"),
        ("ViTCustomForImageClassification", "label", "labels"),
        ("ViTCustomForImageClassification", "LABELS", "labels"),
        ("ViTCustomForImageClassification", "num_item_in_batch", "num_items_in_batch"),
        ("ViTCustomForImageClassification", "pixel_masks", "pixel_mask"),
        ("ViTCustomForImageClassification", "return_dic", "return_dict"),
        ("ViTCustomForObjectDetection", "label", "labels"),
        ("ViTCustomForObjectDetection", "pixel_masks", "pixel_mask"),
        ("ViTCustomForSemanticSegmentation", "labelz", "labels"),
        ("ViTCustomForMaskedImageModeling", "bool_mask_pos", "bool_masked_pos"),
        ("ViTCustomForPreTraining", "nose", "noise"),
        ("ViTCustomDualEncoder", "attention_masks", "attention_mask"),
        ("ViTCustomDualEncoder", "input_id", "input_ids"),
        ("ViTCustomModel", "pixel_value", "pixel_values"),
    ],
)
def test_a_slip_of_a_name_of_its_own_is_told(class_name, slip, meant):
    model, given = make(class_name)
    given[slip] = given.pop(meant, None)
    with pytest.raises(TypeError, match=f"{class_name} takes no `{slip}`: did you mean `{meant}`"):
        model(**given)


@every_class
def test_what_libraries_pass_is_no_slip(class_name):
    names = {*PASSED, *TransformersKwargs.__annotations__}
    own = getattr(modeling_vit_custom, class_name).argument_names
    assert {"pixel_values"} <= set(own)
    assert not {"self", "kwargs"} & set(own)
    assert {name: near_miss(name, own) for name in names - LIBRARY_NAMES - {*own} if near_miss(name, own)} == {}
    assert set(PASSED) - LIBRARY_NAMES == set()
    assert LIBRARY_NAMES.issuperset(OF_EVERY_MODEL)


def test_a_name_that_is_near_to_none_changes_nothing():
    model, given = make("ViTCustomForImageClassification")
    ones = dict.fromkeys((*PASSED, "whatever")) | {"attention_mask": torch.ones(8, 17), "head_mask": torch.ones(2, 4)}
    assert torch.equal(model(**given, **ones).logits, model(**given).logits)
    with pytest.raises(ValueError, match="`attention_mask`"):
        model(**given, attention_mask=torch.zeros(8, 17))


PICTURE = Image.new("RGB", (32, 32))


@every_class
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (PICTURE, "must be a tensor, got Image: have the checkpoint's image processor make it"),
        ([PICTURE, PICTURE], "must be a tensor, got list"),
        ("cat.png", "must be a tensor, got str"),
        (np.zeros((32, 32, 3), np.uint8), "must be a tensor, got ndarray"),
        ([torch.zeros(3, 32, 32)], "must be a tensor, got list"),
        (BatchFeature({"pixel_values": torch.zeros(1, 3, 32, 32)}), r"got BatchFeature: .*`model\(\*\*AutoImageP"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"floating-point numbers, got torch.uint8, as in picture files"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), r"floating-point numbers, got torch.int64"),
        (torch.zeros(1, 32, 32, 3), r"got \(1, 32, 32, 3\): channels come first"),
        (torch.zeros(32, 32, 3), r"got \(32, 32, 3\): channels come first"),
        (torch.zeros(3, 32, 32), r"got \(3, 32, 32\): make one image a batch by `pixel_values\[None\]`"),
        (torch.zeros(1, 4, 32, 32), r"num_channels=3, got \(1, 4, 32, 32\): convert the images"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_pixels_that_no_processor_made_get_a_sentence(class_name, pixels, message):
    model, given = make(class_name)
    with pytest.raises((TypeError, ValueError), match=message):
        model(**given | {"pixel_values": pixels})


def test_labels_and_words_are_tensors():
    model, given = make("ViTCustomForImageClassification")
    for labels in ([0, 1], np.zeros(2, np.int64)):
        with pytest.raises(TypeError, match=r"^`labels` must be a tensor, got \w+: `torch.tensor\(labels\)`.$"):
            model(**given, labels=labels)
    with pytest.raises(TypeError, match=r"^`pixel_values` must be a tensor, got NoneType"):
        model(pixel_values=None)
    model, given = make("ViTCustomDualEncoder")
    with pytest.raises(TypeError, match=r"^`input_ids` must be a tensor, got list: have the tokenizer make it"):
        model(**given | {"input_ids": ["a cat"]})


def test_pixels_are_looked_at_by_place_too():
    model, _ = make("ViTCustomForImageClassification")
    with pytest.raises(TypeError, match="got ndarray"):
        model(np.zeros((1, 3, 32, 32), np.float32))
    dual, given = make("ViTCustomDualEncoder")
    with pytest.raises(TypeError, match="got ndarray"):
        dual(given["input_ids"], np.zeros((1, 3, 32, 32), np.float32))


@torch.no_grad()
def test_a_slip_is_told_by_a_compiled_model_too():
    torch.compiler.reset()
    model = modeling_vit_custom.ViTCustomForImageClassification(tiny()).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    told = "Observed exception" if torch.__version__.startswith("2.6.") else "did you mean `labels`"
    with pytest.raises(Exception, match=told):
        compiled(picture(2, 3, 32, 32), lables=torch.tensor([0, 1]))
    torch.compiler.reset()


class Prompted:
    def __call__(self, *args, **kwargs):
        return "prompted", super().__call__(*args, **kwargs)


class PromptedClassifier(Prompted, modeling_vit_custom.ViTCustomForImageClassification):
    pass


def test_each_class_has_a_code_of_its_own_and_leaves_a_users_alone():
    """torch's compiler holds eight programs of one code, and runs the ninth uncompiled, whatever model it is of."""
    calls = {getattr(modeling_vit_custom, name).__call__ for name in CLASSES}
    codes = [call.__code__ for call in calls]
    assert len({id(code) for code in codes}) == len(CLASSES)
    assert all(code == codes[0] for code in codes)
    assert PromptedClassifier(tiny())(picture(2, 3, 32, 32))[0] == "prompted"


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:FutureWarning")
def test_values_are_looked_at_where_there_are_some():
    seen = []

    def look(values):
        seen.append(may_look(values))
        return values.sum()

    look(torch.zeros(2))
    assert seen == [True]
    torch.func.vmap(look)(torch.zeros(2, 2))
    torch.func.grad(look)(torch.zeros(2))
    torch.func.vmap(torch.func.grad(look))(torch.zeros(2, 2))
    torch.jit.trace(look, torch.zeros(2), check_trace=False)
    look(torch.zeros(2, device="meta"))
    assert seen[1:] == [False] * 5
