"""Of several labels an image: mean average precision, F1; and each class by itself.

N images, L labels.
"""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.metrics import f1_score

from .array_metric import ArrayMetric

DESCRIPTION = """\
`map`: the mean over classes of average precision, scikit-learn's, of those that some image has. `f1_micro`,
`f1_macro`: of all answers of yes or no at a probability of 0.5, together or as the mean over classes."""
INPUTS = """
Args:
    predictions (N, L): logits.
    references (N, L): 1 for each class that an image shows, else 0.
    class_names: one for each class; then the answer also holds `average_precision_<class name>` (None for a class that
        no image has), `f1_<class name>` and `count_<class name>`.
"""


class MultiLabelMetrics(ArrayMetric):
    def _info(self):
        rows = datasets.List(datasets.Value("float32"))
        features = datasets.Features({"predictions": rows, "references": rows})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """(N, L), (N, L) -> figures"""
        logits, truth = np.asarray(predictions), np.asarray(references)
        if logits.ndim != 2 or logits.shape != truth.shape or not len(logits):
            raise ValueError(
                f"Logits have shape {logits.shape}, labels {truth.shape}: give (images, classes) of both, of at least "
                "one image."
            )
        if not np.isfinite(logits).all():
            raise ValueError(
                "Some logits are not finite: the model's weights or pixels are not, evaluate an earlier checkpoint."
            )
        truth, found = np.greater(truth, 0.5), np.greater(logits, 0)
        there = truth.any(0)
        precisions = [
            float(average_precision_score(truth[:, place], logits[:, place])) if there[place] else None
            for place in range(truth.shape[1])
        ]
        known = [value for value in precisions if value is not None]
        figures: dict[str, Any] = {"map": float(np.mean(known)) if known else math.nan}
        for kind in ("micro", "macro"):
            figures[f"f1_{kind}"] = f1(truth, found, kind)
        for place, name in enumerate(class_names or ()):
            figures[f"average_precision_{name}"] = precisions[place]
            figures[f"f1_{name}"] = f1(truth[:, place], found[:, place], "binary")
            figures[f"count_{name}"] = int(truth[:, place].sum())
        return figures


def f1(truth: np.ndarray, found: np.ndarray, average: str) -> float:
    """(N, L) or (N) of both -> scikit-learn's F1 score; of one class alone it is that of the class."""
    if truth.ndim == 2 and truth.shape[1] == 1:
        truth, found, average = truth[:, 0], found[:, 0], "binary"
    return float(f1_score(truth, found, average=average, zero_division=0.0))
