"""Twins: a stranger with transformers or timm, and nothing of ours, gets from them the outputs of ours."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file
from safetensors.torch import save_file
from transformers import AutoImageProcessor
from transformers import AutoTokenizer
from transformers import CLIPImageProcessor
from transformers import VisionTextDualEncoderProcessor
from transformers import ViTImageProcessor

import modeling_vit_custom
from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_checks import WORDS
from modeling_vit_custom.conversion import convert
from modeling_vit_custom.conversion import twins
from modeling_vit_custom.conversion import write_twin
from modeling_vit_custom.conversion.equal_configs import AT_OTHER_SIZES
from modeling_vit_custom.conversion.heads_masked import masked_from_transformers
from modeling_vit_custom.conversion.registry import SOURCES
from scripts import measure
from tests import matrix
from tests.clean_process import ask_twins
from tests.clean_process import load_twins
from tests.clean_process import make_picture
from tests.clean_process import push_twins
from tests.clean_process import run
from tests.conversion_support import read
from tests.conversion_support import saved
from tests.conversion_support import transformers_model
from tests.minihub import MiniHub
from tests.support import ROOT
from tests.support import VARIANTS
from tests.support import fill
from tests.support import tiny

one_process = pytest.mark.xdist_group("twins")  # all is written and loaded once, not once a worker
MODEL, CLASSIFIER = "ViTCustomModel", "ViTCustomForImageClassification"
SIMMIM, MAE = "ViTCustomForMaskedImageModeling", "ViTCustomForPreTraining"
DETECTOR, DUAL = "ViTCustomForObjectDetection", "ViTCustomDualEncoder"
# Our class -> the Auto class of its twin in transformers, and the outputs that must be there and equal.
AUTO = {
    MODEL: ("AutoModel", {"last_hidden_state", "pooler_output"}),
    CLASSIFIER: ("AutoModelForImageClassification", {"logits"}),
    SIMMIM: ("AutoModelForMaskedImageModeling", {"reconstruction", "loss"}),
    MAE: ("AutoModelForPreTraining", {"logits", "loss", "mask", "ids_restore"}),
    DETECTOR: ("AutoModelForObjectDetection", {"logits", "pred_boxes"}),
    DUAL: ("AutoModel", {"logits_per_image", "logits_per_text", "image_embeds", "text_embeds"}),
}
DECODER = dict(decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2)
TIMMS = dict(position_interpolation="bicubic_antialias")
FIVE = dict(layer_norm_eps=1e-5)
WIDE = dict(image_size=[32, 48], patch_size=[8, 4])
SWIN = VARIANTS["swin"] | dict(window_size=4)  # as wide as the last grid, so that no library's words act
DINOV2 = dict(layer_scale_init_value=0.5, position_interpolation="bicubic_offset", mlp_ratio=2)
REGISTERS = VARIANTS["dinov2"] | dict(intermediate_size=88)  # a width that transformers' formula gives
CLIP = VARIANTS["clip"] | FIVE
FLAT = dict(position_embedding="none")
NO_CLS = dict(prefix_tokens=["cls"], distillation_head=False)


class Case(NamedTuple):
    kind: str  # our class
    settings: dict[str, Any]
    name: str  # of the class or the architecture there
    library: str = "transformers"


def timms(kind: str, settings: dict[str, Any], name: str) -> Case:
    return Case(kind, settings, name, "timm")


CASES = {
    "vit bare": Case(MODEL, {}, "ViTModel"),
    "vit": Case(CLASSIFIER, {}, "ViTForImageClassification"),
    "vit as timm has it": Case(CLASSIFIER, TIMMS | dict(num_channels=4), "ViTForImageClassification"),
    "vit, not square": Case(CLASSIFIER, WIDE, "ViTForImageClassification"),
    "flexivit": Case(CLASSIFIER, dict(num_prefix_positions=0), "ViTForImageClassification"),
    "deit bare": Case(MODEL, VARIANTS["deit"], "DeiTModel"),
    "deit": Case(CLASSIFIER, VARIANTS["deit"], "DeiTForImageClassificationWithTeacher"),
    "swin bare": Case(MODEL, VARIANTS["swin"], "SwinModel"),
    "swin": Case(CLASSIFIER, SWIN, "SwinForImageClassification"),
    "dinov2 bare": Case(MODEL, DINOV2, "Dinov2Model"),
    "dinov2": Case(CLASSIFIER, DINOV2 | dict(pooling="cls_mean"), "Dinov2ForImageClassification"),
    "registers bare": Case(MODEL, REGISTERS | dict(pooling="cls"), "Dinov2WithRegistersModel"),
    "registers": Case(CLASSIFIER, REGISTERS, "Dinov2WithRegistersForImageClassification"),
    "dinov3": Case(MODEL, VARIANTS["dinov3"], "DINOv3ViTModel"),
    "clip's tower": Case(MODEL, CLIP, "CLIPVisionModel"),
    "clip's classifier": Case(CLASSIFIER, CLIP | dict(final_norm="none", pooling="mean"), "CLIPForImageClassification"),
    "clip": Case(DUAL, CLIP | TIMMS, "CLIPModel"),
    "mae": Case(MAE, DECODER | dict(norm_pix_loss=False, hidden_act="relu"), "ViTMAEForPreTraining"),
    "yolos": Case(DETECTOR, VARIANTS["yolos"], "YolosForObjectDetection"),
    "yolos, not square": Case(
        DETECTOR, dict(prefix_tokens=["cls", "detection"], image_size=[32, 48]), "YolosForObjectDetection"
    ),
    "simmim, vit": Case(SIMMIM, dict(pooling="mean"), "ViTForMaskedImageModeling"),
    "simmim, swin": Case(SIMMIM, SWIN, "SwinForMaskedImageModeling"),
    "timm's vit": timms(CLASSIFIER, TIMMS, "vit_base_patch16_224"),
    "timm's vit bare": timms(MODEL, VARIANTS["everything"], "vit_base_patch16_224"),
    "timm's vit, not square": timms(CLASSIFIER, VARIANTS["no_positions"], "vit_base_patch16_224"),
    "timm's deit": timms(CLASSIFIER, VARIANTS["deit"], "deit_base_distilled_patch16_224"),
    "timm's deit3": timms(
        CLASSIFIER, dict(num_prefix_positions=0, layer_scale_init_value=0.5, num_channels=1), "vit_base_patch16_224"
    ),
    "timm's swin": timms(CLASSIFIER, SWIN | FIVE, "swin_tiny_patch4_window7_224"),
    "timm's pit": timms(CLASSIFIER, VARIANTS["pit"], "pit_s_distilled_224"),
    "timm's pit bare": timms(MODEL, VARIANTS["pit"] | NO_CLS | dict(image_size=[32, 48]), "pit_s_224"),
    "timm's registers": timms(MODEL, REGISTERS | dict(pooling="cls"), "vit_giant_patch14_dinov2"),
    "timm's dinov3": timms(MODEL, VARIANTS["dinov3"] | FIVE, "vit_base_patch16_dinov3"),
    "timm's clip tower": timms(MODEL, CLIP, "vit_base_patch16_clip_224"),
}
every_case = pytest.mark.parametrize("name", CASES)
CAPTIONS = ["zero on a temple", "nine top left and one bottom right on a flower"]


def make(kind: str, settings: dict[str, Any]):
    if kind != DUAL:
        return fill(getattr(modeling_vit_custom, kind)(tiny(**settings)))
    towers = matrix.make_config("image-text", "vit").to_dict() | dict(vision_config=tiny(**settings).to_dict())
    return fill(ViTCustomDualEncoder(ViTCustomDualEncoderConfig(**towers)))


def save(case: Case, folder: Path):
    """Our model, in a folder with all that a user's has."""
    model = make(case.kind, case.settings)
    model.save_pretrained(folder)
    size = dict(height=32, width=32)
    if case.kind == DUAL:
        images = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=[0.4, 0.5, 0.6])
        VisionTextDualEncoderProcessor(images, matrix.make_tokenizer()).save_pretrained(folder)
    else:
        ViTImageProcessor(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return model


class Written(NamedTuple):
    ours: Any
    folder: Path
    twin: Path
    said: tuple[str, list[str], float]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


@pytest.fixture(scope="module")
def written(work):
    found = {}
    for number, (name, case) in enumerate(CASES.items()):
        folder, twin = work / f"{number}", work / f"{number}-twin"
        ours = save(case, folder)
        found[name] = Written(ours, folder, twin, write_twin(folder, twin, case.library))
    return found


def inputs(ours) -> dict[str, torch.Tensor]:
    """Other ones than `write_twin` measures on, of two images."""
    given = twins.probe_of(type(ours), ours.config)
    pixels = torch.cat((given["pixel_values"].roll(5, dims=2), given["pixel_values"].flip(3)))
    masks = {key: given[key].flip(1).repeat(2, 1) for key in ("noise", "bool_masked_pos") if key in given}
    return given | masks | {"pixel_values": pixels}


@pytest.fixture(scope="module")
def strangers(work, written):
    """What clean processes say of the folders, and of a repository that holds ours beside a twin of each library."""
    folders, hub = {}, {}
    for number, (name, case) in enumerate(CASES.items()):
        given, answers, twin = (
            work / f"{number}.safetensors",
            work / f"{number}-answers.safetensors",
            written[name].twin,
        )
        save_file({key: tensor.contiguous() for key, tensor in inputs(written[name].ours).items()}, given)
        loader, source = ("timm", f"local-dir:{twin}") if case.library == "timm" else (AUTO[case.kind][0], str(twin))
        folders[name] = dict(loader=loader, source=source, given=str(given), answers=str(answers))
    below = dict(source="alice/x", settings=dict(subfolder="transformers"))
    for loader in ("AutoModel", "AutoModelForImageClassification"):
        hub[loader] = folders["vit"] | below | dict(loader=loader, answers=str(work / f"{loader}.safetensors"))
    hub["processor"] = below | dict(loader="AutoImageProcessor")
    timms = dict(source="hf-hub:alice/x@timm", answers=str(work / "timm.safetensors"))
    hub["timm"] = folders["timm's vit"] | timms
    branches = {
        "main": [(str(written["vit"].folder), "."), (str(written["vit"].twin), "transformers")],
        "timm": [(str(written["timm's vit"].twin), ".")],
    }
    jobs = {
        "push": (push_twins, dict(repo="alice/x", branches=branches)),
        "hub": (load_twins, dict(twins=hub)),
        "folders": (load_twins, dict(twins=folders)),
        "pipelines": (
            ask_twins,
            dict(classifier=written["vit"].twin, dual_encoder=written["clip"].twin, captions=CAPTIONS),
        ),
    }
    with MiniHub() as served:
        return run(jobs, work / "stranger", HF_ENDPOINT=served.url, HF_TOKEN=served.token())


def largest_difference(ours, answers: Path, names: set[str]) -> float:
    """Of these outputs, relative to the largest value of each."""
    found = load_file(answers)
    with torch.no_grad():
        expected = ours(**inputs(ours))
    if found.keys() == {"output"}:  # of timm
        expected, names = {"output": expected.get("logits", expected.get("pooler_output"))}, {"output"}
    assert found.keys() >= names
    return max(((expected[key] - found[key]).abs().max() / found[key].abs().max()).item() for key in names)


@one_process
@every_case
def test_a_stranger_gets_the_outputs_of_ours_without_any_code_of_ours(name, written, strangers, work):
    case, found = CASES[name], strangers["folders"][name]
    assert found["module"].startswith("timm.models." if case.library == "timm" else "transformers.models.")
    assert case.library == "timm" or found["class"] == case.name
    assert not [said for said in found["warnings"] if "initialized" in said or "UNEXPECTED" in said]
    answers = work / f"{list(CASES).index(name)}-answers.safetensors"
    assert largest_difference(written[name].ours, answers, AUTO[case.kind][1]) <= 1e-5


@one_process
@every_case
def test_a_twin_says_its_name_and_holds_no_code(name, written):
    case, found = CASES[name], written[name]
    assert found.said[0] == case.name
    assert found.said[2] <= 1e-5
    files = {path.name for path in found.twin.iterdir()}
    assert files >= {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert not [file for file in files if file.endswith(".py")]
    assert not [file for file in files if file.endswith(".json") and "auto_map" in (found.twin / file).read_text()]


@one_process
def test_a_repository_holds_ours_and_both_twins(written, strangers, work):
    found = strangers["hub"]
    assert (found["AutoModel"]["class"], found["timm"]["class"]) == ("ViTModel", "VisionTransformer")
    vit = written["vit"].ours
    for loader in ("AutoModel", "AutoModelForImageClassification"):
        outputs = load_file(work / f"{loader}.safetensors")
        with torch.no_grad():
            expected = vit.vit(**inputs(vit)).last_hidden_state if loader == "AutoModel" else vit(**inputs(vit)).logits
        assert torch.allclose(outputs["last_hidden_state" if loader == "AutoModel" else "logits"], expected, atol=1e-5)
    assert largest_difference(written["timm's vit"].ours, work / "timm.safetensors", set()) <= 1e-5
    processor = AutoImageProcessor.from_pretrained(written["vit"].folder)
    expected = processor(make_picture(), return_tensors="pt").pixel_values
    assert torch.equal(torch.tensor(found["processor"]["says"]), expected)


@one_process
def test_pipelines_and_tokenizers_take_a_twin(written, strangers):
    """What they say is what ours says of the same picture and captions."""
    said = strangers["pipelines"]
    classifier, folder = written["vit"].ours, written["vit"].folder
    picture = AutoImageProcessor.from_pretrained(folder)(make_picture(), return_tensors="pt")
    with torch.no_grad():
        scores = classifier(**picture).logits[0].softmax(-1)
    expected = {classifier.config.id2label[index]: score for index, score in enumerate(scores.tolist())}
    assert said["classes"] == pytest.approx(expected, rel=1e-4)
    dual, folder = written["clip"].ours, written["clip"].folder
    tokens = AutoTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    assert (
        said["tokens"] == tokens["input_ids"].tolist() == matrix.make_tokenizer()(CAPTIONS, padding=True)["input_ids"]
    )
    picture = AutoImageProcessor.from_pretrained(folder)(make_picture(), return_tensors="pt")
    with torch.no_grad():
        scores = dual(**tokens, **picture, return_loss=False).logits_per_image[0].softmax(-1)
    assert said["captions"] == pytest.approx(dict(zip(CAPTIONS, scores.tolist(), strict=True)), rel=1e-4)


@one_process
def test_what_a_twin_does_another_way_is_said(written, tmp_path):
    """Of other image sizes and of training; of what it does alike, nothing."""
    assert written["vit"].said[1] == []
    assert written["vit as timm has it"].said[1] == [
        "at other image sizes than 32 x 32 it resamples its positions another way: `position_interpolation` is "
        "'bicubic_antialias' here and 'bicubic' there"
    ]
    assert "at other image sizes than 32 x 32 it pads its windows another way" in " ".join(
        written["timm's swin"].said[1]
    )
    assert any("positions of prefix tokens are added" in note for note in written["timm's registers"].said[1])
    assert any("ours are learned" in note for note in written["mae"].said[1])
    save(Case(CLASSIFIER, dict(drop_path_rate=0.1), ""), tmp_path / "ours")
    assert write_twin(tmp_path / "ours", tmp_path / "twin", "transformers")[1] == [
        "`drop_path_rate` is 0.1 here and 0.0 there"
    ]


@one_process
def test_maes_twin_is_spelled_as_facebooks_files_and_holds_the_fixed_table(written):
    names = load_file(written["mae"].twin / "model.safetensors")
    assert "decoder.decoder_layers.0.attention.attention.query.weight" in names
    again = masked_from_transformers(transformers.ViTMAEForPreTraining.from_pretrained(written["mae"].twin))
    for name, tensor in written["mae"].ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@one_process
@pytest.mark.parametrize("name", ["swin bare", "swin", "simmim, swin"])
def test_swins_twin_holds_the_indices_that_older_versions_look_for(name, written):
    tensors = load_file(written[name].twin / "model.safetensors")
    model = getattr(transformers, CASES[name].name).from_pretrained(written[name].twin)
    buffers = [buffer for key, buffer in model.named_buffers() if key.endswith("relative_position_index")]
    held = [tensor for key, tensor in tensors.items() if key.endswith("attention.self.relative_position_index")]
    assert len(held) == len(buffers) == 5
    assert all(torch.equal(index.flatten(), held[0].flatten()) for index in [*held, *buffers])


@one_process
def test_timm_makes_pictures_as_our_processor_does(written):
    settings = read(written["timm's vit"].twin / "config.json")["pretrained_cfg"]
    assert (settings["mean"], settings["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert (settings["interpolation"], settings["crop_mode"], settings["crop_pct"]) == ("bilinear", "squash", 1)


# --- what is refused, and what fails ---

REFUSED = {
    "tutorial": (CLASSIFIER, VARIANTS["tutorial"], "transformers", r"`norm_placement` 'post' \(only 'pre'\)"),
    "tutorial in timm": (CLASSIFIER, VARIANTS["tutorial"], "timm", r"`norm_placement` 'post' \(only 'pre'\)"),
    "pit": (CLASSIFIER, VARIANTS["pit"], "transformers", "it has one stage, not the 3 of"),
    "dinov3's classifier": (CLASSIFIER, VARIANTS["dinov3"], "transformers", "`position_embedding` 'rotary'"),
    "windows on a small grid": (MODEL, VARIANTS["swin_timm"] | FLAT, "transformers", "it takes no images of 32 x 32"),
    "windows that do not fit": (
        MODEL,
        VARIANTS["swin"] | dict(window_pad_order="shift_then_pad"),
        "transformers",
        "something else: stages.0.layers.1 differs by .* more than 1e-05; it pads its windows another way",
    ),
    "an odd size": (MODEL, dict(image_size=37), "timm", "it takes no images of 37 x 37"),
    "a position table for another grid": (
        MODEL,
        dict(position_grid=[2, 2]),
        "transformers",
        r"call `resize_position_embeddings\(\(4, 4\)\)` on the model and save it",
    ),
    "a distilled backbone": (MODEL, VARIANTS["deit"], "timm", "the mean of both tokens"),
    "two towers": (DUAL, {}, "transformers", "CLIPVisionModel cannot express `patch_bias` True"),
    "two towers in timm": (DUAL, CLIP, "timm", "timm has no counterpart of ViTCustomDualEncoder: save its backbone"),
    "a decoder of boxes": (DETECTOR, DECODER, "transformers", "DETR, with an encoder of its own"),
    "masks": ("ViTCustomForSemanticSegmentation", DECODER, "transformers", "no counterpart elsewhere: save its back"),
    "mae with registers": (
        MAE,
        DECODER | dict(prefix_tokens=["cls", "register"]),
        "transformers",
        "ViTMAEForPreTraining cannot express `prefix_tokens`",
    ),
    "mae, not square": (MAE, DECODER | WIDE, "transformers", r"`image_size` \[32, 48\] \(only 'a square'\)"),
    "simmim, oblong patches": (SIMMIM, dict(patch_size=[8, 4]), "transformers", r"`patch_size` \[8, 4\] \(only"),
    "another library": (MODEL, {}, "jax", "There are twins in transformers and timm, not in 'jax'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_twin_that_cannot_be_is_refused_with_the_reason_and_nothing_is_left(name, tmp_path):
    kind, settings, library, reason = REFUSED[name]
    make(kind, settings).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=reason) as raised:
        write_twin(tmp_path / "ours", tmp_path / "twin", library)
    assert len(str(raised.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def change_a_weight(target, checkpoint):
    name = next(name for name in checkpoint.tensors if name.endswith("fc1.weight") or "intermediate" in name)
    tensors = {**checkpoint.tensors, name: checkpoint.tensors[name] * 1.01}
    WRITE_LAYOUT(target, replace(checkpoint, tensors=tensors))


def lose_a_weight(target, checkpoint):
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if "norm" not in name}
    WRITE_LAYOUT(target, replace(checkpoint, tensors=tensors))


WRITE_LAYOUT = twins.write_layout


@pytest.mark.parametrize("library", twins.LIBRARIES)
@pytest.mark.parametrize(
    ("fault", "message"),
    [(change_a_weight, r"something else: stages\.0\.layers\.0 differs by"), (lose_a_weight, "does not do what this")],
)
def test_a_twin_with_another_weight_or_without_one_is_found_out(fault, message, library, tmp_path, monkeypatch):
    make(CLASSIFIER, {}).save_pretrained(tmp_path / "ours")
    monkeypatch.setattr(twins, "write_layout", fault)
    with pytest.raises(ValueError, match=message):
        write_twin(tmp_path / "ours", tmp_path / "twin", library)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("kind", [SIMMIM, MAE, DETECTOR, DUAL])
def test_so_is_one_of_a_whole_model(kind, tmp_path, monkeypatch):
    settings = {MAE: DECODER, DETECTOR: VARIANTS["yolos"], DUAL: CLIP}.get(kind, {})
    make(kind, settings).save_pretrained(tmp_path / "ours")
    monkeypatch.setattr(twins, "write_layout", change_a_weight)
    with pytest.raises(ValueError, match=r"something else: .* differs by"):
        write_twin(tmp_path / "ours", tmp_path / "twin", "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_so_is_the_layer_behind_the_pooled_vector(tmp_path, monkeypatch):
    """transformers' ViT has one that ours has not, so that the twin's must change nothing."""
    make(MODEL, {}).save_pretrained(tmp_path / "ours")

    def as_usual(target, found):
        WRITE_LAYOUT(target, replace(found, config={**found.config, "pooler_act": "tanh"}))

    monkeypatch.setattr(twins, "write_layout", as_usual)
    with pytest.raises(ValueError, match=r"something else: pooler_output differs by"):
        write_twin(tmp_path / "ours", tmp_path / "twin", "transformers")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_processor_or_a_tokenizer_with_code_of_its_own_is_refused(name, tmp_path):
    make(MODEL, {}).save_pretrained(tmp_path / "ours")
    own = dict(image_processor_type="Mine", auto_map={"AutoImageProcessor": "mine.Mine"})
    own = {"image_processor": own} if name == "processor_config.json" else own
    (tmp_path / "ours" / name).write_text(json.dumps(own))
    with pytest.raises(ValueError, match=r"_config\.json names code of its own"):
        write_twin(tmp_path / "ours", tmp_path / "twin", "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_folder_that_is_not_ours_or_not_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds a 'vit', no model of ours: convert it first"):
        write_twin(saved("vit", tmp_path / "theirs"), tmp_path / "twin", "transformers")
    make(CLASSIFIER, {}).save_pretrained(tmp_path / "ours")
    tensors = load_file(tmp_path / "ours/model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, tmp_path / "ours/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing from the source: classifier\.bias"):
        write_twin(tmp_path / "ours", tmp_path / "twin", "transformers")
    assert not (tmp_path / "twin").exists()


# --- what else a folder may be ---


@pytest.mark.parametrize("library", twins.LIBRARIES)
def test_a_twin_keeps_the_dtype_of_the_weights(library, tmp_path):
    make(CLASSIFIER, {}).bfloat16().save_pretrained(tmp_path / "ours")
    assert write_twin(tmp_path / "ours", tmp_path / "twin", library)[2] <= 1e-5
    assert {t.dtype for t in load_file(tmp_path / "twin/model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["dinov2 bare", "mae"])
def test_a_converted_folder_has_a_twin_that_gives_the_outputs_of_its_source(name, tmp_path):
    """Of MAE too, whose source hides patches from its encoder; the twin's hides none."""
    ours = convert(saved(name, tmp_path / "theirs"), tmp_path / "ours")
    write_twin(ours, tmp_path / "twin", "transformers")
    twin = transformers.AutoModel.from_pretrained(tmp_path / "twin")
    source = transformers_model(name, **({"mask_ratio": 0.0} if name == "mae" else {}))
    pixels = twins.probe_of(ViTCustomModel, ViTCustomModel.from_pretrained(ours).config)["pixel_values"]
    in_order = {"noise": torch.arange(16.0)[None]} if name == "mae" else {}
    with torch.no_grad():
        expected = source(pixels, **in_order).last_hidden_state
        assert torch.allclose(twin(pixels).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 3), (1, 0), (3, 1), (2, 0), (1, 2)], ids=str)
def test_moving_positions_into_tokens_and_out_of_them_changes_no_output(numbers):
    tokens = dict(prefix_tokens=["cls", "register", "register"])
    first = make(MODEL, tokens | dict(num_prefix_positions=numbers[0]))
    second = ViTCustomModel(tiny(**tokens, num_prefix_positions=numbers[1])).eval()
    second.load_state_dict(twins.move_positions(first.config, second.config, first.state_dict(), ""))
    pixels = twins.probe_of(ViTCustomModel, first.config)["pixel_values"]
    with torch.no_grad():
        assert torch.equal(second(pixels).last_hidden_state, first(pixels).last_hidden_state)


@pytest.mark.parametrize("library", AT_OTHER_SIZES)
def test_a_librarys_ways_at_other_sizes_are_all_that_its_models_know(library):
    """Of models for which each word acts."""
    known = {name: set() for name in AT_OTHER_SIZES[library]}
    for settings in (DINOV2, REGISTERS | dict(pooling="cls"), SWIN | FIVE, {}):
        for name in known:
            for word in WORDS[name]:
                own = {key: words[0] for key, words in AT_OTHER_SIZES[library].items()}
                config = tiny(**settings | own | {name: word})
                acts = config.window_size is not None if "window" in name else config.position_embedding == "learned"
                if not acts:
                    continue
                for source in SOURCES.values():
                    if source.library == library:
                        known[name] |= accepted(source, config, word)
    assert known == {name: set(words) for name, words in AT_OTHER_SIZES[library].items()}


def accepted(source, config, word) -> set[str]:
    try:
        source.write_config(copy.deepcopy(config), head=False)
    except ValueError:
        return set()
    return {word}


@pytest.mark.full_size
def test_the_page_says_which_presets_have_which_twin():
    assert measure.twin_table() in (ROOT / "docs/twins.md").read_text()
