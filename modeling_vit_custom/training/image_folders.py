"""Folders of pictures as rows: the listing decides files, splits and classes, and what it leaves out is said."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import IterableDataset
from datasets import IterableDatasetDict
from datasets import Value

from .columns import Splits
from .columns import first
from .folders import Listing
from .folders import tell
from .layouts import Picture
from .layouts import arrange
from .layouts import like_splits
from .layouts import placed
from .metadata import METADATA
from .metadata import Table
from .metadata import features_of
from .metadata import file
from .metadata import read_table
from .metadata import rows_of
from .picture_formats import NEED_PLUGIN
from .picture_formats import picture_endings
from .splits import choose_splits

FOLDER = "folder"  # the column of the class's folder, where a table has columns of its own


@dataclass
class Rows:
    """Of each split, with undecoded pictures; and sentences on how the folders were read."""

    splits: dict[str, list[dict[str, Any]]]
    features: Features
    said: list[str]

    def dataset(self, split: str, streaming: bool) -> Dataset | IterableDataset:
        rows = self.splits[split]
        if streaming:  # a shard for each row
            return IterableDataset.from_generator(each, features=self.features, gen_kwargs={"rows": rows})
        table = pa.Table.from_pylist(rows, schema=self.features.arrow_schema)
        names = [name for name, kind in self.features.items() if isinstance(kind, Image)]
        files = [os.stat(row[name]["path"]) for row in rows for name in names if row[name] and row[name]["path"]]
        mark = repr((rows, [(one.st_mtime_ns, one.st_size) for one in files]))  # a changed picture is another
        return Dataset(
            table,
            info=datasets.DatasetInfo(features=self.features),
            fingerprint=hashlib.sha256(mark.encode()).hexdigest()[:32],
        )


def each(rows: list[dict[str, Any]]):
    yield from rows


def pictures(
    found: dict[str, Listing],
    dataset: str,
    settings: dict[str, Any],
    streaming: bool,
    needs_label: bool,
    whole: bool | None,
) -> Splits:
    level = settings.get("class_level", 1)
    if type(level) is not int or level < 1:
        raise ValueError(f"`class_level: {level!r}` is no depth of folders: write 1, or 2 for folders inside those.")
    splits: dict[str, list[Picture]] = {}
    tables = []
    for name, one in found.items():
        files, more = sorted_out(one)
        tables += more
        if name:
            splits[name] = [placed(path, parts, parts, level) for path, parts in files]
        else:
            splits = arrange(files, dataset, level)
    names = choose_splits(splits, settings.get("held_out"), dataset, whole)
    if "all" in names:
        splits, names = {"all": [one for rows in splits.values() for one in rows]}, {"all": "all"}
    if tables:
        made = described(splits, tables, next(iter(found.values())))
        made.splits = {name: made.splits[old] for name, old in names.items()}
    else:
        chosen = {name: splits[old] for name, old in names.items()}
        made = folder_rows(chosen, next(iter(found.values())), dataset, needs_label)
    tell(dataset, list(found.values()), made.said)
    if empty := [name for name, rows in made.splits.items() if not rows]:
        raise ValueError(f"The split {empty[0]} of `dataset: {dataset}` is empty: point to another.")
    kind = IterableDatasetDict if streaming else DatasetDict
    return kind({name: made.dataset(name, streaming) for name in made.splits})


def sorted_out(found: Listing) -> tuple[list, list[Table]]:
    """-> pictures by path and parts, and tables that name them; what is neither is left out of the listing."""
    endings, pictures, tables = picture_endings(), [], []
    for path, parts in found.files:
        ending = path.suffix.lower()
        if ending in endings:
            pictures.append((path, parts))
        elif path.name in METADATA and (table := read_table(path)).pictures:
            tables.append(table)
        elif ending in NEED_PLUGIN:
            found.leave_out(f"pictures that need `pip install {NEED_PLUGIN[ending]}`", parts)
        else:
            found.leave_out("files that are no pictures", parts)
    holders = {parts[:depth] for _, parts in pictures for depth in range(len(parts))}
    for folder in found.folders:
        if folder not in holders and (folder[:-1] in holders or len(folder) == 1):
            found.leave_out("folders without pictures", folder)
    return pictures, tables


def folder_rows(splits: dict[str, list[Picture]], found: Listing, dataset: str, needs_label: bool) -> Rows:
    """
    Args:
        splits: `train` and perhaps `test`; or `all`, to be evaluated, so that one class is enough.

    Raises:
        ValueError: classes that train has not, or no class where one is needed.
    """
    said: list[str] = []
    if any(one.folder for rows in splits.values() for one in rows):
        splits, said = with_folders(splits, found, dataset, needs_label)
    names = sorted({one.folder for one in first(splits) if one.folder})
    if len(names) < (1 if "all" in splits else 2):  # as `datasets` has it: one class is none
        names = []
    features = Features({"image": Image()} | ({"label": ClassLabel(names=names)} if names else {}))
    if not names:
        plain = {split: [{"image": file(one.path)} for one in rows] for split, rows in splits.items()}
        return Rows(plain, features, said)
    numbers = {name: number for number, name in enumerate(names)}
    if like := like_splits(set(names)):
        said.append(
            f"{' and '.join(like)} are taken for classes; if they are splits, call them train and test, or name their "
            "files by `data_files` in `dataset_settings`"
        )
    twins = [which for which in Counter(map(str.casefold, names)).items() if which[1] > 1]
    if twins:
        alike = [name for name in names if name.casefold() == twins[0][0]]
        said.append(f"{' and '.join(alike)} differ in case alone, and are classes of their own")
    for split, rows in splits.items():
        others = sorted({one.folder for one in rows if one.folder}.difference(names))
        if others:
            raise ValueError(unknown_classes(dataset, split, names, others))
        if lacking := sorted(set(names).difference(one.folder for one in rows)):
            said.append(f"{split} has no pictures of {', '.join(lacking[:5])}{' ...' * (len(lacking) > 5)}")
    if deep := [one.parts[:-1] for rows in splits.values() for one in rows if one.is_deep]:
        said.append(
            f"folders inside those of classes ({'/'.join(deep[0])}) belong to them, unless `class_level: 2` in "
            "`dataset_settings` makes them classes"
        )
    made = {
        split: [{"image": file(one.path), "label": numbers[one.folder]} for one in rows]
        for split, rows in splits.items()
    }
    return Rows(made, features, said)


def with_folders(
    splits: dict[str, list[Picture]], found: Listing, dataset: str, needs_label: bool
) -> tuple[dict[str, list[Picture]], list[str]]:
    """All with a class, or all without."""
    lone = [one for rows in splits.values() for one in rows if one.folder is None]
    if not lone:
        return splits, []
    if not needs_label:
        splits = {split: [Picture(one.path, one.parts) for one in rows] for split, rows in splits.items()}
        return splits, [f"{len(lone)} pictures lie in no folder of a class, so that none has a class"]
    for one in lone:
        found.leave_out("pictures in no folder of a class", one.parts)
    splits = {split: [one for one in rows if one.folder is not None] for split, rows in splits.items()}
    if empty := [split for split, rows in splits.items() if not rows]:
        raise ValueError(
            f"The pictures of {empty[0]} of `dataset: {dataset}` lie in no folder of a class: lay them out as "
            f"{empty[0]}/<class>/<file>, or choose files by `data_files` in `dataset_settings`."
        )
    return splits, []


def unknown_classes(dataset: str, split: str, names: list[str], others: list[str]) -> str:
    cases = {name.casefold(): name for name in names}
    words = [f"{one} (train has {cases[one.casefold()]})" if one.casefold() in cases else one for one in others[:5]]
    return (
        f"train and {split} of `dataset: {dataset}` have different classes: only {split} has {', '.join(words)}; "
        "rename, move or remove these folders."
    )


def described(splits: dict[str, list[Picture]], tables: list[Table], found: Listing) -> Rows:
    """Pictures that tables name, with what they say of them."""
    known = {one.path: (split, one) for split, rows in splits.items() for one in rows}
    rows = rows_of(tables, known)
    features = features_of(tables[0])
    folders = FOLDER not in features and len({one.folder for (_, one), _ in rows}) > 1
    if folders:
        features[FOLDER] = Value("string")
    made: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    used = set()
    for (split, one), columns in rows:
        made[split].append(columns | ({FOLDER: one.folder} if folders else {}))
        used |= {value["path"] for name, value in columns.items() if isinstance(features[name], Image) and value}
    for path, (_, one) in known.items():
        if str(path) not in used:
            found.leave_out("pictures that no table names", one.parts)
    return Rows(made, features, [])
