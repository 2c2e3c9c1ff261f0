"""Tasks whose answers lie in the picture: a class for each pixel, boxes."""

from typing import Any

import numpy as np
import torch
from transformers import DetrImageProcessor
from transformers import EvalPrediction
from transformers import SegformerImageProcessor

from ..modeling_detection import ViTCustomForObjectDetection
from ..modeling_detection import ViTCustomObjectDetectionOutput
from ..modeling_segmentation import ViTCustomForSemanticSegmentation
from . import metrics
from . import pictures
from .collators import SegmentationCollator
from .detection_data import DetectionCollator
from .task import Task
from .task import batches


class OfObjects(Task):
    """What is to be found lies in the picture."""

    only_images = False

    def classes_of(self, rows):
        return [sorted(set(objects["category"])) for objects in rows["objects"]]


class SemanticSegmentation(OfObjects):
    name, metric, columns = "image-segmentation", "mean_iou", ("image", "mask")
    model_class, processor_class = ViTCustomForSemanticSegmentation, SegformerImageProcessor

    def class_names(self, splits):
        """Of `classes`, which each mask holds; else a background and those of `objects`."""
        features = splits["train"].features
        if "classes" in features:
            return features["classes"].feature.names
        return ["background", *features["objects"]["category"].feature.names]

    def classes_of(self, rows):
        return rows["classes"] if "classes" in rows.column_names else super().classes_of(rows)

    def collator(self, processor, config, settings):
        return SegmentationCollator(processor, config.num_labels, config.semantic_loss_ignore_index)

    def select(self, outputs, labels):
        return outputs.argmax(1)

    def compute_metrics(self, processor, config):
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            return metrics.mean_iou(prediction.predictions, prediction.label_ids, config)

        return compute

    def baseline(self, splits, collate, config):
        """Every pixel is of the class that most pixels of training are of; of composed scenes, background."""
        most = 0
        if "classes" in splits["train"].features:
            most = metrics.most_frequent(batches(splits["train"], collate), config)
        labels = torch.cat([batch["labels"] for batch in batches(splits["test"], collate)])
        return metrics.mean_iou(torch.full_like(labels, most), labels, config)

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


class ObjectDetection(OfObjects):
    name, metric, concatenates = "object-detection", "map_50", False
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
