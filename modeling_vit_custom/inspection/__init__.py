"""Looking at models: what they cost, and where a number comes from."""

from .cost import count_macs
from .cost import count_parameters
from .provenance import birth_certificate

__all__ = ["birth_certificate", "count_macs", "count_parameters"]
