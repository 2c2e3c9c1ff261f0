"""A run that is killed is not lost: checkpoints are whole or absent, and going on gives the weights of a run that never
stopped, to the bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training.checkpoints import last_checkpoint
from scripts.train import main as train
from tests.recipes import write_recipe
from tests.support import ROOT
from tests.support import often

pytestmark = pytest.mark.xdist_group("checkpoints")
SHORT = dict(max_steps=4, save_steps=2, eval_strategy="no", gradient_accumulation_steps=1, logging_steps=1)


def killed(folder: Path, kills: int, seed: int, **changes) -> dict:
    recipe = write_recipe(folder, **changes)
    command = [sys.executable, "-m", "tests.killed_runs", str(folder), str(recipe), str(kills), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "OUTCOME" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.partition("OUTCOME")[2])


def test_a_killed_run_ends_as_one_that_never_was(tmp_path):
    """With augmentation, Mixup, CutMix, EMA, drop path, dropout, layer decay and accumulation: weights, averages,
    optimizer, random numbers and all that was logged, to the bit."""
    found = killed(tmp_path, kills=2, seed=0, max_steps=12)
    assert found["equal"] is True
    assert len(found["phases"]) == 2


@pytest.mark.full_size
def test_many_killed_runs(tmp_path, record_property):
    found = killed(tmp_path, kills=40, seed=1)
    record_property("kills", found["phases"])
    assert found["equal"] is True
    assert len(found["phases"]) == 40
    assert {"save", "evaluate", "train"} <= set(found["phases"])


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A recipe and a run by it that has ended, with two checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    recipe = write_recipe(folder, **SHORT)
    return recipe, train([str(recipe), "--output_dir", str(folder / "whole")])


def unfinished(begun, folder: Path) -> Path:
    """As a kill leaves it."""
    place = folder / "run.unfinished"
    shutil.copytree(begun[1] / "trainer", place)
    return place


def weights(run: Path):
    return (run / "checkpoint/model.safetensors").read_bytes()


def test_half_a_checkpoint_is_passed_over(begun, tmp_path, capsys):
    place = unfinished(begun, tmp_path)
    (place / "checkpoint-4/trainer_state.json").write_text('{"epoch": ')
    (place / "checkpoint-9").mkdir()
    (place / "unfinished/checkpoint-6").mkdir(parents=True)
    assert last_checkpoint(place) == str(place / "checkpoint-2")
    run = train([str(begun[0]), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    assert weights(run) == weights(begun[1])
    told = capsys.readouterr().out
    for name in ("checkpoint-4", "checkpoint-9"):
        assert f"{name} is passed over: no readable trainer_state.json" in told
    assert not place.exists()


def test_half_a_checkpoint_by_name_is_refused(begun, tmp_path):
    place = unfinished(begun, tmp_path)
    (place / "checkpoint-4/trainer_state.json").unlink()
    arguments = [str(begun[0]), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=r"checkpoint-4 is no complete checkpoint \(no readable trainer_state.json"):
        train([*arguments, "--resume_from_checkpoint", str(place / "checkpoint-4")])
    with pytest.raises(ValueError, match=rf"is no complete checkpoint .*: resume from {place / 'checkpoint-2'}\."):
        train([*arguments, "--resume_from_checkpoint", str(place)])


def test_what_a_killed_run_left_is_not_overwritten_unasked(begun, tmp_path):
    unfinished(begun, tmp_path)
    with pytest.raises(FileExistsError, match="go on with --resume_from_checkpoint, or remove"):
        train([str(begun[0]), "--output_dir", str(tmp_path / "run")])


def test_without_a_checkpoint_it_says_that_it_begins(begun, tmp_path, capsys):
    run = train([str(begun[0]), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    assert weights(run) == weights(begun[1])
    assert "There is no checkpoint in" in capsys.readouterr().out


def test_a_missing_average_is_not_begun_anew(begun, tmp_path):
    place = unfinished(begun, tmp_path)
    shutil.rmtree(place / "checkpoint-4")
    (place / "checkpoint-2/ema.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no ema.safetensors, so the average cannot go on"):
        train([str(begun[0]), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])


FULL_DISK = """
import resource, signal, sys
import transformers, torch, datasets  # what they write at first is not the run's
from scripts.train import main
from modeling_vit_custom.training.checkpoints import WholeCheckpoints

save = WholeCheckpoints._save_checkpoint

def limited(self, model, trial):
    if self.state.global_step == 4:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
    save(self, model, trial)

WholeCheckpoints._save_checkpoint = limited
main(sys.argv[1:])
"""


@pytest.mark.parametrize("size", often([3000, 60000], [3000]))
def test_a_full_disk_gives_a_sentence_and_keeps_the_last_checkpoint(begun, tmp_path, size):
    """The system refuses to write more than so many bytes to a file: at the weights, and at the optimizer's state."""
    command = [sys.executable, "-c", FULL_DISK.format(bytes=size), str(begun[0]), "--output_dir", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # with as many threads as here: sums depend on it
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    place = tmp_path / "run.unfinished"
    sentence = f"RuntimeError: The checkpoint of step 4 could not be written to {place} ("
    assert sentence in done.stderr, done.stderr[-3000:]
    assert f"The last good one is {place}/checkpoint-2: free space" in done.stderr
    assert [path.name for path in place.iterdir()] == ["checkpoint-2"]
    run = train([str(begun[0]), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    assert weights(run) == weights(begun[1])


def test_a_folder_that_cannot_be_written_gives_a_sentence(begun, tmp_path):
    (tmp_path / "run.unfinished").write_text("a file")
    with pytest.raises(NotADirectoryError, match=r"run.unfinished cannot be written, .* set another `output_dir`"):
        train([str(begun[0]), "--output_dir", str(tmp_path / "run")])


def test_checkpoints_are_as_many_as_asked_and_the_best_stays(begun, tmp_path):
    changes = SHORT | dict(save_steps=1, save_total_limit=2, eval_strategy="steps", eval_steps=1)
    recipe = write_recipe(
        tmp_path, **changes | dict(ema=None), metric_for_best_model="loss", load_best_model_at_end=True
    )
    run = train([str(recipe), "--output_dir", str(tmp_path / "run")])
    state = json.loads((run / "trainer/checkpoint-4/trainer_state.json").read_text())
    best = f"checkpoint-{state['best_global_step']}"
    assert {path.name for path in (run / "trainer").iterdir()} == {"checkpoint-3", "checkpoint-4", best}
    assert Path(state["best_model_checkpoint"]).name == best


def test_the_resolved_recipe_has_the_run_again(begun, tmp_path):
    """It lies in the result, with versions and commit."""
    text = (begun[1] / "recipe.yaml").read_text()
    for word in ("# versions: Python", "# commit:", "# command: vit-custom train"):
        assert word in text
    assert yaml.safe_load(text)["mix"] == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
    run = train([str(begun[1] / "recipe.yaml"), "--output_dir", str(tmp_path / "again")])
    assert weights(run) == weights(begun[1])


def test_the_result_is_the_average(begun):
    averaged = load_file(begun[1] / "trainer/checkpoint-4/ema.safetensors")
    for name, weight in load_file(begun[1] / "checkpoint/model.safetensors").items():
        assert weight.equal(averaged[name])
    reached = json.loads((begun[1] / "metrics.json").read_text())["reached"]
    assert {"accuracy", "plain_accuracy", "top_5_accuracy", "ece", "plain_ece"} <= reached.keys()


def test_every_key_is_an_option(begun):
    words = ["--seed=7", "--config_overrides.depths", "[3]", "--mix", "{mixup_alpha: 0.1}", "--use_cpu"]
    recipe = read_recipe(begun[0], [*words, "--eval-strategy", "no"])
    assert recipe.training.seed == 7
    assert recipe.training.use_cpu is True
    assert recipe.model.config_overrides["depths"] == [3]
    assert recipe.model.config_overrides["image_size"] == 8
    assert recipe.data.mix == {"mixup_alpha": 0.1}
    assert recipe.training.eval_strategy == "no"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sed", "7"], "unknown key `sed`: did you mean `seed`?"),
        (["seed", "7"], "'seed' is no `--key value`"),
        (["--mix", "[1]"], "sets `mix` to .*: write a dict"),
        (["--corrupt_images", "hide"], "choose fail or skip"),
        (["--streaming", "--max_steps", "-1"], "set `max_steps`"),
    ],
)
def test_a_wrong_option_gets_a_sentence(begun, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_recipe(begun[0], words)
