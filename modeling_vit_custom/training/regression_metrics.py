"""Of numbers for each image: errors in their units, and the share of their variance that is explained.

N images, L numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import mean_absolute_error
from sklearn.metrics import r2_score
from sklearn.metrics import root_mean_squared_error

from .array_metric import ArrayMetric

DESCRIPTION = """\
`mae`: the mean absolute error. `rmse`: the root of the mean squared error. `r2`: 1 - squared errors / squared distances
from the mean of these images; 0 for that mean. Of several numbers the mean over them."""
INPUTS = """
Args:
    predictions (N, L), references (N, L): numbers, in their units.
    names: one for each number; then the answer also holds `mae_<name>`, `rmse_<name>` and `r2_<name>`.
"""
SCORES = {"mae": mean_absolute_error, "rmse": root_mean_squared_error, "r2": r2_score}


class RegressionMetrics(ArrayMetric):
    def _info(self):
        rows = datasets.List(datasets.Value("float32"))
        features = datasets.Features({"predictions": rows, "references": rows})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
        """(N, L), (N, L) -> figures"""
        found, truth = (np.asarray(values, dtype=np.float64) for values in (predictions, references))
        if found.ndim != 2 or found.shape != truth.shape or not len(found):
            raise ValueError(
                f"Predictions have shape {found.shape}, labels {truth.shape}: give (images, numbers) of both, of at "
                "least one image."
            )
        if not np.isfinite(found).all():
            raise ValueError(
                "Some predictions are not finite: the model's weights or pixels are not, evaluate an earlier one."
            )
        each = {name: [score(name, t, f) for t, f in zip(truth.T, found.T, strict=True)] for name in SCORES}
        figures = {name: float(np.mean(values)) for name, values in each.items()}
        for place, target in enumerate(names or ()):
            figures |= {f"{name}_{target}": values[place] for name, values in each.items()}
        return figures


def score(name: str, truth: np.ndarray, found: np.ndarray) -> float:
    """(N), (N) -> one figure; r2 of one image, or of equal numbers, is not a number."""
    if name == "r2" and not np.ptp(truth):
        return math.nan
    return float(SCORES[name](truth, found))
