"""Data sets that are not built in: folders of images, Parquet and Arrow files, tar shards, names on the Hub; read whole
or streamed. What is ambiguous is asked for, never guessed.
"""

import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Image
from datasets import IterableDataset
from datasets import IterableDatasetDict
from datasets import Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from tqdm.auto import tqdm

from .images import CorruptImage
from .images import decode_rgb
from .images import load_bytes

HELD_OUT = ("test", "validation", "valid", "val")
SETTINGS = ("config", "revision", "data_files", "held_out", "class_names")
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
SPLIT_WORD = re.compile(rf"(train|{'|'.join(HELD_OUT)})(?=$|[-_.])", re.IGNORECASE)
ROW = "row_number"  # a column of the map-style sets: the place in the file, which no later choice of rows changes
Splits = Any  # a DatasetDict or an IterableDatasetDict
ON_HUB = "that it is there, public and has images, that there is a network, and that HF_HUB_OFFLINE is not set"


def load_source(
    dataset: str,
    *,
    settings: dict[str, Any],
    streaming: bool = False,
    split_seed: int = 0,
    test_share: float = 0.2,
    image_column: str | None = None,
    label_column: str | None = None,
    corrupt: str = "fail",
    needs_label: bool = True,
) -> Splits:
    """-> splits `train` and `test` with `image`, `label` where there are classes, and every other column.

    A map-style split decodes its images when rows are read, as RGB pictures; a stream holds undecoded ones, which
    NumberedStream decodes.

    Args:
        dataset: a folder `train/<class>/<file>` with `test`, `validation`, `valid` or `val` beside it, or
            `<class>/<file>`; .parquet, .arrow or .tar files, a folder or pattern of them; a folder of `save_to_disk`;
            or a name on the Hub, `owner/name`.
        settings: `config` and `revision` of a Hub name; `data_files`, a split's name -> files, for other layouts;
            `held_out`, which split to evaluate on where there are several; `class_names` of labels that have none.
        test_share: held out where nothing is: by class and `split_seed`, or in a stream by a hash of the image's bytes.
        corrupt: "fail" when such an image is met, or "skip": found by decoding all before training, in a stream in
            flight.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: one sentence that names the fix.
        CorruptImage: every image is corrupt.
    """
    for key in settings:
        if key not in SETTINGS:
            raise ValueError(f"`dataset_settings` has an unknown key `{key}`: choose from {', '.join(SETTINGS)}.")
    if corrupt not in ("fail", "skip"):
        raise ValueError(f"`corrupt_images: {corrupt}` is none: choose fail or skip.")
    splits = choose_splits(read(dataset, settings, streaming), settings.get("held_out"), dataset)
    images = {name: image_of(rows, image_column, dataset) for name, rows in splits.items()}
    # At once: whatever renames, maps or filters a stream would decode its images, and write them anew.
    splits = type(splits)({n: rows.cast_column(images[n], Image(decode=False)) for n, rows in splits.items()})
    splits = type(splits)({name: rename(rows, images[name], "image") for name, rows in splits.items()})
    if "test" not in splits and not 0 < test_share < 1:
        raise ValueError(f"`dataset: {dataset}` has no held-out split: set `test_share` between 0 and 1.")
    if "test" not in splits and streaming:  # before labels are mapped: datasets 4.4 does not filter what it has mapped
        splits = cut(splits["train"], split_seed, test_share, dataset)
    splits = with_labels(splits, label_column, settings.get("class_names"), dataset, needs_label)
    if streaming:
        return splits
    splits = DatasetDict({name: numbered(rows, f"{name} of {dataset}", corrupt) for name, rows in splits.items()})
    if "test" not in splits:
        splits = cut(splits["train"], split_seed, test_share, dataset)
    return DatasetDict({name: rows.with_transform(Decodes(f"{name} of {dataset}")) for name, rows in splits.items()})


# Where the files are


def read(dataset: str, settings: dict[str, Any], streaming: bool) -> Splits:
    """Whatever splits there are, of whatever columns."""
    place = Path(dataset).expanduser()
    if place.is_dir() and ((place / "dataset_dict.json").is_file() or (place / "state.json").is_file()):
        saved = datasets.load_from_disk(str(place))
        saved = saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
        if not streaming:
            return saved
        return IterableDatasetDict({name: rows.to_iterable_dataset() for name, rows in saved.items()})
    if settings.get("data_files"):
        named = {name: found(patterns) for name, patterns in settings["data_files"].items()}
        builder = builder_of([path for paths in named.values() for path in paths], dataset)
    elif place.exists() or any(letter in dataset for letter in "*?["):
        builder, named = local_files(dataset)
    else:
        return from_hub(dataset, settings, streaming)
    files = {name: [str(path) for path in paths] for name, paths in named.items()}
    try:
        return datasets.load_dataset(builder, data_files=files, streaming=streaming)
    except Exception as error:  # of any reader, deep inside
        cause = error.__cause__ or error
        said = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ValueError(
            f"`dataset: {dataset}` cannot be read as {builder} files ({said.rstrip('.')}): repair or remove the file, "
            "or choose files by `data_files` in `dataset_settings`."
        ) from error


def from_hub(dataset: str, settings: dict[str, Any], streaming: bool) -> Splits:
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", dataset):
        raise FileNotFoundError(
            f"`dataset: {dataset}` is neither built in nor a file or folder that exists: check the path, seen from "
            f"{Path.cwd().name}/, or write a Hub name as owner/name."
        )
    try:
        return datasets.load_dataset(
            dataset, settings.get("config"), revision=settings.get("revision"), streaming=streaming
        )
    except ValueError as error:
        if "Config name is missing" in str(error):
            raise ValueError(
                f"`dataset: {dataset}` has several configurations: add `config: <name>` to `dataset_settings`; "
                f"{re.sub(r'[^ -~]+', ' ', str(error).splitlines()[1] if len(str(error).splitlines()) > 1 else '')}"
            ) from error
        raise ConnectionError(
            f"`dataset: {dataset}` is no folder here and could not be read ({first_line(error)}): check {ON_HUB}."
        ) from error
    except Exception as error:  # of the network, the client or the reader
        raise ConnectionError(
            f"`dataset: {dataset}` is no folder here and could not be fetched ({first_line(error)}): check {ON_HUB}."
        ) from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def found(patterns: str | list[str]) -> list[Path]:
    """The files of some patterns, sorted."""
    paths: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = Path(pattern).expanduser()
        root = Path(path.anchor or ".")
        matches = [path] if path.is_file() else sorted(root.glob(str(path.relative_to(path.anchor))))
        if not any(match.is_file() for match in matches):
            raise FileNotFoundError(f"No file is called {pattern}: check the path.")
        paths += [match for match in matches if match.is_file()]
    return paths


def builder_of(paths: list[Path], dataset: str) -> str:
    kinds = Counter(BUILDERS[path.suffix.lower()] for path in paths if path.suffix.lower() in BUILDERS)
    if len(kinds) > 1:
        raise ValueError(
            f"`dataset: {dataset}` holds {' and '.join(sorted(kinds))} files: name those meant, as in "
            f"{dataset}/*.parquet."
        )
    if kinds:
        return next(iter(kinds))
    if not any(is_image(path) for path in paths):
        raise FileNotFoundError(
            f"`dataset: {dataset}` holds no images and no .parquet, .arrow or .tar files: lay images out as "
            "train/<class>/<file>, or point to another folder."
        )
    return "imagefolder"


def is_image(path: Path) -> bool:
    return path.suffix.lower() in ImageFolder.EXTENSIONS


def local_files(dataset: str) -> tuple[str, dict[str, list[Path]]]:
    """A builder's name, and a split's name -> its files: by the first folder's name, or a shard's first word."""
    place = Path(dataset).expanduser()
    folder = place if place.is_dir() else place.parent
    paths = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else found(dataset)
    paths = (
        [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        if (place.is_dir())
        else paths
    )
    builder = builder_of(paths, dataset)
    if builder == "imagefolder":
        metadata = [path for path in paths if path.name.startswith("metadata.")]
        paths = [path for path in paths if is_image(path)] + metadata
    else:
        paths = [path for path in paths if BUILDERS.get(path.suffix.lower()) == builder]
    named: dict[str, list[Path]] = {}
    for path in paths:
        parts = path.relative_to(folder).parts if place.is_dir() else path.parts[-1:]
        whole = parts[0].lower() if len(parts) > 1 else ""
        word = SPLIT_WORD.match(parts[0]) if len(parts) == 1 and builder != "imagefolder" else None
        name = whole if whole in ("train", *HELD_OUT) else word[1].lower() if word else ""
        named.setdefault(name, []).append(path)
    if set(named) - {""} and "" in named:
        raise ValueError(
            f"`dataset: {dataset}` has {', '.join(sorted(set(named) - {''}))}, and {named[''][0]} outside: move it "
            "into a split, or remove it."
        )
    return builder, {name or "train": files for name, files in named.items()}


def choose_splits(splits: Splits, held_out: str | None, dataset: str) -> Splits:
    """-> train and, if anything is held out, test"""
    if "train" not in splits:
        raise ValueError(
            f"`dataset: {dataset}` has no split `train`, only {', '.join(splits)}: name one by `data_files` in "
            "`dataset_settings`."
        )
    others = [name for name in HELD_OUT if name in splits]
    if held_out is not None and held_out not in splits:
        raise ValueError(f"`held_out: {held_out}` is no split of `dataset: {dataset}`: choose of {', '.join(splits)}.")
    if held_out is None and len(others) > 1:
        raise ValueError(
            f"`dataset: {dataset}` has {' and '.join(others)}: say which to evaluate on, by `held_out: {others[0]}` in "
            "`dataset_settings`."
        )
    chosen = held_out or (others[0] if others else None)
    kept: dict[str, Any] = {"train": splits["train"]} | ({"test": splits[chosen]} if chosen else {})
    for name, rows in kept.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise ValueError(f"The split {name} of `dataset: {dataset}` is empty: point to another.")
    return type(splits)(kept)


# Which columns they have


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


def with_labels(splits: Splits, column: str | None, names: list[str] | None, dataset: str, needed: bool) -> Splits:
    features = features_of(splits["train"], dataset)
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
    if isinstance(kinds["train"], ClassLabel):
        classes = kinds["train"].names
        for name, kind in kinds.items():
            same = isinstance(kind, ClassLabel) and kind.names == classes
            if not same:
                raise ValueError(mismatch(dataset, name, classes, getattr(kind, "names", None)))
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
    kind = splits["train"].features["label"]
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
        raise ValueError(f"`label_column: {column}` of `dataset: {dataset}` has rows without a label: leave them out.")
    if names is None:
        classes = sorted(values["train"])
        texts = [str(value) for value in classes]
        others = {str(value) for found in values.values() for value in found}
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


# What their rows are


def numbered(rows: Dataset, what: str, corrupt: str) -> Dataset:
    """With each row's place, and without its corrupt images if those are to be skipped."""
    rows = rows.remove_columns(ROW) if ROW in rows.column_names else rows
    rows = rows.add_column(ROW, np.arange(len(rows)))
    if corrupt == "fail":
        return rows
    whole, broken = [], []
    for row in tqdm(rows.select_columns(["image", ROW]), desc=f"Decoding {what}", unit="image"):
        try:
            decode_rgb(row["image"], f"row {row[ROW]} of {what}")
            whole.append(row[ROW])
        except CorruptImage as error:
            broken.append(str(error))
    if broken:
        print(left_out(broken, len(rows), what))
    if not whole:
        raise CorruptImage(f"Every image of {what} is corrupt, {broken[0]} among them: check the files.")
    return rows.select(whole)


def left_out(broken: list[str], count: int, what: str) -> str:
    more = f" And {len(broken) - 3} more." if len(broken) > 3 else ""
    return f"Left out {len(broken)} corrupt of {count} images of {what}: {' '.join(broken[:3])}{more}"


class Decodes:
    """Undecoded columns of some rows -> the same, with `image` as RGB pictures."""

    def __init__(self, what: str):
        self.what = what

    def __call__(self, columns: dict[str, list]) -> dict[str, list]:
        if "image" not in columns:
            return columns
        places = columns.get(ROW) or [None] * len(columns["image"])
        images = [
            decode_rgb(value, self.what if place is None else f"row {place} of {self.what}")
            for value, place in zip(columns["image"], places, strict=True)
        ]
        return {**columns, "image": images}


def cut(rows: Any, seed: int, share: float, dataset: str) -> Splits:
    """A part held out of rows that have no such split."""
    if isinstance(rows, IterableDataset):
        print(
            f"`dataset: {dataset}` has no held-out split: about {share:.0%} of its images are held out, by a hash "
            "of their bytes, so that equal images stay together."
        )
        return IterableDatasetDict(train=rows.filter(Chosen(seed, share, False)), test=rows.filter(Chosen(seed, share)))
    by = "label" if isinstance(rows.features.get("label"), ClassLabel) else None
    kind = " of each class" if by else ""
    print(f"`dataset: {dataset}` has no held-out split: {share:.0%}{kind} is held out by `split_seed: {seed}`.")
    try:
        return rows.train_test_split(test_size=share, seed=seed, stratify_by_column=by)
    except ValueError as error:
        raise ValueError(
            f"`dataset: {dataset}` cannot be split by class ({first_line(error)}): give every class two images, "
            "raise `test_share`, or lay out a held-out split."
        ) from error


class Chosen:
    """Whether a row is held out, by its image's bytes alone: the same in whatever order and shards they are read."""

    def __init__(self, seed: int, share: float, held_out: bool = True):
        self.seed, self.share, self.held_out = seed, share, held_out

    def __call__(self, row: dict[str, Any]) -> bool:
        try:
            content = load_bytes(row["image"])
        except (OSError, ValueError):  # it is named when it is decoded
            content = str(row["image"]).encode()
        return (zlib.crc32(content, zlib.crc32(str(self.seed).encode())) < self.share * 2**32) == self.held_out
