"""Of one class for each image: accuracy, accuracy among the first five, calibration; and each class by itself.

N images, L labels.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .array_metric import ArrayMetric

NUM_BINS = 15  # as in "On Calibration of Modern Neural Networks" (Guo et al. 2017), section 5
DESCRIPTION = """\
`accuracy`: the share of images whose highest logit is their class. `top_5_accuracy`: whose class is among the five
highest, or among all where there are fewer. `ece`: the expected calibration error, over 15 equal bins of confidence."""
INPUTS = """
Args:
    predictions (N, L): logits.
    references (N): class ids.
    class_names: one for each class; then the answer also holds `accuracy_<class name>` (None for a class that no image
        has), `confusion` (L, L) with a row for each true class, and `reliability`: of each bin `count`, and the mean
        `confidence` and `accuracy`, None where it is empty.
"""


class ClassificationMetrics(ArrayMetric):
    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """(N, L), (N) -> figures"""
        logits, labels = np.asarray(predictions), np.asarray(references)
        check(logits, labels, class_names)
        found, count = logits.argmax(1), logits.shape[1]
        # The softmax's highest value; summed in double precision, so that it is not rounded to 1.
        confidence = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1, dtype=np.float64)
        bins = reliability(confidence, found == labels)
        figures: dict[str, Any] = {
            "accuracy": float(np.mean(found == labels)),
            "top_5_accuracy": float(np.mean(rank(logits, labels) < min(5, count))),
            "ece": calibration_error(bins),
        }
        if class_names is None:
            return figures
        confusion = np.bincount(count * labels + found, minlength=count * count).reshape(count, count)
        for name, row, hits in zip(class_names, confusion, confusion.diagonal(), strict=True):
            figures[f"accuracy_{name}"] = float(hits / row.sum()) if row.any() else None
        return figures | {"confusion": confusion.tolist(), "reliability": bins}


def check(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None):
    """(N, L), (N) -> nothing"""
    if logits.ndim != 2 or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"Logits have shape {logits.shape}, labels {labels.shape}: give (images, classes) and one class id each."
        )
    if not np.isfinite(logits).all():
        raise ValueError(
            "Some logits are not finite: the model's weights or pixels are not, evaluate an earlier checkpoint."
        )
    if not ((labels >= 0) & (labels < logits.shape[1])).all():
        raise ValueError(f"Some labels are not among 0 to {logits.shape[1] - 1}: map them to the model's classes.")
    if class_names is not None and len(class_names) != logits.shape[1]:
        raise ValueError(f"There are {len(class_names)} class names for {logits.shape[1]} logits: give one for each.")


def rank(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, L), (N) -> (N): how many classes come before the true one; of equals the first, as for argmax."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > true) | ((logits == true) & earlier)).sum(1)


def reliability(confidence: np.ndarray, hits: np.ndarray) -> dict[str, list]:
    """(N), (N) -> of each bin (low, high] the number of images, their mean confidence and their accuracy."""
    index = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    count = np.bincount(index, minlength=NUM_BINS)
    sums = [np.bincount(index, weights=values, minlength=NUM_BINS) for values in (confidence, hits)]
    means = [[float(s / n) if n else None for s, n in zip(total, count, strict=True)] for total in sums]
    return {"count": count.tolist(), "confidence": means[0], "accuracy": means[1]}


def calibration_error(bins: dict[str, list]) -> float:
    """The mean over images of how far their bin's confidence is from its accuracy (Guo et al. 2017, equation 3)."""
    rows = [row for row in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True) if row[0]]
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in rows) / sum(bins["count"])
