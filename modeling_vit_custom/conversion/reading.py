"""Somebody's checkpoint from a folder, a file or the Hub: its tensors, its configuration, the hashes of its files."""

import hashlib
import json
import re
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

from .onnx_files import read_onnx
from .pickles import load_tensors
from .pickles import unwrap
from .sources import Checkpoint
from .sources import WeightFile

ONNX = ".onnx"
INDEXED = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".npz", ONNX, ".pth", ".pt", ".bin", ".ckpt", ".tar", ".th")  # .tar as in .pth.tar
# How files begin that stand for the weights: the sentence on each.
STAND_INS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the weights: run `git lfs pull` in its folder",
    b"<": "a web page, not the weights: download the file itself",
}
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
    try:
        names = list_repo_files(repo, revision=revision)
        safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
        weights = ["*.safetensors", "*.safetensors.index.json"]
        weights = weights if safe else ["*.bin", "*.bin.index.json", "*.pth", "*.npz"]
        wanted = ["config.json", "preprocessor_config.json", "processor_config.json", *weights]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except Exception as error:  # each version of the client has its own for a network that is not there
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(
            f"{repo} at {revision} was not fetched ({why}): correct its name, go online, or download it and give the "
            "folder."
        ) from error


def read_checkpoint(
    source: str | Path, config: str | Path | None = None, revision: str | None = None, prefix: str | None = None
) -> Checkpoint:
    """
    Args:
        source: a folder, a file of weights, or a Hub id.
        config: their config.json, where it does not lie beside the weights.
        revision: the full commit hash, for a Hub id.
        prefix: what chooses one of several models in a file.
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
    records, notes, entry = [], [], ""
    metadata: dict[str, str] | None = None
    told: dict[str, Any] | None = None  # a configuration that the file itself says
    for file in files:
        if file.suffix == ONNX:
            held, told = read_onnx(existing(file))
            metadata, note = {"format": "pt"}, ["the configuration is what the shapes and the graph say"]
        else:
            held, metadata, entry, note = read_weights(file, prefix)
        if twice := held.keys() & tensors.keys():
            raise ValueError(f"{file.name} repeats tensors of another file: {', '.join(sorted(twice))}.")
        tensors |= held
        records.append(WeightFile(file.name, sha256(file), metadata, tuple(held)))
        notes += note
    wrong = set(index["weight_map"]) ^ set(tensors) if index else set()
    if wrong:
        raise ValueError(f"The index and its files do not agree about {', '.join(sorted(wrong))}: download them again.")
    found = read_json(Path(config)) if config is not None else read_json(folder / "config.json")
    found = told if found is None and config is None else found
    if config is not None and found is None:
        raise FileNotFoundError(f"There is no configuration {config}.")
    processor = read_json(folder / "preprocessor_config.json")
    if processor is None:  # written by transformers' processors of pictures and text
        processor = (read_json(folder / "processor_config.json") or {}).get("image_processor")
    name = str(source) if not Path(source).exists() else path.stem if path.is_file() else path.name
    return Checkpoint(
        found or {}, tensors, processor, name, tuple(records), index, revision, notes=tuple(notes), entry=entry
    )


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
        if inner := [folder.name for folder in sorted(path.iterdir()) if (folder / "config.json").is_file()]:
            raise FileNotFoundError(f"{path} holds folders, no weights: name one of these, {', '.join(inner)}.")
        raise FileNotFoundError(f"{path} needs one file of weights, has {names}: name the file itself.")
    return None, found


def read_weights(
    file: Path, prefix: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str] | None, str, list[str]]:
    """(tensors, safetensors' metadata, the entry that they lie in, what was left out)."""
    with existing(file).open("rb") as opened:
        start = opened.read(64).lstrip()
    if not start:
        raise ValueError(f"{file} is empty: download it again.")
    for begins, what in STAND_INS.items():
        if start.startswith(begins):
            raise ValueError(f"{file} is {what}.")
    try:
        return parse_weights(file, prefix)
    except (SafetensorError, BadZipFile, EOFError, KeyError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is damaged, or not what its ending says ({why}): download it again.") from None


def existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"The index names {file.name}, which is not there: download it too.")
    return file


def parse_weights(
    file: Path, prefix: str | None
) -> tuple[dict[str, torch.Tensor], dict[str, str] | None, str, list[str]]:
    """The same, with the errors of each format."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata()
        if (written := (metadata or {}).get("format", "pt")) != "pt":
            raise ValueError(f"{file.name} holds weights as {written} lays them out: take the file for PyTorch.")
        return load_file(file), metadata, "", []
    if file.suffix == ".npz":
        with file.open("rb") as opened, numpy.load(opened, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}, None, "", []
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file.name} is no file of weights that is read here: {', '.join(SUFFIXES)}.")
    tensors, entry, notes = unwrap(load_tensors(file), file.name, prefix)
    return tensors, None, entry, notes
