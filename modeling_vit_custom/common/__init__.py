"""The ground floor: what every wing may import, and what imports nothing of ours."""

from .extras import extra
from .frozen import frozen

__all__ = ["extra", "frozen"]
