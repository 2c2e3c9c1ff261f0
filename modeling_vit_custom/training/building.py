"""What the builders of data sets share: pictures as bytes, splits by group, built sets kept on disk."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from datasets import load_from_disk
from PIL import Image

BUILDERS = ("building", "captions", "clipart", "cutouts", "scenes")  # files whose code makes what is kept


def picture_bytes(pixels: np.ndarray) -> dict[str, Any]:
    """Grey or RGB pixels as an uncompressed file (PGM, PPM), which is read and written many times faster than PNG."""
    kind, height, width = ("P5" if pixels.ndim == 2 else "P6"), *pixels.shape[:2]
    return {"bytes": f"{kind} {width} {height} 255\n".encode() + pixels.tobytes(), "path": None}


def square_on_white(picture: Image.Image, size: int) -> Image.Image:
    """A picture with alpha, in the middle of a white square of `size` pixels, as RGB."""
    picture = picture.convert("RGBA")
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture, ((size - width) // 2, (size - height) // 2), picture)
    return square


def visible(picture: Image.Image) -> Image.Image:
    """A picture without its transparent margins, as RGBA; one with nothing to see stays as it is."""
    picture = picture.convert("RGBA")
    return picture.crop(picture.getchannel("A").getbbox())


def subject(stem: str) -> str:
    """What pictures of one thing share in their file names: `lion-2` and `lion` show a lion."""
    return re.split(r"[-_ 0-9]", stem)[0].lower() or stem


def held_out(groups: Sequence[str], share: float, rng: np.random.Generator) -> np.ndarray:
    """Which items are for testing: whole groups in random order, until `share` of the items is reached."""
    names, members, counts = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    left, chosen = round(share * len(groups)), np.zeros(len(names), dtype=bool)
    for group in rng.permutation(len(names)):
        if counts[group] <= left:
            chosen[group] = True
            left -= counts[group]
    return chosen[members]


def kept(data_dir: Path, name: str, settings: dict[str, Any], build: Callable[[], DatasetDict]) -> DatasetDict:
    """The set that `build` makes, built once for equal settings and equal code of the builders.

    A set that was cut short while it was written is never taken for a whole one: it gets its name at the end.
    """
    code = "".join(Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8") for file in BUILDERS)
    key = hashlib.sha256(f"{json.dumps(settings, sort_keys=True)}{code}".encode()).hexdigest()[:12]
    folder = data_dir / "built" / f"{name}-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            whole = Path(partial) / "whole"
            build().save_to_disk(whole)
            if not folder.is_dir():  # another process may have been faster
                whole.rename(folder)
    return load_from_disk(folder)
