"""Of one class for each pixel: intersection over union, by torchmetrics.

N images, H W pixels, L labels.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from .array_metric import ArrayMetric

DESCRIPTION = """\
`mean_iou`: the mean over classes of intersection over union, over all images at once, as is usual; `iou_<class name>`:
of each class. A class that is in no prediction and no reference has none, and does not count in the mean."""
INPUTS = """
Args:
    predictions (N, H, W): class ids.
    references (N, H, W): class ids, or `ignore_index` where a pixel does not count.
    class_names: one for each class.
    ignore_index: 255 unless told.
"""


class SegmentationMetrics(ArrayMetric):
    def _info(self):
        maps = datasets.List(datasets.List(datasets.Value("int32")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self, predictions: Any, references: Any, class_names: Sequence[str] = (), ignore_index: int = 255
    ) -> dict[str, Any]:
        """(N, H, W), (N, H, W) -> figures"""
        metric = MulticlassConfusionMatrix(len(class_names), ignore_index=ignore_index, validate_args=False)
        for found, truth in zip(predictions, references, strict=True):  # one by one, so that no copy of all is made
            metric.update(
                torch.as_tensor(np.asarray(found))[None].long(), torch.as_tensor(np.asarray(truth))[None].long()
            )
        confusion = metric.compute().double()
        hits = confusion.diagonal()
        values = (hits / (confusion.sum(0) + confusion.sum(1) - hits)).tolist()
        figures = {f"iou_{name}": value for name, value in zip(class_names, values, strict=True) if value == value}
        if not figures:
            raise ValueError(f"Every pixel is {ignore_index}, ignored: give references with classes.")
        return {"mean_iou": float(np.mean(list(figures.values())))} | figures
