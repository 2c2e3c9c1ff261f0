"""Recipes, data and collator: real data, errors that name what is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer
from transformers import TrainingArguments
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training import ImageCollator
from modeling_vit_custom.training import load_digits
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train
from tests.support import ROOT
from tests.support import fill
from tests.support import picture
from tests.support import tiny
from tests.test_modeling_heads import LABELS

QUICKSTART = ROOT / "configs/recipes/quickstart.yaml"


def test_digits_are_all_there_split_by_class_and_split_alike_again():
    splits = load_digits(seed=0)
    assert (len(splits["train"]), len(splits["test"])) == (1437, 360)
    counts = np.bincount(splits["test"]["label"])
    assert len(counts) == 10
    assert counts.min() >= 34
    assert load_digits(seed=0)["test"]["label"] == splits["test"]["label"]
    assert load_digits(seed=1)["test"]["label"] != splits["test"]["label"]
    held_out = {np.asarray(image).tobytes() for image in splits["test"]["image"]}
    assert len(held_out & {np.asarray(image).tobytes() for image in splits["train"]["image"]}) == 0
    assert np.asarray(splits["train"][0]["image"]).max() == 255


@pytest.fixture
def collate():
    return ImageCollator(ViTImageProcessor(size={"height": 8, "width": 8}), num_labels=10)


def test_a_batch_is_pixels_and_labels(collate):
    rows = [{"image": Image.new(mode, (9, 7)), "label": label} for mode, label in (("L", 0), ("RGBA", 9), ("P", 3))]
    batch = collate(rows)
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert batch["labels"].tolist() == [0, 9, 3]


@pytest.mark.parametrize("label", [10, -1])
def test_a_label_that_is_no_class_names_its_row(collate, label):
    rows = [{"image": Image.new("L", (8, 8)), "label": 0}, {"image": Image.new("L", (8, 8)), "label": label}]
    with pytest.raises(ValueError, match=f"Row 1 of the batch has label {label}, but labels are 0 to 9"):
        collate(rows)


def test_pixels_that_are_not_finite_name_their_row():
    def broken(images, return_tensors):
        return {"pixel_values": torch.tensor([0.0, 1.0, float("nan")]).view(3, 1, 1, 1)}

    rows = [{"image": Image.new("L", (1, 1)), "label": 0}] * 3
    with pytest.raises(ValueError, match="Row 2 of the batch has pixels that are not finite"):
        ImageCollator(broken, num_labels=1)(rows)


@pytest.mark.parametrize(("key", "near"), [("learning_rat", "learning_rate"), ("num_epochs", "num_train_epochs")])
def test_an_unknown_key_of_a_recipe_is_refused_with_the_nearest(key, near, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(QUICKSTART.read_text() + f"\n{key}: 1\n")
    with pytest.raises(ValueError, match=f"unknown key `{key}`: did you mean `{near}`"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no recipe: write `key: value` lines"),
        ("hello", "is no recipe"),
        ("output_dir: x", "it needs a `dataset`, as in `dataset: sklearn_digits`"),
        ("dataset: sklearn_digits\nlearning_rate: fast", "sets `learning_rate` to 'fast': write a number"),
        ("dataset: sklearn_digits\nprocessor_overrides: {image_sdt: 1}", "`image_sdt`: did you mean `image_std`"),
    ],
)
def test_a_recipe_that_cannot_be_meant_gets_a_sentence(text, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "recipe.yaml")


def test_what_yaml_reads_as_text_or_nothing_is_understood(tmp_path):
    (tmp_path / "recipe.yaml").write_text("dataset: sklearn_digits\nlearning_rate: 3e-3\nconfig_overrides:\n")
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert (recipe.training.learning_rate, recipe.model.config_overrides) == (0.003, {})


def test_an_unknown_data_set_is_refused_with_the_known(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"dataset: cifar\noutput_dir: {tmp_path}\n")
    with pytest.raises(ValueError, match="`dataset: cifar` is not built in: choose one of sklearn_digits"):
        train(read_recipe(path))


def test_training_learns_and_twice_gives_the_same_weights(tmp_path):
    runs = []
    for _ in range(2):
        recipe = read_recipe(QUICKSTART)
        recipe.training.output_dir, recipe.training.disable_tqdm = str(tmp_path), True
        recipe.training.num_train_epochs, recipe.training.logging_steps = 2, 10
        runs.append(train(recipe))
    assert runs[0].metrics["accuracy"] > 0.6
    assert runs[0].metrics["accuracy"] == runs[1].metrics["accuracy"]
    for first, second in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("problem", LABELS)
@pytest.mark.parametrize(("batch_size", "steps"), [(2, 4), pytest.param(4, 2, marks=pytest.mark.full_size), (3, 3)])
def test_a_plain_trainer_takes_the_same_step_however_it_splits_the_batch(problem, batch_size, steps, tmp_path):
    """(3, 3): the last part is smaller. transformers' own ViT is off by the number of parts for soft labels."""
    images, labels = picture(8, 3, 32, 32), LABELS[problem]
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    weights = []
    for per_device, accumulated in ((8, 1), (batch_size, steps)):
        model = fill(ViTCustomForImageClassification(tiny(problem_type=problem)))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulated,
            num_train_epochs=1,
            learning_rate=1.0,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        assert trainer.train().global_step == 1
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    start = torch.cat([parameter.flatten() for parameter in fill(ViTCustomForImageClassification(tiny())).parameters()])
    step, split_step = weights[0] - start, weights[1] - start
    assert (split_step.norm() / step.norm()).item() == pytest.approx(1, abs=1e-3)
    assert (split_step - step).norm() < 1e-3 * step.norm()


def test_trainers_metrics_see_the_average_of_a_distilled_model_alone(tmp_path):
    model = fill(ViTCustomForImageClassification(tiny(prefix_tokens=["cls", "distillation"], distillation_head=True)))
    images, labels = picture(8, 3, 32, 32), LABELS["single_label_classification"]
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    arguments = TrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, dataloader_pin_memory=False)
    predicted = Trainer(model, arguments).predict(rows)
    assert predicted.predictions.shape == (8, 5)
    torch.testing.assert_close(torch.from_numpy(predicted.predictions), model(images).logits.detach())
