"""Weights of classes: scikit-learn's numbers, torch's loss over all images, one gradient however a batch is split; and
the report of how often each class is there.
"""

import json
import os
import tempfile
from typing import Any

import pytest
import torch
import yaml
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import List
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import run
from modeling_vit_custom.training.balance import balance_of
from modeling_vit_custom.training.balance import tell_balance
from modeling_vit_custom.training.class_weights import ClassLoss
from modeling_vit_custom.training.class_weights import Weigh
from modeling_vit_custom.training.class_weights import Weighted
from modeling_vit_custom.training.class_weights import weights_of
from modeling_vit_custom.training.targets import MULTI
from modeling_vit_custom.training.targets import NUMBERS
from modeling_vit_custom.training.targets import SINGLE
from scripts import train
from tests.forking import in_two_processes
from tests.support import picture
from tests.test_modeling_heads import LABELS
from tests.test_training_laws import SPLITS
from tests.test_training_laws import SPLITS_OF_TWO
from tests.test_training_laws import Exact
from tests.test_training_laws import assert_equal
from tests.test_training_laws import collate
from tests.test_training_laws import flat
from tests.test_training_laws import frozen  # noqa: F401
from tests.test_training_laws import model_of
from tests.test_training_laws import rows_of
from tests.test_training_laws import trainer_of
from tests.test_training_tables import ONCE
from tests.test_training_tables import TINY
from tests.test_training_tables import own_cache  # noqa: F401
from tests.test_training_tables import painted
from tests.test_training_tables import write

NAMES = ("ant", "bee", "cow", "dog", "elk")
HARD = LABELS["single_label_classification"]  # 0, 4, 2, 1, 3, 3, 0, 2
COUNTS = dict(zip(NAMES, HARD.bincount().tolist(), strict=True))  # 2, 1, 2, 2, 1
SEVERAL = LABELS["multi_label_classification"]
PRESENT = dict(zip(NAMES, SEVERAL.sum(0).int().tolist(), strict=True))
GIVEN = {"bee": 3.0, "dog": 0.5}
WEIGHTS = {
    "classes, single_label_classification": weights_of(GIVEN, COUNTS, 8),
    "distilled": weights_of(GIVEN, COUNTS, 8),
    "classes, soft_label_classification": weights_of(GIVEN, COUNTS, 8),
    "classes, some ignored": weights_of(GIVEN, COUNTS, 8),
    "classes, multi_label_classification": weights_of(GIVEN, PRESENT, 8, MULTI),
    "classes, regression": torch.tensor([1.0, 0.2, 3.0, 0.5, 2.0]),
}
PROBLEMS = {"classes, multi_label_classification": MULTI, "classes, regression": NUMBERS}


# The weights


def test_balanced_is_scikit_learns():
    labels = [0] * 7 + [1] * 2 + [2] * 90 + [4]
    counts = {name: labels.count(place) for place, name in enumerate(NAMES)}
    found = weights_of("balanced", counts, 100)
    expected = compute_class_weight("balanced", classes=torch.tensor([0, 1, 2, 4]).numpy(), y=labels)
    assert found[[0, 1, 2, 4]].tolist() == pytest.approx(expected)
    assert found[3] == 1  # no image shows it


def test_balanced_for_several_classes_is_scikit_learns_for_each():
    found = weights_of("balanced", PRESENT, 8, MULTI)
    for place in range(5):
        truth = SEVERAL[:, place].numpy()
        expected = compute_class_weight("balanced", classes=torch.tensor([0.0, 1.0]).numpy(), y=truth)
        assert found[:, place].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("setting", ["balanced", GIVEN, dict.fromkeys(NAMES, 7.0)])
def test_the_mean_weight_of_the_images_is_one_and_ratios_are_as_given(setting):
    found = weights_of(setting, COUNTS, 8)
    assert found[HARD].mean() == pytest.approx(1)
    if setting is GIVEN:
        assert (found / found[0]).tolist() == pytest.approx([1, 3, 1, 0.5, 1])
    of_several = weights_of(setting, PRESENT, 8, MULTI)
    mean = torch.where(SEVERAL > 0, of_several[1], of_several[0]).mean(0)
    assert mean.tolist() == pytest.approx([1] * 5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("inverse", "`class_weights: inverse` is none: write `balanced`, or a weight for each class as in"),
        ({"beee": 2.0}, "`class_weights` has `beee`, which is no class: did you mean `bee`?"),
        ({"zebra": 2.0}, "which is no class: the data have ant, bee, cow, dog, elk"),
        ({"bee": 0}, "gives `bee` the weight 0: write a number above 0"),
        ({"bee": True}, "gives `bee` the weight True"),
        ({"bee": float("inf")}, "gives `bee` the weight inf"),
    ],
)
def test_weights_that_cannot_be_meant_have_a_sentence(setting, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        weights_of(setting, COUNTS, 8)


# The loss


def loss_of(name: str, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    return ClassLoss(PROBLEMS.get(name, SINGLE))(outputs, Weighted(labels, WEIGHTS[name]))


def test_over_all_images_it_is_torchs_weighted_mean_and_that_of_images_which_stand_several_times():
    logits = picture(8, 5).double()
    weights = weights_of({"bee": 3.0, "dog": 2.0}, COUNTS, 8)
    found = ClassLoss()([logits], Weighted(HARD, weights))
    ratios = torch.tensor([1, 3, 1, 2, 1])
    torch.testing.assert_close(found, functional.cross_entropy(logits, HARD, ratios.double()), rtol=1e-6, atol=0)
    rows = torch.repeat_interleave(torch.arange(8), ratios[HARD])
    torch.testing.assert_close(found, functional.cross_entropy(logits[rows], HARD[rows]), rtol=1e-6, atol=0)


def test_of_soft_and_of_smoothed_labels_it_is_torchs():
    logits, weights = picture(8, 5).double(), WEIGHTS["distilled"]
    soft = LABELS["soft_label_classification"].double()
    found = ClassLoss()([logits], Weighted(soft, weights))
    torch.testing.assert_close(found, functional.cross_entropy(logits, soft, weights.double()))
    smooth = functional.one_hot(HARD, 5) * 0.9 + 0.1 / 5
    found = ClassLoss()([logits], Weighted(smooth.double(), weights))
    expected = functional.cross_entropy(logits, HARD, weights.double(), label_smoothing=0.1, reduction="sum") / 8
    torch.testing.assert_close(found, expected)


def test_of_several_classes_it_is_torchs_weight_of_presence():
    logits, ratios = picture(8, 5).double(), torch.tensor([1, 3, 1, 0.5, 1]).double()
    weights = WEIGHTS["classes, multi_label_classification"]
    found = ClassLoss(MULTI)([logits], Weighted(SEVERAL, weights))
    each = functional.binary_cross_entropy_with_logits(logits, SEVERAL.double(), pos_weight=ratios, reduction="none")
    torch.testing.assert_close(found, (each.mean(0) * weights[0]).mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("problem", [SINGLE, MULTI, NUMBERS])
def test_weights_of_one_change_nothing_and_an_evaluation_has_none(problem):
    labels = LABELS[problem]
    ones = torch.ones((2, 5) if problem == MULTI else 5)
    plain = ClassLoss(problem)([picture(8, 5)], labels)
    torch.testing.assert_close(ClassLoss(problem)([picture(8, 5)], Weighted(labels, ones)), plain)
    step = Weigh(torch.full_like(ones, 9.0))
    assert step({"labels": labels}, training=False)["labels"] is labels
    heavy = ClassLoss(problem)([picture(8, 5)], step({"labels": labels}, training=True)["labels"])
    torch.testing.assert_close(heavy, 9 * plain)


# One gradient


def wanted(name: str) -> torch.Tensor:
    """The gradient of all eight images at once."""
    model, batch = model_of(name).train(), collate(rows_of(name))
    loss_of(name, model(batch["pixel_values"]), batch["labels"]).backward()
    return flat(model)


def gradient(name: str, folder: str, batch_size: int, accumulated: int) -> torch.Tensor:
    trainer = trainer_of(name, Exact, folder, batch_size, accumulated)
    trainer.device_steps = [Weigh(WEIGHTS[name])]
    trainer.compute_loss_func = ClassLoss(PROBLEMS.get(name, SINGLE))
    assert not trainer.has_own_loss  # so that torch_compile is not refused
    trainer.train()
    (found,) = trainer.gradients
    return found


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_one_process_takes_the_same_step_however_it_splits_the_batch(name, split, tmp_path):
    assert_equal(gradient(name, str(tmp_path), *split), wanted(name))


def test_so_do_two_processes(tmp_path):
    done = in_two_processes("tests.test_training_class_weights", "one_of_two_processes", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "0.pt")
    for name in WEIGHTS:
        for split in SPLITS_OF_TWO:
            assert_equal(found[name, split], wanted(name))


def one_of_two_processes(home: str):
    with tempfile.TemporaryDirectory() as folder:
        found = {(name, split): gradient(name, folder, *split) for name in WEIGHTS for split in SPLITS_OF_TWO}
    torch.save(found, f"{home}/{os.environ['RANK']}.pt")


def test_an_image_of_weight_two_gives_its_gradient_twice(tmp_path):
    name = "classes, single_label_classification"
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])
    found = []
    for doubled in (True, False):
        model, batch = model_of(name).train(), collate(rows_of(name))
        rows = torch.arange(8) if doubled else torch.repeat_interleave(torch.arange(8), weights[HARD].long())
        outputs, labels = model(batch["pixel_values"][rows]), HARD[rows]
        labels = Weighted(labels, weights) if doubled else labels
        ClassLoss()(outputs, labels, num_items_in_batch=torch.tensor(8)).backward()
        found.append(flat(model))
    assert_equal(found[0], found[1])


# Recipes


def unbalanced(folder, count: int = 60) -> str:
    painted(folder, count)
    return write(folder, "t.csv", path=[f"{n}.png" for n in range(count)], kind=["cat"] * (count - 5) + ["owl"] * 5)


def settings(folder, **changes) -> str:
    given = dict(
        dataset=str(folder / "t.csv"),
        label_column="kind",
        num_examples=2,
        config_overrides=TINY,
        output_dir=str(folder / "run"),
        **ONCE | dict(per_device_train_batch_size=8),
    )
    (folder / "r.yaml").write_text(yaml.safe_dump(given | changes))
    return str(folder / "r.yaml")


def test_the_balance_is_told_before_training_and_kept(tmp_path, capsys):
    unbalanced(tmp_path)
    done = train.main([settings(tmp_path)])
    told = json.loads((done / "metrics.json").read_text())["balance"]
    assert told == {"train": {"cat": 44, "owl": 4}, "test": {"cat": 11, "owl": 1}, "ratio": 11.0}
    said = capsys.readouterr().out
    assert "2 classes in 48 images of training: cat 44, owl 4." in said
    assert "11 times the images of the rarest: `class_weights: balanced` weighs them alike" in said


@pytest.mark.parametrize("mix", [{}, dict(mixup_alpha=0.8, label_smoothing=0.1)])
def test_a_recipe_weighs_classes(mix, tmp_path, capsys):
    unbalanced(tmp_path)
    given = dict(class_weights="balanced", mix=mix, eval_strategy="epoch")
    trained = run.train(read_recipe(settings(tmp_path, **given)))
    said = capsys.readouterr().out
    assert "Weights in the loss: owl 6, cat 0.545." in said
    assert "weighs them alike" not in said
    (loss,) = [step.weights for step in trained.trainer.device_steps if isinstance(step, Weigh)]
    assert loss.tolist() == pytest.approx([48 / 88, 6.0])
    plain = functional.cross_entropy(
        torch.tensor(trained.prediction.predictions), torch.tensor(trained.prediction.label_ids)
    )
    assert trained.metrics["loss"] == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(class_weights={"cta": 2.0}), "`class_weights` has `cta`, which is no class: did you mean `cat`"),
        (dict(task="pre-training"), "sets `class_weights`, which `task: pre-training` cannot have"),
        (dict(problem_type=NUMBERS, label_column="size"), f"which `problem_type: {NUMBERS}` cannot have"),
        (dict(distillation=dict(teacher="x")), "sets `class_weights` and `distillation`"),
        (dict(streaming=True, max_steps=1), "sets `class_weights` and `streaming`"),
        (dict(label_smoothing_factor=0.1), r"write `mix: \{label_smoothing: 0.1\}`"),
    ],
)
def test_weights_where_they_mean_nothing_are_refused(changes, message, tmp_path):
    paths = [path.name for path in painted(tmp_path, 8)]
    write(tmp_path, "t.csv", path=paths, kind=["cat", "owl"] * 4, size=[0.5] * 8)
    given = dict(class_weights="balanced") | changes
    decoder = dict(decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2)
    if "task" in changes:
        given |= dict(label_column=None, config_overrides=TINY | decoder)
    with pytest.raises(ValueError, match=message):
        run.train(read_recipe(settings(tmp_path, **{key: value for key, value in given.items() if value is not None})))


def test_a_balance_of_several_classes_and_of_numbers(capsys):
    several = Features({"label": List(ClassLabel(names=["a", "b"]))})
    rows = Dataset.from_dict({"label": [[0], [0, 1], [], [0]]}, features=several)
    found = balance_of(DatasetDict(train=rows, test=rows.select([2])), ["a", "b"])
    assert found == {"train": {"a": 3, "b": 1}, "test": {"a": 0, "b": 0}, "ratio": 3.0}
    numbers = Dataset.from_dict({"label": [{"age": 1.0}, {"age": 3.0}]})
    found = balance_of(DatasetDict(train=numbers), ["age"])
    assert found == {"train": {"age": dict(mean=2.0, std=1.0, min=1.0, max=3.0)}}
    tell_balance(found, 2, False)
    assert capsys.readouterr().out == "age of 2 images: mean 2, deviation 1, from 1 to 3.\n"
