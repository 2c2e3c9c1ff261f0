"""Somebody's checkpoint from a folder, a file or the Hub: its tensors, its configuration, the hashes of its files."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy
import torch
from huggingface_hub import list_repo_files
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.torch import load_file

from .sources import Checkpoint
from .sources import WeightFile

INDEXED = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
WRAPPERS = ("model", "state_dict", "teacher", "module")
COMMIT = re.compile("[0-9a-f]{40}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): write or download it again.") from None


def download(repo: str, revision: str | None) -> Path:
    """The folder of a Hub repository at one commit: configurations and weights, safetensors where it has them.

    Raises:
        ValueError: no full commit hash, since a branch's name means other weights tomorrow.
    """
    if not COMMIT.fullmatch(revision or ""):
        raise ValueError(
            f"{repo} is no file or folder here, and is taken from the Hub at one commit only, got "
            f"revision {revision!r}: pass `--revision` with the 40 hexadecimal digits that the repository's page shows "
            "under 'Files and versions', 'History'."
        )
    names = list_repo_files(repo, revision=revision)
    safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
    weights = ["*.safetensors", "*.safetensors.index.json"] if safe else ["*.bin", "*.bin.index.json", "*.pth", "*.npz"]
    wanted = ["config.json", "preprocessor_config.json", "processor_config.json", *weights]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))


def read_checkpoint(source: str | Path, config: str | Path | None = None, revision: str | None = None) -> Checkpoint:
    """
    Args:
        source: a folder, a file of weights, or a Hub id.
        config: their config.json, where it does not lie beside the weights.
        revision: the full commit hash, for a Hub id.
    """
    path = Path(source)
    if not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
            raise FileNotFoundError(f"{source} is no file, no folder and no Hub id (owner/name): give one of these.")
        path = download(str(source), revision)
    elif revision is not None:
        raise ValueError(f"{source} lies on this machine, where `--revision` means nothing: leave it out.")
    folder = path if path.is_dir() else path.parent
    index, files = weight_files(path)
    tensors: dict[str, torch.Tensor] = {}
    records, notes = [], []
    for file in files:
        held, metadata, note = read_weights(file)
        if twice := held.keys() & tensors.keys():
            raise ValueError(f"{file.name} repeats tensors of another file: {', '.join(sorted(twice))}.")
        tensors |= held
        records.append(WeightFile(file.name, sha256(file), metadata, tuple(held)))
        notes += note
    wrong = set(index["weight_map"]) ^ set(tensors) if index else set()
    if wrong:
        raise ValueError(f"The index and its files do not agree about {', '.join(sorted(wrong))}: download them again.")
    found = read_json(Path(config)) if config is not None else read_json(folder / "config.json")
    if config is not None and found is None:
        raise FileNotFoundError(f"There is no configuration {config}.")
    processor = read_json(folder / "preprocessor_config.json")
    if processor is None:  # written by transformers' processors of pictures and text
        processor = (read_json(folder / "processor_config.json") or {}).get("image_processor")
    name = str(source) if not Path(source).exists() else path.stem if path.is_file() else path.name
    return Checkpoint(found or {}, tensors, processor, name, tuple(records), index, revision, notes=tuple(notes))


def weight_files(path: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """(the index of a sharded checkpoint, its files)."""
    if path.is_file():
        return None, [path]
    for name in INDEXED:
        index = read_json(path / f"{name}.index.json")
        if index:
            shards = sorted(set(index["weight_map"].values()))
            if strange := [shard for shard in shards if Path(shard).name != shard]:
                raise ValueError(f"The index names files outside its folder: {', '.join(strange)}.")
            return index, [path / shard for shard in shards]
        if (path / name).is_file():
            return None, [path / name]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise FileNotFoundError(f"{path} needs one file of weights, has {names}: name the file itself.")
    return None, found


def read_weights(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str] | None, list[str]]:
    """(tensors, safetensors' metadata, what was left out)."""
    if not file.is_file():
        raise FileNotFoundError(f"The index names {file.name}, which is not there: download it too.")
    try:
        return parse_weights(file)
    except (SafetensorError, BadZipFile, EOFError, KeyError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{file} is damaged, or not what its ending says ({why}): download it again.") from None


def parse_weights(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str] | None, list[str]]:
    """The same, with the errors of each format."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata()
        return load_file(file), metadata, []
    if file.suffix == ".npz":
        with file.open("rb") as opened, numpy.load(opened, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}, None, []
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file.name} is no file of weights that is read here: {', '.join(SUFFIXES)}.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file.name} holds more than tensors, so torch's weights-only loader refuses it, as it should: take a "
            f"safetensors file of the same weights, or resave its state dict alone. ({str(error).splitlines()[0]})"
        ) from None
    return unwrap(content, file.name)


def unwrap(content: Any, name: str) -> tuple[dict[str, torch.Tensor], None, list[str]]:
    """The state dict within a pickled file, alone or beside a training's other things."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, not a state dict: resave its `state_dict()`.")
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            others = ", ".join(sorted(set(map(str, content)) - {wrapper}))
            note = [f"of {name} the entry {wrapper!r} was taken, not {others}"] if others else []
            return unwrap(content[wrapper], name)[0], None, note
    strange = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise ValueError(f"{name} holds what is no tensor: {', '.join(strange)}. Resave its `state_dict()` alone.")
    return dict(content), None, []
