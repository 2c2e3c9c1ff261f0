"""An image's answer where it is not one class: several classes or none, or numbers. -> a column `label`.

Several classes are a list of class ids; numbers are a structure that names them. So the features tell the names.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from datasets import IterableDatasetDict
from datasets import List
from datasets import Value

from .columns import Splits
from .columns import features_of
from .columns import first
from .columns import listed

SINGLE, MULTI, NUMBERS = "single_label_classification", "multi_label_classification", "regression"
PROBLEMS = (SINGLE, MULTI, NUMBERS)


@dataclass(frozen=True)
class Columns:
    """What a recipe says of labels: one column or several, and what separates several classes in one text."""

    label: str | None = None
    labels: tuple[str, ...] = ()
    separator: str | None = None
    names: Sequence[Any] | None = None  # `class_names` of the settings

    @property
    def all(self) -> tuple[str, ...]:
        return self.labels or ((self.label,) if self.label else ())


def check_columns(columns: Columns, problem: str):
    """
    Raises:
        ValueError: settings that do not go together.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"`problem_type: {problem}` is none of a recipe: choose one of {', '.join(PROBLEMS)}.")
    if columns.label and columns.labels:
        raise ValueError("`label_column` and `label_columns` are both set: leave one of them out.")
    if columns.labels and problem == SINGLE:
        raise ValueError(
            f"`label_columns` are several answers for an image: add `problem_type: {MULTI}` if each is 0 or 1, or "
            f"`problem_type: {NUMBERS}` if they are numbers."
        )
    if columns.separator is not None and (problem != MULTI or columns.labels or not columns.separator):
        raise ValueError(
            f"`label_separator: {columns.separator!r}` separates the classes in a text of `label_column`: set "
            f"`problem_type: {MULTI}` and one column, or leave it out."
        )


def with_targets(splits: Splits, problem: str, columns: Columns, dataset: str) -> Splits:
    """With `label`: lists of class ids, or structures of numbers.

    Raises:
        ValueError: columns that are not there, that hold something else, or that nobody has named.
    """
    features = features_of(first(splits), dataset)
    for rows in splits.values():
        for column in columns.all:
            if column not in features_of(rows, dataset):
                raise ValueError(f"`{column}` is no column of `dataset: {dataset}`: {listed(rows.features)}.")
    make = several_classes if problem == MULTI else numbers
    encode, kind = make(splits, features, columns, dataset)
    return type(splits)({name: encoded(rows, encode, kind) for name, rows in splits.items()})


def encoded(rows: Any, encode: Any, kind: Any) -> Any:
    if isinstance(rows, Dataset):
        labels = [encode(row) for row in rows.with_format(None).select_columns(encode.columns)]
        rows = rows.remove_columns("label") if "label" in rows.column_names else rows
        return rows.add_column("label", labels, feature=kind)
    return rows.map(Fills(encode), features=Features({**rows.features, "label": kind}))


class Fills:
    """A stream's rows with their label."""

    def __init__(self, encode: Callable):
        self.encode = encode

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"label": self.encode(row)}


# Several classes


def several_classes(splits: Splits, features: Features, columns: Columns, dataset: str) -> tuple[Callable, Any]:
    if columns.labels:
        return YesOrNo(columns.labels, dataset), List(ClassLabel(names=list(columns.labels)))
    column = columns.label or only_list(features, dataset)
    kind = features[column]
    inner = getattr(kind, "feature", None)
    if isinstance(inner, ClassLabel):
        return AsIs(column), List(inner)
    is_text = isinstance(kind, Value) and "string" in kind.dtype
    if inner is None and not is_text:
        raise ValueError(
            f"`label_column: {column}` holds {kind}, one value an image: name a column of lists, of texts with "
            "`label_separator`, or several columns of 0 and 1 by `label_columns`."
        )
    if is_text and columns.separator is None:
        rows = islice(first(splits).select_columns([column]), 50)
        example = next((row[column] for row in rows if row[column]), "")
        raise ValueError(
            f"`label_column: {column}` holds texts, such as {example!r}: write what separates their classes, as in "
            "`label_separator: ';'`."
        )
    parts = Written(column, columns.separator)
    names = [str(name) for name in columns.names or ()]
    if not names and isinstance(splits, IterableDatasetDict):
        raise ValueError(
            f"`label_column: {column}` has no names of classes, and a stream cannot be searched for them: add "
            "`class_names: [...]` to `dataset_settings`."
        )
    by_number = bool(names) and inner is not None and "int" in str(getattr(inner, "dtype", ""))
    if not isinstance(splits, IterableDatasetDict):
        found = {
            split: {one for row in rows.with_format(None).select_columns([column]) for one in parts(row)}
            for split, rows in splits.items()
        }
        known = {*range(len(names))} if by_number else {*names} if names else first(found)
        if unknown := sorted(set().union(*found.values()) - known, key=str):
            where = "`class_names`" if names else "train"
            words = ", ".join(map(str, unknown[:5]))
            raise ValueError(f"`dataset: {dataset}` has labels that {where} has not: {words}; add them.")
        if not known:
            raise ValueError(f"`label_column: {column}` of `dataset: {dataset}` names no class in any row: fill it.")
        names = names or [str(name) for name in sorted(known)]
    return ByName(parts, None if by_number else names, dataset), List(ClassLabel(names=names))


def only_list(features: Features, dataset: str) -> str:
    lists = [name for name, kind in features.items() if is_list(kind)]
    if len(lists) == 1:
        return lists[0]
    what = f"several columns of lists, {', '.join(lists)}" if lists else "no column of lists of classes"
    raise ValueError(
        f"`dataset: {dataset}` has {what}: name one by `label_column`, a text's with `label_separator`, or columns of "
        f"0 and 1 by `label_columns`; {listed(features)}."
    )


def is_list(kind: Any) -> bool:
    inner = getattr(kind, "feature", None)
    dtype = str(getattr(inner, "dtype", ""))
    return isinstance(inner, ClassLabel) or (isinstance(inner, Value) and ("string" in dtype or "int" in dtype))


class AsIs:
    """A list of class ids, each once."""

    def __init__(self, column: str):
        self.columns = [column]

    def __call__(self, row: dict[str, Any]) -> list[int]:
        return sorted(set(row[self.columns[0]] or ()))


class Written:
    """A row's classes as they are written: of a list, or of a text that is cut. None, or an empty one: no class."""

    def __init__(self, column: str, separator: str | None):
        self.columns, self.separator = [column], separator

    def __call__(self, row: dict[str, Any]) -> list[Any]:
        value = row[self.columns[0]] or ()
        if isinstance(value, str):
            return [part.strip() for part in value.split(self.separator) if part.strip()]
        return [one for one in value if one is not None]


class ByName:
    """Classes as written -> their ids; without `names` they are ids."""

    def __init__(self, parts: Written, names: list[str] | None, dataset: str):
        self.parts, self.columns, self.dataset = parts, parts.columns, dataset
        self.ids = None if names is None else {name: number for number, name in enumerate(names)}

    def __call__(self, row: dict[str, Any]) -> list[int]:
        found = self.parts(row)
        if self.ids is None:
            return sorted(set(found))
        if strange := [one for one in found if str(one) not in self.ids]:
            raise ValueError(
                f"`dataset: {self.dataset}` has the label {strange[0]!r}, which `class_names` has not: add it."
            )
        return sorted({self.ids[str(one)] for one in found})


class YesOrNo:
    """Columns of 0 and 1 -> the places of the ones."""

    def __init__(self, columns: tuple[str, ...], dataset: str):
        self.columns, self.dataset = list(columns), dataset

    def __call__(self, row: dict[str, Any]) -> list[int]:
        for column in self.columns:
            if row[column] not in (0, 1):  # True and 1.0 are equal to 1
                raise ValueError(
                    f"`dataset: {self.dataset}` has {row[column]!r} in `{column}`, a column of `label_columns`: write "
                    f"0 or 1, or set `problem_type: {NUMBERS}`."
                )
        return [place for place, column in enumerate(self.columns) if row[column] == 1]


# Numbers


def numbers(splits: Splits, features: Features, columns: Columns, dataset: str) -> tuple[Callable, Any]:
    names = columns.all or only_number(features, dataset)
    for rows in splits.values():
        for name in names:
            kind = rows.features[name]
            dtype = kind.dtype if isinstance(kind, Value) else ""
            if not ("int" in dtype or "float" in dtype or "decimal" in dtype):
                raise ValueError(
                    f"`{name}` of `dataset: {dataset}` holds {kind}, and `problem_type: {NUMBERS}` takes numbers: "
                    "write numbers with a point, or name other columns by `label_columns`."
                )
    return Reads(names, dataset), {name: Value("float64") for name in names}


def only_number(features: Features, dataset: str) -> tuple[str, ...]:
    found = [name for name, kind in features.items() if isinstance(kind, Value) and "float" in kind.dtype]
    if len(found) == 1:
        return (found[0],)
    what = f"several columns of numbers, {', '.join(found)}" if found else "no column of numbers with a point"
    raise ValueError(
        f"`dataset: {dataset}` has {what}: name one by `label_column`, or several by `label_columns`; "
        f"{listed(features)}."
    )


class Reads:
    def __init__(self, columns: tuple[str, ...], dataset: str):
        self.columns, self.dataset = list(columns), dataset

    def __call__(self, row: dict[str, Any]) -> dict[str, float]:
        for column in self.columns:
            if row[column] is None or not math.isfinite(row[column]):
                raise ValueError(
                    f"`dataset: {self.dataset}` has rows without a number in `{column}` ({row[column]!r}): leave them "
                    "out, or write the number."
                )
        return {column: float(row[column]) for column in self.columns}
