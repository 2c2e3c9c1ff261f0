"""What differs between tasks: model, processor, batches, metrics, the trivial baseline, and pictures of predictions."""

from abc import ABC
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets import DatasetDict
from PIL import Image
from transformers import CLIPImageProcessor
from transformers import DetrImageProcessor
from transformers import EvalPrediction
from transformers import SegformerImageProcessor
from transformers import VisionTextDualEncoderProcessor
from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling

from ..configuration_checks import pair
from ..configuration_dual_encoder import ViTCustomDualEncoderConfig
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_detection import ViTCustomForObjectDetection
from ..modeling_detection import ViTCustomObjectDetectionOutput
from ..modeling_dual_encoder import ViTCustomDualEncoder
from ..modeling_masked import ViTCustomForMaskedImageModeling
from ..modeling_masked import ViTCustomForPreTraining
from ..modeling_segmentation import ViTCustomForSemanticSegmentation
from ..modeling_vit_custom import ViTCustomForImageClassification
from . import metrics
from . import pictures
from .collators import ImageCollator
from .collators import ImageTextCollator
from .collators import MaskedImageCollator
from .collators import Numbered
from .collators import PreTrainingCollator
from .collators import SegmentationCollator
from .detection_data import DetectionCollator
from .tokenizers import check_end
from .tokenizers import special_ids
from .tokenizers import word_tokenizer

HALVES = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


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
    concatenates = True  # the evaluated batches are one; boxes of an image stay apart from the next image's

    def config(self, splits: DatasetDict, settings: dict[str, Any]) -> Any:
        """The recipe's fields, with what the data decide."""
        return ViTCustomConfig(**self.labels(splits) | settings)

    def labels(self, splits: DatasetDict) -> dict[str, Any]:
        """The fields that name the classes, if there are any."""
        return named(self.class_names(splits)) if self.class_names(splits) else {}

    def class_names(self, splits: DatasetDict) -> list[str]:
        return []

    def processor(self, config: Any, splits: DatasetDict, settings: dict[str, Any]) -> Any:
        if "size" not in settings:
            height, width = pair(config.image_size)
            settings = {"size": dict(height=height, width=width), **settings}
        return self.processor_class(**HALVES | settings)

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


class ImageClassification(Task):
    name, metric, columns = "image-classification", "accuracy", ("image", "label")
    model_class = ViTCustomForImageClassification

    def config(self, splits, settings):
        return super().config(splits, {"problem_type": "single_label_classification", **settings})

    def class_names(self, splits):
        return splits["train"].features["label"].names

    def collator(self, processor, config, settings):
        return ImageCollator(processor, config.num_labels)

    def select(self, outputs, labels):
        return outputs[0] if isinstance(outputs, tuple) else outputs  # the logits

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.classification(prediction.predictions, prediction.label_ids)

        return compute

    def details(self, prediction, processor, config):
        return metrics.classification(prediction.predictions, prediction.label_ids, list(config.id2label.values()))

    def baseline(self, splits, collate, config):
        """The class that is most frequent in training."""
        most = np.bincount(splits["train"]["label"]).argmax()
        return {"accuracy": float(np.mean(np.asarray(splits["test"]["label"]) == most))}


class MaskedImages(Task):
    """The loss is the metric: the mean absolute error of the hidden pixels, after normalisation."""

    name, metric, higher_is_better = "masked-image-modeling", "loss", False
    model_class = ViTCustomForMaskedImageModeling
    collator_settings = ("mask_patch_size", "mask_ratio", "seed")

    def collator(self, processor, config, settings):
        return MaskedImageCollator(processor, config, **settings)

    def baseline(self, splits, collate, config):
        """Each hidden pixel is the mean colour of the visible ones of its image."""
        return {"loss": metrics.mean_colour_error(batches(Numbered(splits["test"]), collate), config)}

    def draw(self, model, processor, collate, rows, held_out):
        batch = collate(list(Numbered(rows)))
        with torch.no_grad():
            found = model.eval()(**batch).reconstruction
        grid = model.vit.embeddings(batch["pixel_values"])[1]
        masks = batch["bool_masked_pos"].unflatten(1, grid)
        images = [as_pictures(processor, images) for images in (batch["pixel_values"], found)]
        return pictures.below([pictures.draw_masked(*row) for row in zip(images[0], masks, images[1], strict=True)])


class PreTraining(Task):
    """The loss is the metric: the mean squared error of the hidden patches."""

    name, metric, higher_is_better = "pre-training", "loss", False
    model_class = ViTCustomForPreTraining
    collator_settings = ("seed",)

    def collator(self, processor, config, settings):
        return PreTrainingCollator(processor, config, **settings)

    def baseline(self, splits, collate, config):
        """Each patch is flat: of its own mean, which no model is told."""
        return {"loss": metrics.flat_patch_error(batches(Numbered(splits["test"]), collate), config)}

    def draw(self, model, processor, collate, rows, held_out):
        batch = collate(list(Numbered(rows)))
        with torch.no_grad():
            outputs = model.eval()(**batch)
        pixel_values = batch["pixel_values"]
        found = metrics.unpatchify(outputs.logits, pixel_values, model.config)
        masks = outputs.mask.unflatten(1, model.vit.embeddings(pixel_values)[1])
        images = [as_pictures(processor, images) for images in (pixel_values, found)]
        return pictures.below([pictures.draw_masked(*row) for row in zip(images[0], masks, images[1], strict=True)])


class SemanticSegmentation(Task):
    name, metric, columns = "image-segmentation", "mean_iou", ("image", "mask", "objects")
    only_images = False
    model_class, processor_class = ViTCustomForSemanticSegmentation, SegformerImageProcessor

    def class_names(self, splits):
        return ["background", *splits["train"].features["objects"]["category"].feature.names]

    def collator(self, processor, config, settings):
        return SegmentationCollator(processor, config.num_labels, config.semantic_loss_ignore_index)

    def select(self, outputs, labels):
        return outputs.argmax(1)

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.mean_iou(prediction.predictions, prediction.label_ids, config)

        return compute

    def baseline(self, splits, collate, config):
        """Every pixel is background."""
        labels = torch.cat([batch["labels"] for batch in batches(splits["test"], collate)])
        return metrics.mean_iou(torch.zeros_like(labels), labels, config)

    def draw(self, model, processor, collate, rows, held_out):
        panels = []
        for row in rows:
            batch = collate([row])
            with torch.no_grad():
                outputs = model.eval()(**batch)
            (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[row["image"].size[::-1]])
            names = list(model.config.id2label.values())
            panels.append(pictures.draw_segmentation(row["image"], row["mask"], found, names))
        return pictures.below(panels)


class ObjectDetection(Task):
    name, metric, concatenates, only_images = "object-detection", "map_50", False, False
    columns = ("image", "objects", "width", "height")
    model_class, processor_class = ViTCustomForObjectDetection, DetrImageProcessor

    def class_names(self, splits):
        return splits["train"].features["objects"]["category"].feature.names

    def processor(self, config, splits, settings):
        return super().processor(config, splits, {"do_pad": False, **settings})  # the collator pads, see its file

    def collator(self, processor, config, settings):
        return DetectionCollator(processor, config.num_labels)

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.average_precision(*self.found_and_true(prediction, processor))

        return compute

    def details(self, prediction, processor, config):
        names = list(config.id2label.values())
        return metrics.average_precision(*self.found_and_true(prediction, processor), names)

    def found_and_true(self, prediction: EvalPrediction, processor: Any) -> tuple[list[dict], list[dict]]:
        """The boxes of each image, in its own pixels."""
        found, truth = [], []
        for (logits, boxes), labels in zip(prediction.predictions, prediction.label_ids, strict=True):
            outputs = ViTCustomObjectDetectionOutput(logits=torch.tensor(logits), pred_boxes=torch.tensor(boxes))
            sizes = [tuple(np.asarray(label["orig_size"]).tolist()) for label in labels]
            found += processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
            truth += [metrics.in_pixels(label, size) for label, size in zip(labels, sizes, strict=True)]
        return found, truth

    def baseline(self, splits, collate, config):
        """In every image the mean box of each class, scored by how often the class is there."""
        return metrics.constant_boxes(splits["train"], splits["test"], config.num_labels)

    def draw(self, model, processor, collate, rows, held_out):
        panels, names = [], list(model.config.id2label.values())
        for row in rows:
            with torch.no_grad():
                outputs = model.eval()(pixel_values=collate([row])["pixel_values"])
            sizes = [row["image"].size[::-1]]
            (found,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
            panels.append(pictures.draw_detection(row["image"], row["objects"], found, names, threshold=0.3))
        return pictures.below(panels)


class ImageText(Task):
    name, metric = "zero-shot-image-classification", "caption_recall_5"
    columns, collator_settings = ("image", "caption"), ("truncation",)
    model_class, config_class, processor_class = ViTCustomDualEncoder, ViTCustomDualEncoderConfig, CLIPImageProcessor

    def config(self, splits, settings):
        words = word_tokenizer(splits["train"]["caption"])
        text = {"vocab_size": len(words), **special_ids(words), **settings.get("text_config", {})}
        return ViTCustomDualEncoderConfig(**settings | {"text_config": text})

    def processor(self, config, splits, settings):
        height, width = pair(config.vision_config.image_size)
        size = dict(height=height, width=width)
        images = CLIPImageProcessor(size=size, do_center_crop=False, resample=PILImageResampling.BICUBIC, **settings)
        length = config.text_config.max_position_embeddings
        return VisionTextDualEncoderProcessor(images, word_tokenizer(splits["train"]["caption"], length))

    def collator(self, processor, config, settings):
        check_end(processor.tokenizer, config)
        return ImageTextCollator(processor, **settings)

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            outputs = [torch.tensor(values) for values in prediction.predictions]
            texts, images = outputs[:2]
            return metrics.retrieval(images, texts)

        return compute

    def baseline(self, splits, collate, config):
        """Chance."""
        return metrics.chance(len(splits["test"]))

    def draw(self, model, processor, collate, rows, held_out):
        captions, panels = list(held_out["caption"]), []
        texts = processor.tokenizer(captions, padding=True, return_token_type_ids=False, return_tensors="pt")
        with torch.no_grad():
            per_image = model.eval()(**texts, pixel_values=collate(list(rows))["pixel_values"]).logits_per_image
        for image, caption, scores in zip(rows["image"], rows["caption"], per_image, strict=True):
            best = [captions[index] for index in scores.topk(min(5, len(captions))).indices.tolist()]
            panels.append(pictures.draw_retrieval(image, best, caption))
        return pictures.below(panels)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ImageClassification(),
        MaskedImages(),
        PreTraining(),
        SemanticSegmentation(),
        ObjectDetection(),
        ImageText(),
    )
}


def batches(rows: Any, collate: Callable, size: int = 100):
    for start in range(0, len(rows), size):
        yield collate([rows[index] for index in range(start, min(start + size, len(rows)))])


def as_pictures(processor: Any, pixel_values: torch.Tensor) -> list[Image.Image]:
    """(B, C, H, W), normalised, -> pictures as people see them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    pixels = ((pixel_values * std + mean).clamp(0, 1) * 255).round().byte().movedim(1, 3)
    return [Image.fromarray(image.numpy()) for image in pixels]
