"""All sources, and the one that made a checkpoint."""

import re

from ..configuration_vit_custom import ViTCustomConfig
from .families import OURS
from .families import refuse_others
from .original_sources import SOURCES as ORIGINAL
from .sources import Checkpoint
from .sources import Source
from .timm_sources import SOURCES as TIMM
from .transformers_sources import SOURCES as TRANSFORMERS

OWN = re.compile(r"(^|\.)stages\.\d+\.layers\.\d+\.attention\.o_proj\.weight$")
SOURCES: dict[str, Source] = {source.name: source for source in (*TRANSFORMERS, *TIMM, *ORIGINAL)}


def find_source(checkpoint: Checkpoint, name: str | None = None) -> Source:
    """
    Args:
        name: the source, where a checkpoint does not say it.

    Raises:
        ValueError: no source, or not this one, made the checkpoint.
    """
    if name is not None and name not in SOURCES:
        raise ValueError(f"There is no source {name!r}: there are {', '.join(SOURCES)}.")
    says = {
        key: checkpoint.config[key]
        for key in ("architectures", "architecture", "model_type")
        if key in checkpoint.config
    }
    if str(says.get("model_type", "")).startswith(ViTCustomConfig.model_type):
        raise ValueError(
            f"{checkpoint.name} is a model of ours already: load it by from_pretrained, or write another layout by "
            "`--back`."
        )
    if any(OWN.search(key) for key in checkpoint.tensors):
        raise ValueError(
            f"The names of {checkpoint.name}'s tensors are those of a model of ours: build it from its configuration, "
            "and load them by `load_state_dict`, without what stands before `vit.`."
        )
    refuse_others(checkpoint.tensors)
    if name is not None and says and not SOURCES[name].library:
        raise ValueError(
            f"{name} is for files without a configuration, and this one's says {says}: leave `--source` out, or move "
            "the file of tensors away from its config.json."
        )
    for source in [SOURCES[name]] if name is not None else SOURCES.values():
        if source.recognises(checkpoint) or (name is not None and not says and source.knows_names(checkpoint.tensors)):
            return source
    if says and name is not None:
        raise ValueError(
            f"{name} does not know this checkpoint, whose configuration says {says}: leave `--source` out."
        )
    first = ", ".join(sorted(checkpoint.tensors)[:3])
    if says:
        raise ValueError(
            f"No source knows this checkpoint, whose configuration says {says} and whose first tensors are {first}: "
            f"take a model of {OURS}."
        )
    fits = [s for s in SOURCES.values() if s.recognises(checkpoint) or s.knows_names(checkpoint.tensors)]
    if known := [source.name for source in fits]:
        raise ValueError(
            f"The names of {checkpoint.name}'s tensors fit {', '.join(known)}: give its config.json with `--config`, "
            f"or name one with `--source {known[0]}` and a preset of the same sizes by `--preset`."
        )
    raise ValueError(
        f"No source knows the names of {checkpoint.name}'s tensors, such as {first}: take a file of one of these, "
        f"{', '.join(SOURCES)}."
    )
