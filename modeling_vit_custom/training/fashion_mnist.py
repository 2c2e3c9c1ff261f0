"""Fashion-MNIST: 60,000 + 10,000 grey pictures of 28 x 28 pixels in 10 classes (Zalando, MIT)."""

import gzip
import math
from pathlib import Path

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image

from .building import picture_bytes
from .packages import DATA_DIR
from .packages import find

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def load_fashion_mnist(
    seed: int = 0, data_dir: Path = DATA_DIR, num_train: int | None = None, num_test: int | None = None
) -> DatasetDict:
    """All of it; or `num_train` and `num_test` images, equally many of each class, drawn by `seed`.

    A smaller draw is the beginning of a larger one with the same seed.
    """
    folder = find("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", Path(data_dir))
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    splits = {}
    for index, (split, prefix, count) in enumerate((("train", "train", num_train), ("test", "t10k", num_test))):
        pictures = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        if count is not None:
            rows = balanced(labels, count, np.random.default_rng([seed, index]))
            pictures, labels = pictures[rows], labels[rows]
        columns = {"image": [picture_bytes(picture) for picture in pictures], "label": labels.tolist()}
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def read_idx(path: Path) -> np.ndarray:
    """The format of MNIST: two zeros, the type (8: bytes), the number of axes, their lengths, the values.

    Raises:
        ValueError: the file is of another format, or cut short.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except EOFError:
        content = b""
    start = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist()
    if not shape or len(content) != start + math.prod(shape):
        raise ValueError(f"{path} is no whole IDX file of bytes: delete its package's folder and run `make data`.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random rows, the first of each class, then the second of each class, and so on."""
    if not 0 < count <= len(labels):
        raise ValueError(f"{count} images were asked for, but there are {len(labels)}: choose 1 to {len(labels)}.")
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), dtype=int)  # of a row among the rows of its class
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    return order[np.argsort(rank[order], kind="stable")][:count]
