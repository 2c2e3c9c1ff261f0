"""Two processes on a CPU (gloo): the steps of one process, each row counted once, whole files, and layouts apart."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from packaging.version import Version
from safetensors.torch import load_file

from scripts.train import main as train
from tests.forking import in_two_processes
from tests.recipes import write_recipe
from tests.support import ROOT

CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def recipes(folder):
    """The same batches: one process takes two for a step, two processes take one each."""
    settings = dict(max_steps=6, eval_steps=3, save_steps=3)
    small = dict(image_size=8, patch_size=4, hidden_sizes=[16], depths=[2], num_attention_heads=[2])
    return {
        processes: write_recipe(
            folder, f"of_{processes}", config_overrides=small, gradient_accumulation_steps=2 // processes, **settings
        )
        for processes in (1, 2)
    }


@pytest.fixture(scope="module")
def two(folder, recipes):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    command += [ROOT / "configs/accelerate/cpu.yaml", "scripts/train.py", recipes[2], "--output_dir", folder / "two"]
    done = subprocess.run(command, cwd=ROOT, env=kept | own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "two"


@pytest.fixture(scope="module")
def one(folder, recipes):
    return train([str(recipes[1]), "--output_dir", str(folder / "one")])


@pytest.fixture(scope="module")
def scenarios(folder):
    names = ["counted", "streamed"]
    if Version(torch.__version__) >= Version("2.8"):  # before, gloo scatters no sums
        names.append("fully_sharded")
    done = in_two_processes("tests.two_processes", "main", str(folder), *names)
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def history(run, key: str) -> list[float]:
    (state,) = (run / "trainer/checkpoint-6").glob("trainer_state.json")
    return [one[key] for one in json.loads(state.read_text())["log_history"] if key in one]


def test_two_processes_take_the_steps_of_one(one, two):
    """With Mixup, CutMix, EMA, augmentation and clipping on."""
    for key, count in (("loss", 6), ("grad_norm", 6), ("learning_rate", 6), ("eval_loss", 2), ("eval_ema_loss", 2)):
        assert len(history(one, key)) == count
        assert history(two, key) == pytest.approx(history(one, key), abs=1e-5, rel=1e-5), key
    for name in ("model.safetensors", "ema.safetensors"):
        alone, together = (load_file(run / "trainer/checkpoint-6" / name) for run in (one, two))
        assert alone.keys() == together.keys()
        for key, weight in alone.items():
            if "k_proj.bias" not in key:  # whose gradient is 0 but for rounding, of which Adam makes whole steps
                torch.testing.assert_close(together[key], weight, atol=1e-4, rtol=1e-3, msg=lambda m, key=key: key + m)


def test_two_processes_evaluate_as_one_does(one, two):
    alone, together = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    assert together["num_test_images"] == 360
    assert together["reached"]["accuracy"] == pytest.approx(alone["reached"]["accuracy"], abs=1.5 / 360)
    assert together["reached"]["loss"] == pytest.approx(alone["reached"]["loss"], abs=1e-4)


def test_every_row_counts_once_for_any_split(scenarios):
    for name, found in scenarios["counted"].items():
        assert found["labels"] is True, name
        assert found["logits"] <= 1e-6, name
        assert found["loss"] <= 1e-6, name


def test_a_stream_gives_whole_rows_and_to_an_evaluation_each_once(scenarios):
    found = scenarios["streamed"]
    for count in (8, 7, 1):
        assert found["labels"][f"{count} rows"] == [index % 3 for index in range(count)]
    assert sorted(found["seen"]) == [[number, [number] * 3] for number in range(8)]
    assert "`dispatch_batches: false` in `accelerator_config`" in found["refused"]["True"]


def test_what_two_processes_save_is_whole(two):
    from modeling_vit_custom import ViTCustomForImageClassification

    for folder in (two / "checkpoint", two / "trainer/checkpoint-6"):
        _, told = ViTCustomForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(told.values()), told
    assert not (two.parent / "two.unfinished").exists()


def test_another_layout_resumes_from_weights_only(two, one, recipes, folder):
    checkpoint = two / "trainer/checkpoint-3"
    arguments = [str(recipes[1]), "--output_dir", str(folder / "other")]
    with pytest.raises(ValueError, match=r"replicated on 2 process.* and this run is replicated on 1 .*init_from"):
        train([*arguments, "--resume_from_checkpoint", str(checkpoint)])
    begun = train([*arguments, "--init_from", str(checkpoint), "--max_steps", "1", "--eval_strategy", "no"])
    assert (begun / "metrics.json").is_file()
    resumed = train(
        [
            str(recipes[1]),
            "--output_dir",
            str(folder / "same"),
            "--resume_from_checkpoint",
            str(one / "trainer/checkpoint-3"),
        ]
    )
    assert (resumed / "checkpoint/model.safetensors").read_bytes() == (
        one / "checkpoint/model.safetensors"
    ).read_bytes()


@pytest.mark.skipif(Version(torch.__version__) < Version("2.8"), reason="gloo scatters no sums before")
def test_fully_shard_takes_the_steps_of_one_process(scenarios):
    """The scenario asserts that every parameter is a DTensor."""
    found = scenarios["fully_sharded"]
    alone, together = found["losses"]
    assert together == pytest.approx(alone, abs=1e-5)
    assert found["weights"] <= 1e-5
    assert found["averages"] <= 1e-5
    assert found["read back"] == [0, 0]
    went_on, resumed = found["resumed"]
    assert resumed == went_on


def test_a_run_that_is_not_sharded_though_asked_stops(recipes, folder):
    words = [str(recipes[2]), "--output_dir", str(folder / "fsdp")]
    asked = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP")
    done = in_two_processes("scripts.train", "main", words, **asked)
    assert done.returncode != 0
    assert "FSDP2 was asked for, but no parameter of the model is sharded" in done.stderr
    assert not (folder / "fsdp").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_takes_each_configuration(path):
    config = load_config_from_file(str(path))
    assert config.compute_environment.value == "LOCAL_MACHINE"
    assert path.name in path.read_text(), "the header says how to launch it"


def test_there_is_a_configuration_for_each_layout():
    assert {path.stem for path in CONFIGS} == {
        "cpu",
        "ddp",
        "deepspeed_zero2",
        "deepspeed_zero3",
        "fsdp2",
        "multi_node",
    }
