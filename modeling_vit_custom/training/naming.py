"""What people call things: rows, classes, the folder of a checkpoint."""

from pathlib import Path
from typing import Any
from unicodedata import normalize

ID_COLUMNS = ("image_id", "id", "index")  # what a row may be known by, the first that it has


def name_of(position: int, row: dict[str, Any]) -> str:
    """A row of a batch, with the first id that it has."""
    ids = [f" ({name} {row[name]})" for name in ID_COLUMNS if name in row]
    return f"Row {position} of the batch{ids[0] if ids else ''}"


def class_names(config: Any) -> list[str] | None:
    """Of a configuration; None where they are transformers' for classes without one."""
    names = [normalize("NFC", str(config.id2label[index])) for index in sorted(config.id2label)]
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else names


def inside_run(name: str) -> str:
    """A checkpoint's folder as it is, of a run's folder the checkpoint in it."""
    folder = Path(name).expanduser()
    is_run = not (folder / "config.json").is_file() and (folder / "checkpoint/config.json").is_file()
    return str(folder / "checkpoint" if is_run else folder) if is_run or name.startswith("~") else name
