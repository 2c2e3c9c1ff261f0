"""The same model in another library, to stand beside ours."""

import copy
from itertools import product

from torch import nn

from ..configuration_checks import WORDS
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .registry import SOURCES
from .returning import as_new
from .returning import nearest
from .sources import Source

# Libraries differ in these, and each knows its own word alone; at a checkpoint's native size no word acts.
AT_OTHER_SIZES = ("position_interpolation", "window_pad_order", "window_clamp")


def as_in(config: ViTCustomConfig, library: str, head: bool) -> tuple[Source, ViTCustomConfig]:
    """(a source of the library that can hold such a model, the configuration with that library's way at other sizes).

    Args:
        library: "timm" or "transformers", or a source by name.

    Raises:
        ValueError: the library has no such model; the sentences say why.
    """
    reasons = []
    sources = [source for source in SOURCES.values() if library in (source.name, source.library)]
    choices = [WORDS[name] for name in AT_OTHER_SIZES]
    own = tuple(getattr(config, name) for name in AT_OTHER_SIZES)
    for words in (own, *product(*choices)):
        candidate = copy.deepcopy(config)
        for name, word in zip(AT_OTHER_SIZES, words, strict=True):
            setattr(candidate, name, word)
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
