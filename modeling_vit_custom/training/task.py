"""What every task has: model, processor, batches, metrics, the trivial baseline, and pictures of predictions."""

from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from datasets import DatasetDict
from PIL import Image
from transformers import AutoImageProcessor
from transformers import EvalPrediction
from transformers import TrainerCallback
from transformers import ViTImageProcessor

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig

# What is transparent becomes white, as in training, and not black.
USUAL = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)


class Task(ABC):
    """One kind of model to train. An object holds what a run has made: processor, configuration."""

    name: str  # as recipes and the Hub's `pipeline_tag` call it
    model_class: Any
    config_class: Any = ViTCustomConfig
    processor_class: Any = ViTImageProcessor
    metric: str  # the one figure of a run
    higher_is_better = True
    collator_settings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("image",)  # that a data set must have
    only_images = True  # what is to be found does not move with an image's pixels
    tells_mistakes = False  # each row has one answer, right or wrong
    problem_type: str | None = None  # of a classifier: the loss that its configuration declares
    concatenates = True  # the evaluated batches are one; boxes of an image stay apart from the next image's

    def config(self, splits: DatasetDict, settings: dict[str, Any]) -> Any:
        """The recipe's fields, with what the data decide."""
        return ViTCustomConfig(**self.labels(splits) | settings)

    def labels(self, splits: DatasetDict) -> dict[str, Any]:
        """The fields that name the classes, if there are any."""
        return named(self.class_names(splits)) if self.class_names(splits) else {}

    def class_names(self, splits: DatasetDict) -> list[str]:
        return []

    def balance(self, splits: DatasetDict) -> dict[str, Any]:
        """How many images show each class; or what numbers they have."""
        return {}

    def settle(self, model: Any, splits: DatasetDict, known: list[str] | None) -> list[TrainerCallback]:
        """Let a new head begin by training's labels. `known`: the answers whose rows a checkpoint gave. -> what the
        training needs for it."""
        return []

    def processor(self, config: Any, splits: DatasetDict, settings: dict[str, Any]) -> Any:
        if "size" not in settings:
            height, width = pair(config.image_size)
            settings = {"size": dict(height=height, width=width), **settings}
        return self.processor_class(**USUAL | settings)

    def classes_of(self, rows: Any) -> list[list[int]]:
        """What each row shows, so that examples can be of all classes."""
        return [[] for _ in range(len(rows))]

    def read_processor(self, folder: Any) -> Any:
        """A checkpoint's."""
        return AutoImageProcessor.from_pretrained(folder)

    def takes(self, image_processor: Any) -> bool:
        """Whether another checkpoint's is of use here: one that gives pixels only, or of the task's own kind."""
        return (self.only_images and {*image_processor(Image.new("RGB", (32, 32)))} == {"pixel_values"}) or (
            type(image_processor).__name__.startswith(self.processor_class.__name__)
        )

    @abstractmethod
    def collator(self, processor: Any, config: Any, settings: dict[str, Any]) -> Callable: ...

    def select(self, outputs: Any, labels: Any) -> Any:
        """What is kept of each evaluated batch: all that the model gives and does not mark as left out, or less."""
        return outputs

    def compute_metrics(self, processor: Any, config: Any) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """None where the loss is the metric."""
        return None

    def details(self, prediction: EvalPrediction, processor: Any, config: Any) -> dict[str, Any]:
        """What a report tells and a training's log does not: each class by itself."""
        return {}

    @abstractmethod
    def baseline(self, splits: DatasetDict, collate: Callable, config: Any) -> dict[str, float]:
        """The same metrics of an answer that looks at no image, or at no pixel that is to be found."""

    def draw(
        self, model: Any, processor: Any, collate: Callable, rows: Dataset, held_out: Dataset
    ) -> Image.Image | None:
        """Predictions beside the truth, for some rows of those held out."""
        return None


def named(names: list[str]) -> dict[str, Any]:
    id2label = dict(enumerate(names))
    return dict(id2label=id2label, label2id={name: index for index, name in id2label.items()})


def batches(rows: Any, collate: Callable, size: int = 100):
    for start in range(0, len(rows), size):
        yield collate([rows[index] for index in range(start, min(start + size, len(rows)))])


def as_pictures(processor: Any, pixel_values: torch.Tensor) -> list[Image.Image]:
    """(B, C, H, W), normalised, -> pictures as people see them."""
    mean: Any = 0.0
    std: Any = 1.0
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    if processor.do_normalize:
        sides = (processor.image_mean, processor.image_std)  # a number for each channel, or one for all
        mean, std = (torch.as_tensor(values).reshape(-1, 1, 1) for values in sides)
    pixels = ((pixel_values * std + mean) / scale).clamp(0, 255).round().byte().movedim(1, 3)
    return [Image.fromarray(image.numpy()) for image in pixels]
