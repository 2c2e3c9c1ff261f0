"""Looking at models: what they cost, and where a number comes from."""

from .attention_maps import LayerAttention
from .attention_maps import attention_maps
from .attention_maps import enlarge
from .attention_maps import layer_attentions
from .attention_maps import rollout
from .attention_picture import draw_attention
from .cost import RECOMPUTED
from .cost import cost
from .cost import largest
from .cost import memory
from .cost import total
from .cost_layer import Cost
from .cost_layer import Run
from .counters import count_kept_bytes
from .counters import count_macs
from .counters import count_parameters
from .counters import count_peak_bytes
from .provenance import birth_certificate
from .speed import interleaved
from .speed import ratio

__all__ = [
    "RECOMPUTED",
    "Cost",
    "LayerAttention",
    "Run",
    "attention_maps",
    "birth_certificate",
    "cost",
    "count_kept_bytes",
    "count_macs",
    "count_parameters",
    "count_peak_bytes",
    "draw_attention",
    "enlarge",
    "interleaved",
    "largest",
    "layer_attentions",
    "memory",
    "ratio",
    "rollout",
    "total",
]
