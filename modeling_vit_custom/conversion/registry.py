"""All sources, and the one that made a checkpoint."""

from .original_sources import SOURCES as ORIGINAL
from .sources import Checkpoint
from .sources import Source
from .timm_sources import SOURCES as TIMM
from .transformers_sources import SOURCES as TRANSFORMERS

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
    for source in [SOURCES[name]] if name is not None else SOURCES.values():
        if source.recognises(checkpoint):
            return source
    says = {
        key: checkpoint.config[key]
        for key in ("architectures", "architecture", "model_type")
        if key in checkpoint.config
    }
    if name is not None:
        raise ValueError(
            f"{name} does not know this checkpoint, whose configuration says {says}: leave `--source` out."
        )
    raise ValueError(
        f"No source knows this checkpoint: its configuration says {says or 'nothing'}, its first tensors are "
        f"{', '.join(sorted(checkpoint.tensors)[:3])}. If it has no configuration, name the source with `--source`: "
        f"{', '.join(SOURCES)}."
    )
