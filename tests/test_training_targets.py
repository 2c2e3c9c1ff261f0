"""Several classes an image, and numbers: the same answers however they are written, figures by their definitions, and a
recipe of each from a table to an evaluation.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image as ImageFeature
from datasets import List
from PIL import Image
from sklearn.linear_model import LinearRegression
from torch.nn import functional
from transformers import AutoModelForImageClassification

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training import metrics
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import run
from modeling_vit_custom.training.sources import load_source
from modeling_vit_custom.training.standardised import StandardisedSteps
from modeling_vit_custom.training.standardised import begin_at
from modeling_vit_custom.training.starting import class_axes
from modeling_vit_custom.training.target_tasks import MultiLabelCollator
from modeling_vit_custom.training.target_tasks import RegressionCollator
from modeling_vit_custom.training.target_tasks import task_of
from modeling_vit_custom.training.targets import MULTI
from modeling_vit_custom.training.targets import NUMBERS
from scripts import evaluate_checkpoint
from scripts import train
from tests.support import fill
from tests.support import picture
from tests.support import tiny
from tests.test_training_tables import ONCE
from tests.test_training_tables import TINY
from tests.test_training_tables import own_cache  # noqa: F401
from tests.test_training_tables import painted
from tests.test_training_tables import write

NAMES = ("ant", "bee", "cow")
SHOWN = [[0], [1, 2], [], [2], [0, 1, 2], [1], [0, 2], [2], [0], [1], [], [2, 0]]
PATHS = [f"{n}.png" for n in range(12)]


def words(separator: str = ";") -> list[str]:
    return [separator.join(NAMES[one] for one in some) for some in SHOWN]


def as_texts(folder: Path) -> tuple:
    return write(folder, "t.csv", path=PATHS, shown=words()), dict(label_column="shown", label_separator=";")


def as_spaced_texts(folder: Path) -> tuple:
    texts = [f" {text.replace(' ', '  ')} " for text in words(" ")]
    return write(folder, "t.tsv", path=PATHS, shown=texts), dict(label_column="shown", label_separator=" ")


def as_lists(folder: Path) -> tuple:
    lists = [[NAMES[one] for one in some] for some in SHOWN]
    return write(folder, "t.jsonl", path=PATHS, shown=lists), {}


def as_numbers(folder: Path) -> tuple:
    settings = {"class_names": list(NAMES)}
    return write(folder, "t.parquet", path=PATHS, shown=SHOWN), dict(label_column="shown", settings=settings)


def as_columns(folder: Path) -> tuple:
    columns = {name: [int(place in some) for some in SHOWN] for place, name in enumerate(NAMES)}
    return write(folder, "t.csv", path=PATHS, **columns), dict(label_columns=NAMES)


def as_truths(folder: Path) -> tuple:
    columns = {name: [place in some for some in SHOWN] for place, name in enumerate(NAMES)}
    return write(folder, "t.csv", path=PATHS, **columns), dict(label_columns=NAMES)


def as_classes(folder: Path) -> tuple:
    """In a file that holds the pictures."""
    images = [{"bytes": (folder / path).read_bytes(), "path": path} for path in PATHS]
    features = Features({"image": ImageFeature(), "shown": List(ClassLabel(names=list(NAMES)))})
    Dataset.from_dict({"image": images, "shown": SHOWN}, features=features).to_parquet(folder / "p.parquet")
    return str(folder / "p.parquet"), {}


@pytest.mark.parametrize(
    "form",
    [as_texts, as_spaced_texts, as_lists, as_numbers, as_columns, as_truths, as_classes],
    ids=lambda f: f.__name__,
)
def test_several_classes_are_the_same_however_they_are_written(form, tmp_path):
    painted(tmp_path, 12)
    dataset, given = form(tmp_path)
    found = load_source(dataset, **{"settings": {}} | given, problem_type=MULTI)
    kind = found["train"].features["label"]
    assert kind.feature.names == list(NAMES)
    rows = {Path(row["image"]["path"]).name: row["label"] for some in found.values() for row in some.with_format(None)}
    assert rows == {path: sorted(some) for path, some in zip(PATHS, SHOWN, strict=True)}
    assert {split: len(some) for split, some in found.items()} == {"train": 9, "test": 3}


def test_a_stream_has_several_classes_and_numbers_too(tmp_path):
    painted(tmp_path, 12)
    dataset, given = as_columns(tmp_path)
    for problem, expected in ((MULTI, lambda n: sorted(SHOWN[n])), (NUMBERS, None)):
        stream = load_source(dataset, settings={}, streaming=True, **given, problem_type=problem)
        for row in stream["train"]:
            number = int(Path(row["image"]["path"]).stem)
            label = {name: float(place in SHOWN[number]) for place, name in enumerate(NAMES)}
            assert row["label"] == (expected(number) if expected else label)


WRONG: dict[str, tuple[dict, dict, str]] = {
    "a text": (
        dict(shown=words()),
        dict(label_column="shown"),
        r"holds texts, such as 'ant': .*`label_separator: ';'`",
    ),
    "one number": (dict(shown=[1] * 12), dict(label_column="shown"), "holds .*, one value an image: name a column of"),
    "nothing": (dict(shown=words()), {}, "has no column of lists of classes: name one by `label_column`"),
    "counts": (dict(a=[0, 1, 2] * 4, b=[0] * 12), dict(label_columns=["a", "b"]), "has 2 in `a`, .*: write 0 or 1"),
    "no column": (dict(a=[0] * 12), dict(label_columns=["a", "c"]), "`c` is no column of .*: it has image, a"),
    "both": (dict(a=[0] * 12), dict(label_columns=["a"], label_column="a"), "are both set: leave one of them out"),
    "of columns": (dict(a=[0] * 12), dict(label_columns=["a"], label_separator=";"), "separates the classes in a text"),
    "unknown": (
        dict(shown=words()),
        dict(label_column="shown", label_separator=";", settings={"class_names": ["ant", "bee"]}),
        "has labels that `class_names` has not: cow; add them",
    ),
    "no class": (
        dict(shown=["x"] + [""] * 11),
        dict(label_column="shown", label_separator="x"),
        "names no class in any row",
    ),
}
WRONG_NUMBERS: dict[str, tuple[dict, dict, str]] = {
    "a text": (dict(age=["old"] * 12), dict(label_column="age"), "holds .*string.*takes numbers: write numbers with a"),
    "a gap": (
        dict(age=[1.5, None] * 6),
        dict(label_column="age"),
        r"has rows without a number in `age` \((nan|None)\)",
    ),
    "whole numbers": (dict(age=[3] * 12), {}, "has no column of numbers with a point: name one by `label_column`"),
    "two": (dict(age=[0.5] * 12, size=[0.5] * 12), {}, "has several columns of numbers, age, size: name one by"),
}


@pytest.mark.parametrize(
    ("problem", "name"), [*((MULTI, name) for name in WRONG), *((NUMBERS, name) for name in WRONG_NUMBERS)]
)
def test_what_cannot_be_meant_has_a_sentence(problem, name, tmp_path):
    painted(tmp_path, 12)
    columns, given, message = (WRONG if problem == MULTI else WRONG_NUMBERS)[name]
    dataset = write(tmp_path, "t.csv", path=PATHS, **columns)
    with pytest.raises(ValueError, match=message):
        load_source(dataset, **{"settings": {}} | given, problem_type=problem)


def test_one_class_an_image_takes_no_columns(tmp_path):
    with pytest.raises(ValueError, match=f"add `problem_type: {MULTI}` if each is 0 or 1, or"):
        load_source("nothing", settings={}, label_columns=["a"])


def test_whole_numbers_are_numbers_where_it_is_said(tmp_path):
    painted(tmp_path, 12)
    dataset = write(tmp_path, "t.csv", path=PATHS, age=range(12))
    found = load_source(dataset, settings={}, label_column="age", problem_type=NUMBERS, whole=True)["all"]
    assert [row["age"] for row in found["label"]] == list(range(12))


# Batches and losses


def test_the_loss_of_several_classes_is_binary_cross_entropy_of_each():
    rows = [{"image": picture(3, 32, 32).byte(), "label": some} for some in SHOWN]
    batch = MultiLabelCollator(lambda images: None, 3)(rows)
    assert batch["labels"].nonzero().tolist() == [[row, one] for row, some in enumerate(SHOWN) for one in sorted(some)]
    model = fill(ViTCustomForImageClassification(tiny(problem_type=MULTI, num_labels=3)))
    out = model(pixel_values=picture(12, 3, 32, 32), labels=batch["labels"])
    torch.testing.assert_close(out.loss, functional.binary_cross_entropy_with_logits(out.logits, batch["labels"]))
    with pytest.raises(ValueError, match="Row 0 of the batch has label 3, but labels are 0 to 2"):
        MultiLabelCollator(lambda images: None, 3)([rows[0] | {"label": [3]}])


def test_numbers_are_in_the_models_order_and_minus_100_is_one():
    rows = [{"image": picture(3, 32, 32).byte(), "label": {"b": float(n), "a": -100.0}} for n in range(4)]
    batch = RegressionCollator(lambda images: None, ["a", "b"])(rows)
    assert batch["labels"].tolist() == [[-100.0, float(n)] for n in range(4)]
    model = fill(ViTCustomForImageClassification(tiny(problem_type=NUMBERS, num_labels=2)))
    assert model.count_items(**batch) == 8
    with pytest.raises(ValueError, match="Row 0 of the batch has no number `c`"):
        RegressionCollator(lambda images: None, ["c"])(rows)


# Figures


def precision_by_definition(truth: np.ndarray, scores: np.ndarray) -> float:
    """The area under the steps of precision over recall, of scores that all differ."""
    hits = truth[np.argsort(-scores)]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def test_figures_of_several_classes_are_their_definitions():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(40, 4)), (rng.random((40, 4)) < 0.3).astype(np.float32)
    truth[:, 3] = 0  # of a class that nobody shows, its precision is unknown
    found = metrics.multi_label(logits, truth, [*NAMES, "yak"])
    precisions = [precision_by_definition(truth[:, place], logits[:, place]) for place in range(3)]
    assert found["map"] == pytest.approx(np.mean(precisions))
    assert [found[f"average_precision_{name}"] for name in NAMES] == pytest.approx(precisions)
    assert found["average_precision_yak"] is None
    assert [found[f"count_{name}"] for name in NAMES] == truth[:, :3].sum(0).tolist()
    yes = 1 / (1 + np.exp(-logits)) > 0.5
    both, each = (yes * truth).sum(0), yes.sum(0) + truth.sum(0)
    scores = 2 * both / each
    assert [found[f"f1_{name}"] for name in (*NAMES, "yak")] == pytest.approx(scores.tolist())
    assert found["f1_macro"] == pytest.approx(scores.mean())
    assert found["f1_micro"] == pytest.approx(2 * both.sum() / each.sum())
    one = metrics.multi_label(logits[:, :1], truth[:, :1])
    assert one == pytest.approx({"map": precisions[0], "f1_micro": scores[0], "f1_macro": scores[0]})
    assert math.isnan(metrics.multi_label(logits, np.zeros_like(truth))["map"])
    with pytest.raises(ValueError, match="give \\(images, classes\\) of both"):
        metrics.multi_label(logits, truth[:, :3])


def test_figures_of_numbers_are_their_definitions():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(50, 3))
    truth = inputs @ rng.normal(size=(3, 2)) * [1, 100] + rng.normal(size=(50, 2))
    fitted = LinearRegression().fit(inputs, truth)
    answer = fitted.predict(inputs)
    found = metrics.regression(answer, truth, ["a", "b"])
    assert found["r2"] == pytest.approx(fitted.score(inputs, truth))
    error = answer - truth
    assert [found["mae_a"], found["mae_b"]] == pytest.approx(np.abs(error).mean(0).tolist())
    assert [found["rmse_a"], found["rmse_b"]] == pytest.approx(np.sqrt((error**2).mean(0)).tolist())
    assert found["mae"] == pytest.approx(np.abs(error).mean())
    with pytest.raises(ValueError, match="Some predictions are not finite"):
        metrics.regression(answer * math.nan, truth)


def test_trivial_answers_are_the_frequencies_and_the_mean():
    classes = Dataset.from_dict({"label": SHOWN}, features=Features({"label": List(ClassLabel(names=list(NAMES)))}))
    several = task_of("image-classification", MULTI)
    found = several.baseline(DatasetDict(train=classes, test=classes), None, tiny(num_labels=3))
    shares = [sum(place in some for some in SHOWN) / 12 for place in range(3)]
    assert found["map"] == pytest.approx(np.mean(shares))  # equal scores: the precision is the share
    assert found["f1_micro"] == found["f1_macro"] == 0.0  # none is in more than half of them
    numbers = Dataset.from_dict({"label": [{"age": float(n)} for n in (2, 4, 9)]})
    found = task_of("image-classification", NUMBERS).baseline(DatasetDict(train=numbers, test=numbers), None, tiny())
    assert found == pytest.approx({"mae": 8 / 3, "rmse": math.sqrt(26 / 3), "r2": 0.0})


# Recipes


def bright(folder: Path, count: int = 24) -> dict[str, list]:
    """Pictures of one grey each -> a table of their paths, lightness from 100 to 300, and what they show."""
    levels = np.linspace(10, 250, count).round().astype(int)
    for number, level in enumerate(levels):
        Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"{number}.png")
    light = (100 + 200 * levels / 255).tolist()
    return dict(
        path=[f"{n}.png" for n in range(count)],
        light=light,
        dark=[300 - value for value in light],
        shown=[";".join(n for n, yes in (("light", v > 180), ("dark", v < 220)) if yes) for v in light],
    )


def recipe(folder: Path, **changes) -> Path:
    settings = dict(
        dataset=str(folder / "t.csv"),
        num_examples=3,
        config_overrides=TINY,
        output_dir=str(folder / "run"),
        **ONCE | dict(num_train_epochs=30, learning_rate=3e-3),
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder / "recipe.yaml"


def evaluated(folder: Path) -> tuple[dict, dict, dict]:
    """-> what a training told, what an evaluation of its checkpoint tells, and its details."""
    done = train.main([str(folder / "recipe.yaml")])
    told = json.loads((done / "metrics.json").read_text())
    report = json.loads((evaluate_checkpoint.main([str(done)]) / "evaluation.json").read_text())
    for name, value in report["metrics"].items():
        if not name.endswith(("runtime", "per_second", "preparation_time")):
            assert value == pytest.approx(told["reached"][name], rel=1e-4), name
    return told, report, report["details"]


def test_a_recipe_learns_several_classes(tmp_path):
    write(tmp_path, "t.csv", **bright(tmp_path))
    recipe(tmp_path, problem_type=MULTI, label_column="shown", label_separator=";", class_weights="balanced")
    told, report, details = evaluated(tmp_path)
    assert told["reached"]["map"] > 0.9 > told["baseline"]["map"]
    assert told["balance"]["ratio"] == pytest.approx(1.0, abs=0.3)
    assert {"average_precision_light", "f1_dark", "count_light"} <= details.keys()
    assert (tmp_path / "run" / "predictions.png").is_file()
    assert not (tmp_path / "run" / "mistakes.csv").exists()
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint")
    assert (model.config.problem_type, model.config.id2label) == (MULTI, {0: "dark", 1: "light"})
    assert report["task"] == "image-classification"


def test_a_recipe_learns_numbers_in_their_units(tmp_path):
    write(tmp_path, "t.csv", **bright(tmp_path))
    recipe(tmp_path, problem_type=NUMBERS, label_columns=["light", "dark"], num_train_epochs=80)
    told, _, details = evaluated(tmp_path)
    assert told["metric"] == "mae"
    assert told["reached"]["mae"] < 0.5 * told["baseline"]["mae"]
    assert {"mae_light", "rmse_dark", "r2_dark"} <= details.keys()
    assert told["balance"]["train"]["light"]["mean"] == pytest.approx(200, abs=30)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint")
    assert (model.config.problem_type, model.config.id2label) == (NUMBERS, {0: "light", 1: "dark"})


def learned(folder: Path, scale: float, shift: float, **changes) -> np.ndarray:
    """Predictions for what is held out, after learning numbers in another unit."""
    columns = bright(folder)
    columns["light"] = [value * scale + shift for value in columns["light"]]
    write(folder, "t.csv", **columns)
    given = dict(problem_type=NUMBERS, label_column="light", num_train_epochs=3) | changes
    trained = run.train(read_recipe(recipe(folder, **given)))
    return trained.trainer.predict(trained.trainer.eval_dataset).predictions


def test_numbers_in_another_unit_are_learned_as_well(tmp_path):
    """Weight decay and clipping included."""
    settings = dict(weight_decay=0.1, max_grad_norm=0.5, gradient_accumulation_steps=2, learning_rate=1e-2)
    one = learned(tmp_path, 1.0, 0.0, **settings)
    other = (learned(tmp_path, 1e-3, 70.0, **settings) - 70.0) / 1e-3
    assert np.ptp(one) > 10
    assert other == pytest.approx(one, abs=0.01 * np.ptp(one))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
@pytest.mark.parametrize("hidden", [None, 8])
def test_a_step_is_that_of_the_head_for_standardised_numbers(optimizer, hidden):
    mean, deviation = torch.tensor([200.0, -3.0]).double(), torch.tensor([50.0, 0.01]).double()
    pixels, targets = picture(8, 3, 32, 32).double(), picture(8, 2).double()
    config = tiny(problem_type=NUMBERS, num_labels=2, head_hidden_size=hidden)
    plain, units = (fill(ViTCustomForImageClassification(config)).double() for _ in range(2))
    names = {*class_axes(units)}
    begin_at(units, names, [0, 1], mean, deviation)
    steps = [optimizer(model.parameters(), lr=0.05, weight_decay=0.1) for model in (plain, units)]
    StandardisedSteps(mean, deviation, names).on_train_begin(None, None, None, model=units, optimizer=steps[1])
    for _ in range(4):
        for model, step in zip((plain, units), steps, strict=True):
            step.zero_grad()
            logits = model(pixels).logits if model is plain else (model(pixels).logits - mean) / deviation
            (logits - targets).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            step.step()
    torch.testing.assert_close(units(pixels).logits, plain(pixels).logits * deviation + mean, rtol=1e-7, atol=0)
    assert (
        plain(pixels).logits - fill(ViTCustomForImageClassification(config)).double()(pixels).logits
    ).abs().max() > 0.05


def start_of(folder: Path, **changes) -> torch.nn.Module:
    """A recipe's model before its first step."""
    path = recipe(folder, max_steps=1, learning_rate=0.0, problem_type=NUMBERS, **changes)
    return run.train(read_recipe(path)).model


def test_a_new_head_begins_at_trainings_mean_and_a_kept_one_where_it_was(tmp_path):
    columns = bright(tmp_path)
    write(tmp_path, "t.csv", **columns)
    model = start_of(tmp_path, label_columns=["light", "dark"])
    kept = load_source(str(tmp_path / "t.csv"), settings={}, label_columns=["light", "dark"], problem_type=NUMBERS)
    light = np.mean([row["light"] for row in kept["train"]["label"]])
    assert model.classifier.bias.tolist() == pytest.approx([light, 300 - light])
    model.config.id2label, model.config.label2id = {0: "light", 1: "old"}, {"light": 0, "old": 1}
    with torch.no_grad():
        model.classifier.bias.fill_(7.0)
    model.save_pretrained(tmp_path / "start")
    begun = start_of(tmp_path, label_columns=["dark", "light"], init_from=str(tmp_path / "start"))
    assert begun.classifier.bias.tolist() == pytest.approx([300 - light, 7.0])


def test_somebody_elses_model_learns_numbers_and_several_classes_too(tmp_path):
    write(tmp_path, "t.csv", **bright(tmp_path))
    theirs = dict(
        model_type="resnet",
        config_overrides=dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
        processor_overrides=dict(size=dict(height=32, width=32)),
        max_steps=2,
    )
    for given in (
        dict(problem_type=NUMBERS, label_column="light"),
        dict(problem_type=MULTI, label_column="shown", label_separator=";"),
    ):
        done = run.train(read_recipe(recipe(tmp_path, **theirs, **given)))
        assert done.model.config.problem_type == given["problem_type"]
        assert math.isfinite(done.metrics["loss"])
        assert math.isfinite(done.metrics[done.task.metric])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mix=dict(mixup_alpha=0.8)), "sets `mix`, which is for image classification with one class an image"),
        (dict(probe=["knn"]), f"sets `probe` and `problem_type: {MULTI}`: probes find one class"),
        (dict(task="pre-training"), f"sets `problem_type: {MULTI}` and `task: pre-training`, which has no such choice"),
        (dict(dataset="sklearn_digits"), "is built in and has one class an image: leave `problem_type` out"),
        (
            dict(config_overrides=TINY | dict(problem_type=NUMBERS)),
            "sets `problem_type` and another one in `config_overrides`",
        ),
    ],
)
def test_what_does_not_go_with_several_classes_is_refused(changes, message, tmp_path):
    write(tmp_path, "t.csv", **bright(tmp_path))
    given = dict(problem_type=MULTI, label_column="shown", label_separator=";") | changes
    given = {k: v for k, v in given.items() if "dataset" not in changes or not k.startswith("label_")}
    with pytest.raises(ValueError, match=message):
        run.train(read_recipe(recipe(tmp_path, **given)))


def test_a_problem_that_nobody_knows_is_refused_with_the_near_one(tmp_path):
    with pytest.raises(ValueError, match="`problem_type: multi_label_clasification`: did you mean `multi_label_class"):
        read_recipe(recipe(tmp_path, dataset="sklearn_digits", problem_type="multi_label_clasification"))


def test_the_configuration_may_say_it_too(tmp_path):
    write(tmp_path, "t.csv", **bright(tmp_path))
    overrides = TINY | dict(problem_type=NUMBERS)
    done = run.train(read_recipe(recipe(tmp_path, config_overrides=overrides, label_column="light", max_steps=1)))
    assert done.task.metric == "mae"
