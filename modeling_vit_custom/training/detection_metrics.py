"""Of boxes: COCO's mean average precision, by torchmetrics and pycocotools."""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch
from torchmetrics.detection import MeanAveragePrecision

from .array_metric import ArrayMetric

DESCRIPTION = """\
`map`: COCO's mean average precision over overlaps of 0.5 to 0.95; `map_50`, `map_75`: at one overlap."""
INPUTS = """
Args:
    predictions: of each image `boxes` (n, 4), left, top, right, bottom in pixels, `labels` (n) and `scores` (n).
    references: of each image `boxes` and `labels`.
    class_names: one for each class; then the answer also holds `map_<class name>`, None for a class that no image has.
"""


class DetectionMetrics(ArrayMetric):
    def _info(self):
        numbers, ids = datasets.List(datasets.Value("float32")), datasets.List(datasets.Value("int64"))
        truth = {"boxes": datasets.List(numbers), "labels": ids}
        features = datasets.Features({"predictions": truth | {"scores": numbers}, "references": truth})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", class_metrics=class_names is not None)
        metric.update(as_tensors(predictions), as_tensors(references))
        values = metric.compute()
        figures: dict[str, Any] = {name: float(values[name]) for name in ("map", "map_50", "map_75")}
        figures = {name: value if value >= 0 else math.nan for name, value in figures.items()}  # -1: nothing to find
        if class_names is not None:
            classes = (values[name].reshape(-1).tolist() for name in ("classes", "map_per_class"))
            found = {index: value for index, value in zip(*classes, strict=True) if value >= 0}  # -1: of no image
            figures |= {f"map_{name}": found.get(index) for index, name in enumerate(class_names)}
        return figures


def as_tensors(images: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    return [
        {
            name: torch.as_tensor(values, dtype=torch.long if name == "labels" else torch.float32).reshape(
                (-1, 4) if name == "boxes" else (-1,)
            )
            for name, values in image.items()
        }
        for image in images
    ]
