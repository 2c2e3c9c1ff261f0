"""Files of training and held-out images that are equal, byte by byte."""

import hashlib
import os
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from .images import load_bytes

HEAD = 4096
MOST = 100_000  # files of one size are read: more would take longer than a training on a slow disk


def path_of(image: Any) -> str | None:
    """Of an undecoded picture."""
    return image.get("path") if isinstance(image, dict) else None


def undecoded(rows: Dataset) -> Iterator[Any]:
    """The column of pictures in parts, as Arrow holds it."""
    for table in rows.select_columns(["image"]).with_format("arrow").iter(batch_size=1000):
        yield table["image"].combine_chunks()


def paths_of(rows: Dataset) -> list[str | None]:
    return [path for part in undecoded(rows) for path in pc.struct_field(part, "path").to_pylist()]


def sizes_of(rows: Dataset) -> Iterator[int | None]:
    for part in undecoded(rows):
        lengths = pc.binary_length(pc.struct_field(part, "bytes")).to_pylist()
        for length, path in zip(lengths, pc.struct_field(part, "path").to_pylist(), strict=True):
            try:
                yield os.stat(path).st_size if length is None and path else length
            except OSError:  # it is named when it is decoded
                yield None


def head(image: Any) -> bytes:
    if image.get("bytes") is not None or "://" in image["path"]:
        return load_bytes(image)[:HEAD]
    with open(image["path"], "rb") as file:
        return file.read(HEAD)


def digest(image: Any) -> bytes:
    return hashlib.sha256(load_bytes(image)).digest()


def equal_rows(train: Dataset, test: Dataset) -> list[tuple[int, int]] | None:
    """Rows of test and, of each, the first equal one of train; None: too many have one size to read them."""
    sides: list[dict[Any, list[int]]] = [{}, {}]
    for side, rows in zip(sides, (train, test), strict=True):
        for row, size in enumerate(sizes_of(rows)):
            side.setdefault(size, []).append(row)
    for side in sides:
        side.pop(None, None)
        side.pop(0, None)  # empty files are corrupt
    for key in (head, digest):
        both = sides[0].keys() & sides[1].keys()
        places = [sorted(row for one in both for row in side[one]) for side in sides]
        if sum(map(len, places)) > MOST:
            return None
        sides = [by(key, rows, some) for rows, some in zip((train, test), places, strict=True)]
    return sorted((row, sides[0][one][0]) for one in sides[0].keys() & sides[1].keys() for row in sides[1][one])


def by(key: Callable[[Any], bytes], rows: Dataset, places: list[int]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    images = (image for part in undecoded(rows.select(places)) for image in part.to_pylist())
    for place, image in zip(places, images, strict=True):
        found.setdefault(key(image), []).append(place)
    return found


def tell_equal(train: Dataset, test: Dataset, dataset: str):
    found = equal_rows(train, test)
    if found is None:
        print(f"`dataset: {dataset}`: equal images in train and test were not searched for, as too many have one size.")
    elif found:
        pairs = [f"{name(test, row)} = {name(train, other)}" for row, other in found[:3]]
        print(
            f"`dataset: {dataset}`: {len(found)} of {len(test)} held-out images equal one of training, byte by byte "
            f"({', '.join(pairs)}{', ...' * (len(found) > 3)}): remove one of each."
        )


def name(rows: Dataset, row: int) -> str:
    found = rows[row]
    path = path_of(found["image"])
    return "/".join(PurePath(path).parts[-3:]) if path else f"row {found['row_number']}"
