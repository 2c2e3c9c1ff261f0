"""The same model in another library, to stand beside ours."""

from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .equal_configs import ways
from .returning import as_new
from .returning import nearest
from .returning import sources_of
from .sources import Source


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
