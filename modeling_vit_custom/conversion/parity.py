"""The proof of a conversion: what ours and theirs compute on one picture, layer by layer, at two sizes, two dtypes."""

import platform
from collections.abc import Iterable
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from .probe import formula
from .probe import probe
from .sources import BARS
from .sources import Source
from .trace import trace_ours

GRADIENT = "pixel gradient"


def versions(*libraries: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "safetensors", *libraries):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sizes(config: ViTCustomConfig) -> dict[str, tuple[int, int]]:
    """The native size, and one that is not square and needs every grid anew."""
    height, width = pair(config.image_size)
    unit = [stride * 2 ** (len(config.depths) - 1) for stride in pair(config.patch_stride or config.patch_size)]
    return {"native": (height, width), "other": (height + unit[0], width + 2 * unit[1])}


def weigh(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A number that every element of the tensor has a part in."""
    return (tensor * formula(name, tensor.shape).to(tensor.dtype)).sum() / tensor.numel() ** 0.5


def outputs(model: nn.Module, config: ViTCustomConfig) -> dict[str, dict[str, float]]:
    """What our model computes in float64, one number a layer and size: kept to be recomputed."""
    model = model.to(torch.float64).eval()
    found = {}
    for label, size in sizes(config).items():
        with torch.no_grad():
            traced = trace_ours(model, probe(config.num_channels, *size))
        found[label] = {name: weigh(name, tensor).item() for name, tensor in traced.items()}
    return found


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """
    Raises:
        ValueError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"ours gives {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    absolute = (ours - theirs).abs().max().item()
    largest = theirs.abs().max().item()
    return {"absolute": absolute, "relative": absolute / largest if largest else absolute}


def compare(ours: nn.Module, theirs: nn.Module, source: Source, pixels: torch.Tensor) -> dict[str, dict[str, float]]:
    """layer -> the largest difference of what both compute there, and of the gradient of the pixels."""
    pictures = [pixels.clone().requires_grad_() for _ in range(2)]
    traced = trace_ours(ours, pictures[0]), source.trace(theirs, pictures[1])
    if strange := traced[1].keys() - traced[0].keys():
        raise ValueError(f"Theirs has {', '.join(sorted(strange))}, ours not: the trace names another model's layers.")
    rows = {name: difference(traced[0][name].detach(), traced[1][name].detach()) for name in traced[1]}
    last = list(traced[1])[-1]
    gradients = [torch.autograd.grad(weigh(last, trace[last]), x)[0] for trace, x in zip(traced, pictures, strict=True)]
    return rows | {GRADIENT: difference(*gradients)}


def measure(ours: nn.Module, config: ViTCustomConfig, source: Source, build: Any, dtypes: Iterable[str] = BARS) -> dict:
    """dtype -> size -> layer -> differences; of a size that theirs does not take, None.

    Args:
        build: dtype -> their model in it.
    """
    found: dict[str, Any] = {}
    for dtype in dtypes:
        kind = getattr(torch, dtype)
        model, theirs = ours.to(kind).eval(), build(kind)
        found[dtype] = {
            label: compare(model, theirs, source, probe(config.num_channels, *size).to(kind))
            if source.accepts(theirs, *size)
            else None
            for label, size in sizes(config).items()
        }
    return found


def largest(differences: dict) -> dict[str, float]:
    """dtype -> the largest relative difference anywhere."""
    return {
        dtype: max(row["relative"] for rows in by_size.values() if rows for row in rows.values())
        for dtype, by_size in differences.items()
    }


def check_bars(differences: dict, bars: Mapping[str, float]):
    """
    Raises:
        ValueError: a layer is further from theirs than the bars allow.
    """
    for dtype, by_size in differences.items():
        for label, rows in by_size.items():
            for name, row in (rows or {}).items():
                if not row["relative"] <= bars[dtype]:  # NaN neither
                    raise ValueError(
                        f"{name} differs from the source by {row['relative']:.1e} of its largest value in {dtype} at "
                        f"the {label} size, more than {bars[dtype]:.0e}: this is not the source's model."
                    )
