"""What a run leaves beside its weights: history, examples, mistakes, trackers' files; and that nothing is replaced
unasked."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoImageProcessor
from transformers import AutoModelForImageClassification
from transformers import EvalPrediction
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from modeling_vit_custom.training import checkpoints
from modeling_vit_custom.training import examples
from modeling_vit_custom.training import history
from modeling_vit_custom.training import load_digits
from scripts import evaluate_checkpoint
from scripts.train import main as train
from tests.forking import with_package
from tests.recipes import write_recipe
from tests.support import ROOT

SHORT = dict(max_steps=4, eval_steps=2, save_steps=2, gradient_accumulation_steps=1, mix=None)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder, **SHORT, num_examples=25)
    return recipe, train([str(recipe), "--output_dir", str(folder / "run")])


def test_the_history_is_what_was_logged_step_by_step(whole):
    rows = table(whole[1] / "history.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    state = json.loads((whole[1] / "trainer/checkpoint-4/trainer_state.json").read_text())
    for entry in state["log_history"]:
        for name in {"loss", "learning_rate", "grad_norm", "eval_loss", "eval_accuracy", "eval_ema_accuracy"} & {
            *entry
        }:
            assert float(rows[entry["step"] - 1][name]) == entry[name]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert not any(name.endswith(history.OF_THE_CLOCK) for name in rows[0])
    with Image.open(whole[1] / "history.png") as picture:
        assert picture.width > 600
        assert picture.height > 600


def test_a_resumed_run_has_the_whole_history(whole, tmp_path):
    shutil.copytree(whole[1] / "trainer", tmp_path / "run.unfinished")
    checkpoints.remove(tmp_path / "run.unfinished/checkpoint-4")
    resumed = train([str(whole[0]), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    assert (resumed / "history.csv").read_text() == (whole[1] / "history.csv").read_text()


def test_the_first_evaluation_of_a_step_stands_and_a_short_run_has_its_mean_loss():
    log = [{"step": 2, "eval_loss": 3.0}, {"step": 2, "eval_loss": 1.0, "eval_runtime": 9.0}]
    assert history.by_step([*log, {"step": 2, "train_loss": 4.0}]) == [{"step": 2, "eval_loss": 3.0, "train_loss": 4.0}]
    rows = history.by_step([{"step": 1, "loss": 5.0}, {"step": 2, "train_loss": 4.0}])
    assert rows == [{"step": 1, "loss": 5.0}, {"step": 2}]


class Tracker(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        place = Path(args.output_dir, "runs/today")
        place.mkdir(parents=True, exist_ok=True)
        (place / "events").write_text(str(state.global_step))


def test_what_a_tracker_wrote_stays_and_a_result_is_not_replaced_unasked(tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tracker", Tracker)
    short = SHORT | dict(max_steps=1, save_strategy="no", eval_strategy="no", ema=None)
    recipe = write_recipe(tmp_path, **short, report_to="tracker")
    words = [str(recipe), "--output_dir", str(tmp_path / "run")]
    run = train(words)
    assert (run / "trainer/runs/today/events").read_text() == "1"
    assert not (tmp_path / "run.unfinished").exists()
    before = (run / "metrics.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds the result of a run that ended: add --overwrite to replace it"):
        train(words)
    assert (run / "metrics.json").read_bytes() == before
    train([*words, "--overwrite", "--seed", "9"])
    assert json.loads((run / "metrics.json").read_text())["seed"] == 9
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(run / "logs"))
    with pytest.raises(ValueError, match=r"TENSORBOARD_LOGGING_DIR is in .* leave it out"):
        train([*words, "--overwrite"])


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("tensorboard", ImportError, "`report_to: tensorboard` needs tensorboard: `pip install tensorboard`"),
        ("comet_ml", ImportError, "`pip install comet-ml`, or `report_to: none`"),
        ("tensorbord", ValueError, "is no tracker of transformers: did you mean `tensorboard`?"),
        ("paper", ValueError, "is no tracker of transformers: choose of "),
    ],
)
def test_a_tracker_that_is_not_there_gets_a_sentence_before_anything_is_read(
    name, error, sentence, tmp_path, monkeypatch
):
    monkeypatch.setattr(history, "find_spec", lambda module: None)
    monkeypatch.setattr("modeling_vit_custom.training.run.load_data", None)
    recipe = write_recipe(tmp_path, report_to=[name])
    with pytest.raises(error, match=sentence):
        train([str(recipe), "--output_dir", str(tmp_path / "run")])


# Examples


@pytest.mark.parametrize(
    ("classes", "count", "shown"),
    [
        ([[0]] * 90 + [[1]] * 8 + [[2]] * 2, 6, {0: 2, 1: 2, 2: 2}),
        ([[0]] * 90 + [[1]], 4, {0: 3, 1: 1}),
        ([[index] for index in range(50)], 5, None),
        ([[0, 1]] * 9 + [[2]] * 3 + [[]] * 3, 3, {0: 1, 1: 1, 2: 1, None: 1}),
        ([[]] * 9, 4, {None: 4}),
        ([[0], [1]], 25, {0: 1, 1: 1}),
        ([], 3, {}),
    ],
    ids=str,
)
def test_examples_are_spread_over_the_classes_each_once(classes, count, shown):
    chosen = examples.spread(classes, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(classes))
    assert [classes[row] for row in chosen] == sorted(classes[row] for row in chosen)
    found = [name for row in chosen for name in classes[row] or [None]]
    if shown is None:
        assert len(set(found)) == count
        assert max(found) > 25  # nor the first ones
    else:
        assert {name: found.count(name) for name in found} == shown


def test_an_example_is_pixels_and_nothing_else(tmp_path):
    image = Image.new("CMYK", (4, 3), (9, 99, 9, 9))
    exif = image.getexif()
    exif[0x010F] = "a camera"
    image.save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        examples.bare(opened).save(tmp_path / "b.png")
        with Image.open(tmp_path / "b.png") as saved:
            assert (saved.mode, saved.info, len(saved.getexif())) == ("RGB", {}, 0)
            assert saved.tobytes() == opened.convert("RGB").tobytes()


@torch.no_grad()
def test_mistakes_are_the_models_and_the_surest_first(whole):
    """Of the average, which is the result; by hand."""
    model = AutoModelForImageClassification.from_pretrained(whole[1] / "checkpoint").eval()
    processor = AutoImageProcessor.from_pretrained(whole[1] / "checkpoint")
    held_out = load_digits(seed=0)["test"]
    images = [image.convert("RGB") for image in held_out["image"]]
    scores = model(**processor(images, return_tensors="pt")).logits.softmax(1)
    rows, wrong = table(whole[1] / "mistakes.csv"), scores.argmax(1) != torch.tensor(held_out["label"])
    assert len(rows) == min(100, int(wrong.sum()))
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    for row in rows:
        found = scores[int(row["row"])]
        assert row["truth"] == str(held_out["label"][int(row["row"])])
        assert row["prediction"] == str(int(found.argmax()))
        assert float(row["score"]) == pytest.approx(float(found.max()), abs=1e-3)
    assert float(rows[0]["score"]) == pytest.approx(float(scores.max(1).values[wrong].max()), abs=1e-3)


def test_a_mistake_names_the_file(tmp_path):
    rows = Dataset.from_dict(
        {"image": [{"path": f"/x/{name}.png", "bytes": None} for name in "ab"], "row_number": [5, 7]}
    )
    found = EvalPrediction(predictions=np.array([[1.0, 3.0], [0.0, 1.0]]), label_ids=np.array([1, 0]))
    examples.write_mistakes(tmp_path / "m.csv", found, rows, ["cat", "dog"])
    assert table(tmp_path / "m.csv") == [
        dict(row="7", file="/x/b.png", truth="cat", prediction="dog", score="0.7311", score_of_truth="0.2689")
    ]


STRANGER = """
import sys
sys.path.insert(0, {scripts!r})
import load_as_stranger
for folder in {folders!r}:
    try:
        print(load_as_stranger.main([folder]))
    except OSError as error:
        print(error)
"""


def test_a_stranger_is_shown_any_number_of_pictures_of_any_name(whole, tmp_path):
    """Also where the checkpoint in a run is named; and a folder without examples gets a sentence."""
    labels = json.loads((whole[1] / "examples/labels.json").read_text())
    assert {[*labels.values()].count(str(digit)) for digit in range(10)} == {2, 3}
    name, folders = "a very long name, such as ImageNet has them, of a class", []
    for count in (1, 3, 25):
        run = tmp_path / str(count)
        shutil.copytree(whole[1], run)
        config = json.loads((run / "checkpoint/config.json").read_text())
        config["id2label"] |= {"0": name, "6": "one_word_" * 9}
        (run / "checkpoint/config.json").write_text(json.dumps(config))
        kept = {file: name if label == "0" else label for file, label in [*labels.items()][:count]}
        (run / "examples/labels.json").write_text(json.dumps(kept))
        folders.append(str(run / "checkpoint" if count == 3 else run))
    folders += [str(tmp_path), str(whole[1] / "trainer/checkpoint-4")]
    code = STRANGER.format(scripts=str(ROOT / "scripts"), folders=folders)
    done = with_package().call(code, ["load_as_stranger"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for count in (1, 3, 25):
        with Image.open(tmp_path / str(count) / "predictions.png") as drawn:
            assert drawn.width > 400
    assert done.stdout.count(".png  ") == 1 + 3 + 25
    assert done.stdout.count("has no examples/labels.json: name the folder of a run") == 2


def test_the_folder_of_a_run_can_be_evaluated(whole, tmp_path):
    folder = evaluate_checkpoint.main([str(whole[1]), "--output", str(tmp_path / "out")])
    found = json.loads((folder / "evaluation.json").read_text())["metrics"]["accuracy"]
    assert found == json.loads((whole[1] / "metrics.json").read_text())["reached"]["accuracy"]
