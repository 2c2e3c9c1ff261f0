"""Metrics are modules of Hugging Face evaluate, which need no network, and agree with scikit-learn and torchmetrics."""

import socket
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.retrieval import RetrievalHitRate
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training import TASKS
from modeling_vit_custom.training import ViTCustomTrainer
from modeling_vit_custom.training import metrics
from modeling_vit_custom.training import plots
from tests.support import ROOT
from tests.support import fill
from tests.support import picture
from tests.support import tiny

FOLDER = ROOT / "modeling_vit_custom/training"
MODULES = sorted(path.stem for path in FOLDER.glob("*_metrics.py"))
QUIET = dict(report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def logits_and_labels(count: int = 400, num_labels: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, count)
    logits = 2 * rng.normal(size=(count, num_labels)) + 2 * np.eye(num_labels)[labels]
    return logits.astype(np.float32), labels


def boxes(count: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    corner, size = rng.uniform(0, 40, (count, 2)), rng.uniform(5, 20, (count, 2))
    return {
        "boxes": torch.tensor(np.concatenate((corner, corner + size), 1), dtype=torch.float32),
        "labels": torch.tensor(rng.integers(0, 3, count)),
    }


def detections(seed: int = 0) -> tuple[list[dict], list[dict]]:
    rng = np.random.default_rng(seed)
    truth = [boxes(3, rng) for _ in range(6)]
    found = []
    for image in truth:
        extra = boxes(2, rng)
        near = image["boxes"] + torch.tensor(rng.normal(size=(3, 4)), dtype=torch.float32)
        scores = torch.tensor(rng.uniform(size=5), dtype=torch.float32)
        found.append(
            {
                "boxes": torch.cat((near, extra["boxes"])),
                "labels": torch.cat((image["labels"], extra["labels"])),
                "scores": scores,
            }
        )
    return found, truth


def inputs_of(module: str) -> tuple:
    """(predictions, references, settings)"""
    rng = np.random.default_rng(0)
    if module == "classification_metrics":
        return *logits_and_labels(), {"class_names": NAMES}
    if module == "segmentation_metrics":
        return *rng.integers(0, 3, (2, 4, 6, 5)), {"class_names": NAMES[:3]}
    if module == "detection_metrics":
        return *detections(), {"class_names": NAMES[:3]}
    return *rng.normal(size=(2, 20, 8)).astype(np.float32), {}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_evaluates_and_loads_without_network(module, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = evaluate.load(str(FOLDER / f"{module}.py"), cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == module
    predictions, references, settings = inputs_of(module)
    assert metric.compute(predictions=predictions, references=references, **settings)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # nothing went through a file
    assert all(f"`{name}`" in metric.description for name in metrics_named(metric, predictions, references))
    with pytest.raises(ValueError, match="give one for each"):
        metric.compute(predictions=predictions[:-1], references=references, **settings)


def metrics_named(metric, predictions, references) -> list[str]:
    settings = {"class_names": NAMES[:3]} if metric.name == "segmentation_metrics" else {}
    found = metric.compute(predictions=predictions, references=references, **settings)
    return [name for name in found if not name.startswith("iou_")]


@pytest.mark.parametrize("module", MODULES)
def test_what_is_added_batch_by_batch_gives_what_is_given_at_once(module):
    predictions, references, settings = inputs_of(module)
    expected = metrics.load(module).compute(predictions=predictions, references=references, **settings)
    metric = metrics.load(module)
    for start in range(0, len(predictions), 3):
        part = slice(start, start + 3)
        given = [
            [{name: value.numpy() for name, value in image.items()} for image in images[part]]
            if isinstance(images, list)
            else images[part]
            for images in (predictions, references)
        ]
        metric.add_batch(predictions=given[0], references=given[1])
    found = metric.compute(**settings)
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-5)
        elif name != "reliability":
            assert found[name] == value


def test_what_was_added_counts_beside_what_is_given_and_touches_no_file_of_another():
    logits, labels = logits_and_labels()
    metric, other = (metrics.load("classification_metrics") for _ in range(2))
    metric.add_batch(predictions=logits[:100], references=labels[:100])
    found = metric.compute(predictions=logits[100:], references=labels[100:])
    assert found["accuracy"] == metrics.classification(logits, labels)["accuracy"]
    assert metric.keep_in_memory
    assert metric.experiment_id != other.experiment_id


def test_a_classifiers_figures_are_scikit_learns():
    logits, labels = logits_and_labels()
    found = metrics.classification(logits, labels, NAMES)
    assert found["accuracy"] == sklearn_metrics.accuracy_score(labels, logits.argmax(1))
    assert found["top_5_accuracy"] == sklearn_metrics.top_k_accuracy_score(labels, logits, k=5)
    assert 0.4 < found["accuracy"] < found["top_5_accuracy"] < 1
    recall = sklearn_metrics.recall_score(labels, logits.argmax(1), average=None)
    assert [found[f"accuracy_{name}"] for name in NAMES] == pytest.approx(recall.tolist())
    assert found["confusion"] == sklearn_metrics.confusion_matrix(labels, logits.argmax(1)).tolist()
    assert metrics.classification(logits, labels) == {key: found[key] for key in ("accuracy", "top_5_accuracy", "ece")}


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_torchmetrics_and_that_of_its_definition(seed):
    logits, labels = logits_and_labels(seed=seed)
    probabilities = torch.tensor(logits).double().softmax(1)
    judge = MulticlassCalibrationError(7, n_bins=15, norm="l1")
    found = metrics.classification(logits, labels, NAMES)
    assert found["ece"] == pytest.approx(judge(probabilities, torch.tensor(labels)).item(), abs=1e-6)
    bins = found["reliability"]
    assert sum(bins["count"]) == len(labels)
    confidence = probabilities.max(1).values.numpy()
    for index, count in enumerate(bins["count"]):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        assert inside.sum() == count
        if count:
            assert bins["confidence"][index] == pytest.approx(confidence[inside].mean())
            assert bins["accuracy"][index] == pytest.approx((logits.argmax(1) == labels)[inside].mean())


def test_a_sure_and_right_classifier_is_calibrated_and_a_sure_and_wrong_one_not_at_all():
    logits, labels = 1000 * np.eye(4, dtype=np.float32), np.arange(4)
    assert metrics.classification(logits, labels) == dict(accuracy=1.0, top_5_accuracy=1.0, ece=0.0)
    wrong = metrics.classification(logits, np.roll(labels, 1))
    assert wrong == dict(accuracy=0.0, top_5_accuracy=1.0, ece=1.0)  # among the first five of four is every class


def test_of_equal_logits_the_first_is_the_answer_everywhere():
    logits, labels = np.zeros((7, 7), dtype=np.float32), np.arange(7)
    found = metrics.classification(logits, labels)
    assert found["accuracy"] == pytest.approx(1 / 7)
    assert found["top_5_accuracy"] == pytest.approx(5 / 7)


def test_a_class_without_images_has_no_accuracy():
    logits, labels = logits_and_labels()
    found = metrics.classification(logits[labels != 3], labels[labels != 3], NAMES)
    assert found["accuracy_d"] is None
    assert found["accuracy_e"] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, labels: (logits[0], labels), r"Logits have shape \(7,\), labels \(7,\)"),
        (lambda logits, labels: (logits * np.nan, labels), "not finite"),
        (lambda logits, labels: (logits, labels - 1), "not among 0 to 6"),
        (lambda logits, labels: (logits[:, :6], labels), "not among 0 to 5"),
    ],
)
def test_what_is_no_logit_or_no_label_gets_a_sentence(change, message):
    logits, labels = change(np.eye(7, dtype=np.float32), np.arange(7))
    with pytest.raises(ValueError, match=message):
        metrics.classification(logits, labels)
    with pytest.raises(ValueError, match="6 class names for 7 logits"):
        metrics.classification(np.eye(7), np.arange(7), NAMES[:6])


def test_mean_iou_is_torchmetrics_and_a_class_that_nobody_saw_does_not_count():
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 3, (2, 4, 6, 5))
    truth[0, 0] = 255
    config = tiny(id2label=dict(enumerate(NAMES[:5])), num_labels=5)
    judge = MulticlassJaccardIndex(5, average="macro", ignore_index=255, validate_args=False)
    judge.update(torch.tensor(found), torch.tensor(truth))
    values = metrics.mean_iou(found, truth, config)
    assert values["mean_iou"] == pytest.approx(judge.compute().item(), rel=1e-6)
    assert values.keys() == {"mean_iou", "iou_a", "iou_b", "iou_c"}
    with pytest.raises(ValueError, match="Every pixel is 255"):
        metrics.mean_iou(found, np.full_like(truth, 255), config)


def test_average_precision_is_torchmetrics_class_by_class():
    found, truth = detections()
    judge = MeanAveragePrecision(class_metrics=True)
    judge.update(found, truth)
    expected = judge.compute()
    values = metrics.average_precision(found, truth, NAMES[:4])
    for name in ("map", "map_50", "map_75"):
        assert values[name] == expected[name].item()
    assert [values[f"map_{name}"] for name in "abc"] == expected["map_per_class"].tolist()
    assert values["map_d"] is None
    assert 0.1 < values["map"] < 1


def test_recall_of_partners_is_torchmetrics():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 16)).astype(np.float32)
    texts = images + 1.5 * rng.normal(size=(30, 16)).astype(np.float32)
    values = metrics.retrieval(images, texts)
    similarity, indexes = torch.tensor(images @ texts.T), torch.arange(30)[:, None].expand(30, 30)
    for name, scores in (("caption", similarity), ("image", similarity.T)):
        for k in (1, 5):
            judge = RetrievalHitRate(top_k=k)
            expected = judge(scores.flatten(), torch.eye(30).bool().flatten(), indexes=indexes.flatten())
            assert values[f"{name}_recall_{k}"] == pytest.approx(expected.item())
    assert 0.2 < values["caption_recall_1"] < 1


# One interpreter that has computed nothing yet forks twice: half the imports of two interpreters.
FORK = """
import multiprocessing
import numpy as np
from modeling_vit_custom.training import metrics

def work(seed, ready):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    ready.wait()
    for _ in range(10):
        metric = metrics.load("classification_metrics")
        metric.add_batch(predictions=logits, references=labels)
        assert metric.compute()["accuracy"] == np.mean(logits.argmax(1) == labels)

fork = multiprocessing.get_context("fork")
ready = fork.Barrier(2)
processes = [fork.Process(target=work, args=(seed, ready)) for seed in (1, 2)]
for process in processes:
    process.start()
for process in processes:
    process.join()
assert [process.exitcode for process in processes] == [0, 0]
"""


def test_two_processes_compute_at_once_from_one_cache(tmp_path, monkeypatch):
    """Each starts with no copy of the module; what was added to one is never read by the other."""
    for name in ("HF_HOME", "HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    done = subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("classification_metrics.py"))
    assert not list(tmp_path.rglob("*.arrow"))


def test_an_evaluation_keeps_logits_and_nothing_else(tmp_path):
    """Also where a model's configuration asks for every attention."""
    task = TASKS["image-classification"]
    model = fill(ViTCustomForImageClassification(tiny(output_attentions=True, output_hidden_states=True, num_labels=5)))
    model.config.keys_to_ignore_at_inference = []  # as of a model of somebody else
    rows = [{"pixel_values": picture(3, 32, 32), "labels": index % 5} for index in range(6)]
    trainer = ViTCustomTrainer(
        model,
        TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, **QUIET),
        compute_metrics=task.compute_metrics(None, model.config),
        preprocess_logits_for_metrics=task.select,
    )
    predicted = trainer.predict(rows)
    assert predicted.predictions.shape == (6, 5)
    assert predicted.metrics.keys() >= {"test_accuracy", "test_top_5_accuracy", "test_ece"}


@pytest.mark.parametrize("num_labels", [2, 60])
def test_a_confusion_is_darkest_where_all_are_right(num_labels):
    names = [f"class {index}" for index in range(num_labels)]
    right, wrong = (plots.draw_confusion(np.roll(np.eye(num_labels) * 3, k, 1), names) for k in (0, 1))
    assert right.mode == "RGB"
    assert right.size == wrong.size
    assert np.asarray(right, dtype=int).mean() == pytest.approx(np.asarray(wrong, dtype=int).mean(), abs=2)
    assert np.any(np.asarray(right) != np.asarray(wrong))


def test_bars_stand_where_images_are():
    logits, labels = logits_and_labels()
    found = metrics.classification(logits, labels, NAMES)
    drawn = plots.draw_reliability(found["reliability"], found["ece"])
    empty = {"count": [1] + [0] * 14, "confidence": [0.05] + [None] * 14, "accuracy": [0.0] + [None] * 14}
    blue = [
        (np.asarray(shown) == (100, 149, 237)).all(-1).sum() for shown in (drawn, plots.draw_reliability(empty, 0.05))
    ]
    assert blue[0] > 10 * blue[1]
