"""Strangers' files: wrapped names, settings beside the weights, several models in one, and what is none of ours."""

import argparse
import datetime
import json
import os
import pathlib
import pickle
import re
import types
from collections import OrderedDict
from collections import defaultdict
from collections import deque

import numpy
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from safetensors.torch import save_file
from torch import nn

from modeling_vit_custom import ViTCustomBackbone
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.commands import convert as verb
from modeling_vit_custom.conversion import convert
from modeling_vit_custom.conversion import find_source
from modeling_vit_custom.conversion import from_timm
from modeling_vit_custom.conversion.pickles import load_tensors
from modeling_vit_custom.conversion.reading import read_checkpoint
from modeling_vit_custom.conversion.reading import sha256
from modeling_vit_custom.conversion.returning import back
from modeling_vit_custom.conversion.sources import Checkpoint
from modeling_vit_custom.conversion.wrappers import unwrapped
from scripts import convert as script
from tests.conversion_support import read
from tests.conversion_support import saved
from tests.support import fill
from tests.support import tiny

PREFIXES = """module. _orig_mod. module._orig_mod. model. net. encoder. backbone. student. teacher.backbone. vit.
    base_model.model. _forward_module.model. learner.online.0.""".split()


def vit(**changes):
    settings = dict(img_size=32, depth=1, num_classes=3) | changes
    return dict(fill(timm.create_model("vit_tiny_patch16_224", **settings)).state_dict())


def wrapped(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def notes(folder):
    return " ".join(read(folder / "parity.json")["notes"])


def converted(source, output, *options):
    return script.main([str(source), str(output), *options])


# -- names that a wrapper has made longer ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrapped_file_is_the_same_model(prefix):
    """Under any prefix, with and without the name of its source."""
    tensors = vit()
    checkpoint = unwrapped(Checkpoint({}, wrapped(prefix, tensors), name="file"))
    assert checkpoint.tensors.keys() == tensors.keys()
    assert f"the prefix `{prefix}` was taken off" in checkpoint.notes[0]
    assert checkpoint.in_files.keys() == wrapped(prefix, tensors).keys()
    assert find_source(checkpoint).name == "original-deit"
    assert find_source(checkpoint, "timm-vit").name == "timm-vit"


@pytest.mark.parametrize("source", ["original-deit", "timm-vit"])
def test_a_wrapped_file_comes_back_to_the_bit(source, tmp_path):
    tensors = wrapped("module.", vit())
    tensors["module.blocks.0._orig_mod.norm1.bias"] = tensors.pop("module.blocks.0.norm1.bias")  # compiled by blocks
    tensors["projector.weight"] = torch.ones(2)  # of the whole, not of the wrapped model
    save_file(tensors, tmp_path / "file.safetensors", {"format": "pt"})
    ours = converted(tmp_path / "file.safetensors", tmp_path / "ours", "--source", source)
    assert "the prefix `module.` was taken off" in notes(ours)
    assert "`_orig_mod.` was taken out" in notes(ours)
    assert "1 tensors of other names are kept aside, not converted: projector.weight" in notes(ours)
    again = script.main(["--back", str(ours), str(tmp_path / "again")])
    assert {path.name: sha256(path) for path in again.iterdir()} == {
        "file.safetensors": sha256(tmp_path / "file.safetensors")
    }
    script.main(["--verify", str(ours)])
    if source == "timm-vit":  # another model by now
        ViTCustomConfig.from_pretrained(ours, hidden_act="gelu_pytorch_tanh").save_pretrained(ours)
        told = back(ours, tmp_path / "of the changed")[1]
        assert "its names are not put back as the file had them, for the model has changed" in told
        assert "1 tensors of the file, not of this model, are left out" in told


@pytest.mark.parametrize("prefix", ["module.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["vit", "swin", "dinov2 registers", "dinov3", "clip classifier", "mae with decoder"])
def test_a_wrapper_around_a_model_of_transformers_is_taken_off_and_its_own_module_stays(name, prefix, tmp_path):
    folder = saved(name, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    save_file(wrapped(prefix, tensors), folder / "model.safetensors", {"format": "pt"})
    checkpoint = unwrapped(read_checkpoint(folder))
    assert checkpoint.tensors.keys() == tensors.keys()
    assert unwrapped(Checkpoint(checkpoint.config, tensors)).notes == ()


def test_a_file_of_several_models_asks_and_its_sentence_works(tmp_path):
    file = tmp_path / "both.safetensors"
    student, teacher = vit(), {name: tensor + 1 for name, tensor in vit().items()}
    save_file(wrapped("student.module.", student) | wrapped("teacher.", teacher), file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"several models, .*`student.module.`, `teacher.`: choose .*--prefix teacher."
    ):
        convert(file, tmp_path / "ours")
    with pytest.raises(ValueError, match=r"No model's names begin with `ema.`.*there is `student.module.`, `teacher.`"):
        convert(file, tmp_path / "ours", prefix="ema")
    ours = converted(file, tmp_path / "ours", "--prefix", "teacher.")
    assert torch.equal(load_file(ours / "model.safetensors")["classifier.bias"], teacher["head.bias"])
    again = script.main(["--back", str(ours), str(tmp_path / "again")])
    assert sha256(again / "both.safetensors") == sha256(file)


def test_entries_of_a_pickle_with_a_model_each_are_asked_for(tmp_path):
    file = tmp_path / "checkpoint.pth.tar"
    first, second = vit(), {name: tensor + 1 for name, tensor in vit().items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict_ema": second, "state_dict": wrapped("module.", first), "optimizer": optimizer}, file)
    with pytest.raises(ValueError, match=r"several models, state_dict_ema., state_dict.: choose one with `--prefix`"):
        convert(file, tmp_path / "ours")
    for name, expected in {"state_dict": first, "state_dict_ema.": second, "state_dict.module.": first}.items():
        checkpoint = unwrapped(read_checkpoint(file, prefix=name), name)
        assert all(torch.equal(checkpoint.tensors[key], tensor) for key, tensor in expected.items())
        assert "not optimizer" in checkpoint.notes[0]


def test_tensors_that_a_file_shares_between_models_are_kept_aside(tmp_path):
    """Tied in the file; and MAE's decoder, of which ours has no use."""
    tensors = vit(num_classes=0)
    tensors |= {"mask_token": torch.ones(1, 1, 192), "decoder_embed.weight": torch.ones(2, 192)}
    torch.save(wrapped("online.", tensors) | wrapped("ema.", tensors), tmp_path / "file.pth")
    ours = convert(tmp_path / "file.pth", tmp_path / "ours", prefix="online")
    assert "kept aside, for ours has no use for it: mask_token, decoder_embed.weight" in notes(ours)
    again = load_file(script.main(["--back", str(ours), str(tmp_path / "again")]) / "file.safetensors")
    expected = wrapped("online.", tensors) | wrapped("ema.", tensors)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("key", ["ema.model", 0])
def test_an_entry_may_be_called_anything(key, tmp_path):
    torch.save({key: vit(), "epoch": 3}, tmp_path / "file.pth")
    found = read_checkpoint(tmp_path / "file.pth")
    assert (found.entry, found.notes) == (f"{key}.", (f"of file.pth the entry {str(key)!r} was taken, not epoch",))
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in vit().items())


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save(vit(), tmp_path / "file.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match=r"another pickle protocol than torch's own.* write it anew by"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("source", [None, "timm-vit", "original-deit"])
def test_a_grid_that_is_no_square_is_asked_for(source, tmp_path):
    """2 x 4 patches and a class token are as many positions as 3 x 3 patches."""
    torch.save(vit(img_size=(32, 64)), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="are no square grid beside 1 prefix tokens: name a preset"):
        convert(tmp_path / "file.pth", tmp_path / "ours", name=source)


def test_how_many_heads_were_assumed_is_told(tmp_path):
    torch.save(vit(), tmp_path / "file.pth")
    for source, words in ((None, "with 3 heads,"), ("original-deit", "it is read with 3")):
        assert words in notes(convert(tmp_path / "file.pth", tmp_path / str(source), name=source))


def test_a_model_of_ours_and_a_folder_of_another_library_are_no_files_of_tensors(tmp_path):
    torch.save(wrapped("model.", ViTCustomForImageClassification(tiny()).state_dict()), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="are those of a model of ours: build it from its configuration"):
        convert(tmp_path / "file.pth", tmp_path / "ours")
    with pytest.raises(ValueError, match="original-deit is for files without a configuration, and this one's says"):
        find_source(Checkpoint({"architecture": "vit_tiny_patch16_224"}, vit(), name="file"), "original-deit")


# -- what lies beside the weights --------------------------------------------------------------------------------------


class CfgNode(dict):
    """As yacs has it: a dictionary with attributes."""

    __module__ = "yacs.config"
    __qualname__ = "CfgNode"


BESIDE = {
    "namespace": argparse.Namespace(lr=5e-4, output_dir=pathlib.Path("runs"), started=datetime.datetime.now()),
    "simple": types.SimpleNamespace(epochs=3, betas=(0.9, 0.999), ids={1, 2}),
    "numpy": {"best": numpy.float64(0.9), "epoch": numpy.int64(3), "curve": numpy.arange(3)},
    "filled": {"meters": defaultdict(list, {"loss": [0.5]}), "last": deque([1, 2], maxlen=4)},
    "plain": OrderedDict(size=torch.Size([3]), dtype=torch.float16, device=torch.device("cpu")),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_settings_beside_the_weights_do_no_harm(kind, zipped, tmp_path):
    tensors = {"patch_embed.proj.weight": torch.ones(2)}
    content = {"args": BESIDE[kind], "model": tensors, "epoch": 299}
    torch.save(content, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "checkpoint.pth")
    assert torch.equal(found.tensors["patch_embed.proj.weight"], torch.ones(2))
    assert found.notes == ("of checkpoint.pth the entry 'model' was taken, not args, epoch",)


def test_dictionaries_of_settings_are_read_without_their_library(tmp_path, monkeypatch):
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(__import__("sys").modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(__import__("sys").modules, "yacs.config", module)
    torch.save({"cfg": CfgNode(a=CfgNode(b=1)), "model": {"x": torch.ones(1)}}, tmp_path / "checkpoint.pth")
    monkeypatch.undo()
    assert load_tensors(tmp_path / "checkpoint.pth")["cfg"]["a"] == {"b": 1}


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function",
    [os.mkdir, os.system, eval, getattr, __import__, pathlib.Path.mkdir, open],
    ids=lambda function: function.__qualname__,
)
def test_no_pickle_runs(function, zipped, tmp_path):
    """Neither what is harmful by name, nor what is reached through a class that is harmless."""
    harm = str(tmp_path / "harm")
    arguments = {eval: f"open({harm!r}, 'w')", os.system: f"touch {harm}"}
    content = {"args": argparse.Namespace(evil=Runs(function, arguments.get(function, harm))), "model": {}}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds more than tensors, [\w.]+, which is not unpickled") as error:
        read_checkpoint(tmp_path / "evil.pth")
    assert "\x1b" not in str(error.value)
    assert not os.path.exists(harm)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "does not fit into the memory that is free",
        ),
        (
            pickle.UnpicklingError("Weights only load failed. `torch.distributed.tensor` must be imported first."),
            r"is not read by torch's safe loader \(Weights only load failed. .* first\): take a safetensors file",
        ),
    ],
)
def test_what_torchs_loader_says_of_a_file_that_is_whole(error, sentence, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise error

    torch.save(vit(), tmp_path / "model.pth")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(ValueError, match=f"^model.pth {sentence}"):
        read_checkpoint(tmp_path / "model.pth")


def test_numpys_loaders_are_not_called(tmp_path):
    """They are harmless because they are replaced."""
    numpy.save(tmp_path / "evil.npy", numpy.array([Runs(os.mkdir, str(tmp_path / "harm"))], dtype=object))
    content = {"args": Runs(numpy.load, str(tmp_path / "evil.npy"), None, True), "model": {"x": torch.ones(1)}}
    torch.save(content, tmp_path / "evil.pth")
    assert read_checkpoint(tmp_path / "evil.pth").tensors.keys() == {"x"}
    assert not (tmp_path / "harm").exists()


# -- files that are no weights -----------------------------------------------------------------------------------------


def script_archive(path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)


def other_framework(path):
    save_file({"a": torch.ones(1)}, path, {"format": "tf"})


def truncated(path):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-600])


NO_WEIGHTS = {
    "pointer.pth": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "pointer.safetensors": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "page.pth": (lambda p: p.write_text("<!DOCTYPE html><html>"), "is a web page"),
    "empty.bin": (lambda p: p.write_bytes(b""), "is empty: download it again"),
    "cut.pth": (truncated, "is damaged, or not what its ending says"),
    "text.pth": (lambda p: p.write_text("epoch 1, loss 2"), "is damaged, or not what its ending says"),
    "weights.zip": (lambda p: p.write_bytes(b"PK"), "is no file of weights that is read here"),
    "model.pt": (
        lambda p: torch.save(nn.Linear(2, 2), p),
        r"more than tensors, torch.nn.modules.linear.Linear.*state dict",
    ),
    "tensor.pt": (lambda p: torch.save(torch.ones(2), p), "holds a Tensor, not a state dict"),
    "nothing.pt": (lambda p: torch.save({"epoch": 3}, p), "holds epoch, and no tensors under names"),
    "jax.safetensors": (other_framework, "holds weights as tf lays them out: take the file for PyTorch"),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_is_no_file_of_weights_gets_one_sentence(name, tmp_path):
    make, message = NO_WEIGHTS[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        converted(tmp_path / name, tmp_path / "out" / "ours")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out/ours").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_gets_the_line_that_saves_its_weights(tmp_path):
    script_archive(tmp_path / "traced.pt")
    with pytest.raises(ValueError, match=r"is a TorchScript archive.*torch.jit.load\('traced.pt'\).state_dict\(\)"):
        converted(tmp_path / "traced.pt", tmp_path / "ours")


def test_folders_of_ours_and_outputs_that_are_there_get_one_sentence(tmp_path):
    ViTCustomForImageClassification(tiny()).save_pretrained(tmp_path / "run/checkpoint")
    with pytest.raises(ValueError, match="checkpoint is a model of ours already"):
        converted(tmp_path / "run/checkpoint", tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match="run holds folders, no weights: name one of these, checkpoint"):
        converted(tmp_path / "run", tmp_path / "ours")
    with pytest.raises(FileExistsError, match="nothing is written over"):  # before anything is read
        converted(tmp_path / "run", tmp_path / "run")
    with pytest.raises(OSError, match=r"google/vit at 0+ was not fetched .*go online, or download it"):
        converted("google/vit", tmp_path / "ours", "--revision", "0" * 40)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_a_file_that_may_be_anothers_is_not_guessed_in_silence(tmp_path):
    torch.save(vit(), tmp_path / "file.pth")
    guessed = notes(convert(tmp_path / "file.pth", tmp_path / "guessed"))
    for word in ("timm-vit, MAE", "`layer_norm_eps` 1e-06", "'bicubic'", "0.485", "`--source timm-vit`"):
        assert word in guessed
    named = convert(tmp_path / "file.pth", tmp_path / "named", name="original-deit")
    assert "have the same names" not in notes(named)
    timms = convert(tmp_path / "file.pth", tmp_path / "timms", name="timm-vit")
    assert "'bicubic_antialias', as most of timm-vit have" in notes(timms)
    assert not (timms / "preprocessor_config.json").exists()
    assert read(timms / "parity.json")["largest"]["float64"] <= 1e-9
    configs = [ViTCustomConfig.from_pretrained(folder) for folder in (named, timms)]
    assert [config.position_interpolation for config in configs] == ["bicubic", "bicubic_antialias"]


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_tiny_patch16_224", dict(reg_tokens=2, no_embed_class=True, init_values=0.1)),
        ("vit_tiny_patch16_224", dict(global_pool="avg", class_token=False, qkv_bias=False, qk_norm=True)),
        ("vit_tiny_patch16_224", dict(num_classes=0)),
    ],
    ids=str,
)
def test_timms_own_model_reads_what_its_shapes_told(architecture, changes, tmp_path):
    theirs = fill(timm.create_model(architecture, **dict(img_size=32, depth=1, num_classes=3) | changes))
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    ours = convert(tmp_path / "file.pth", tmp_path / "ours", name="timm-vit")
    expected = from_timm(theirs).config
    found = ViTCustomConfig.from_pretrained(ours)
    for name in (
        "prefix_tokens",
        "pooling",
        "final_norm",
        "qk_norm",
        "qkv_bias",
        "num_labels",
        "position_interpolation",
    ):
        assert getattr(found, name) == getattr(expected, name), name


def test_a_preset_says_what_a_file_does_not(tmp_path):
    """By a config.json of ours; for a source of a library, it stands for their configuration."""
    preset = tiny(hidden_sizes=[32], depths=[1], num_attention_heads=[8], position_interpolation="bicubic_antialias")
    preset.save_pretrained(tmp_path / "preset")
    settings = dict(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=8, num_classes=3)
    torch.save(vit(**settings), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"No tensor says how many attention heads .* name a preset"):
        convert(tmp_path / "file.pth", tmp_path / "ours", name="original-deit")
    for source in ("original-deit", "timm-vit"):
        options = ["--source", source, "--preset", str(tmp_path / "preset")]
        ours = converted(tmp_path / "file.pth", tmp_path / source, *options)
        config = ViTCustomConfig.from_pretrained(ours)
        assert (config.num_attention_heads, config.num_labels) == ([8], 3)
        told = "the preset's `position_interpolation` 'bicubic_antialias' is not original-deit's, 'bicubic'"
        assert (told in notes(ours)) == (source == "original-deit")
        again = script.main(["--back", str(ours), str(tmp_path / f"{source} again")])
        assert [path.name for path in again.iterdir()] == ["file.safetensors"]
    with pytest.raises(ValueError, match="no preset 'deit_base_patch16_22': did you mean 'deit_base_patch16_224'"):
        verb.read_config("deit_base_patch16_22")
    options = ["--source", "original-deit", "--preset", "deit_base_patch16_224"]
    with pytest.raises(ValueError, match="The preset has a width of 768, the file one of 32"):
        converted(tmp_path / "file.pth", tmp_path / "ours", *options)


def test_tensors_of_transformers_alone_ask_for_their_configuration(tmp_path):
    folder = saved("vit", tmp_path / "theirs")
    config = folder / "config.json"
    config.rename(tmp_path / "elsewhere.json")
    with pytest.raises(
        ValueError, match=r"fit transformers-vit.*with `--config`, or name one with `--source transformers-vit`"
    ):
        converted(folder, tmp_path / "ours")
    with pytest.raises(ValueError, match=r"transformers-vit needs: give their config.json with `--config`"):
        converted(folder, tmp_path / "ours", "--source", "transformers-vit")
    converted(folder, tmp_path / "ours", "--config", str(tmp_path / "elsewhere.json"))
    ViTCustomConfig.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "preset")
    options = ["--source", "transformers-vit", "--preset", str(tmp_path / "preset")]
    again = converted(folder, tmp_path / "again", *options)
    weights = [sha256(path / "model.safetensors") for path in (again, tmp_path / "ours")]
    assert weights[0] == weights[1]


# -- what is none of the family ----------------------------------------------------------------------------------------

OTHERS = {
    "convnext_atto": "ConvNeXt",
    "resnet18": "ResNet",
    "beit_base_patch16_224": "BEiT",
    "eva02_tiny_patch14_224": "EVA",
    "swinv2_tiny_window8_256": "Swin V2",
    "cait_xxs24_224": "CaiT",
    "mixer_s16_224": "MLP-Mixer",
    "efficientnet_b0": "EfficientNet",
    "vit_tiny_r_s16_p8_224": "hybrid",
    "vitamin_small_224": "hybrid",
    "samvit_base_patch16_224": "SAM",
    "vit_base_patch16_siglip_224": "SigLIP|attn_pool|global_pool",
    "xcit_nano_12_p16_224": "XCiT",
    "hiera_tiny_224": "Hiera",
    "volo_d1_224": "No source knows the names",
    "vit_pe_core_tiny_patch16_384": "SigLIP or another model with attention pooling|global_pool",
}


FEWER = {name: dict(depth=1) for name in OTHERS if name.startswith(("vit_base_patch16_s", "vit_tiny", "sam", "eva02"))}
FEWER["cait_xxs24_224"] = dict(depth=1, depth_token_only=1)


def refusal(checkpoint):
    with pytest.raises(ValueError, match=r"\.$") as error:
        find_source(checkpoint).read_config(checkpoint)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("architecture", OTHERS)
def test_a_model_of_another_family_is_refused_by_one_sentence(architecture):
    """As tensors alone, as a folder of timm and as a model of timm."""
    with torch.device("meta"):
        theirs = timm.create_model(architecture, **FEWER.get(architecture, {}))
    for prefix in ("", "module."):
        tensors = wrapped(prefix, theirs.state_dict())
        assert re.search(OTHERS[architecture], refusal(unwrapped(Checkpoint({}, tensors, name="file"))))
        config = {"architecture": architecture}
        assert re.search(rf"{OTHERS[architecture]}|{architecture}", refusal(unwrapped(Checkpoint(config, tensors))))
    with pytest.raises(ValueError, match=r"no conversion of timm's|This timm model has") as error:
        from_timm(theirs)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["storage_tokens", "rope_embed.periods", "cls_token", "mask_token", "blocks.0.attn.qkv.weight"], "DINOv3"),
        (["visual.transformer.resblocks.0.ln_1.weight", "text_projection"], "CLIP's original"),
        (["encoder.layers.encoder_layer_0.ln_1.weight", "conv_proj.weight", "class_token"], "torchvision"),
        (
            ["base_model.model.vit.embeddings.cls_token", "base_model.model.vit.x.query.lora_A.default.weight"],
            "merge it",
        ),
        (["conv_root/kernel", "embedding/kernel", "cls"], "hybrid"),
        (["vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution.weight"], "hybrid"),
        (["dwconv.strange"], "No source knows the names of file's tensors, such as dwconv.strange"),
    ],
    ids=str,
)
def test_files_of_names_that_are_not_read_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        find_source(unwrapped(Checkpoint({}, {name: torch.ones(1) for name in names}, name="file")))


def test_a_folder_of_transformers_that_is_none_of_the_family_is_named(tmp_path):
    transformers.ConvNextConfig(depths=[1], hidden_sizes=[8], num_stages=1).save_pretrained(tmp_path)
    save_file({"convnext.layernorm.weight": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"No source knows this checkpoint.*'convnext'.*take a model of ViT"):
        converted(tmp_path, tmp_path / "ours")


# -- theirs given to our classes, and the reverse ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [ViTCustomConfig, ViTCustomForImageClassification, ViTCustomBackbone, ViTCustomDualEncoder], ids=str
)
def test_a_foreign_folder_is_told_to_be_converted(make, tmp_path):
    transformers.ViTConfig(hidden_size=32, num_attention_heads=4).save_pretrained(tmp_path / "vit")
    (tmp_path / "timm").mkdir()
    timms = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "num_features": 192}
    (tmp_path / "timm/config.json").write_text(json.dumps(timms))
    for folder in ("vit", "timm"):
        with pytest.raises(ValueError, match=r"convert the checkpoint first, by `vit-custom convert SOURCE"):
            make.from_pretrained(tmp_path / folder)
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    (tmp_path / "run/checkpoint/config.json").write_text("{}")
    with pytest.raises(OSError, match=r"run has no config.json and is no checkpoint: give .*run/checkpoint\.$"):
        make.from_pretrained(tmp_path / "run")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(OSError, match="give a folder that save_pretrained wrote"):
        make.from_pretrained(tmp_path / "nothing")


def test_our_two_kinds_name_each_other(tmp_path):
    ViTCustomForImageClassification(tiny()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load it with its own class, ViTCustomForImageClassification"):
        ViTCustomDualEncoder.from_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors is a file: give its folder"):
        ViTCustomConfig.from_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="This configuration is of a 'vit'"):
        ViTCustomConfig.from_dict(transformers.ViTConfig().to_dict())
