"""Captions in text files: one beside each picture, or one for all, as of Flickr8k."""

import csv
import re
from pathlib import Path
from typing import Any

from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value

from .folders import Listing
from .image_folders import Rows
from .layouts import arrange
from .metadata import Table
from .metadata import file
from .picture_formats import picture_endings

NUMBERED = re.compile(r"(.+?)(?:#\d+)?\t(.+)")
TEXT = Value("string")
FORMS = "`image,caption` below that line, or `image.jpg#0`, a tab and the caption"


def lines_of(path: Path) -> list[str]:
    """Those that are not empty.

    Raises:
        ValueError: it is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no text in UTF-8: save it so, or move it away.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_captions(path: Path) -> Table:
    """A text file of Flickr8k's two forms -> a row for each caption, `image` and `caption`. Commas in a caption may be
    quoted or not.

    Raises:
        ValueError: a line of another form.
    """
    lines = lines_of(path)
    if lines and re.fullmatch(r"(image|file)(_?name)?,captions?", lines[0].replace(" ", "").lower()):
        found = [next(csv.reader([line])) for line in lines[1:]]
        pairs = [(row[0].strip(), ",".join(row[1:]).strip()) for row in found]
    else:
        matches = [NUMBERED.fullmatch(line) for line in lines]
        pairs = [(match[1].strip(), match[2].strip()) if match else ("", "") for match in matches]
    for number, (image, caption) in enumerate(pairs):
        if not (image and caption):
            raise ValueError(f"{path} has no picture and caption in line {number + 1}: write {FORMS}.")
    rows: list[dict[str, Any]] = [{"image": image, "caption": caption} for image, caption in pairs]
    return Table(path, rows, Features({"image": TEXT, "caption": TEXT}))


def captions_beside(found: dict[str, Listing], dataset: str) -> Rows | None:
    """photo.txt beside photo.jpg, a caption in each line -> the rows of each split; None: no picture has such a file.
    A picture without one, or with an empty one, is left out of the listing.
    """
    endings, splits = picture_endings(), {}
    for name, one in found.items():
        texts = {path.with_suffix(""): path for path, _ in one.files if path.suffix.lower() == ".txt"}
        pictures = [(path, parts) for path, parts in one.files if path.suffix.lower() in endings]
        if not any(path.with_suffix("") in texts for path, _ in pictures):
            continue
        told = {path: lines_of(texts[stem]) for path, _ in pictures if (stem := path.with_suffix("")) in texts}
        for path, parts in pictures:
            if not told.get(path):
                one.leave_out("pictures without a caption beside them", parts)
        used = {path.with_suffix("") for path in told}
        for path, parts in one.files:
            if path not in told and path.suffix.lower() not in endings and not is_used(path, used):
                one.leave_out("files that are no pictures", parts)
        kept = [(path, parts) for path, parts in pictures if told.get(path)]
        arranged = (
            {name: [path for path, _ in kept]}
            if name
            else {split: [one.path for one in rows] for split, rows in arrange(kept, dataset).items()}
        )
        for split, paths in arranged.items():
            splits[split] = [{"image": file(path), "caption": told[path]} for path in paths]
    return Rows(splits, Features({"image": Image(), "caption": List(TEXT)}), []) if splits else None


def is_used(path: Path, stems: set[Path]) -> bool:
    return path.suffix.lower() == ".txt" and path.with_suffix("") in stems
