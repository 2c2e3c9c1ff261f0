"""Tables that name pictures: a column of paths in .csv, .tsv, .jsonl or .parquet. Which column holds them is found by
looking which names are files; two answers are refused.
"""

import os
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value

from .caption_files import read_captions
from .folders import Listing
from .folders import Parts
from .image_folders import Rows
from .layouts import split_of
from .metadata import METADATA
from .metadata import Table
from .metadata import file
from .metadata import read_table
from .picture_formats import picture_endings

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
WITHOUT_ENDING = (".jpg", ".jpeg", ".png")  # that a table may leave out
LOOKED = 20  # rows, by which a column is found
MOST_FOLDERS = 100  # beside a table, in which its pictures may be


@dataclass(frozen=True)
class Asked:
    """The columns that a run names. Where a folder can be read in several ways, they decide."""

    image: str | None = None
    labels: tuple[str, ...] = ()
    caption: str | None = None
    needs_caption: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.labels, *((self.caption,) if self.caption else ()))


NOTHING = Asked()


@dataclass(frozen=True)
class Place:
    """Where the pictures of a table are: `folder` / (the value of `column` + `ending`)."""

    column: str
    folder: Path
    ending: str = ""

    def path(self, value: Any) -> Path:
        return Path(os.path.normpath(self.folder / f"{value}{self.ending}"))


def is_table(path: Path, needs_caption: bool = False) -> bool:
    """By its name; a text file may be a table of captions."""
    ending = path.suffix.lower()
    return ending in ENDINGS or (needs_caption and ending == ".txt" and "caption" in path.stem.lower())


def names_pictures(path: Path) -> bool:
    """Of a Parquet file: it holds texts, and no pictures and no bytes that could be some."""
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pa.ArrowException):  # its reader says what it is
        return False
    kinds = Features.from_arrow_schema(schema).values()
    holds = any(isinstance(kind, (Image, dict)) or "binary" in str(getattr(kind, "dtype", "")) for kind in kinds)
    return not holds and any(isinstance(kind, Value) and "string" in kind.dtype for kind in kinds)


def open_table(path: Path) -> Table:
    """
    Raises:
        ValueError: it cannot be read, is empty, or its columns are separated by something else than its name says.
    """
    table = read_captions(path) if path.suffix.lower() == ".txt" else read_table(path)
    if len(table.features) == 1 and (mark := next((m for m in ";\t|" if m in next(iter(table.features))), None)):
        what = "tabs: call it .tsv" if mark == "\t" else f"`{mark}`: write it with commas"
        raise ValueError(f"{path} separates its columns by {what}.")
    if not table.rows:
        raise ValueError(f"{path} has no rows: write some, or point to another table.")
    return table


def folders_of(table: Table, image_dir: str | None) -> list[Path]:
    """In which its pictures may be: its own and those in it, or the one that is named."""
    home = table.path.parent
    if image_dir is None:
        inside = [one for one in sorted(home.iterdir()) if one.is_dir() and not one.name.startswith(".")]
        return [home, *inside[:MOST_FOLDERS]]
    for folder in (home / image_dir, Path(image_dir).expanduser()):
        if folder.is_dir():
            return [folder]
    raise FileNotFoundError(f"`image_dir: {image_dir}` is no folder, neither in {home} nor here: check the path.")


def find_pictures(table: Table, asked: Asked, image_dir: str | None) -> Place:
    """By the column of images that is asked for, or any but those that are asked for as something else. Names with the
    ending of a picture count before numbers and names without, which may be labels.

    Raises:
        ValueError, FileNotFoundError: no column names files, or several do, or one does in several folders.
    """
    image_column = asked.image
    kinds = {name: kind for name, kind in table.features.items() if isinstance(kind, Value)}
    if image_column is not None and image_column not in kinds:
        raise ValueError(f"`image_column: {image_column}` is no column of {table.path}: it has {', '.join(kinds)}.")
    others = [n for n, k in kinds.items() if ("string" in k.dtype or "int" in k.dtype) and n not in asked.columns]
    columns = [image_column] if image_column else others
    folders = folders_of(table, image_dir)
    found = {column: places_of(table, column, folders) for column in columns}
    found = {column: places for column, places in found.items() if places}
    if whole := {column: [one for one in places if not one.ending] for column, places in found.items()}:
        found = {column: places for column, places in whole.items() if places} or found
    if not found:
        texts = [column for column in columns if "string" in kinds[column].dtype] or columns
        shown = [f"{column} ({table.rows[0][column]!r})" for column in texts[:4]]
        raise FileNotFoundError(
            f"{table.path} names no pictures: its columns {', '.join(shown)} are no files in "
            f"{', '.join(f'{folder.name}/' for folder in folders[:4])}: name the folder by `image_dir` in "
            "`dataset_settings`, or the column by `image_column`."
        )
    if len(found) > 1:
        raise ValueError(
            f"{table.path} has several columns that name pictures, {', '.join(found)}: choose one, as in "
            f"`image_column: {next(iter(found))}`."
        )
    (places,) = found.values()
    if len(places) > 1:
        where = [str(place.path(first_value(table, place.column))) for place in places[:2]]
        raise ValueError(
            f"{table.path} names pictures that are in several places, as {' and '.join(where)}: name the folder by "
            "`image_dir` in `dataset_settings`."
        )
    return places[0]


def first_value(table: Table, column: str) -> Any:
    return next(row[column] for row in table.rows if row[column] not in (None, ""))


def places_of(table: Table, column: str, folders: Sequence[Path]) -> list[Place]:
    """Where most of its first names are files; of several places those with the most."""
    values = [row[column] for row in table.rows if row[column] not in (None, "")][:LOOKED]
    pictures, counts, seen = picture_endings(), {}, set()
    for folder in folders:
        for ending in ("", *WITHOUT_ENDING):
            place = Place(column, folder, ending)
            paths = [path for value in values if (path := place.path(value)).suffix.lower() in pictures]
            there = tuple(path for path in paths if path.is_file())
            if there and there not in seen:  # an absolute path is one in every folder
                counts[place] = len(there)
                seen.add(there)
    return [place for place, count in counts.items() if count == max(counts.values())]


def paths_in(table: Table, place: Place) -> list[Path]:
    """
    Raises:
        ValueError: a row names no picture.
        FileNotFoundError: some are not there.
    """
    for number, row in enumerate(table.rows):
        if row[place.column] in (None, ""):
            raise ValueError(f"{table.path} has no `{place.column}` in row {number}: write it, or remove the row.")
    paths = [place.path(row[place.column]) for row in table.rows]
    if missing := [path for path in paths if not path.is_file()]:
        more = ", ..." if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"{table.path} names {len(missing)} of {len(paths)} pictures that are not there "
            f"({', '.join(map(str, missing[:3]))}{more}): add them, or remove the rows."
        )
    return paths


def split_of_table(parts: Parts) -> str:
    """By a folder's name or a word of its own: labels_train.csv, val.csv; `train` where no word tells."""
    stem = Path(parts[-1]).stem
    words = [*parts[:-1], *stem.replace("-", "_").replace(".", "_").split("_")]
    return next((name for word in words if (name := split_of(word))), "train")


def tables_in(found: dict[str, Listing], asked: Asked) -> list[tuple[str, Parts, Path]]:
    """(split, parts, path) of each file that may be one."""
    return [
        (split or split_of_table(parts), parts, path)
        for split, one in found.items()
        for path, parts in one.files
        if is_table(path, asked.needs_caption) and path.name not in METADATA
    ]


def tables_beside(found: dict[str, Listing], asked: Asked, needs_label: bool, image_dir: str | None) -> list:
    """Of a folder of pictures, the tables that say of them what is asked for: by a column that is named, or where no
    folders of classes do. As `tables_in`; none: the folders speak."""
    endings = picture_endings()
    holders = {p[-2] for one in found.values() for path, p in one.files if path.suffix.lower() in endings and p[:-1]}
    classes = len({name for name in holders if not split_of(name)}) > 1
    has_metadata = any(path.name in METADATA for one in found.values() for path, _ in one.files)
    silent = not has_metadata and (asked.needs_caption or (needs_label and not classes))
    if not (asked.columns or silent):
        return []
    chosen = []
    for split, parts, path in tables_in(found, asked):
        try:
            table = open_table(path)
        except ValueError:  # left out by its name
            if asked.columns and not has_metadata:
                raise
            continue
        if asked.columns and not any(column in table.features for column in asked.columns):
            continue
        try:
            find_pictures(table, asked, image_dir)
        except FileNotFoundError:
            if asked.columns:
                raise
            continue
        chosen.append((split, parts, path))
    return chosen


def read_tables(
    chosen: Iterable[tuple[str, Parts, Path]], dataset: str, asked: Asked, image_dir: str | None = None
) -> Rows:
    """The tables of each split as rows with undecoded pictures. Where captions are asked for, rows of one picture are
    joined, with a list of their captions.

    Raises:
        ValueError, FileNotFoundError: as `find_pictures`, `paths_in`; tables whose columns differ.
    """
    tables: dict[str, list[Table]] = {}
    for split, _, path in chosen:
        tables.setdefault(split, []).append(open_table(path))
    flat = [table for some in tables.values() for table in some]
    schema = common_schema(flat)
    rows: dict[str, list[dict[str, Any]]] = {}
    names = set()
    for split, some in tables.items():
        rows[split] = []
        for table in some:
            place = find_pictures(table, asked, image_dir)
            names.add(place.column)
            paths = paths_in(table, place)
            rows[split] += [row | {place.column: file(p)} for row, p in zip(table.rows, paths, strict=True)]
    if len(names) > 1:
        raise ValueError(f"`dataset: {dataset}` names pictures in {' and '.join(sorted(names))}: give both one name.")
    image = names.pop()
    features = Features({n: Image() if n == image else kind for n, kind in Features.from_arrow_schema(schema).items()})
    rows = {split: [{name: row.get(name) for name in features} for row in some] for split, some in rows.items()}
    said = [f"pictures are named by `{image}` of {', '.join(table.path.name for table in flat[:3])}"]
    caption = asked.caption or ("caption" if "caption" in features else None)
    if asked.needs_caption and caption is not None and caption in features and isinstance(features[caption], Value):
        joined = {split: join(some, image, caption) for split, some in rows.items()}
        if any(len(joined[split]) < len(rows[split]) for split in rows):
            rows, features[caption] = joined, List(features[caption])
            said.append(
                f"{sum(map(len, rows.values()))} pictures have several captions each, of which an epoch draws one"
            )
    return Rows(rows, features, said)


def common_schema(tables: Sequence[Table]) -> pa.Schema:
    """Of columns that have one name: whole numbers and others become numbers."""
    made = [table.features.arrow_schema.remove_metadata() for table in tables]
    try:
        return pa.unify_schemas(made, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"{' and '.join(table.path.name for table in tables[:3])} have columns of one name and other types "
            f"({str(error).splitlines()[0].rstrip('.')}): write them alike."
        ) from error


def join(rows: list[dict[str, Any]], image: str, caption: str) -> list[dict[str, Any]]:
    """Rows of one picture as one, in the order of the first, with all captions."""
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = made.setdefault(row[image]["path"], row | {caption: []})
        one[caption].append(row[caption])
    return list(made.values())
