"""Data sets that need no download, and images -> batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from PIL import Image as PILImage


def load_digits(seed: int = 0) -> DatasetDict:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels of 17 levels (UCI), a fifth of each class held out."""
    digits = sklearn.datasets.load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    columns = {"image": [PILImage.fromarray(image) for image in pixels], "label": digits.target.tolist()}
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    return Dataset.from_dict(columns, features=features).train_test_split(
        test_size=0.2, seed=seed, stratify_by_column="label"
    )


DATASETS: dict[str, Callable[[int], DatasetDict]] = {"sklearn_digits": load_digits}


class ImageCollator:
    """A list of `{"image": PIL image, "label": int}` -> `pixel_values` (B, C, H, W) and `labels` (B).

    Values are checked here, outside the graph and the device.

    Raises:
        ValueError: a label that is no class, or pixels that are not finite after processing; the row is named.
    """

    def __init__(self, image_processor: Callable, num_labels: int | None):
        self.image_processor = image_processor
        self.num_labels = num_labels or 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        for position, row in enumerate(rows):
            if not 0 <= row["label"] < self.num_labels:
                raise ValueError(
                    f"Row {position} of the batch has label {row['label']}, but labels are 0 to {self.num_labels - 1}: "
                    "set `num_labels` in the configuration, or map the labels."
                )
        images = [row["image"].convert("RGB") for row in rows]
        pixel_values = self.image_processor(images, return_tensors="pt")["pixel_values"]
        finite = pixel_values.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            position = int(finite.int().argmin())
            raise ValueError(
                f"Row {position} of the batch has pixels that are not finite: check image_mean and image_std."
            )
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}
