"""Accuracy as a module of Hugging Face evaluate: evaluate's own is fetched from the Hub when used, this one is here."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score

DESCRIPTION = "The share of predictions that equal their references."


class Accuracy(evaluate.Metric):
    def _info(self):
        integers = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description="class ids", features=integers
        )

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}
