"""Classifiers of another `problem_type` than one class an image: several classes, or numbers. On the Hub both are
image-classification, as transformers has it.

B batch, L classes or numbers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from . import metrics
from . import pictures
from .collators import pixels_of
from .naming import name_of
from .standardised import StandardisedSteps
from .standardised import begin_at
from .standardised import mean_and_deviation
from .starting import class_axes
from .targets import MULTI
from .targets import NUMBERS
from .task import Task
from .tasks import TASKS
from .tasks import ImageClassification

WIDEST = 320  # pixels of a panel with words


class MultiLabelCollator:
    """A list of `{"image": PIL image, "label": class ids}` -> `pixel_values` (B, C, H, W) and `labels` (B, L): 1 for
    each class that is shown, and of an image without one all 0.

    Raises:
        ValueError: a label that is no class, or pixels that are not finite after processing; the row is named.
    """

    def __init__(self, image_processor: Callable, num_labels: int):
        self.image_processor, self.num_labels = image_processor, num_labels

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.zeros(len(rows), self.num_labels)
        for position, row in enumerate(rows):
            for one in row["label"]:
                if not 0 <= one < self.num_labels:
                    raise ValueError(
                        f"{name_of(position, row)} has label {one}, but labels are 0 to {self.num_labels - 1}: set "
                        "`num_labels` in the configuration, or map the labels."
                    )
                labels[position, one] = 1
        return {"pixel_values": pixels_of(self.image_processor, rows), "labels": labels}


class RegressionCollator:
    """A list of `{"image": PIL image, "label": {name: number}}` -> `pixel_values` (B, C, H, W) and `labels` (B, L), in
    the order of `names`.

    Raises:
        ValueError: a number that is not there, or pixels that are not finite after processing; the row is named.
    """

    def __init__(self, image_processor: Callable, names: list[str]):
        self.image_processor, self.names = image_processor, names

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        for position, row in enumerate(rows):
            if lacking := [name for name in self.names if name not in row["label"]]:
                raise ValueError(
                    f"{name_of(position, row)} has no number `{lacking[0]}`: name its column by `label_columns`, in "
                    "the model's order."
                )
        labels = torch.tensor([[row["label"][name] for name in self.names] for row in rows])
        return {"pixel_values": pixels_of(self.image_processor, rows), "labels": labels.float()}


class MultiLabelClassification(ImageClassification):
    problem_type, metric, tells_mistakes = MULTI, "map", False

    def class_names(self, splits):
        return splits["train"].features["label"].feature.names

    def classes_of(self, rows):
        return list(rows["label"])

    def collator(self, processor, config, settings):
        return MultiLabelCollator(processor, config.num_labels)

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.multi_label(prediction.predictions, prediction.label_ids)

        return compute

    def details(self, prediction, processor, config):
        return metrics.multi_label(prediction.predictions, prediction.label_ids, list(config.id2label.values()))

    def baseline(self, splits, collate, config):
        """Each class with its share of training's images, whatever the image."""
        count = config.num_labels
        train, test = (hot(splits[split]["label"], count) for split in ("train", "test"))
        logits = torch.logit(torch.from_numpy(train.mean(0)), eps=1e-6).numpy()
        return metrics.multi_label(np.tile(logits, (len(test), 1)), test)

    def draw(self, model, processor, collate, rows, held_out):
        names, panels = [model.config.id2label[place] for place in range(model.config.num_labels)], []
        for image, truth, logits in zip(rows["image"], rows["label"], answers(model, collate, rows), strict=True):
            found = (logits > 0).nonzero().flatten().tolist()
            lines = [("truth: " + (", ".join(names[one] for one in truth) or "none"), pictures.color_of(0))]
            lines += [("found: " + (", ".join(names[one] for one in found) or "none"), pictures.color_of(1))]
            panels += [image.convert("RGB"), *pictures.lines_of(lines, WIDEST)]
        return pictures.below(panels)


class ImageRegression(ImageClassification):
    """A checkpoint answers in the numbers' units. In training they are standardised by its mean and deviation, and so
    is the loss of a step; an evaluation's loss is the mean squared error in units. A stream is learned as it stands."""

    problem_type, metric, higher_is_better, tells_mistakes = NUMBERS, "mae", False, False

    def class_names(self, splits):
        return list(splits["train"].features["label"])

    def classes_of(self, rows):
        return [[] for _ in range(len(rows))]

    def settle(self, model, splits, known):
        mean, deviation = mean_and_deviation(splits["train"])
        axes = {*class_axes(model)}
        new = [place for place, name in enumerate(self.class_names(splits)) if name not in (known or ())]
        begin_at(model, axes, new, mean, deviation)
        return [StandardisedSteps(mean, deviation, axes)]

    def collator(self, processor, config, settings):
        return RegressionCollator(processor, [config.id2label[place] for place in range(config.num_labels)])

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.regression(prediction.predictions, prediction.label_ids)

        return compute

    def details(self, prediction, processor, config):
        return metrics.regression(prediction.predictions, prediction.label_ids, list(config.id2label.values()))

    def baseline(self, splits, collate, config):
        """The mean of training, whatever the image."""
        train, test = (np.stack([*columns_of(splits[split]).values()], 1) for split in ("train", "test"))
        return metrics.regression(np.tile(train.mean(0), (len(test), 1)), test)

    def draw(self, model, processor, collate, rows, held_out):
        names, panels = [model.config.id2label[place] for place in range(model.config.num_labels)], []
        for image, truth, found in zip(rows["image"], rows["label"], answers(model, collate, rows), strict=True):
            lines = [
                (f"{name}: {value:.4g} for {truth[name]:.4g}", pictures.color_of(place))
                for place, (name, value) in enumerate(zip(names, found.tolist(), strict=True))
            ]
            panels += [image.convert("RGB"), *pictures.lines_of(lines, WIDEST)]
        return pictures.below(panels)


def hot(labels: Any, count: int) -> np.ndarray:
    """N lists of class ids -> (N, L) of 0 and 1"""
    made = np.zeros((len(labels), count), np.float32)
    for row, some in enumerate(labels):
        made[row, list(some)] = 1
    return made


def columns_of(rows: Any) -> dict[str, list[float]]:
    """Each number of all rows, in the order of the features."""
    labels = rows["label"]
    return {name: [row[name] for row in labels] for name in rows.features["label"]}


@torch.no_grad()
def answers(model: Any, collate: Callable, rows: Any) -> torch.Tensor:
    """-> (B, L)"""
    return model.eval()(pixel_values=collate(list(rows))["pixel_values"]).logits


OF_PROBLEMS: dict[str, Task] = {task.problem_type: task for task in (MultiLabelClassification(), ImageRegression())}


def task_of(name: str, problem_type: str | None = None) -> Task:
    """What a recipe's `task` and `problem_type` mean, or a checkpoint's."""
    return OF_PROBLEMS.get(str(problem_type), TASKS[name]) if name == ImageClassification.name else TASKS[name]
