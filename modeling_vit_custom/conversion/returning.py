"""A folder of ours -> the layout of another library, bit for bit what it was where it came from there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .equal_configs import differing
from .equal_configs import lost_in_training
from .names import match
from .reading import read_checkpoint
from .reading import read_json
from .registry import SOURCES
from .rename import Table
from .rename import Tensors
from .rename import differences
from .rename import into_theirs
from .sources import Checkpoint
from .sources import Source
from .sources import WeightFile
from .writing import new_folder
from .writing import write_json
from .writing import write_weights

ENCODERS: dict[str, Any] = {make.__name__: make for make in (ViTCustomModel, ViTCustomForImageClassification)}


def no_counterpart(architecture: str) -> ValueError:
    headed = ViTCustomForImageClassification.__name__
    return ValueError(f"{architecture} has no counterpart elsewhere: save its backbone, or a {headed}, by itself.")


def read_model(folder: Path, classes: Mapping[str, Any]) -> tuple[Any, Any, Checkpoint]:
    """(its class, one of `classes`; its configuration; what lies there) of a folder that save_pretrained wrote.

    Raises:
        ValueError: another model; or the tensors are not those of the configuration: the two-sided list.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.config.get("model_type") not in {make.config_class.model_type for make in classes.values()}:
        raise ValueError(
            f"{folder} holds a {checkpoint.config.get('model_type')!r}, no model of ours: convert it first."
        )
    architecture = (checkpoint.config.get("architectures") or [""])[0]
    if architecture not in classes:
        raise no_counterpart(architecture)
    make = classes[architecture]
    config = make.config_class.from_dict(dict(checkpoint.config))
    with torch.device("meta"):
        expected = make(config).state_dict()
    if lines := differences(checkpoint.tensors, expected, ()):
        raise ValueError(f"The weights in {folder} do not fit its config.json:\n" + "\n".join(lines))
    return make, config, checkpoint


def read_ours(folder: Path) -> tuple[ViTCustomConfig, bool, Tensors]:
    """(configuration, whether it is a classifier, tensors) of an encoder's folder.

    Raises:
        ValueError: as `read_model`.
    """
    make, config, checkpoint = read_model(folder, ENCODERS)
    return config, make is ViTCustomForImageClassification, checkpoint.tensors


def read_origin(folder: Path) -> dict[str, Any] | None:
    """source.json of a converted folder, and the tensors kept aside: the model's, `aside`, and the file's others,
    `outside`."""
    known = read_json(folder / "source.json")
    if known is None:
        return None
    path = folder / "source_only.safetensors"
    kept = load_file(path) if path.is_file() else {}
    inner = {full: name for name, full in known.get("names", {}).items()}
    outside = {name: kept.pop(name) for name in known.get("outside", ()) if name in kept}
    return known | {"aside": {inner.get(full, full): tensor for full, tensor in kept.items()}, "outside": outside}


def turned_back(
    config: ViTCustomConfig, head: bool, tensors: Tensors, known: dict[str, Any]
) -> tuple[Source, Checkpoint] | None:
    """The source's own checkpoint with these tensors, without any library; None where the classifier came or went.

    Raises:
        ValueError: the tensors that were kept aside are gone.
    """
    source = SOURCES[known["source"]]
    if known["head"] != head:
        return None
    table = source.tables(config, head)[known["spelling"]]
    theirs = into_theirs(tensors, table, known["aside"])
    files = tuple(WeightFile(**{**file, "tensors": tuple(file["tensors"])}) for file in known["files"])
    preset = ViTCustomConfig.from_dict(known["preset"]) if known["preset"] else None
    where = (known["name"], files, known["index"], known["revision"], preset)
    others = dict(names=known.get("names", {}), outside=known["outside"])
    checkpoint = Checkpoint(known["config"], theirs, known["processor"], *where, **others)
    if gone := sorted({name for file in files for name in file.tensors} - checkpoint.in_files.keys()):
        raise ValueError(
            f"source_only.safetensors should hold {', '.join(gone)}: put the file back beside the weights."
        )
    return source, source.configured(checkpoint)


def as_it_was(
    config: ViTCustomConfig, head: bool, tensors: Tensors, known: dict[str, Any]
) -> tuple[Source, Checkpoint] | None:
    """The same; None where our model has become another than the source's configuration says."""
    found = turned_back(config, head, tensors, known)
    if found is None or differing(config, found[0].read_config(found[1]), head):
        return None
    return found


def as_new(
    config: ViTCustomConfig,
    head: bool,
    tensors: Tensors,
    to: str,
    known: dict[str, Any] | None,
    processor: dict[str, Any] | None,
) -> tuple[Source, Checkpoint, list[str]]:
    """(a source of the library `to`, or the one of that name; the checkpoint that it would have made; what is lost).

    Raises:
        ValueError: none can hold this model; the sentences say why.
    """
    reasons = []
    for source in sources_of(to):
        try:
            checkpoint, notes = in_layout(source, config, head, tensors, known, processor)
        except (ValueError, ImportError) as error:
            reasons.append(str(error))
            continue
        return source, checkpoint, notes
    raise ValueError(f"{to} has no layout that can hold this model; the nearest: {nearest(reasons)}")


def sources_of(to: str) -> list[Source]:
    """Those of a library, or the one of this name.

    Raises:
        ValueError: there is none.
    """
    found = [source for source in SOURCES.values() if to in (source.name, source.library)]
    if not found:
        libraries = sorted({source.library for source in SOURCES.values() if source.library})
        raise ValueError(f"There is no layout {to!r}: there are {', '.join([*libraries, *SOURCES])}.")
    return found


def in_layout(
    source: Source,
    config: ViTCustomConfig,
    head: bool,
    tensors: Tensors,
    known: dict[str, Any] | None,
    processor: Mapping[str, Any] | None,
) -> tuple[Checkpoint, list[str]]:
    """(the checkpoint that this source would have made; what its configuration cannot say of training).

    Raises:
        ValueError: it cannot hold this model; the sentence says why.
    """
    settings = source.write_config(config, head)
    table = next(iter(source.tables(config, head).values()))
    aside = known["aside"] if known and known["source"] == source.name else {}
    theirs = into_theirs(tensors, table, named_aside(aside, table))
    checkpoint = Checkpoint(
        source.with_processor(settings, processor) if processor else settings, theirs, processor, preset=config
    )
    return checkpoint, told_of_training(config, source.read_config(checkpoint))


def told_of_training(config: ViTCustomConfig, other: ViTCustomConfig) -> list[str]:
    return [f"`{name}` is {a!r} here and {b!r} there" for name, (a, b) in lost_in_training(config, other).items()]


def nearest(reasons: list[str]) -> str:
    """The one that objects to the fewest fields; a class that is not there objects to all."""
    return min(reasons, key=lambda reason: reason.count("`") or len(reason))


def named_aside(aside: Tensors, table: Table) -> dict[str, torch.Tensor]:
    rows = [name for entry in table if not entry.names[1] for name in entry.names[0]]
    return {key: tensor for key, tensor in aside.items() if any(match(name, key) is not None for name in rows)}


def back(ours: str | Path, output: str | Path, to: str | None = None) -> tuple[str, list[str]]:
    """Write `output`: the model in the folder `ours` as another library saves it.

    Args:
        to: "transformers", "timm", or a source by name; where it came from if None.

    Returns:
        the source's name, and what its configuration cannot say of training.

    Raises:
        ValueError: their layout cannot hold it; nothing was written.
    """
    folder = Path(ours)
    config, head, tensors = read_ours(folder)
    known = read_origin(folder)
    if to is None and known is None:
        raise ValueError(f"{folder} was not converted, so `--to` must say the layout: transformers or timm.")
    found = None
    if known is not None and to in (None, known["source"], SOURCES[known["source"]].library):
        found = as_it_was(config, head, tensors, known)
        to = to or SOURCES[known["source"]].library or known["source"]
    processor = read_json(folder / "preprocessor_config.json")
    source, checkpoint, notes = (*found, []) if found else as_new(config, head, tensors, str(to), known, processor)
    if known is not None and not found:
        if known.get("names"):
            notes = [*notes, "its names are not put back as the file had them, for the model has changed"]
        if known["outside"]:
            notes = [*notes, f"{len(known['outside'])} tensors of the file, not of this model, are left out"]
    if found:  # as the file was: without the configuration that was made for it
        checkpoint = replace(checkpoint, config=known["config"])  # type: ignore[index]  # where it came from
    with new_folder(output) as target:
        write_layout(target, checkpoint)
    return source.name, notes


def write_layout(folder: Path, checkpoint: Checkpoint):
    """Fill the empty `folder` with their files."""
    if checkpoint.config:
        write_json(folder / "config.json", dict(checkpoint.config))
    write_weights(folder, checkpoint.in_files, checkpoint.files, checkpoint.index)
    if checkpoint.processor is not None:
        write_json(folder / "preprocessor_config.json", dict(checkpoint.processor))
