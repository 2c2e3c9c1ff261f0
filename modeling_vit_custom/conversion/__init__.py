"""Foreign checkpoints as ours: one rename table per source, and the configuration that goes with it."""

from .timm_vit import from_timm
from .transformers_vit import from_transformers

__all__ = ["from_timm", "from_transformers"]
