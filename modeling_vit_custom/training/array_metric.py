"""Hugging Face evaluate's Metric for large arrays. The files that hold one are loaded by their path, without network:
evaluate copies such a file and this one to a place of their own, so they import nothing else of the package.
"""

from abc import ABC
from abc import abstractmethod
from typing import Any

import evaluate


class ArrayMetric(evaluate.Metric, ABC):
    """`compute(predictions=, references=)` hands arrays over as they are. evaluate would write them to Arrow and read
    them back as lists of Python numbers: some 30 bytes for each logit. What `add` or `add_batch` have collected, or
    several processes, goes evaluate's way. It is abstract because evaluate takes a file's first class that is not.
    """

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """As evaluate's."""
        if predictions is None or self.writer is not None or self.num_process > 1:
            return super().compute(predictions=predictions, references=references, **kwargs)
        if len(predictions) != len(references):
            raise ValueError(
                f"There are {len(predictions)} predictions and {len(references)} references: give one for each."
            )
        return self._compute(predictions, references, **kwargs)

    @abstractmethod
    def _compute(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
