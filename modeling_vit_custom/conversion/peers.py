"""The same model in another library, to stand beside ours."""

import copy
from collections.abc import Iterator
from itertools import product

from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .returning import as_new
from .returning import nearest
from .returning import sources_of
from .sources import Source

# Each library knows its own words alone for what it does at other sizes; at a checkpoint's native size no word acts.
AT_OTHER_SIZES: dict[str, dict[str, tuple[str, ...]]] = {
    "timm": {
        "position_interpolation": ("bicubic_antialias",),
        "window_pad_order": ("shift_then_pad",),
        "window_clamp": ("per_axis",),
    },
    "transformers": {
        "position_interpolation": ("bicubic", "bicubic_float32", "bicubic_antialias"),
        "window_pad_order": ("pad_then_shift",),
        "window_clamp": ("joint",),
    },
}


def ways(config: ViTCustomConfig, library: str) -> Iterator[ViTCustomConfig]:
    """The configuration itself, then with each of the library's ways at other sizes."""
    yield config
    words = AT_OTHER_SIZES.get(library, {})
    for choice in product(*words.values()):
        candidate = copy.deepcopy(config)
        for name, word in zip(words, choice, strict=True):
            setattr(candidate, name, word)
        yield candidate


def as_in(config: ViTCustomConfig, library: str, head: bool) -> tuple[Source, ViTCustomConfig]:
    """(a source of the library that can hold such a model, the configuration with that library's way at other sizes).

    Args:
        library: "timm" or "transformers", or a source by name.

    Raises:
        ValueError: the library has no such model; the sentences say why.
    """
    reasons = []
    sources = sources_of(library)
    for candidate in ways(config, sources[0].library):
        for source in sources:
            try:
                source.write_config(candidate, head)
            except ValueError as error:
                reasons.append(str(error))
            else:
                return source, candidate
    raise ValueError(f"{library} has no layout that can hold this model; the nearest: {nearest(reasons)}")


def peer(model: ViTCustomModel | ViTCustomForImageClassification, library: str) -> tuple[Source, nn.Module]:
    """(its source, their model with these tensors, in eval mode); at other sizes it goes the library's way.

    Raises:
        ValueError: as `as_in`.
    """
    head = isinstance(model, ViTCustomForImageClassification)
    source, config = as_in(model.config, library, head)
    checkpoint = as_new(config, head, model.state_dict(), source.name, None, None)[1]
    return source, source.build(checkpoint).eval()
