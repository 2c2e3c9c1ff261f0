"""Open Clip Art: drawings by many hands (public domain), for learning without labels; their folder is kept as one."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import Value
from PIL import Image as PILImage

from .building import held_out
from .building import kept
from .building import picture_bytes
from .building import square_on_white
from .building import subject
from .building import visible
from .packages import DATA_DIR
from .packages import find

# Folders of icons, gradients, arrows, and of what nobody sorted.
LEFT_OUT = ("shapes", "computer", "special", "unsorted", "logos", "buttons")
MIN_PIXELS, MAX_PIXELS = 900, 4_000_000  # two files have 623 million


def load_clipart(seed: int = 0, data_dir: Path = DATA_DIR, size: int = 64, test_share: float = 0.2) -> DatasetDict:
    """Each drawing once, on white. Drawings of one folder whose names begin alike are in one split alone."""
    data_dir = Path(data_dir)
    settings: dict[str, Any] = dict(seed=seed, size=size, test_share=test_share)
    return kept(data_dir, "clipart", settings, partial(build_clipart, data_dir, **settings))


def build_clipart(data_dir: Path, seed: int, size: int, test_share: float) -> DatasetDict:
    root = find("openclipart-png", "usr/share/openclipart/png", data_dir)
    drawings: dict[bytes, Path] = {}
    for file in sorted(root.rglob("*.png")):
        if file.relative_to(root).parts[0] not in LEFT_OUT and not file.is_symlink():
            pixels = drawing(file, size)
            if pixels is not None:
                drawings.setdefault(pixels.tobytes(), file)
    names = [file.relative_to(root) for file in drawings.values()]
    labels = [name.parts[0] for name in names]
    features = Features({"image": Image(), "label": ClassLabel(names=sorted(set(labels))), "drawing": Value("string")})
    groups = [f"{name.parent}/{subject(name.stem)}" for name in names]
    testing = held_out(groups, test_share, np.random.default_rng(seed))
    rows = [
        {
            "image": picture_bytes(np.frombuffer(pixels, np.uint8).reshape(size, size, 3)),
            "label": label,
            "drawing": str(n),
        }
        for pixels, label, n in zip(drawings, labels, names, strict=True)
    ]
    parts = {name: [rows[i] for i in (testing == test).nonzero()[0]] for name, test in (("train", 0), ("test", 1))}
    return DatasetDict({name: Dataset.from_list(part, features=features) for name, part in parts.items()})


def drawing(file: Path, size: int) -> np.ndarray | None:
    """None for a file too small, too large, or with nothing to see. The header alone says how large it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        try:
            picture = PILImage.open(file)
        except PILImage.DecompressionBombError:
            return None
    with picture:
        if not MIN_PIXELS <= picture.width * picture.height <= MAX_PIXELS:
            return None
        pixels = np.asarray(square_on_white(visible(picture), size))
    return pixels if pixels.min() < 250 else None
