"""Somebody's checkpoint -> a folder of ours, with its proof and with all that is needed to go back."""

import logging
import re
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from ..modeling_vit_custom import ViTCustomPreTrainedModel
from .certificate import certify
from .equal_configs import differing
from .reading import read_checkpoint
from .registry import find_source
from .rename import Tensors
from .rename import choose
from .rename import load
from .sources import Checkpoint
from .sources import Source
from .wrappers import unwrapped
from .writing import new_folder
from .writing import write_json

logger = logging.getLogger(__name__)

ORIGIN = "source.json"  # what it takes to write the source's files again
ASIDE = "source_only.safetensors"  # the source's tensors that ours has no use for
PROCESSOR = "preprocessor_config.json"


def as_ours(checkpoint: Checkpoint, source: Source) -> tuple[ViTCustomPreTrainedModel, Tensors, str]:
    """(our model with these tensors, in their dtype; what is kept aside; the spelling of the names).

    Raises:
        ValueError: a setting or a tensor that does not fit; the sentences name them.
    """
    head = source.has_head(checkpoint)
    config = source.read_config(checkpoint)
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point()}
    config.dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    tables = source.tables(config, head)
    spelling = choose(tables, checkpoint.tensors)
    make: Any = ViTCustomForImageClassification if head else ViTCustomModel
    model, aside = load(make, config, checkpoint.tensors, tables[spelling])
    return model, aside, spelling


def from_transformers(model: Any) -> ViTCustomPreTrainedModel:
    """A model of transformers' ViT, DeiT, Swin, DINOv2, DINOv3, CLIP (its image tower) or ViTMAE (its encoder) as ours.

    In the same dtype, and sharing no memory with it.
    """
    settings = model.config.to_dict() | {"architectures": [type(model).__name__]}
    checkpoint = Checkpoint(settings, model.state_dict())
    return as_ours(checkpoint, find_source(checkpoint))[0].train(model.training)


def convert(
    source: str | Path,
    output: str | Path,
    config: str | Path | None = None,
    revision: str | None = None,
    name: str | None = None,
    preset: ViTCustomConfig | None = None,
    prefix: str | None = None,
) -> Path:
    """Write `output`: our model as save_pretrained writes it, its image processor, and the proof that it is theirs.

    Args:
        source: a folder, a file of weights, or a Hub id.
        config: their config.json, where it does not lie beside the weights.
        revision: the full commit hash, for a Hub id.
        name: which source it is, where the checkpoint does not say it.
        preset: our configuration of the model, for a file of tensors whose shapes do not say all.
        prefix: with what the names of one begin, where a file holds several models.

    Raises:
        ValueError: it does not fit, or does not compute the same; nothing was written.
    """
    with new_folder(output) as folder:
        read = unwrapped(replace(read_checkpoint(source, config, revision, prefix), preset=preset), prefix)
        kind = find_source(read, name)
        checkpoint = kind.configured(read)
        model, aside, spelling = as_ours(checkpoint, kind)
        notes = [*read.notes, *kind.notes(checkpoint), *kind.assumed(checkpoint, named=bool(name))]
        if checkpoint.config and not read.config and preset is None:
            notes.append(told_by_shapes(model.config, kind))  # type: ignore[arg-type]  # of ours
        if preset is not None:
            notes += unlike(preset, model.config, kind)  # type: ignore[arg-type]  # of ours
        if aside:
            notes.append(f"kept aside, for ours has no use for it: {shortened(aside)}")
        model.save_pretrained(folder)
        kept = {read.names.get(key, key): tensor for key, tensor in aside.items()} | dict(read.outside)
        if kept:
            save_file({key: tensor.contiguous() for key, tensor in kept.items()}, folder / ASIDE)
        processor = kind.read_processor(read)
        if processor is not None:
            write_json(folder / PROCESSOR, processor)
        else:
            notes.append("no image processor came with the source: find out how its pictures were prepared")
        write_json(folder / ORIGIN, origin(read, checkpoint, kind, spelling))
        for note in notes:
            logger.warning("%s: %s.", kind.name, note)
        write_json(folder / "parity.json", certify(folder, model, checkpoint, kind, notes), sort_keys=False)
    return Path(output)


def told_by_shapes(config: ViTCustomConfig, source: Source) -> str:
    return (
        f"no configuration came with the file: it is read with {config.num_attention_heads[0]} heads, `hidden_act` "
        f"{config.hidden_act!r}, `layer_norm_eps` {config.layer_norm_eps:g} and `position_interpolation` "
        f"{config.position_interpolation!r}, as most of {source.name} have; if it is another's, give `--config` or "
        "`--preset`"
    )


def shortened(names: Iterable[str]) -> str:
    """One line of them: numbered layers once."""
    kinds = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
    return ", ".join(kinds[:5]) + ", ..." * (len(kinds) > 5)


def unlike(preset: ViTCustomConfig, config: ViTCustomConfig, source: Source) -> list[str]:
    """What the preset says and the model is not, beside its classes and its nominal image size."""
    found = differing(preset, config, head=False)
    return [
        f"the preset's `{name}` {theirs!r} is not {source.name}'s, {ours!r}, which is taken"
        for name, (theirs, ours) in found.items()
        if name not in ("position_grid", "patch_kernel_size")
    ]


def origin(read: Checkpoint, checkpoint: Checkpoint, source: Source, spelling: str) -> dict[str, Any]:
    """source.json, of what was read and of the same with its configuration."""
    return {
        "source": source.name,
        "spelling": spelling,
        "head": source.has_head(checkpoint),
        "name": checkpoint.name if checkpoint.revision else Path(checkpoint.name).name,
        "revision": checkpoint.revision,
        "config": dict(read.config),
        "names": dict(read.names),
        "outside": list(read.outside),
        "preset": checkpoint.preset.to_dict() if checkpoint.preset else None,
        "processor": checkpoint.processor,
        "index": checkpoint.index,
        "files": [asdict(file) for file in checkpoint.files],
    }
