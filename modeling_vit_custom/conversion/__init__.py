"""Foreign checkpoints as ours and back, with a proof: one rename table per source, and the configuration that goes
with it."""

from .certificate import verify
from .converting import convert
from .converting import from_transformers
from .peers import as_in
from .peers import peer
from .registry import SOURCES
from .registry import find_source
from .returning import back
from .timm_sources import from_timm
from .twins import twin_rows
from .twins import write_twin

__all__ = [
    "SOURCES",
    "as_in",
    "back",
    "convert",
    "find_source",
    "from_timm",
    "from_transformers",
    "peer",
    "twin_rows",
    "verify",
    "write_twin",
]
