"""vit-custom train from a folder: a recipe of what was chosen, which repeats the run; and from any checkpoint."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from transformers import CLIPConfig
from transformers import CLIPModel
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.commands import choosing
from modeling_vit_custom.commands.choosing import choose
from modeling_vit_custom.commands.choosing import epochs_for
from modeling_vit_custom.commands.shipped import shipped
from modeling_vit_custom.commands.starting_point import starting_point
from modeling_vit_custom.training import TASKS
from modeling_vit_custom.training import read_recipe
from scripts import train
from tests.forking import in_two_processes
from tests.minihub import MiniHub
from tests.support import ROOT
from tests.support import tiny

NAMES = ("zero", "one", "two")
SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Class folders, and checkpoints of ours and of others."""
    work, digits = tmp_path_factory.mktemp("work"), load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:150], digits.target[:150], strict=True)):
        if label < len(NAMES):
            (folder := work / "my/pictures" / NAMES[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray((15.9 * pixels).astype("uint8")).resize((40, 48)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(work / "theirs")
    ViTCustomForImageClassification(tiny()).save_pretrained(work / "ours")
    for name in ("theirs", "ours"):
        ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(work / name)
    return work


@pytest.fixture
def here(work, tmp_path, monkeypatch):
    """A working directory with the pictures and checkpoints in it."""
    for path in work.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hashes(folder):
    return json.loads((folder / "metrics.json").read_text())["weights"]


def test_what_was_chosen_is_printed_and_saved_and_repeats_the_run(here, capsys):
    folder = train.main(["--data", "my/pictures", "--from", "theirs", "--num_train_epochs", "2", "--disable_tqdm"])
    said = capsys.readouterr().out
    assert str(folder) == "runs/pictures"
    saved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert saved["num_train_epochs"] == 2
    assert (saved["dataset"], saved["init_from"], saved["task"]) == ("my/pictures", "theirs", "image-classification")
    lines = [line.split() for line in said.splitlines() if line.startswith("  ") and line.split()[0] in saved]
    told = {line[0]: yaml.safe_load(line[1]) for line in lines}
    assert {"per_device_eval_batch_size", "learning_rate", "layer_decay", "output_dir"} <= told.keys()
    assert "num_train_epochs" not in told  # it was given
    assert all(saved[key] == value for key, value in told.items())
    first = hashes(folder)
    recipe = shutil.copy(folder / "recipe.yaml", here / "pictures.yaml")
    again = train.main([str(recipe), "--output_dir", "again"])
    assert hashes(again) == first


def test_what_is_given_counts_whatever_would_be_chosen(here):
    words = "--data my/pictures --from ours --max_steps 2 --learning_rate 1e-5 --per_device_train_batch_size 3"
    folder = train.main([*words.split(), "--output_dir", "elsewhere/mine", "--disable_tqdm"])
    saved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert str(folder) == "elsewhere/mine"
    assert (saved["learning_rate"], saved["per_device_train_batch_size"], saved["max_steps"]) == (1e-5, 3, 2)
    assert not (here / "elsewhere/converted").exists()  # ours is read as it is


def test_a_result_is_kept_before_anything_is_read(here, monkeypatch):
    (here / "runs/pictures").mkdir(parents=True)
    (here / "runs/pictures/metrics.json").write_text("{}")
    monkeypatch.setattr("modeling_vit_custom.commands.from_data.load_data", None)
    with pytest.raises(FileExistsError, match="holds the result of a run that ended: add --overwrite"):
        train.main(["--data", "my/pictures", "--from", "theirs"])
    assert not (here / "runs/converted").exists()


def test_new_weights_for_few_pictures_come_with_a_warning_before_they_begin(here, capsys, monkeypatch):
    def stopped(recipe, splits):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_vit_custom.commands.train.train", stopped)
    for words, warns in (("--preset vit_tiny_patch16_224", True), ("--from ours", False)):
        with pytest.raises(KeyboardInterrupt):
            train.main(["--data", "my/pictures", *words.split()])
        said = capsys.readouterr().out
        assert ("pictures are few for new weights" in said) == warns


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--from", "ours"], "There is nothing to train on: give --data with a folder of pictures, or a recipe"),
        (["--data", "my/pictures"], r"There is nothing to begin from: add --from .* or --preset"),
        (["--data", "my/pictures", "--preset", "vit_tiny"], "There is no preset 'vit_tiny'"),
        (["--data", "my/pictures", "--from", "ours", "--task", "sorting"], "There is no `--task sorting`: choose one"),
        (["--data", "my/pictures", "--from", "nothing at all"], "is no folder, no file and no Hub id"),
        (["--data", "nowhere/at/all", "--from", "ours"], "No file is called nowhere/at/all: check the path"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(words, sentence, here):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        train.main(words)
    assert not (here / "runs").exists() or not any((here / "runs").iterdir())


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_generic_recipe_that_reads(task):
    path = shipped("recipes") / "generic" / f"{task}.yaml"
    recipe = read_recipe(path, ["--dataset", "owner/pictures"])
    assert recipe.model.task == task


CONFIG = tiny(hidden_sizes=[192], depths=[12], num_attention_heads=[3], image_size=224, patch_size=16)


def test_fewer_pictures_get_more_epochs_and_more_pictures_more_steps():
    counts = [10, 200, 1000, 10_000, 100_000, 1_000_000]
    for task in TASKS:
        for tuned in (True, False):
            epochs = [epochs_for(count, tuned, task, True) for count in counts]
            assert epochs == sorted(epochs, reverse=True)
            steps = [count * epoch for count, epoch in zip(counts, epochs, strict=True)]
            assert steps == sorted(steps)
    assert epochs_for(200, True, "image-classification", True) == 30


@pytest.mark.parametrize("gibibytes", [0.01, 0.5, 4, 64])
def test_a_batch_fits_half_of_the_free_memory_and_its_size_stays(gibibytes, monkeypatch):
    monkeypatch.setattr(choosing, "free_memory", lambda: gibibytes * 2**30)
    made = {key: one.value for key, one in choose("image-classification", CONFIG, 224, 5000, tuned=True).items()}
    parts = made.get("gradient_accumulation_steps", 1)
    batch = made["per_device_train_batch_size"]
    assert batch * parts == choosing.TUNED_BATCH
    needed = sum(choosing.memory(CONFIG, (224, 224), choosing.Run(batch_size=batch), True).values())
    assert batch == 1 or needed <= gibibytes * 2**29


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_batch(processes):
    made = choose("image-classification", CONFIG, 224, 5000, tuned=True, processes=processes)
    assert made["per_device_train_batch_size"].value * processes == choosing.TUNED_BATCH


def test_two_processes_convert_the_checkpoint_once_and_end(here):
    words = ["--data", f"{here}/my/pictures", "--from", f"{here}/theirs", "--output_dir", f"{here}/runs/two"]
    done = in_two_processes("scripts.train", "main", [*words, "--max_steps", "2", "--disable_tqdm"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("converted to") == done.stdout.count("the task is") == 1
    assert hashes(here / "runs/two")


def test_any_checkpoint_is_a_beginning(here, capsys):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    (here / "of_timm").mkdir()
    save_file(model.state_dict(), here / "of_timm/model.safetensors")
    settings = dict(architecture="vit_tiny_patch16_224", num_classes=3, model_args=dict(img_size=32, depth=1))
    (here / "of_timm/config.json").write_text(json.dumps(settings))
    for name, kind in (("theirs", "transformers-vit"), ("of_timm", "timm-vit"), ("of_timm/model.safetensors", None)):
        read, told = starting_point(name, here / "converted")
        assert told == name
        assert json.loads((here / read / "config.json").read_text())["model_type"] == "vit_custom"
        if kind:
            assert json.loads((here / read / "source.json").read_text())["source"] == kind
    assert starting_point("ours", here / "converted") == ("ours", "ours")
    capsys.readouterr()
    starting_point("theirs", here / "converted")  # is there already
    assert capsys.readouterr().out == ""


def test_a_text_tower_that_stays_behind_is_told(here, caplog):
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    text |= dict(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(here / "clip")
    starting_point("clip", here / "converted")
    assert "kept aside, for ours has no use for it" in caplog.text
    assert "text_model" in caplog.text


ON_THE_HUB = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from modeling_vit_custom.commands.starting_point import starting_point
api, commits = HfApi(), {}
for name in ("theirs", "ours"):
    api.create_repo(f"alice/{name}")
    commits[name] = api.upload_folder(repo_id=f"alice/{name}", folder_path=name).oid
made = [starting_point(name, Path("converted")) for name in ("alice/ours", "alice/theirs@main")]
made.append(starting_point(made[1][1], Path("converted")))
print(json.dumps([commits, made]))
"""


def test_a_name_on_the_hub_is_read_at_its_commit_of_today(here):
    with MiniHub() as hub:
        own = dict(HF_ENDPOINT=hub.url, HF_HOME=str(here / "home"), HF_HUB_DISABLE_XET="1", HF_TOKEN=hub.token())
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment = kept | own | dict(PYTHONPATH=str(ROOT))
        done = subprocess.run([sys.executable, "-c", ON_THE_HUB], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *said, told = done.stdout.splitlines()
    commits, (ours, theirs, again) = json.loads(told)
    assert ours == [f"alice/ours@{commits['ours']}"] * 2
    assert f"alice/ours is {ours[0]} today; the run keeps this commit." in said
    assert theirs[1] == f"alice/theirs@{commits['theirs']}"
    assert json.loads((here / theirs[0] / "source.json").read_text())["revision"] == commits["theirs"]
    assert again == theirs
