"""The built-in data sets, by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from PIL import Image as PILImage

from ..common import extra
from .captions import load_emoji_captions
from .captions import load_tuxpaint_captions
from .clipart import load_clipart
from .fashion_mnist import load_fashion_mnist
from .packages import DATA_DIR
from .scenes import load_scenes


def load_digits(seed: int = 0, data_dir: Path = DATA_DIR) -> DatasetDict:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels of 17 levels (UCI), a fifth of each class held out.

    They are installed with scikit-learn, not in `data_dir`.
    """
    with extra("study", "The digits need"):
        import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    columns = {"image": [PILImage.fromarray(image) for image in pixels], "label": digits.target.tolist()}
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    return Dataset.from_dict(columns, features=features).train_test_split(
        test_size=0.2, seed=seed, stratify_by_column="label"
    )


# (seed, data_dir, **settings) -> train and test. All but the digits need `make data` once.
DATASETS: dict[str, Callable[..., DatasetDict]] = {
    "sklearn_digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "scenes": load_scenes,
    "emoji_captions": load_emoji_captions,
    "tuxpaint_captions": load_tuxpaint_captions,
    "clipart": load_clipart,
}
