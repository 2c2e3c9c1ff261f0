"""Which rows train and which are held out: the split that is there, or one drawn by class and by group."""

import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import IterableDataset
from datasets import IterableDatasetDict

from ..near_names import near_miss
from .columns import Splits
from .columns import listed
from .equal_files import path_of
from .equal_files import paths_of
from .images import load_bytes
from .layouts import HELD_OUT
from .layouts import kind_of

STEM = "stem"  # in place of a column: a file's name up to its last `_`, `-`, space or dot


def choose_splits(
    splits: Iterable[str], held_out: str | None, dataset: str, whole: bool | None = False
) -> dict[str, str]:
    """-> train and, if anything is held out, test: by what name each is there. Of `whole` data (None: if there is one
    split) all of them, as `all`.
    """
    names = list(splits)
    if whole or (whole is None and len(names) == 1):
        return {"all": ""}
    if "train" not in names:
        raise ValueError(
            f"`dataset: {dataset}` has no split `train`, only {', '.join(names)}: name one by `data_files` in "
            "`dataset_settings`."
        )
    others = [name for word in HELD_OUT for name in names if name.lower() == word]
    chosen = next((name for name in names if held_out and name.lower() == held_out.lower()), None)
    alike = [name for name in names if held_out and kind_of(name) is kind_of(held_out) is not None]
    if chosen is None and len(alike) == 1:  # as val for validation
        chosen = alike[0]
    if held_out is not None and chosen is None:
        raise ValueError(f"`held_out: {held_out}` is no split of `dataset: {dataset}`: choose of {', '.join(names)}.")
    if chosen is None and len(others) > 1:
        raise ValueError(
            f"`dataset: {dataset}` has {' and '.join(others)}: say which to evaluate on, by `held_out: {others[0]}` in "
            "`dataset_settings`."
        )
    chosen = chosen or (others[0] if others else None)
    left = [name for name in names if name not in ("train", chosen)]
    if left and chosen is None:
        raise ValueError(
            f"`dataset: {dataset}` has {', '.join(left)} beside train: say which is held out, by `held_out: {left[0]}` "
            "in `dataset_settings`, or leave them out of `data_files`."
        )
    if left:
        print(f"`dataset: {dataset}`: left out are the splits {', '.join(left)}.")
    return {"train": "train"} | ({"test": chosen} if chosen else {})


def group_of(row: dict[str, Any], column: str) -> str | None:
    """What a row's group is called; None: it is alone."""
    if column in row:
        return None if row[column] is None else str(row[column])
    path = path_of(row["image"])
    return None if path is None else stem(path)


def stem(path: str) -> str:
    """`patient12` of patient12_3.png."""
    name = PurePath(path).stem
    cut = max(name.rfind(letter) for letter in "_- .")
    return name[:cut] if cut > 0 else name


def groups_of(rows: Dataset, column: str) -> list[str]:
    """Of each row; a row that names none is a group of its own."""
    if column in rows.column_names:
        found = [None if value is None else str(value) for value in rows[column]]
    else:
        found = [None if path is None else stem(path) for path in paths_of(rows)]
        if len(found) and not any(found):
            raise ValueError(f"`group_column: {STEM}` goes by files' names, which are not there: name a column.")
    return [f"\0{number}" if one is None else one for number, one in enumerate(found)]


def check_group_column(rows: Dataset | IterableDataset, column: str | None, dataset: str):
    if column is None or column in (STEM, *rows.column_names):
        return
    near = near_miss(column, rows.column_names)
    hint = f"did you mean `{near}`?" if near else f"{listed(rows.features)}; `{STEM}` goes by files' names."
    raise ValueError(f"`group_column: {column}` is no column of `dataset: {dataset}`: {hint}")


def refuse_shared_groups(splits: Splits, column: str, dataset: str):
    """Of a split that was given."""
    shared = set(groups_of(splits["train"], column)) & set(groups_of(splits["test"], column))
    if both := sorted(one for one in shared if not one.startswith("\0")):
        raise ValueError(
            f"{len(both)} groups of `group_column: {column}` stand in both train and test of `dataset: {dataset}` "
            f"({', '.join(both[:3])}): move each to one side, or leave `group_column` out."
        )


def cut(
    rows: Any, seed: int, share: float, dataset: str, group_column: str | None = None, as_stream: bool = False
) -> Splits:
    """A part held out of rows that have no such split. No group stands on both sides.

    Args:
        as_stream: rows that are no stream, the part that a stream of them would hold out.
    """
    if isinstance(rows, IterableDataset) or as_stream:
        kept = "their bytes, so that equal images" if group_column is None else "their groups, each of which"
        verb = "stay" if group_column is None else "stays"
        print(
            f"`dataset: {dataset}` has no held-out split: about {share:.0%} of its images are held out, by a hash of "
            f"{kept} {verb} together."
        )
        sides = [Chosen(seed, share, held, group_column) for held in (False, True)]
        kind: Any = IterableDatasetDict if isinstance(rows, IterableDataset) else DatasetDict
        return kind(train=rows.filter(sides[0]), test=rows.filter(sides[1]))
    labelled = isinstance(rows.features.get("label"), ClassLabel)
    by = "label" if labelled and all(label is not None and label >= 0 for label in rows.unique("label")) else None
    labels = np.asarray(rows["label"] if by else np.zeros(len(rows), int))
    counts = np.bincount(labels)
    num_classes, num_held = np.count_nonzero(counts), int(np.ceil(share * len(rows)))
    kind = " of each class" if by else ""
    if group_column is None and counts[counts > 0].min() > 1 and num_classes <= min(num_held, len(rows) - num_held):
        print(f"`dataset: {dataset}` has no held-out split: {share:.0%}{kind} is held out by `split_seed: {seed}`.")
        offer_stem(rows)
        return rows.train_test_split(test_size=share, seed=seed, stratify_by_column=by)
    groups = range(len(rows)) if group_column is None else groups_of(rows, group_column)
    held = draw(labels, list(groups), seed, share)
    if not held.any():
        what = "picture" if group_column is None else f"group of `group_column: {group_column}`"
        raise ValueError(
            f"`dataset: {dataset}` cannot be split, as no class has more than one {what}: lay out a held-out split."
        )
    whole = "" if group_column is None else f", whole groups of `group_column: {group_column}`,"
    print(
        f"`dataset: {dataset}` has no held-out split: {share:.0%}{kind}{whole} is held out by `split_seed: {seed}`: "
        f"{held.sum()} of {len(rows)}."
    )
    if by and (alone := sorted(set(labels) - set(labels[held]))):
        names = [rows.features["label"].names[number] for number in alone]
        what = "one picture" if group_column is None else "no group to spare"
        print(f"Kept for training, as there is {what}: {', '.join(names[:5])}{' ...' * (len(names) > 5)}.")
    if group_column is None:
        offer_stem(rows)
    return DatasetDict(train=rows.select(np.flatnonzero(~held)), test=rows.select(np.flatnonzero(held)))


def draw(labels: np.ndarray, groups: list, seed: int, share: float) -> np.ndarray:
    """Which rows are held out: whole groups, about a share of each class, and of each class at least one if training
    keeps one too.
    """
    members: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    parts = [Counter(labels[rows].tolist()) for rows in members.values()]
    counts = Counter(labels.tolist())
    wanted = {one: min(max(round(share * count), 1), count - 1) for one, count in counts.items()}
    left, chosen = dict(counts), set()

    def hold(number: int):
        chosen.add(number)
        for one, count in parts[number].items():
            wanted[one] -= count
            left[one] -= count

    order = np.random.default_rng(seed).permutation(len(parts)).tolist()
    for number in order:
        if all(count <= wanted[one] for one, count in parts[number].items()):
            hold(number)
    lacking = {one for one in counts if left[one] == counts[one]}  # each group is larger than the share
    for number in sorted(order, key=lambda number: parts[number].total()):
        fits = all(count < left[one] for one, count in parts[number].items())
        if number not in chosen and fits and lacking & set(parts[number]):
            hold(number)
            lacking -= set(parts[number])
    held = np.zeros(len(labels), bool)
    for number, rows in enumerate(members.values()):
        held[rows] = number in chosen
    return held


def offer_stem(rows: Dataset):
    """Where names look as if several pictures were of one thing: most share their stem with another of their folder,
    and a folder has several stems.
    """
    paths = [PurePath(path) for path in paths_of(rows) if path is not None]
    stems = [(path.parent, stem(path.name)) for path in paths]
    several = {one for one, count in Counter(stems).items() if count > 1}
    shared = [path for path, one in zip(paths, stems, strict=True) if one in several]
    if len(shared) > 0.8 * len(paths) and len(several) >= 3 * len({folder for folder, _ in stems}):
        print(
            f"Names such as {shared[0].name} and {shared[1].name} may be pictures of one thing, and stand on either "
            f"side: `group_column: {STEM}` keeps them together."
        )


class Chosen:
    """Whether a row is held out, by its image's bytes alone, or its group: the same in whatever order and shards they
    are read.
    """

    def __init__(self, seed: int, share: float, held_out: bool = True, group_column: str | None = None):
        self.seed, self.share, self.held_out, self.group_column = seed, share, held_out, group_column

    def __call__(self, row: dict[str, Any]) -> bool:
        group = None if self.group_column is None else group_of(row, self.group_column)
        try:
            content = load_bytes(row["image"]) if group is None else group.encode()
        except (OSError, ValueError):  # it is named when it is decoded
            content = str(row["image"]).encode()
        return (zlib.crc32(content, zlib.crc32(str(self.seed).encode())) < self.share * 2**32) == self.held_out
