"""Which columns rows have: the picture, and the class as a number. What is ambiguous is asked for, never guessed."""

from pathlib import Path
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


def captions_of(splits: Splits, column: str | None, dataset: str) -> Splits:
    """With the column of captions, texts or lists of them, as `caption`.

    Raises:
        ValueError: there is no such column, or it holds something else.
    """
    features = features_of(first(splits), dataset)
    texts = [name for name, kind in features.items() if "string" in str(getattr(kind, "dtype", "")) or is_texts(kind)]
    if column is None and "caption" not in features:
        example = f"`caption_column: {(texts or ['<column>'])[0]}`"
        raise ValueError(
            f"`dataset: {dataset}` has no column `caption`, no photo.txt beside photo.jpg and no captions.txt: name "
            f"the column, as in {example}; {listed(features)}."
        )
    column = column or "caption"
    for rows in splits.values():
        if column not in features_of(rows, dataset):
            raise ValueError(
                f"`caption_column: {column}` is no column of `dataset: {dataset}`: {listed(rows.features)}."
            )
    if column not in texts:
        raise ValueError(f"`caption_column: {column}` holds {features[column]}: name a column of texts.")
    return type(splits)({name: rename(rows, column, "caption") for name, rows in splits.items()})


def is_texts(kind: Any) -> bool:
    return "string" in str(getattr(getattr(kind, "feature", None), "dtype", ""))


NAME_FILES = ("label_names.txt", "class_names.txt", "classes.txt")  # a name in each line, of class 0, 1, ...


def names_in_file(rows: Any, column: str | None, dataset: str) -> list[str] | None:
    """The names of a column of whole numbers, of a file that lies beside the table or in the folder."""
    kind = rows.features.get(column) if column and rows.features else None
    place = Path(dataset).expanduser()
    folder = place if place.is_dir() else place.parent
    path = next((folder / name for name in NAME_FILES if (folder / name).is_file()), None)
    if path is None or not isinstance(kind, Value) or "int" not in kind.dtype:
        return None
    print(f"`dataset: {dataset}`: the classes of `{column}` have the names in {path.name}, from 0 on.")
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


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
    splits = whole_numbers(splits, column)
    kind = first(splits).features["label"]
    numbers = isinstance(kind, Value) and (kind.dtype == "bool" or "int" in kind.dtype)
    if not numbers and not (isinstance(kind, Value) and "string" in kind.dtype):
        raise ValueError(
            f"`label_column: {column}` holds {kind}: name a column of classes, texts or whole numbers, or set "
            "`problem_type: regression` for numbers, `problem_type: multi_label_classification` for lists."
        )
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
    if names is None and numbers and (told := names_beside(splits, column, dataset)):
        values = {split: {told[value] for value in some} for split, some in values.items()}
        texts = [told[value] for value in sorted(told) if told[value] in first(values)]
        others = set().union(*values.values())
        splits = type(splits)({split: replaced(rows, told) for split, rows in splits.items()})
    elif names is None:
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


def whole_numbers(splits: Splits, column: str) -> Splits:
    """Numbers with a point that are all whole, as pandas writes them where a row is empty, are whole numbers.

    Raises:
        ValueError: some are not whole.
    """
    kind = first(splits).features["label"]
    if not (isinstance(kind, Value) and "float" in kind.dtype) or isinstance(splits, IterableDatasetDict):
        return splits
    found = {
        value for rows in splits.values() for value in rows.unique("label") if value is not None and value == value
    }
    if broken := sorted(value for value in found if not float(value).is_integer()):
        raise ValueError(
            f"`label_column: {column}` holds numbers that are no classes, such as {broken[0]}: set `problem_type: "
            "regression`, or name another column."
        )
    labels = {
        split: [None if value is None or value != value else int(value) for value in rows["label"]]
        for split, rows in splits.items()
    }
    return type(splits)(
        {
            split: rows.remove_columns("label").add_column("label", labels[split], feature=Value("int64"))
            for split, rows in splits.items()
        }
    )


def names_beside(splits: Splits, column: str, dataset: str) -> dict[Any, str] | None:
    """The name of each number, where a column of texts beside it tells: `label_name` of `label`, or `class_name`.

    Raises:
        ValueError: a number with two names, or a name of two numbers.
    """
    features = first(splits).features
    texts = [name for name, kind in features.items() if isinstance(kind, Value) and "string" in kind.dtype]
    beside = next((name for name in (f"{column}_name", "label_name", "class_name") if name in texts), None)
    if beside is None or any(beside not in rows.column_names for rows in splits.values()):
        return None
    pairs = {
        (row["label"], row[beside])
        for rows in splits.values()
        for row in rows.with_format(None).select_columns(["label", beside])
    }
    told = dict(pairs)
    if len(told) < len(pairs) or len(set(told.values())) < len(pairs) or None in told.values():
        raise ValueError(
            f"`{beside}` of `dataset: {dataset}` does not give each number of `label_column: {column}` one name of its "
            f"own: repair it, name `label_column: {beside}`, or add `class_names` to `dataset_settings`."
        )
    print(f"`dataset: {dataset}`: the classes of `{column}` have the names in `{beside}`.")
    return told


def replaced(rows: Dataset, told: dict[Any, str]) -> Dataset:
    labels = [told[value] for value in rows["label"]]
    return rows.remove_columns("label").add_column("label", labels, feature=Value("string"))


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
