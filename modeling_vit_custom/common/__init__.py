"""The ground floor: what every wing may import, and what imports nothing of ours."""

from .extras import extra

__all__ = ["extra"]
