"""Folders that are there when they are complete, and not at all otherwise."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .sources import WeightFile


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` when the block ends well; else nothing is left.

    Raises:
        FileExistsError: there is something at `folder`; nothing is ever written over.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: name a new folder, nothing is written over.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # raises if it was filled meanwhile
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, content: Any, sort_keys: bool = True):
    """As transformers writes JSON."""
    path.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def write_weights(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    files: Sequence[WeightFile] = (),
    index: Mapping[str, Any] | None = None,
):
    """Their files again: the same tensors in the same ones, and the index; one model.safetensors where none is known.

    A pickled file comes back as safetensors: what was in it, without a pickle.
    """
    for file in files or [WeightFile("model.safetensors", "", {"format": "pt"}, tuple(tensors))]:
        metadata = dict(file.metadata) if file.metadata is not None else None
        name = Path(file.name).with_suffix(".safetensors").name
        save_file({key: tensors[key].contiguous() for key in file.tensors}, folder / name, metadata=metadata)
    if index:
        write_json(folder / "model.safetensors.index.json", index)
