"""Of pairs of images and captions: how often the partner is found.

N pairs, E width of the shared space.
"""

from typing import Any

import datasets
import evaluate
import torch

from .array_metric import ArrayMetric

DESCRIPTION = """\
`caption_recall_1`, `caption_recall_5`: how often an image's caption is among the first 1 or 5 of all N captions;
`image_recall_1`, `image_recall_5`: the other way. Of equal similarities the partner has the middle place."""
INPUTS = """
Args:
    predictions (N, E): embeddings of images.
    references (N, E): embeddings of their captions, in the same order.
"""


class RetrievalMetrics(ArrayMetric):
    def _info(self):
        rows = datasets.List(datasets.Value("float32"))
        features = datasets.Features({"predictions": rows, "references": rows})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        """(N, E), (N, E) -> figures"""
        similarity = torch.as_tensor(predictions) @ torch.as_tensor(references).T
        figures: dict[str, Any] = {}
        for name, scores in (("caption", similarity), ("image", similarity.T)):
            better = (scores > scores.diagonal()[:, None]).sum(1)
            equal = (scores == scores.diagonal()[:, None]).sum(1) - 1
            place = better + equal / 2
            figures |= {f"{name}_recall_{k}": (place < k).float().mean().item() for k in (1, 5)}
        return figures
