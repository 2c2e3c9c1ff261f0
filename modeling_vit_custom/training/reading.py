"""A data set's place -> its splits, of whatever columns: what is saved, folders of images, files of rows, the Hub."""

import re
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from datasets import DatasetDict
from datasets import IterableDatasetDict
from datasets.data_files import DataFilesList

from .caption_files import captions_beside
from .columns import Splits
from .folders import Listing
from .folders import Parts
from .folders import list_files
from .folders import tell
from .image_folders import Rows
from .image_folders import pictures
from .layouts import split_of
from .metadata import METADATA
from .picture_formats import NEED_PLUGIN
from .picture_formats import picture_endings
from .rows import DENSE
from .rows import scenes
from .splits import choose_splits
from .tables import NOTHING
from .tables import Asked
from .tables import is_table
from .tables import names_pictures
from .tables import read_tables
from .tables import tables_beside
from .tables import tables_in

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
ON_HUB = "that it is there, public and has images, that there is a network, and that HF_HUB_OFFLINE is not set"


def read(
    dataset: str,
    settings: dict[str, Any],
    streaming: bool,
    needs_label: bool,
    whole: bool | None,
    asked: Asked = NOTHING,
    task: str | None = None,
) -> Splits:
    """The splits that are used, of whatever columns: `train` and perhaps `test`, or of `whole` data `all`."""
    place = Path(dataset).expanduser()
    named = settings.get("data_files")
    if place.is_dir() and ((place / "dataset_dict.json").is_file() or (place / "state.json").is_file()):
        saved = datasets.load_from_disk(str(place))
        splits = saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
        if streaming:
            splits = IterableDatasetDict({name: rows.to_iterable_dataset() for name, rows in splits.items()})
    elif named or place.exists() or any(letter in dataset for letter in "*?["):
        found = listings(named) if named else {"": list_files(dataset)}
        builder = builder_of(found, dataset, asked.needs_caption)
        if builder == "imagefolder" and task in DENSE:
            made = scenes(found, dataset, settings, streaming, whole, str(task))
            if made is not None:
                return made
        if (told := told_in_files(found, builder, dataset, settings, needs_label, asked)) is not None:
            return of_rows(told, found, dataset, settings, streaming, whole)
        if builder == "imagefolder":
            return pictures(found, dataset, settings, streaming, needs_label, whole)
        splits = shards(found, builder, dataset, streaming)
    else:
        splits = from_hub(dataset, settings, streaming)
    names = choose_splits(splits, settings.get("held_out"), dataset, whole)
    if "all" in names:
        return type(splits)({"all": datasets.concatenate_datasets(list(splits.values()))})
    kept = {name: splits[old] for name, old in names.items()}
    for name, rows in kept.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise ValueError(f"The split {name} of `dataset: {dataset}` is empty: point to another.")
    return type(splits)(kept)


def told_in_files(
    found: dict[str, Listing], builder: str, dataset: str, settings: dict[str, Any], needs_label: bool, asked: Asked
) -> Rows | None:
    """What tables, or texts beside pictures, say of pictures; None where folders or the pictures' own files do."""
    image_dir = settings.get("image_dir")
    if builder == "imagefolder":
        chosen = tables_beside(found, asked, needs_label, image_dir)
        has_metadata = any(path.name in METADATA for one in found.values() for path, _ in one.files)
        if not chosen and asked.needs_caption and not has_metadata:
            return captions_beside(found, dataset)
    else:
        chosen = tables_in(found, asked) if builder in ("table", "parquet") else []
        if builder == "parquet" and not all(names_pictures(path) for *_, path in chosen):
            return None
    if not chosen:
        return None
    paths = {path for *_, path in chosen}
    for one in found.values():
        for path, parts in one.files:
            if path not in paths and path.suffix.lower() not in picture_endings():
                one.leave_out("files that are not used", parts)
    return read_tables(chosen, dataset, asked, image_dir)


def of_rows(
    told: Rows, found: dict[str, Listing], dataset: str, settings: dict[str, Any], streaming: bool, whole: bool | None
) -> Splits:
    names = choose_splits(told.splits, settings.get("held_out"), dataset, whole)
    if "all" in names:
        told.splits = {"all": [row for rows in told.splits.values() for row in rows]}
    else:
        told.splits = {name: told.splits[old] for name, old in names.items()}
    tell(dataset, list(found.values()), told.said)
    kind = IterableDatasetDict if streaming else DatasetDict
    return kind({name: told.dataset(name, streaming) for name in told.splits})


def listings(named: Any) -> dict[str, Listing]:
    """What `data_files` names: a split's name -> its files. Those of a pattern without folders are of theirs' class."""
    if not isinstance(named, dict):
        raise ValueError("`data_files` names no splits: write `data_files: {train: ..., test: ...}`.")
    found: dict[str, Listing] = {}
    for split, texts in named.items():
        joined = found[split] = Listing(Path())
        files: dict[Path, Parts] = {}
        for text in [texts] if isinstance(texts, str) else texts:
            one = list_files(text)
            flat = not Path(text).expanduser().is_dir() and all(len(parts) == 1 for _, parts in one.files)
            files |= {path: (path.parent.name, *parts) if flat else parts for path, parts in one.files}
            joined.folders += one.folders
            for what, which in one.left_out.items():
                joined.left_out.setdefault(what, []).extend(which)
        joined.files = list(files.items())
    return found


def builder_of(found: dict[str, Listing], dataset: str, needs_caption: bool = False) -> str:
    paths = [path for one in found.values() for path, _ in one.files]
    endings, needed = picture_endings(), {path.suffix.lower() for path in paths} & set(NEED_PLUGIN)
    has_pictures = bool(needed) or any(path.suffix.lower() in endings for path in paths)
    kinds = {
        BUILDERS[path.suffix.lower()]
        for path in paths
        if path.suffix.lower() in BUILDERS and not (has_pictures and path.name in METADATA)
    }
    if len(kinds) + has_pictures > 1:
        what = [*sorted(kinds), *(["image"] if has_pictures else [])]
        raise ValueError(
            f"`dataset: {dataset}` holds {' and '.join(what)} files: name those meant, as in {dataset}/*.parquet."
        )
    if kinds:
        return kinds.pop()
    if not has_pictures and any(is_table(path, needs_caption) for path in paths):
        return "table"
    if has_pictures and (needed := needed - endings) and not any(path.suffix.lower() in endings for path in paths):
        raise FileNotFoundError(
            f"`dataset: {dataset}` holds images that Pillow alone does not read ({', '.join(sorted(needed))}): "
            f"`pip install {NEED_PLUGIN[min(needed)]}`."
        )
    if not has_pictures:
        words = [one.words() for one in found.values() if one.left_out]
        more = f" but {'; '.join(words)}" if words else ""
        raise FileNotFoundError(
            f"`dataset: {dataset}` holds no images, no .csv, .tsv or .jsonl tables that name some, and no .parquet, "
            f".arrow or .tar files{more}: lay images out as train/<class>/<file>, or point to another folder."
        )
    return "imagefolder"


def shards(found: dict[str, Listing], builder: str, dataset: str, streaming: bool) -> Splits:
    """Files of tables or of tar, their splits by a folder's name or the first word of their own."""
    named: dict[str, list[Path]] = {}
    for split, one in found.items():
        for path, parts in one.files:
            if BUILDERS.get(path.suffix.lower()) == builder:
                named.setdefault(split or shard_split(parts), []).append(path)
            else:
                one.leave_out(f"files that are no {builder}", parts)
    if set(named) - {""} and "" in named:
        raise ValueError(
            f"`dataset: {dataset}` has {', '.join(sorted(set(named) - {''}))}, and {named[''][0]} outside: move it "
            "into a split, or remove it."
        )
    tell(dataset, list(found.values()))
    for path in (path for paths in named.values() for path in paths if "::" in str(path)):
        raise ValueError(f"{path} has `::` in its path, which readers take for a chain of addresses: rename it.")
    # As a list that is already found: any other is taken for patterns.
    files = {
        name or "train": DataFilesList([str(path) for path in paths], [(str(path.stat().st_mtime),) for path in paths])
        for name, paths in named.items()
    }
    try:
        return datasets.load_dataset(builder, data_files=files, streaming=streaming)
    except Exception as error:  # of any reader, deep inside
        cause = error.__cause__ or error
        said = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise ValueError(
            f"`dataset: {dataset}` cannot be read as {builder} files ({said.rstrip('.')}): repair or remove the file, "
            "or choose files by `data_files` in `dataset_settings`."
        ) from error


def shard_split(parts: Parts) -> str:
    """Of data/train-00000-of-00002.parquet, of Testing/1.tar; "" where no word tells."""
    words = [*parts[:-1], re.split(r"[-_.]", parts[-1])[0]]
    return next((name for word in words if (name := split_of(word))), "")


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
