"""Splits and classes by the names of folders.

Split words count only as whole names of folders, in any case, at the top or under one folder. A class is the first
folder below its split, as torchvision has it.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from datasets import Split
from datasets.data_files import SPLIT_KEYWORDS

from .folders import Parts

TRAIN = tuple(SPLIT_KEYWORDS[Split.TRAIN])
HELD_OUT = (*SPLIT_KEYWORDS[Split.TEST], *SPLIT_KEYWORDS[Split.VALIDATION])  # the first is proposed of several


@dataclass(frozen=True)
class Picture:
    path: Path
    parts: Parts  # below the folder that was listed
    folder: str | None = None  # its class
    is_deep: bool = False  # it lies in a folder of its class's folder


def kind_of(word: str) -> Split | None:
    """Which split `datasets` takes a word for, in any case."""
    return next((kind for kind, words in SPLIT_KEYWORDS.items() if word.lower() in words), None)


def split_of(folder: str) -> str | None:
    """`train`, or the word in lower case that a held-out split goes by."""
    word = folder.lower()
    return "train" if word in TRAIN else word if word in HELD_OUT else None


def arrange(files: list[tuple[Path, Parts]], dataset: str, level: int = 1) -> dict[str, list[Picture]]:
    """-> a split's name -> its pictures.

    Raises:
        ValueError: a picture beside the folders of splits, two folders for one split, or splits inside several.
    """
    above = root_of([parts for _, parts in files], dataset, level)
    folders = splits_in([parts[len(above) :] for _, parts in files if parts[: len(above)] == above])
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"`dataset: {dataset}` has {', '.join(folders)}, of which two are one split: join them.")
    splits: dict[str, list[tuple[Path, Parts, Parts]]] = defaultdict(list)  # with the parts below the split
    for path, parts in files:
        inside = parts[: len(above)] == above
        below = parts[len(above) :] if inside else parts[-1:]
        if not folders:
            splits["train"].append((path, parts, below))
        elif inside and len(below) > 1 and below[0] in folders:
            splits[folders[below[0]]].append((path, parts, below[1:]))
        else:
            raise ValueError(
                f"`dataset: {dataset}` has {', '.join(sorted(folders.values()))}, and {path} outside: move it into a "
                "split, or remove it; or choose files by `data_files` in `dataset_settings`."
            )
    while folders and all(len({below[0] for *_, below in rows}) == 1 for rows in splits.values()):
        if any(len(below) < level + 2 for rows in splits.values() for *_, below in rows):
            break
        # As in train/images/<class>.
        splits = {n: [(path, parts, below[1:]) for path, parts, below in rows] for n, rows in splits.items()}
    return {name: [placed(*row, level) for row in rows] for name, rows in splits.items()}


def placed(path: Path, parts: Parts, below: Parts, level: int) -> Picture:
    folders = below[:-1]
    folder = normalize("NFC", "/".join(folders[:level])) if len(folders) >= level else None
    return Picture(path, parts, folder, len(folders) > level)


def root_of(files: list[Parts], dataset: str, level: int) -> Parts:
    """The folder that holds the splits, or the classes: below one that holds nothing else, and it is not one class."""
    above: Parts = ()
    while True:
        inside = [parts[len(above) :] for parts in files if parts[: len(above)] == above]
        if splits_in(inside):
            return above
        tops = {parts[0] for parts in inside if len(parts) > 1}
        below = {top: [parts[1:] for parts in inside if parts[0] == top and len(parts) > 1] for top in sorted(tops)}
        holders = [top for top in below if "train" in splits_in(below[top]).values()]
        if len(holders) > 1:
            raise ValueError(
                f"`dataset: {dataset}` has splits inside {' and '.join(holders[:3])}: lay images out as "
                "train/<class>/<file>, or choose files by `data_files` in `dataset_settings`."
            )
        if holders:
            return (*above, holders[0])
        if len(tops) != 1 or any(len(parts) <= level for parts in below[min(tops)]):
            return above
        above = (*above, min(tops))


def like_splits(folders: set[str]) -> list[str]:
    """Folders that begin with a word of a split, if all do and one is for training: as training_set and test_set."""
    words = {name: split_of(re.split(r"[-_. ]", name)[0]) for name in folders}
    is_like = len(folders) > 1 and all(words.values()) and {"train"} < set(words.values())
    return sorted(folders) if is_like else []


def splits_in(files: list[Parts]) -> dict[str, str]:
    """A folder's name -> its split, if the folders are splits: all have such a word; or one is called train and has
    folders of classes. Else `train`, `car` and `test` are three classes.
    """
    tops: dict[str, bool] = {}  # whether all that it holds lies in folders of its own
    for parts in files:
        if len(parts) > 1:
            tops[parts[0]] = tops.get(parts[0], True) and len(parts) > 2
    folders = {top: name for top in sorted(tops) if (name := split_of(top))}
    if len(folders) == len(tops) or any(name == "train" and tops[top] for top, name in folders.items()):
        return folders
    return {}
