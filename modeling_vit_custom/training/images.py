"""Image files -> RGB pictures as people see them. A file that is not whole is an error, and is named.

H W pixels.
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from PIL import Image
from PIL import ImageOps
from PIL import UnidentifiedImageError

from .picture_formats import register_plugins

WHITE = 255
# Kinds of pictures that transformers' `pipeline` sees otherwise, and the lines that make of them what training sees.
OTHERWISE = {
    "transparent": (
        'image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")',
        'image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")',
    ),
    **{
        kind: (
            "levels = np.asarray(ImageOps.exif_transpose(Image.open(path)), float)",
            f"image = Image.fromarray({scaled}.round().astype(np.uint8))",
        )
        for kind, scaled in (
            ("deeper than 8 bits", "(levels / 257)"),
            ("of shares of white", "(levels * 255)"),
            ("of fractions of grey levels", "levels"),
        )
    },
}
SKIP = "Repair or remove it, or set `corrupt_images: skip`."  # what training says to a CorruptImage
register_plugins()


class CorruptImage(ValueError):
    """A picture that cannot be decoded; the sentence names the file or row, and the reason."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture -> the same as RGB: of an animation the first frame, turned as EXIF says, what is transparent on
    white, grey levels of more than 8 bits scaled (see `to_8_bits`).

    Raises:
        ValueError: grey levels that no rule maps to 8 bits, or a mode that Pillow cannot convert.
    """
    if getattr(image, "is_animated", False):
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = to_8_bits(np.asarray(image), image.mode)
        key = image.info.get("transparency")
        if isinstance(key, int):  # of a 16-bit PNG: the one level that is transparent
            grey[np.asarray(image) == key] = WHITE
        image = Image.fromarray(grey)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (WHITE, WHITE, WHITE, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def seen_otherwise(image: Image.Image) -> str | None:
    """A key of OTHERWISE if `pipeline` sees other pixels than `to_rgb` makes, else None. It converts a picture by
    Pillow alone, before any image processor runs; that a colour was transparent only processors from transformers 5.21
    on know afterwards."""
    deep = image.mode == "F" or image.mode.startswith("I")
    if not (deep or image.has_transparency_data):  # of every other mode both are the same call
        return None
    theirs = ImageOps.exif_transpose(image).convert("RGB")
    if np.array_equal(np.asarray(to_rgb(image)), np.asarray(theirs)):  # as of a picture that could be transparent
        return None
    return kind_of(np.asarray(image), image.mode) if deep else "transparent"


def kind_of(levels: np.ndarray, mode: str) -> str:
    """Of grey levels of more than 8 bits, what they are: a key of OTHERWISE."""
    if mode.startswith("I;16") or levels.max() > 255:
        return "deeper than 8 bits"
    return "of shares of white" if mode == "F" and levels.max() <= 1 else "of fractions of grey levels"


def count_otherwise(values: Iterable[Any]) -> dict[str, int]:
    """How many pictures are of each of the kinds of OTHERWISE. Most are not decoded; broken ones do not count.

    Args:
        values: as `load` takes them.
    """
    found: Counter[str] = Counter()
    for value in values:
        with suppress(Exception):  # a broken file makes decoders raise whatever they like, and is named when it is read
            found.update(filter(None, [seen_otherwise(opened(value))]))
    return dict(found)


def to_8_bits(grey: np.ndarray, mode: str) -> np.ndarray:
    """(H, W) -> (H, W) of uint8: levels of 16 bits are divided by 257, so that 65535 becomes 255; Pillow clips them.

    Mode "I;16" has always 16 bits. "I" and "F" may hold anything: a level above 255 says that they have 16; floats up
    to 1 are shares of white; else they have 8 bits.
    """
    levels = grey.astype(np.float64)
    low, high = (levels.min(), levels.max()) if levels.size else (0, 0)
    if not (low >= 0 and high <= 65535):  # nor with NaN
        raise ValueError(f"its grey levels go from {low:g} to {high:g}, which is neither 8 nor 16 bits: convert it")
    if levels.size:
        levels = levels * {"deeper than 8 bits": 1 / 257, "of shares of white": 255}.get(kind_of(levels, mode), 1)
    return levels.round().astype(np.uint8)


def decode(value: Any, where: str = "the image") -> Image.Image:
    """A path, bytes, or what `datasets.Image(decode=False)` gives, `{"bytes": ..., "path": ...}` -> the whole picture.

    Args:
        where: what the row is called where the value names no file.

    Raises:
        CorruptImage: no file, no picture, a truncated one, or one of so many pixels that Pillow takes it for a bomb.
    """
    name = name_of(value, where)
    try:
        return load(value)
    except Exception as error:  # a broken file makes decoders raise whatever they like
        raise CorruptImage(f"{name} cannot be decoded: {reason(error)}.") from error


def decode_rgb(value: Any, where: str = "the image") -> Image.Image:
    """`decode` and `to_rgb`; what goes wrong in either is a CorruptImage."""
    image = decode(value, where)
    try:
        return to_rgb(image)
    except Exception as error:  # EXIF is parsed only here
        raise CorruptImage(f"{name_of(value, where)} cannot be made RGB: {reason(error)}.") from error


def name_of(value: Any, where: str) -> str:
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str | Path):
        return where
    return f"{path} ({where})" if where else str(path)


def load_bytes(value: Any) -> bytes:
    """The file's content, of whatever a row may hold."""
    path, content = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
    if isinstance(path, bytes | bytearray):
        return bytes(path)
    if content is not None:
        return content
    if path is None:
        raise ValueError("the row has no image")
    with fsspec.open(str(path), "rb") if "://" in str(path) else open(path, "rb") as file:
        return file.read()


def load(value: Any) -> Image.Image:
    image = opened(value)
    image.load()
    return image


def opened(value: Any) -> Image.Image:
    """The picture, of which only the head is decoded yet."""
    if isinstance(value, Image.Image):
        return value
    content = load_bytes(value)
    if not content:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        # Pillow warns from 89 million pixels on, as photographs may have, and refuses twice as many.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content))


def reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than a safe image ({2 * (Image.MAX_IMAGE_PIXELS or 0):,}): make it smaller"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
