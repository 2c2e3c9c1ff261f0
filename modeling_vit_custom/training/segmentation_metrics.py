"""Of one class for each pixel: intersection over union.

N images, H W pixels, L labels.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

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
        count = len(class_names)
        confusion = np.zeros((count, count))
        for found, truth in zip(predictions, references, strict=True):  # one by one, so that no copy of all is made
            counts = np.asarray(truth) != ignore_index
            pairs = count * np.asarray(truth)[counts].astype(int) + np.asarray(found)[counts]
            confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)
        hits, seen = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
        unions = seen - hits
        figures = {f"iou_{name}": float(hits[i] / unions[i]) for i, name in enumerate(class_names) if seen[i]}
        if not figures:
            raise ValueError(f"Every pixel is {ignore_index}, ignored: give references with classes.")
        return {"mean_iou": float(np.mean(list(figures.values())))} | figures
