"""What tables beside pictures say of them: metadata.csv, .jsonl or .parquet with a column `file_name`, as `datasets`
has it; `mask_file_name` names another picture of the row, `mask`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet
from datasets import Features
from datasets import Image

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
NAME = "file_name"


@dataclass
class Table:
    path: Path
    rows: list[dict[str, Any]]
    features: Features

    @property
    def pictures(self) -> dict[str, str]:
        """Columns of files' names -> what the columns of their pictures are called."""
        found = [name for name in self.features if name == NAME or name.endswith(f"_{NAME}")]
        return {name: name.removesuffix(NAME).rstrip("_") or "image" for name in found}

    def path_of(self, name: str) -> Path:
        return Path(os.path.normpath(self.path.parent / name))


def read_table(path: Path) -> Table:
    """
    Raises:
        ValueError: it cannot be read.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            mark = "," if path.suffix.lower() == ".csv" else "\t"
            texts = pd.read_csv(path, sep=mark, dtype=str, keep_default_na=False, na_values=[""])
            table = pa.Table.from_pandas(texts.apply(meant), preserve_index=False)
        elif path.suffix.lower() == ".jsonl":
            table = pyarrow.json.read_json(str(path))
        else:
            table = pyarrow.parquet.ParquetFile(path).read()
        return Table(path, table.to_pylist(), Features.from_arrow_schema(table.schema))
    except Exception as error:  # of any reader, deep inside
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{path} cannot be read ({said}): repair it, or move it away.") from error


def meant(texts: pd.Series) -> pd.Series:
    """A column of a CSV file as numbers or truths where each text is one, as 7 and unlike 07; None where empty."""
    there = texts.dropna()
    if len(there) and there.str.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?").all():
        return pd.to_numeric(texts)
    if len(there) == len(texts) and there.isin(["True", "False"]).all():
        return texts == "True"
    return texts.astype(object).where(texts.notna(), None)


def rows_of(tables: list[Table], known: dict[Path, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Each row's picture as `known` has it, and the row's columns.

    Raises:
        FileNotFoundError: a row names a file that is not there.
        ValueError: a row names none, or the tables have different columns.
    """
    made = []
    for table in tables:
        if table.features != tables[0].features:
            raise ValueError(f"{tables[0].path} and {table.path} have different columns: give both the same.")
        first = next(iter(table.pictures))
        for number, row in enumerate(table.rows):
            if not row[first]:
                raise ValueError(f"{table.path} has no `{first}` in row {number}: write it, or remove the row.")
            for column in table.pictures:
                if row[column] and table.path_of(row[column]) not in known:
                    raise FileNotFoundError(
                        f"{table.path} names {row[column]!r} in row {number}, no picture there: remove the row."
                    )
            columns = {
                table.pictures.get(name, name): file(table.path_of(value))
                if name in table.pictures and value
                else value
                for name, value in row.items()
            }
            made.append((known[table.path_of(row[first])], columns))
    return made


def features_of(table: Table) -> Features:
    return Features(
        {
            table.pictures.get(name, name): Image() if name in table.pictures else kind
            for name, kind in table.features.items()
        }
    )


def file(path: Path) -> dict[str, Any]:
    """A file as datasets.Image has it."""
    return {"bytes": None, "path": str(path)}
