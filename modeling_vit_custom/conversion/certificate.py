"""parity.json: what a conversion was made of and how close it is; and the same recomputed from the folder alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .equal_configs import differing
from .parity import check_bars
from .parity import largest
from .parity import measure
from .parity import outputs
from .parity import sizes
from .parity import versions
from .probe import digest
from .probe import probe
from .reading import read_json
from .reading import sha256
from .returning import read_origin
from .returning import read_ours
from .returning import turned_back
from .sources import Checkpoint
from .sources import Source

# How far our own outputs may be from the recorded ones: another machine adds in another order, in float64.
DRIFT = 1e-9


def probes(config: ViTCustomConfig) -> dict[str, dict[str, Any]]:
    """The pictures of both sizes, by hash."""
    return {
        label: {"size": list(size), "sha256": digest({"probe": probe(config.num_channels, *size)})}
        for label, size in sizes(config).items()
    }


def weight_hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def folder_hashes(folder: Path) -> dict[str, str]:
    """Of all that the folder is loaded from; not of the card, nor of parity.json itself."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != ".")
    return {path.name: sha256(path) for path in files if path.name not in ("README.md", "parity.json")}


def check_record(said: dict, known: dict, source: Source):
    """
    Raises:
        ValueError: parity.json contradicts itself, source.json, or the bars of its source.
    """
    files = {file["name"]: file["sha256"] for file in known["files"]}
    for key, recorded, expected in (
        ("source.kind", said["source"]["kind"], source.name),
        ("source.files", said["source"]["files"], files),
        ("source.revision", said["source"]["revision"], known["revision"]),
        ("bars", said["bars"], dict(source.bars)),
        ("largest", said["largest"], largest(said["differences"]) if said["differences"] else None),
    ):
        if recorded != expected:
            raise ValueError(f"parity.json says {recorded!r} of `{key}`, it should be {expected!r}: convert again.")
    check_bars(said["differences"] or {}, source.bars)


def differences(
    model: nn.Module, config: ViTCustomConfig, checkpoint: Checkpoint, source: Source
) -> tuple[dict | None, str]:
    """(the differences, or None; why)."""

    def build(dtype: torch.dtype) -> nn.Module:
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in checkpoint.tensors.items()}
        return source.build(replace(checkpoint, tensors=tensors))

    try:
        found = measure(model, config, source, build)
    except ImportError as error:
        return None, str(error)
    if not any(rows for by_size in found.values() for rows in by_size.values()):
        return None, "the source's own model takes images of neither size of the probe"
    check_bars(found, source.bars)
    return found, ""


def certify(folder: Path, model: nn.Module, checkpoint: Checkpoint, source: Source, notes: list[str]) -> dict[str, Any]:
    """What parity.json says of a model that was just written into `folder`; `model` is in another dtype afterwards.

    Raises:
        ValueError: it does not compute what the source computes.
    """
    config = model.config
    computed = outputs(model, config)  # type: ignore[arg-type]  # of ours
    found, why = differences(model, config, checkpoint, source)  # type: ignore[arg-type]  # of ours
    return {
        "source": {
            "kind": source.name,
            "files": {file.name: file.sha256 for file in checkpoint.files},
            "tensors": digest(checkpoint.in_files),
            "revision": checkpoint.revision,
        },
        "versions": versions(*filter(None, [source.library])),
        "weights": weight_hashes(folder),
        "folder": folder_hashes(folder),
        "probe": probes(config),  # type: ignore[arg-type]
        "bars": dict(source.bars),
        "largest": largest(found) if found else None,
        "differences": found,
        "not compared": why or None,
        "outputs": computed,
        "notes": notes,
    }


def verify(folder: str | Path) -> list[str]:
    """Recompute what parity.json says from the folder alone; a sentence for each thing that holds.

    Raises:
        ValueError: something no longer holds.
    """
    folder = Path(folder)
    said = read_json(folder / "parity.json")
    known = read_origin(folder)
    if said is None or known is None:
        raise ValueError(f"{folder} has no parity.json and source.json: convert the source again.")
    if (now := weight_hashes(folder)) != said["weights"]:
        changed = [name for name in {**now, **said["weights"]} if now.get(name) != said["weights"].get(name)]
        raise ValueError(f"{', '.join(changed)} is not the file that was certified: convert the source again.")
    config, head, tensors = read_ours(folder)
    if probes(config) != said["probe"]:
        raise ValueError("The probe pictures are not those of parity.json: `image_size` in config.json has changed.")
    holds = ["the weights are the certified files", "the probe pictures are the same"]
    found = turned_back(config, head, tensors, known)
    if found is None:
        raise ValueError("config.json names another class than the certified one: convert the source again.")
    source, checkpoint = found
    if digest(checkpoint.in_files) != said["source"]["tensors"]:
        raise ValueError("The weights turned back are not the source's, bit for bit: convert the source again.")
    holds.append("turned back, the tensors are the source's, bit for bit")
    try:
        different = differing(config, source.read_config(checkpoint), head)
    except ImportError:  # the comparison below says so
        different = {}
    if different:
        raise ValueError(
            f"config.json no longer says what the source's says of {', '.join(different)}: convert it again."
        )
    make: Any = ViTCustomForImageClassification if head else ViTCustomModel
    with torch.device("meta"):
        model = make(config)
    model.load_state_dict(tensors, assign=True)
    check_outputs(outputs(model, config), said["outputs"])
    check_record(said, known, source)
    if (now := folder_hashes(folder)) != said["folder"]:
        changed = [name for name in {**now, **said["folder"]} if now.get(name) != said["folder"].get(name)]
        raise ValueError(f"{', '.join(changed)} is not as it was certified: convert the source again.")
    holds.append("code, configuration and image processor are the certified files")
    compared, why = differences(model, config, checkpoint, source)
    holds.append(f"our own outputs are the recorded ones within {DRIFT:.0e}")
    if compared is None:
        return [*holds, f"not compared with the source's own model: {why}"]
    worst = ", ".join(f"{value:.1e} in {dtype}" for dtype, value in largest(compared).items())
    return [*holds, f"the source's own model computes the same, layer by layer: at most {worst}"]


def check_outputs(now: dict, said: dict):
    """
    Raises:
        ValueError: our model computes something else than it did.
    """
    if {label: set(rows) for label, rows in now.items()} != {label: set(rows) for label, rows in said.items()}:
        raise ValueError("The model has other layers than parity.json speaks of: convert the source again.")
    for label, rows in now.items():
        for name, value in rows.items():
            if not math.isclose(value, said[label][name], rel_tol=DRIFT, abs_tol=DRIFT):
                raise ValueError(
                    f"{name} at the {label} size is {value!r} on the probe and was {said[label][name]!r}: this code or "
                    "this configuration computes something else than what was certified."
                )
