"""The one engine behind all rename tables."""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

# A row says where a tensor of the source goes: `{n}` is a layer, `{p}` is weight or bias. Several targets share the
# tensor's rows equally, in order: a fused projection.
Table = Mapping[str, str | tuple[str, ...]]
Model = TypeVar("Model", bound=nn.Module)
FIELDS = {"n": r"\d+", "p": "weight|bias"}


def pattern(name: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\w)\\\}", lambda field: f"(?P<{field[1]}>{FIELDS[field[1]]})", re.escape(name)))


def rename(
    state_dict: Mapping[str, torch.Tensor], table: Table, dropped: Iterable[str] = ()
) -> dict[str, torch.Tensor]:
    """The tensors under our names.

    Args:
        dropped: names of the source that have no counterpart here, and need none.

    Raises:
        ValueError: the source holds tensors that no row names.
    """
    rows = [(pattern(name), (targets,) if isinstance(targets, str) else targets) for name, targets in table.items()]
    rows += [(pattern(name), ()) for name in dropped]
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        for source, targets in rows:
            if match := source.fullmatch(name):
                for target, part in zip(targets, tensor.chunk(len(targets) or 1), strict=False):
                    renamed[target.format(**match.groupdict())] = part.contiguous()
                break
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"The source holds tensors that this conversion does not know: {', '.join(sorted(unknown))}.")
    return renamed


def load(model: Model, tensors: Mapping[str, torch.Tensor]) -> Model:
    """Put all `tensors` into `model`, in their own dtype.

    Raises:
        ValueError: a two-sided list, where names or shapes do not agree; nothing was loaded.
    """
    ours = model.state_dict()
    rows = [f"  missing from the source: {name}" for name in ours if name not in tensors]
    rows += [f"  in the source, not in the model: {name}" for name in tensors if name not in ours]
    rows += [
        f"  {name}: {tuple(tensor.shape)} in the source, {tuple(ours[name].shape)} in the model"
        for name, tensor in tensors.items()
        if name in ours and ours[name].shape != tensor.shape
    ]
    if rows:
        raise ValueError(f"The source does not fit {type(model).__name__}:\n" + "\n".join(rows))
    model.load_state_dict(tensors)
    return model
