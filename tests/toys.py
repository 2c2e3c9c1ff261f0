"""A sound checkpoint of somebody else's model, and the ways to spoil it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save_file

from tests.support import ROOT
from tests.support import fill
from tests.toy.configuration_toy import ToyConfig
from tests.toy.modeling_toy import ToyForImageClassification

AUTO_MAP = {
    "AutoConfig": "configuration_toy.ToyConfig",
    "AutoModel": "modeling_toy.ToyModel",
    "AutoModelForImageClassification": "modeling_toy.ToyForImageClassification",
}
CODE = ("configuration_toy", "layers_toy", "modeling_toy")
Spoil = Callable[[Path], None]


def make_toy(folder: Path) -> Path:
    """As its author would publish it: weights, config.json with the whole `auto_map`, every file of code."""
    torch.manual_seed(0)
    fill(ToyForImageClassification(ToyConfig(num_labels=3, auto_map=AUTO_MAP))).save_pretrained(folder)
    for name in CODE:
        shutil.copyfile(ROOT / f"tests/toy/{name}.py", folder / f"{name}.py")
    return folder


def replaced(file: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path):
        text = (folder / file).read_text()
        assert old in text, (file, old)
        (folder / file).write_text(text.replace(old, new))

    return spoil


def added(file: str, text: str, after: str | None = None) -> Spoil:
    """At the end of a file, or after the first line that begins with `after`."""

    def spoil(folder: Path):
        path = folder / file
        lines = path.read_text().splitlines() if path.is_file() else []
        at = len(lines) if after is None else next(n for n, line in enumerate(lines) if line.startswith(after)) + 1
        path.write_text("\n".join([*lines[:at], text, *lines[at:]]) + "\n")

    return spoil


def configured(file: str = "config.json", drop: tuple[str, ...] = (), **values) -> Spoil:
    def spoil(folder: Path):
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        content = {key: value for key, value in content.items() if key not in drop} | values
        (folder / file).write_text(json.dumps(content))

    return spoil


def mapped(**entries) -> Spoil:
    return configured(auto_map={key: value for key, value in (AUTO_MAP | entries).items() if value is not None})


def weighed(change: Callable[[dict], dict]) -> Spoil:
    def spoil(folder: Path):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return spoil


def written(file: str, content: bytes | str) -> Spoil:
    def spoil(folder: Path):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def spoiled(sound: Path, folder: Path, *spoils: Spoil) -> Path:
    shutil.copytree(sound, folder)
    for spoil in spoils:
        spoil(folder)
    return folder
