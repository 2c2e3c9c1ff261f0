"""How a person finds a row again."""

from typing import Any

ID_COLUMNS = ("image_id", "id", "index")  # what a row may be known by, the first that it has


def name_of(position: int, row: dict[str, Any]) -> str:
    """A row of a batch, with the first id that it has."""
    ids = [f" ({name} {row[name]})" for name in ID_COLUMNS if name in row]
    return f"Row {position} of the batch{ids[0] if ids else ''}"
