"""scripts/convert.py: from files, folders and the Hub; the proof beside the weights; and nothing where it fails."""

import json
import os
import shutil
import subprocess
import sys

import numpy
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from modeling_vit_custom.conversion import from_transformers
from modeling_vit_custom.conversion.reading import sha256
from modeling_vit_custom.conversion.registry import SOURCES
from modeling_vit_custom.conversion.sources import Checkpoint
from scripts import convert
from tests.conversion_support import pixels
from tests.conversion_support import read
from tests.conversion_support import saved
from tests.conversion_support import transformers_model
from tests.minihub import MiniHub
from tests.support import ROOT
from tests.support import fill
from tests.support import tiny

# Each image processor that the family's checkpoints come with, and settings that its defaults do not have.
PROCESSORS = {
    "ViTImageProcessor": dict(size={"height": 32, "width": 40}, resample=3, image_mean=[0.4, 0.5, 0.6]),
    "DeiTImageProcessor": dict(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
    "BitImageProcessor": dict(size={"shortest_edge": 41}, crop_size={"height": 32, "width": 32}, resample=3),
    "CLIPImageProcessor": dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=True),
    "DINOv3ViTImageProcessorFast": dict(size={"height": 32, "width": 48}),
}

# A model of each kind -> the layout that it is saved in.
OWN = {
    "vit": "transformers",
    "vit bare": "transformers",
    "deit with teacher": "transformers",
    "swin": "transformers",
    "dinov2 swiglu": "transformers",
    "dinov2 registers": "transformers",
    "dinov3": "transformers",
    "clip vision": "transformers",
    "clip classifier": "transformers",
    "mae": "transformers-vit-mae",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("convert")


@pytest.fixture(scope="module")
def theirs(work):
    """A folder as it lies on the Hub: weights, configuration, image processor."""
    folder = saved("dinov2", work / "theirs")
    transformers.BitImageProcessor(size={"shortest_edge": 36}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(theirs, work):
    return convert.main([str(theirs), str(work / "ours")])


@pytest.fixture
def copied(ours, tmp_path):
    return shutil.copytree(ours, tmp_path / "copied")


def test_the_folder_is_an_ordinary_one_of_ours_with_its_proof(ours, theirs):
    proof = {"parity.json", "source.json", "source_only.safetensors"}
    files = {"config.json", "model.safetensors", "preprocessor_config.json", *SHIPPED_FILES, *proof}
    assert {path.name for path in ours.iterdir()} == files
    expected = transformers.Dinov2ForImageClassification.from_pretrained(theirs).eval()
    model = ViTCustomForImageClassification.from_pretrained(ours).eval()
    x = pixels(32, 32, torch.float32)
    assert torch.allclose(model(x).logits, expected(x).logits, rtol=1e-5, atol=1e-6)
    assert model.config.id2label == expected.config.id2label
    assert load_file(ours / "source_only.safetensors").keys() == {"dinov2.embeddings.mask_token"}
    found = read(ours / "parity.json")
    assert found["versions"]["transformers"] == transformers.__version__
    assert found["weights"]["model.safetensors"] == sha256(ours / "model.safetensors")
    assert found["probe"]["native"]["size"] == [32, 32]
    assert found["probe"]["other"]["size"] == [40, 48]
    assert next(iter(found["differences"]["float32"]["other"])) == "embeddings"


def test_it_can_be_verified_from_the_folder_alone(copied, theirs, capsys):
    convert.main(["--verify", str(copied)])
    assert capsys.readouterr().out.splitlines()[-1].startswith("the source's own model computes the same, layer by")


TIMM = {
    "vit_tiny_patch16_224": dict(img_size=48, embed_dim=48, depth=2, num_heads=4),
    "deit_tiny_distilled_patch16_224": dict(img_size=48, embed_dim=48, depth=2, num_heads=4),
    "swin_tiny_patch4_window7_224": dict(img_size=32, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "pit_ti_distilled_224": dict(img_size=64),
    "vit_small_patch16_dinov3_qkvb": dict(img_size=48, embed_dim=48, depth=2, num_heads=4),
}


def timm_folder(name, folder):
    """As timm writes it for the Hub."""
    model = fill(timm.create_model(name, num_classes=0 if "dinov3" in name else 3, **TIMM[name]))
    timm.models.save_for_hf(model, folder, model_args=TIMM[name], safe_serialization=True)
    (folder / "pytorch_model.bin").unlink(missing_ok=True)
    return folder


def test_it_does_not_go_back_without_what_was_kept_aside(copied, tmp_path):
    (copied / "source_only.safetensors").unlink()
    with pytest.raises(ValueError, match=r"should hold dinov2\.embeddings\.mask_token: put the file back"):
        convert.main(["--back", str(copied), str(tmp_path / "again")])
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", TIMM)
def test_timms_folders_go_there_and_back(name, tmp_path):
    theirs = timm_folder(name, tmp_path / "theirs")
    ours = convert.main([str(theirs), str(tmp_path / "ours")])
    convert.main(["--verify", str(ours)])
    again = convert.main(["--back", str(ours), str(tmp_path / "again")])
    assert sha256(again / "model.safetensors") == sha256(theirs / "model.safetensors")
    assert read(again / "config.json") == read(theirs / "config.json")
    assert read(ours / "preprocessor_config.json")["image_processor_type"]


def test_without_the_sources_library_it_says_what_was_not_compared(tmp_path, monkeypatch, capsys):
    ours = convert.main([str(timm_folder("vit_tiny_patch16_224", tmp_path / "theirs")), str(tmp_path / "ours")])
    convert.main(["--verify", str(ours)])
    assert "the source's own model computes the same" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "timm", None)
    convert.main(["--verify", str(ours)])
    assert "not compared with the source's own model: " in capsys.readouterr().out


def tamper_with_a_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["vit.stages.0.layers.1.mlp.fc1.weight"][0, 0] += 1e-6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def tamper_with_a_weight_and_its_hash(folder):
    tamper_with_a_weight(folder)
    tell(folder, lambda proof: proof["weights"].update({"model.safetensors": sha256(folder / "model.safetensors")}))


def tamper_with_what_was_kept(folder):
    save_file({"dinov2.embeddings.mask_token": torch.ones(1, 48)}, folder / "source_only.safetensors")


def tamper_with_the_configuration(folder):
    settings = read(folder / "config.json") | {"layer_norm_eps": 1e-3}
    (folder / "config.json").write_text(json.dumps(settings))


def tamper_with_both_configurations(folder):
    """As if the code had changed what it computes: every file agrees with every other."""
    tamper_with_the_configuration(folder)
    known = read(folder / "source.json")
    known["config"]["layer_norm_eps"] = 1e-3
    (folder / "source.json").write_text(json.dumps(known))


def tamper_with_the_size(folder):
    settings = read(folder / "config.json") | {"image_size": 40}
    (folder / "config.json").write_text(json.dumps(settings))


def forget_the_proof(folder):
    (folder / "parity.json").unlink()


def tell(folder, change):
    proof = read(folder / "parity.json")
    change(proof)
    (folder / "parity.json").write_text(json.dumps(proof))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (tamper_with_a_weight, "model.safetensors is not the file that was certified"),
        (tamper_with_a_weight_and_its_hash, "not the source's, bit for bit"),
        (tamper_with_what_was_kept, "source_only.safetensors is not the file"),
        (tamper_with_the_configuration, "no longer says what the source's says of layer_norm_eps"),
        (tamper_with_both_configurations, "embeddings|stages.* was .* computes something else than what was certified"),
        (tamper_with_the_size, "`image_size` in config.json has changed"),
        (forget_the_proof, "has no parity.json and source.json"),
    ],
)
def test_what_no_longer_holds_fails_with_its_reason(copied, tamper, message):
    tamper(copied)
    with pytest.raises(ValueError, match=message):
        convert.main(["--verify", str(copied)])


def edited(name, change):
    def tamper(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return tamper


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (
            lambda f: (f / "modeling_attention.py").write_text("# less"),
            "modeling_attention.py is not as it was certified",
        ),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json is not as it was certified"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"more"), "pytorch_model.bin is not as it was certified"),
        (edited("config.json", lambda c: c["auto_map"].update(AutoModel="a/b--x.Y")), "config.json is not as it was"),
        (edited("source.json", lambda c: c.update(name="another")), "source.json is not as it was certified"),
        (edited("parity.json", lambda c: c["largest"].update(float64=0.7)), "0.7.* of `largest`, it should be"),
        (edited("parity.json", lambda c: c["bars"].update(float64=1e9)), "of `bars`, it should be"),
        (edited("parity.json", lambda c: c["source"].update(revision="f" * 40)), "of `source.revision`, it should"),
        (edited("parity.json", lambda c: c["source"].update(kind="google-npz")), "of `source.kind`, it should be"),
    ],
    ids=["code", "processor", "stray", "auto_map", "name", "largest", "bars", "revision", "kind"],
)
def test_all_that_is_loaded_and_all_that_is_claimed_is_certified(copied, tamper, message):
    tamper(copied)
    with pytest.raises(ValueError, match=message):
        convert.main(["--verify", str(copied)])


def test_the_card_may_be_written_after_the_proof(copied, capsys):
    (copied / "README.md").write_text("# A card")
    convert.main(["--verify", str(copied)])
    assert "certified files" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.npz"])
def test_a_damaged_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more of the archive")
    with pytest.raises(ValueError, match=f"{name} is damaged, or not what its ending says"):
        convert.main([str(tmp_path / name), str(tmp_path / "out")])


def test_it_goes_back_to_equal_files(ours, theirs, tmp_path, capsys):
    again = convert.main(["--back", str(ours), str(tmp_path / "again")])
    assert {path.name: sha256(path) for path in again.iterdir()} == {
        path.name: sha256(path) for path in theirs.iterdir()
    }
    assert "the layout of transformers-dinov2" in capsys.readouterr().out


def test_a_model_of_our_own_goes_to_transformers(tmp_path, capsys):
    """What their configuration cannot say of training is said."""
    model = fill(ViTCustomForImageClassification(tiny(position_interpolation="bicubic", drop_path_rate=0.1)))
    model.save_pretrained(tmp_path / "mine")
    output = convert.main(["--back", str(tmp_path / "mine"), str(tmp_path / "vit"), "--to", "transformers"])
    assert "cannot say: `drop_path_rate` is 0.1 here and 0.0 there." in capsys.readouterr().out
    theirs = transformers.ViTForImageClassification.from_pretrained(output, attn_implementation="sdpa").eval()
    x = pixels(32, 32, torch.float32)
    assert torch.allclose(theirs(x).logits, model(x).logits, rtol=1e-5, atol=1e-5)
    assert theirs.config.id2label == model.config.id2label


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_our_own_of_every_kind_is_read_by_transformers_as_it_is(name, tmp_path):
    """No tensor is left out but those that ours has no use for, which transformers starts anew."""
    fill(from_transformers(transformers_model(name))).save_pretrained(tmp_path / "mine")
    output = convert.main(["--back", str(tmp_path / "mine"), str(tmp_path / "theirs"), "--to", OWN[name]])
    (architecture,) = read(output / "config.json")["architectures"]
    _, info = getattr(transformers, architecture).from_pretrained(output, output_loading_info=True)
    assert not info["unexpected_keys"]
    unused = (
        "pooler.dense",
        "mask_token",
        "post_layernorm",
        "text_model",
        "logit_scale",
        "projection",
        "relative_position_index",
    )
    assert not [key for key in info["missing_keys"] if not any(part in key for part in unused)]
    again = convert.main([str(output), str(tmp_path / "again")])
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "mine", again)]
    assert all(torch.equal(weights[1][key], tensor) for key, tensor in weights[0].items())


def test_a_converted_model_that_was_trained_further_goes_back_as_what_it_has_become(ours, tmp_path):
    model = ViTCustomForImageClassification.from_pretrained(ours, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path / "trained")
    for name in ("source.json", "source_only.safetensors"):
        shutil.copy(ours / name, tmp_path / "trained")
    output = convert.main(["--back", str(tmp_path / "trained"), str(tmp_path / "theirs")])
    theirs, info = transformers.Dinov2ForImageClassification.from_pretrained(output, output_loading_info=True)
    assert theirs.classifier.out_features == 3
    assert not info["missing_keys"]  # the mask token came along


def test_what_no_layout_can_hold_is_refused_and_nothing_is_written(tmp_path):
    ViTCustomModel(tiny(qk_norm=True)).save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"`qk_norm` True \(only False\)"):
        convert.main(["--back", str(tmp_path / "mine"), str(tmp_path / "out"), "--to", "transformers"])
    with pytest.raises(ValueError, match="`--to` must say the layout"):
        convert.main(["--back", str(tmp_path / "mine"), str(tmp_path / "out")])
    with pytest.raises(ValueError, match="There is no layout 'jax': there are "):
        convert.main(["--back", str(tmp_path / "mine"), str(tmp_path / "out"), "--to", "jax"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_source_that_does_not_fit_gets_the_two_sided_list_and_no_output(theirs, tmp_path):
    folder = shutil.copytree(theirs, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    del tensors["dinov2.layernorm.bias"]
    tensors |= {"classifier.weight": torch.zeros(7, 48), "teacher.head": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="does not fit ViTCustomForImageClassification") as error:
        convert.main([str(folder), str(tmp_path / "ours")])
    assert str(error.value).splitlines()[1:] == [
        "  classifier.weight: (7, 48) in the source, (7, 96) in the model",
        "  in the source, not in the model: teacher.head",
        "  missing from the source: dinov2.layernorm.bias",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_model_that_computes_something_else_is_not_written(theirs, tmp_path, monkeypatch):
    """The proof is a condition, not a report."""
    from modeling_vit_custom.modeling_stages import ViTCustomMLP

    forward = ViTCustomMLP.forward
    monkeypatch.setattr(ViTCustomMLP, "forward", lambda self, x, **kwargs: forward(self, x, **kwargs) * (1 + 1e-4))
    with pytest.raises(
        ValueError, match=r"stages\.0\.layers\.0 differs from the source by .* this is not the source's"
    ):
        convert.main([str(theirs), str(tmp_path / "ours")])
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_over(theirs, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="nothing is written over"):
        convert.main([str(theirs), str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_shards_are_read_and_come_back_as_the_same_shards(tmp_path):
    model = transformers_model("vit")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    convert.main([str(tmp_path / "theirs"), str(tmp_path / "ours")])
    again = convert.main(["--back", str(tmp_path / "ours"), str(tmp_path / "again")])
    hashes = [{path.name: sha256(path) for path in folder.iterdir()} for folder in (tmp_path / "theirs", again)]
    assert hashes[0] == hashes[1]
    next((tmp_path / "theirs").glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="which is not there: download it too"):
        convert.main([str(tmp_path / "theirs"), str(tmp_path / "again2")])


def test_a_pickle_goes_through_the_weights_only_loader(tmp_path):
    model = transformers_model("vit")
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    torch.save({"model": model.state_dict(), "epoch": 300}, tmp_path / "checkpoint.pth")
    ours = convert.main([str(tmp_path / "checkpoint.pth"), str(tmp_path / "ours")])
    assert "of checkpoint.pth the entry 'model' was taken, not epoch" in read(ours / "parity.json")["notes"]
    again = convert.main(["--back", str(ours), str(tmp_path / "again")])
    theirs = load_file(again / "checkpoint.safetensors")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in model.state_dict().items())


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(ROOT / "harm"),)


def test_a_pickle_with_code_in_it_is_refused_unopened(tmp_path):
    torch.save({"model": {}, "args": Harmful()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth holds more than tensors.*take a safetensors file"):
        convert.main([str(tmp_path / "evil.pth"), str(tmp_path / "ours")])
    assert not (ROOT / "harm").exists()
    numpy.savez(tmp_path / "evil.npz", kernel=numpy.array([Harmful()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        convert.main([str(tmp_path / "evil.npz"), str(tmp_path / "ours")])
    assert not (ROOT / "harm").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "is no file, no folder and no Hub id"),
        (["google/vit", "out"], "one commit only, got revision None: pass `--revision`"),
        (["google/vit", "out", "--revision", "main"], "got revision 'main'"),
        (["google/vit", "out", "--revision", "abc123"], "40 hexadecimal digits"),
        ([str(ROOT), "out", "--revision", "0" * 40], "where `--revision` means nothing"),
        ([str(ROOT / "docs"), "out"], "needs one file of weights, has none"),
    ],
    ids=str,
)
def test_a_source_that_cannot_be_meant_is_refused_with_the_fix(arguments, message, tmp_path):
    arguments[1] = str(tmp_path / "out")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert.main(arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["one"], ["--verify", "a", "b"], ["a", "b", "--to", "timm"], ["--back", "a", "b", "--revision", "0"]],
    ids=str,
)
def test_options_without_a_meaning_are_refused(arguments):
    with pytest.raises(ValueError, match=r"means nothing here|give one folder"):
        convert.main(arguments)


PUSH = """
import sys
from huggingface_hub import HfApi
from scripts import convert
api = HfApi()
api.create_repo("alice/vit")
commit = api.upload_folder(repo_id="alice/vit", folder_path=sys.argv[1]).oid
api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/vit")  # the branch moves on
convert.main(["alice/vit", sys.argv[2], "--revision", commit])
print(commit)
"""


def test_a_commit_of_the_hub_is_what_is_converted(theirs, tmp_path):
    with MiniHub() as hub:
        settings = dict(HF_ENDPOINT=hub.url, HF_TOKEN=hub.token(), HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        settings |= dict(HF_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT), HF_HUB_DISABLE_PROGRESS_BARS="1")
        command = [sys.executable, "-c", PUSH, str(theirs), str(tmp_path / "ours")]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    known = read(tmp_path / "ours/source.json")
    assert (known["name"], known["revision"]) == ("alice/vit", done.stdout.splitlines()[-1])
    convert.main(["--verify", str(tmp_path / "ours")])


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pictures_come_to_ours_as_they_came_to_the_source(kind, tmp_path):
    """Real photographs, through each folder's own processor, without our package's help."""
    if not hasattr(transformers, kind):
        pytest.skip(f"this transformers has no {kind}")
    theirs = saved("vit", tmp_path / "theirs")
    getattr(transformers, kind)(**PROCESSORS[kind]).save_pretrained(theirs)
    ours = convert.main([str(theirs), str(tmp_path / "ours")])
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    settings = "preprocessor_config.json"  # alone in a folder: the model's configuration cannot help
    (tmp_path / "alone").mkdir()
    shutil.copy(ours / settings, tmp_path / "alone")
    first, second = (
        AutoImageProcessor.from_pretrained(folder)(photographs, return_tensors="pt").pixel_values
        for folder in (theirs, tmp_path / "alone")
    )
    assert first.shape[2:] != (640, 427)
    assert torch.equal(first, second)


@pytest.mark.parametrize(("num_channels", "told"), [(3, {"do_convert_rgb": True}), (1, {})])
@pytest.mark.parametrize("tower", [{}, "vision_config"])
def test_pictures_become_rgb_where_the_model_takes_three_channels(num_channels, told, tower):
    config: dict = {"num_channels": num_channels}
    checkpoint = Checkpoint({tower: config} if tower else config, {}, processor={"image_mean": [0.5]})
    made = SOURCES["transformers-vit"].read_processor(checkpoint)
    assert made == {"image_mean": [0.5], "image_processor_type": made["image_processor_type"]} | told


def test_a_processor_that_names_no_class_gets_the_one_its_model_means(tmp_path):
    """As in the first files of ViT on the Hub."""
    theirs = saved("deit", tmp_path / "theirs")
    old = dict(do_resize=True, size=40, do_center_crop=True, crop_size=32, do_normalize=True, image_mean=[0.5] * 3)
    (theirs / "preprocessor_config.json").write_text(json.dumps(old))
    ours = convert.main([str(theirs), str(tmp_path / "ours")])
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    processors = [AutoImageProcessor.from_pretrained(folder) for folder in (theirs, ours)]
    assert type(processors[0]) is type(processors[1])
    first, second = (processor(photographs, return_tensors="pt").pixel_values for processor in processors)
    assert torch.equal(first, second)
    (theirs / "preprocessor_config.json").unlink()
    ours = convert.main([str(theirs), str(tmp_path / "without")])
    assert not (ours / "preprocessor_config.json").exists()
    assert any("no image processor came with the source" in note for note in read(ours / "parity.json")["notes"])
