"""Rows with boxes and masks, of every layout that people have them in; and which layout and task a place holds."""

from .columns import as_needed
from .columns import image_and_mask
from .dense import scenes
from .finding import Found
from .finding import find_layout
from .scene import DENSE

__all__ = ["DENSE", "Found", "as_needed", "find_layout", "image_and_mask", "scenes"]
