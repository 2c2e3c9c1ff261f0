"""A checkpoint gets the figures that its training wrote, by one process or two; mistakes get a sentence."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.training import data
from modeling_vit_custom.training.evaluation import is_whole
from modeling_vit_custom.training.evaluation import load_again
from modeling_vit_custom.training.evaluation import recipe_for_evaluation
from modeling_vit_custom.training.evaluation import recipe_on
from modeling_vit_custom.training.run import load_data
from scripts import evaluate_checkpoint
from scripts import train
from tests.forking import in_two_processes
from tests.recipes import short_quickstart
from tests.support import fill
from tests.support import tiny
from tests.test_training_tasks import CONFIGS
from tests.test_training_tasks import SETTINGS
from tests.test_training_tasks import eight_pictures

TRIED = ("image-classification", "image-segmentation", "object-detection", "masked-image-modeling")
TRIED += ("zero-shot-image-classification",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The quickstart, cut to two epochs."""
    work = tmp_path_factory.mktemp("train")
    return train.main([str(short_quickstart(work))])


def report_of(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_what_a_training_wrote_is_found_again_exactly(trained, capsys):
    checkpoint = trained / "checkpoint"
    folder = evaluate_checkpoint.main([str(checkpoint), "--knn"])
    assert folder == trained / "evaluation"
    report, run = report_of(folder), json.loads((trained / "metrics.json").read_text())
    for name in ("accuracy", "top_5_accuracy", "ece"):
        assert report["metrics"][name] == run["reached"][name]
    assert report["metrics"]["loss"] == pytest.approx(run["reached"]["loss"], rel=1e-5)
    assert report["weights"] == run["weights"]
    assert (report["num_images"], report["dataset"], report["split"]) == (360, "sklearn_digits", "test")
    confusion = np.array(report["details"]["confusion"])
    assert confusion.sum() == 360
    assert confusion.trace() / 360 == report["metrics"]["accuracy"]
    assert report["details"]["accuracy_3"] == confusion[3, 3] / confusion[3].sum()
    assert report["certificate"].keys() == {"command", "hardware", "versions", "commit"}
    assert report["metrics"]["knn_accuracy"] > 0.8
    for name in ("confusion.png", "reliability.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    printed = capsys.readouterr().out
    assert "when trained" in printed
    assert f"accuracy{run['reached']['accuracy']:>30.4f}{run['reached']['accuracy']:>14.4f}" in printed


def test_two_processes_count_each_image_once(trained, tmp_path):
    """360 images in batches of 7 on two processes: the last ones are filled up, and must not count twice."""
    words = [str(trained / "checkpoint"), "--output", str(tmp_path / "out"), "--batch_size", "7"]
    done = in_two_processes("scripts.evaluate_checkpoint", "main", words)
    assert done.returncode == 0, done.stderr
    report, run = report_of(tmp_path / "out"), json.loads((trained / "metrics.json").read_text())
    assert np.sum(report["details"]["confusion"]) == 360
    assert report["metrics"]["accuracy"] == run["reached"]["accuracy"]
    assert report["metrics"]["loss"] == pytest.approx(run["reached"]["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{task: the folder of a run on eight pictures}"""
    work = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "eight_pictures", eight_pictures)
        yield {task: train.main([str(recipe_for(task, work))]) for task in TRIED}


def recipe_for(task, work):
    settings = dict(task=task, dataset="eight_pictures", num_examples=3, config_overrides=CONFIGS[task])
    settings |= dict(collator_settings=SETTINGS.get(task, {}), output_dir=str(work / task), max_steps=1)
    settings |= dict(per_device_eval_batch_size=3, report_to="none", disable_tqdm=True, save_strategy="no")
    settings |= dict(dataloader_pin_memory=False, remove_unused_columns=False)
    (work / f"{task}.yaml").write_text(yaml.safe_dump(settings))
    return work / f"{task}.yaml"


@pytest.mark.parametrize("task", TRIED)
def test_every_task_finds_what_its_training_wrote(task, runs):
    report = report_of(evaluate_checkpoint.main([str(runs[task] / "checkpoint")]))
    run = json.loads((runs[task] / "metrics.json").read_text())
    assert report["task"] == task
    timed = ("runtime", "per_second", "preparation_time")
    for name, value in run["reached"].items():
        if not name.endswith(timed):
            assert report["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    if task == "object-detection":
        assert sum(name.startswith("map_") for name in report["details"]) == 10


def ten_digits(root, names):
    """A folder for each name, with as many pictures as its place says, and one more."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for copy in range(number + 1):
            Image.new("L", (8, 8), 20 * copy).save(root / name / f"{copy}.png")
    return root


def test_a_whole_folder_is_evaluated_by_the_names_of_its_classes(trained, tmp_path, capsys):
    checkpoint, folder = str(trained / "checkpoint"), ten_digits(tmp_path / "new", ["7", "2"])
    out = ["--output", str(tmp_path / "out")]
    report = report_of(evaluate_checkpoint.main([checkpoint, "--dataset", str(folder), *out]))
    assert (report["num_images"], report["split"]) == (3, "all")
    assert np.sum(report["details"]["confusion"], axis=1).tolist() == [0, 0, 2, 0, 0, 0, 0, 1, 0, 0]
    assert "has no images of 0, 1, 3" in capsys.readouterr().out
    for split in ("train", "test"):
        ten_digits(tmp_path / "both" / split, ["3", "4"])
    arguments = [checkpoint, "--dataset", str(tmp_path / "both"), *out]
    assert report_of(evaluate_checkpoint.main(arguments))["num_images"] == 3
    report = report_of(evaluate_checkpoint.main([*arguments, "--split", "all"]))
    assert np.sum(report["details"]["confusion"], axis=1).tolist() == [0, 0, 0, 2, 4, 0, 0, 0, 0, 0]
    assert report_of(evaluate_checkpoint.main([checkpoint, "--split", "all", *out]))["num_images"] == 1797
    ten_digits(folder, ["owl"])
    with pytest.raises(ValueError, match=r"has classes that the model has not \(owl\)"):
        evaluate_checkpoint.main([checkpoint, "--dataset", str(folder), *out])


def test_the_folder_of_a_run_is_not_taken_for_a_new_one(tmp_path, capsys):
    folder, run = ten_digits(tmp_path / "pets", ["a", "b"]), tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps(dict(reached={}, recipe_text=f"dataset: {folder}\nsplit_seed: 3")))
    assert recipe_on(str(tmp_path), str(run / "checkpoint")) is None
    for name in ("owner/pets", "shards/*.parquet", "sklearn_digits"):
        told = dict(reached={}, recipe_text=f"dataset: {name!r}\nsplit_seed: 5")
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other/metrics.json").write_text(json.dumps(told))
        assert recipe_on(name, str(tmp_path / "other/checkpoint"))["split_seed"] == 5
        assert recipe_on("owner/dogs", str(tmp_path / "other/checkpoint")) is None
    capsys.readouterr()
    assert recipe_on(str(folder), str(run / "checkpoint"))["split_seed"] == 3
    assert f"{folder} is what this model was trained on: what that run held out" in capsys.readouterr().out
    moved = folder.rename(tmp_path / "moved").rename(tmp_path / "run/pets")
    assert recipe_on(str(moved), str(run / "checkpoint"))["split_seed"] == 3
    said = f"{moved} has the name of what this model was trained on, {folder}, which is not there: what that run held"
    assert said in capsys.readouterr().out
    moved.rename(folder)
    assert is_whole(str(folder), "test", True) is False
    assert is_whole(str(folder), "all", True) is True
    assert is_whole(str(tmp_path), "test", False) is None
    assert is_whole("sklearn_digits", "test", str(run / "checkpoint")) is False


def test_an_encoder_without_classes_is_probed_on_a_data_set_with_some(runs, tmp_path):
    checkpoint = str(runs["masked-image-modeling"] / "checkpoint")
    arguments = [checkpoint, "--dataset", "sklearn_digits", "--output", str(tmp_path)]
    found = report_of(evaluate_checkpoint.main([*arguments, "--knn"]))["metrics"]
    assert found.keys() == {"knn_accuracy"}
    assert 0.3 < found["knn_accuracy"] <= 1
    assert not (tmp_path / "confusion.png").exists()


def test_a_dual_encoder_names_classes_without_captions(runs, tmp_path):
    checkpoint = str(runs["zero-shot-image-classification"] / "checkpoint")
    arguments = [checkpoint, "--dataset", "sklearn_digits", "--zero_shot", "--output", str(tmp_path)]
    report = report_of(evaluate_checkpoint.main(arguments))
    assert report["not_evaluated"].endswith("the data were read for image-classification")
    assert report["metrics"].keys() == {"zero_shot_accuracy", "zero_shot_top_5_accuracy", "zero_shot_ece"}
    assert np.sum(report["details"]["confusion"]) == 360
    assert (tmp_path / "confusion.png").exists()


def test_a_bare_encoder_has_features_alone(tmp_path):
    fill(ViTCustomModel(tiny())).save_pretrained(tmp_path / "checkpoint")
    processor = dict(image_processor_type="ViTImageProcessor", size=dict(height=32, width=32))
    (tmp_path / "checkpoint/preprocessor_config.json").write_text(json.dumps(processor))
    arguments = [str(tmp_path / "checkpoint"), "--dataset", "sklearn_digits"]
    report = report_of(evaluate_checkpoint.main([*arguments, "--knn"]))
    assert report["task"] is None
    assert report["metrics"]["knn_accuracy"] > 0.5
    with pytest.raises(ValueError, match=r"A bare encoder has no task to evaluate: .* ask for --knn"):
        evaluate_checkpoint.main(arguments)
    with pytest.raises(ValueError, match=r"has no classifier\S*: leave --task out, or name its own"):
        evaluate_checkpoint.main([*arguments, "--task", "image-classification"])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (["NOWHERE"], FileNotFoundError, "nowhere is no folder with a config.json, and no model on the Hub"),
        (["CHECKPOINT", "--dataset", "eight_pictures"], ValueError, r"10 classes \(0, 1, 2 ...\) are not the 10 of"),
        (["CHECKPOINT", "--split", "tset"], ValueError, "`--split tset` is none of .* choose one of train, test"),
        (["CHECKPOINT", "--zero_shot"], ValueError, "ViTCustomForImageClassification reads no texts"),
        (["MOVED"], FileNotFoundError, "which tells the data, is not there: give --dataset or --recipe"),
    ],
)
def test_a_mistake_gets_a_sentence(change, kind, message, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "eight_pictures", eight_pictures)
    shutil.copytree(trained / "checkpoint", tmp_path / "run/checkpoint")
    places = {
        "NOWHERE": str(tmp_path / "nowhere"),
        "CHECKPOINT": str(trained / "checkpoint"),
        "MOVED": str(tmp_path / "run/checkpoint"),
    }
    with pytest.raises(kind, match=message):
        evaluate_checkpoint.main([*(places.get(word, word) for word in change), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_probes_want_classes(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "no_classes", lambda seed, data_dir: eight_pictures().remove_columns(["label"]))
    recipe = yaml.safe_load(recipe_for("masked-image-modeling", tmp_path).read_text()) | dict(dataset="no_classes")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [str(runs["masked-image-modeling"] / "checkpoint"), "--recipe", str(tmp_path / "recipe.yaml"), "--knn"]
    with pytest.raises(ValueError, match="`dataset: no_classes` has no classes, which probes need"):
        evaluate_checkpoint.main(arguments)


def test_data_that_are_not_as_many_as_they_were_are_told(tmp_path, capsys):
    folder = ten_digits(tmp_path / "pets", ["a", "b"])
    run = tmp_path / "run"
    run.mkdir()
    now = load_data(recipe_for_evaluation(dict(dataset=str(folder)), tmp_path))
    for learned, held_out in ((len(now["train"]), len(now["test"])), (99, 9)):
        (run / "metrics.json").write_text(json.dumps(dict(num_train_images=learned, num_test_images=held_out)))
        recipe = recipe_for_evaluation(dict(dataset=str(folder)), tmp_path)
        load_again(recipe, False, False, str(run / "checkpoint"))
        told = "when this model was trained it was 99 and 9: it may have been trained on some of those"
        assert (told in capsys.readouterr().out) is (learned == 99)
