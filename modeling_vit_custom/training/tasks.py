"""What differs between tasks; those whose answers lie in the picture are in dense_tasks.py."""

import numpy as np
import torch
from transformers import AutoProcessor
from transformers import CLIPImageProcessor
from transformers import EvalPrediction
from transformers import VisionTextDualEncoderProcessor
from transformers.image_utils import PILImageResampling

from ..configuration_checks import pair
from ..configuration_dual_encoder import ViTCustomDualEncoderConfig
from ..modeling_dual_encoder import ViTCustomDualEncoder
from ..modeling_embeddings import patch_grid
from ..modeling_masked import ViTCustomForMaskedImageModeling
from ..modeling_masked import ViTCustomForPreTraining
from ..modeling_vit_custom import ViTCustomForImageClassification
from . import metrics
from . import pictures
from .balance import balance_of
from .collators import ImageCollator
from .collators import ImageTextCollator
from .collators import MaskedImageCollator
from .collators import Numbered
from .collators import PreTrainingCollator
from .dense_tasks import ObjectDetection
from .dense_tasks import SemanticSegmentation
from .targets import SINGLE
from .task import Task
from .task import as_pictures
from .task import batches
from .tokenizers import check_end
from .tokenizers import first_caption
from .tokenizers import flat
from .tokenizers import special_ids
from .tokenizers import word_tokenizer


class ImageClassification(Task):
    name, metric, columns = "image-classification", "accuracy", ("image", "label")
    model_class, tells_mistakes, problem_type = ViTCustomForImageClassification, True, SINGLE

    def config(self, splits, settings):
        return super().config(splits, {"problem_type": self.problem_type, **settings})

    def balance(self, splits):
        return balance_of(splits, self.class_names(splits))

    def class_names(self, splits):
        return splits["train"].features["label"].names

    def classes_of(self, rows):
        return [[label] for label in rows["label"]]

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
        grid = patch_grid(model.config, batch["pixel_values"])
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
        masks = outputs.mask.unflatten(1, patch_grid(model.config, pixel_values))
        images = [as_pictures(processor, images) for images in (pixel_values, found)]
        return pictures.below([pictures.draw_masked(*row) for row in zip(images[0], masks, images[1], strict=True)])


class ImageText(Task):
    name, metric = "zero-shot-image-classification", "caption_recall_5"
    columns, collator_settings = ("image", "caption"), ("truncation", "seed")
    model_class, config_class, processor_class = ViTCustomDualEncoder, ViTCustomDualEncoderConfig, CLIPImageProcessor

    def config(self, splits, settings):
        words = word_tokenizer(flat(splits["train"]["caption"]))
        text = {"vocab_size": len(words), **special_ids(words), **settings.get("text_config", {})}
        return ViTCustomDualEncoderConfig(**settings | {"text_config": text})

    def processor(self, config, splits, settings):
        height, width = pair(config.vision_config.image_size)
        size = dict(height=height, width=width)
        images = CLIPImageProcessor(size=size, do_center_crop=False, resample=PILImageResampling.BICUBIC, **settings)
        length = config.text_config.max_position_embeddings
        return VisionTextDualEncoderProcessor(images, word_tokenizer(flat(splits["train"]["caption"]), length))

    def read_processor(self, folder):
        processor = AutoProcessor.from_pretrained(folder)
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise FileNotFoundError(
                f"`init_from: {folder}` has no tokenizer, without which its text tower's words mean nothing: save its "
                "processor there too."
            )
        return processor

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
        captions, panels = [first_caption(one) for one in held_out["caption"]], []
        texts = processor.tokenizer(captions, padding=True, return_token_type_ids=False, return_tensors="pt")
        with torch.no_grad():
            per_image = model.eval()(**texts, pixel_values=collate(list(rows))["pixel_values"]).logits_per_image
        for image, caption, scores in zip(rows["image"], rows["caption"], per_image, strict=True):
            best = [captions[index] for index in scores.topk(min(5, len(captions))).indices.tolist()]
            panels.append(pictures.draw_retrieval(image, best, first_caption(caption)))
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
