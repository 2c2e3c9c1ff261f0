"""Which columns rows have: the picture, and the class as a number. What is ambiguous is asked for, never guessed."""

from typing import Any

import datasets
from datasets import ClassLabel
from datasets import Dataset
from datasets import Image
from datasets import IterableDataset
from datasets import IterableDatasetDict
from datasets import Value

Splits = Any  # a DatasetDict or an IterableDatasetDict


def first(splits: Any) -> Any:
    """`train`, or `all` where nothing is held out."""
    return next(iter(splits.values()))


def features_of(rows: Dataset | IterableDataset, dataset: str) -> datasets.Features:
    if rows.features is None:
        raise ValueError(f"`dataset: {dataset}` tells no types of its columns when streamed: set `streaming: false`.")
    return rows.features


def image_of(rows: Dataset | IterableDataset, column: str | None, dataset: str) -> str:
    features = features_of(rows, dataset)
    candidates = [name for name, feature in features.items() if isinstance(feature, Image)]
    if column is not None:
        if column not in features:
            raise ValueError(f"`image_column: {column}` is no column of `dataset: {dataset}`: {listed(features)}.")
        return column
    if len(candidates) == 1:
        return candidates[0]
    what = f"several columns of images, {', '.join(candidates)}" if candidates else "no column of images"
    raise ValueError(
        f"`dataset: {dataset}` has {what}: add `image_column: {(candidates or list(features))[0]}`, or another of its "
        f"columns; {listed(features)}."
    )


def listed(features: datasets.Features) -> str:
    return "it has " + ", ".join(features)


def rename(rows: Any, old: str, new: str) -> Any:
    if old == new:
        return rows
    if new in rows.column_names:
        rows = rows.rename_column(new, f"other_{new}")
    return rows.rename_column(old, new)


WITHOUT = "`label_column: {}` of `dataset: {}` has rows without a label: leave them out."


def with_labels(splits: Splits, column: str | None, names: list[str] | None, dataset: str, needed: bool) -> Splits:
    features = features_of(first(splits), dataset)
    if column is None:
        candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        if not candidates and not needed:
            return splits
        if len(candidates) != 1:
            plain = [n for n, f in features.items() if isinstance(f, Value) and not n.startswith("__")]
            what = f"several columns of classes, {', '.join(candidates)}" if candidates else "no column of classes"
            raise ValueError(
                f"`dataset: {dataset}` has {what}: add `label_column: {([*candidates, *plain] or ['<column>'])[0]}`, "
                f"or another of its columns, or put images into a folder for each class; {listed(features)}."
            )
        column = candidates[0]
    for rows in splits.values():
        if column.split(".")[0] not in features_of(rows, dataset):
            raise ValueError(f"`label_column: {column}` is no column of `dataset: {dataset}`: {listed(rows.features)}.")
    if "." in column and column not in features:
        splits = type(splits)({name: inner(rows, column) for name, rows in splits.items()})
        column = "label"
    splits = type(splits)({name: rename(rows, column, "label") for name, rows in splits.items()})
    kinds = {name: rows.features["label"] for name, rows in splits.items()}
    if isinstance(first(kinds), ClassLabel):
        classes = first(kinds).names
        for name, kind in kinds.items():
            same = isinstance(kind, ClassLabel) and kind.names == classes
            if not same:
                raise ValueError(mismatch(dataset, name, classes, getattr(kind, "names", None)))
        for rows in splits.values() if needed else ():
            if isinstance(rows, Dataset) and any(label is None or label < 0 for label in rows.unique("label")):
                raise ValueError(WITHOUT.format(column, dataset))
        return splits
    return encoded(splits, column, names, dataset)


def mismatch(dataset: str, split: str, classes: list[str], others: list[str] | None) -> str:
    different = sorted(set(classes) ^ set(others or []))
    detail = f"only one of them has {', '.join(map(str, different[:5]))}" if different else "their order differs"
    return f"train and {split} of `dataset: {dataset}` have different classes ({detail}): give both the same."


def inner(rows: Any, column: str) -> Any:
    """With `label` taken out of a field of a structure, as in `json.label`."""
    pick = Picks(column)
    kind: Any = rows.features
    for key in column.split("."):
        kind = kind[key]
    if "label" in rows.column_names:
        rows = rows.rename_column("label", "other_label")
    if isinstance(rows, Dataset):
        values = [pick(row)["label"] for row in rows.select_columns([column.split(".")[0]])]
        return rows.add_column("label", values, feature=kind)
    return rows.map(pick, features=datasets.Features({**rows.features, "label": kind}))


class Picks:
    def __init__(self, column: str):
        self.keys = column.split(".")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        value: Any = row
        for key in self.keys:
            value = value[key]
        return {"label": value}


def encoded(splits: Splits, column: str, names: list[str] | None, dataset: str) -> Splits:
    """Texts or whole numbers as classes: of given names, or sorted by themselves."""
    kind = first(splits).features["label"]
    numbers = isinstance(kind, Value) and (kind.dtype == "bool" or "int" in kind.dtype)
    if not numbers and not (isinstance(kind, Value) and "string" in kind.dtype):
        raise ValueError(f"`label_column: {column}` holds {kind}: name a column of classes, texts or whole numbers.")
    if isinstance(splits, IterableDatasetDict):
        if not names:
            raise ValueError(
                f"`label_column: {column}` has no names of classes, and a stream cannot be searched for them: add "
                "`class_names: [...]` to `dataset_settings`, in the order of their numbers."
            )
        encode, classes = Encodes(names, dataset), ClassLabel(names=[str(name) for name in names])
        return IterableDatasetDict(
            {
                name: rows.map(encode, features=datasets.Features({**rows.features, "label": classes}))
                for name, rows in splits.items()
            }
        )
    values = {name: set(rows.unique("label")) for name, rows in splits.items()}
    if None in set().union(*values.values()):
        raise ValueError(WITHOUT.format(column, dataset))
    if names is None:
        classes = sorted(first(values))
        write = (lambda value: str(value).lower()) if kind.dtype == "bool" else str  # as Arrow writes a bool
        texts = [write(value) for value in classes]
        others = {write(value) for found in values.values() for value in found}
    else:
        texts = [str(name) for name in names]
        others = {
            texts[int(v)] if numbers and 0 <= int(v) < len(texts) else str(v) for vs in values.values() for v in vs
        }
    if unknown := sorted(others - set(texts)):
        where = "`class_names`" if names else "train"
        raise ValueError(f"`dataset: {dataset}` has labels that {where} has not: {', '.join(unknown[:5])}; add them.")
    if not numbers or names is None:
        splits = splits.cast_column("label", Value("string"))
    else:
        splits = splits.cast_column("label", Value("int64"))
    return splits.cast_column("label", ClassLabel(names=texts))


class Encodes:
    """A stream's label, a name or a number, as a number."""

    def __init__(self, names: list[Any], dataset: str):
        self.numbers = {str(name): number for number, name in enumerate(names)}
        self.dataset = dataset

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        label = row["label"]
        number = self.numbers.get(label, -1) if isinstance(label, str) else -1 if label is None else int(label)
        if not 0 <= number < len(self.numbers):
            raise ValueError(f"`dataset: {self.dataset}` has the label {label!r}, which `class_names` has not: add it.")
        return {"label": number}
