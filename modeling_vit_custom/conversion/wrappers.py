"""Names that a wrapper has made longer: DataParallel, torch.compile, FSDP, Lightning, a teacher, one's own class."""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import replace

from .sources import Checkpoint

# The first weight of a model, which every file of the family has once: what stands before it is where the model is.
FIRST = re.compile(
    r"(?P<path>(?:.*[./])?)(?P<anchor>patch_embed\.(?:proj|conv)\.weight|embedding/kernel"
    r"|embeddings\.(?:patch_embeddings\.projection|patch_embeddings|patch_embedding)\.weight)"
)
# Parts that stand before any module's name, also in the middle: of torch.compile, FSDP, checkpointing, fabric.
ANYWHERE = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_original_module)\."
)
# What a source's own names begin with.
TRANSFORMERS = ("vit.", "deit.", "swin.", "dinov2.", "dinov2_with_registers.", "vision_model.")
GOOGLE = ("params/", "opt/target/")
BARE = ("ViTModel", "DeiTModel", "SwinModel", "Dinov2Model", "Dinov2WithRegistersModel")
SEGMENTER = ("decoder.cls_emb", "decoder.head.weight")


def plain(name: str) -> str:
    return ANYWHERE.sub("", name)


def paths(names: Iterable[str]) -> list[str]:
    """Where models are, in the order of the file."""
    return list(dict.fromkeys(found["path"] for name in names if (found := FIRST.fullmatch(plain(name)))))


def holds_a_model(content: Mapping) -> bool:
    return bool(paths(key for key in content if isinstance(key, str)))


def without_own(path: str, names: Iterable[str], architecture: str) -> str:
    """The path less the part that is a source's own."""
    known = set(names)
    own: list[str] = [*GOOGLE]
    if any(name.startswith(f"{path}embeddings.") for name in known) and architecture not in BARE:
        own += TRANSFORMERS
    if f"{path}mask_token" in known:  # DINOv2 in training
        own.append("backbone.")
    if any(f"{path.removesuffix('encoder.')}{name}" in known for name in SEGMENTER):
        own.append("encoder.")
    found = next((part for part in own if re.search(rf"(^|[./]){re.escape(part)}$", path)), "")
    return path.removesuffix(found)


def unwrapped(checkpoint: Checkpoint, prefix: str | None = None) -> Checkpoint:
    """The checkpoint under its model's own names; what has other names is kept aside.

    Raises:
        ValueError: there are several models, and `prefix` does not choose one.
    """
    names = {plain(name): name for name in checkpoint.tensors}
    if len(names) < len(checkpoint.tensors):
        raise ValueError(
            f"{checkpoint.name} holds two tensors that differ in a wrapper's name alone: keep one of each."
        )
    architecture = (checkpoint.config.get("architectures") or [""])[0]
    prefixes = list(dict.fromkeys(without_own(path, names, architecture) for path in paths(names)))
    if prefix:  # as typed: with the entry, or without the last point
        prefix = prefix if prefix[-1] in "./" else f"{prefix}."
        prefix = prefix if prefix in prefixes else prefix.removeprefix(checkpoint.entry)
    if prefix and prefix not in prefixes:
        there = ", ".join(f"`{checkpoint.entry}{found}`" for found in prefixes if found) or "none"
        raise ValueError(
            f"No model's names begin with `{prefix}`, so that `--prefix` cannot choose it: there is {there}."
        )
    if len(prefixes) > 1 and prefix not in prefixes:
        quoted = [f"`{checkpoint.entry}{found}`" if found else "nothing" for found in prefixes]
        raise ValueError(
            f"{checkpoint.name} holds several models, whose names begin with {', '.join(quoted)}: choose one with "
            f"`--prefix`, as in `--prefix {checkpoint.entry}{prefixes[-1]}`."
        )
    chosen = prefix if prefix in prefixes else prefixes[0] if prefixes else ""
    others = tuple(found for found in prefixes if found != chosen and found.startswith(chosen))
    inner = {
        name.removeprefix(chosen): full
        for name, full in names.items()
        if name.startswith(chosen) and not (others and name.startswith(others))
    }
    outside = [full for full in names.values() if full not in set(inner.values())]
    if not outside and all(name == full for name, full in inner.items()):
        return checkpoint
    told = next((full.removesuffix(name) for name, full in inner.items() if full.endswith(name)), chosen)
    notes = [f"the prefix `{told}` was taken off its names"] if told else []
    if parts := sorted({part for full in inner.values() for part in ANYWHERE.findall(full.removeprefix(told))}):
        notes.append(f"`{'.`, `'.join(parts)}.` was taken out of its names")
    if outside:
        some = ", ".join(outside[:3]) + ", ..." * (len(outside) > 3)
        notes.append(f"{len(outside)} tensors of other names are kept aside, not converted: {some}")
    return replace(
        checkpoint,
        tensors={name: checkpoint.tensors[full] for name, full in inner.items()},
        names={name: full for name, full in inner.items() if name != full},
        outside={full: checkpoint.tensors[full].clone() for full in outside},  # two models may share memory
        notes=(*checkpoint.notes, *notes),
    )
