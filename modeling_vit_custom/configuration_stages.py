# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The rows that modules are built from: each stage of the encoder, the layers of a head's decoder; and their grids."""

from dataclasses import dataclass
from typing import Any
from typing import NamedTuple

from .configuration_checks import pair


@dataclass(frozen=True)
class StageConfig:
    """One row of the parallel lists: what a stage needs to know of itself."""

    index: int
    input_size: int  # the width that comes in
    hidden_size: int
    depth: int
    num_attention_heads: int
    intermediate_size: int
    drop_path_rates: tuple[float, ...]
    downsample: str


def make_stages(config) -> list[StageConfig]:
    """The encoder's. Linear drop path grows over the layers of all stages (Huang et al. 2016, section 3)."""
    lists = (config.hidden_sizes, config.depths, config.num_attention_heads)
    last, first, rows, before = max(config.num_hidden_layers - 1, 1), 0, [], config.hidden_sizes[0]
    for index, (width, depth, heads) in enumerate(zip(*lists, strict=True)):
        rates = tuple(config.drop_path_rate * layer / last for layer in range(first, first + depth))
        if config.drop_path_schedule == "constant":
            rates = (config.drop_path_rate,) * depth
        intermediate_size = config.intermediate_size or int(width * config.mlp_ratio)
        downsample = config.downsample if index else "none"
        rows.append(StageConfig(index, before, width, depth, heads, intermediate_size, rates, downsample))
        first, before = first + depth, width
    return rows


def grid_at(config, height: int, width: int, stage: int = -1) -> tuple[int, int]:
    """(rows, columns) of the tokens of an image of `height` x `width` pixels, after a stage; 0 is the first."""
    patch, stride = pair(config.patch_size), pair(config.patch_stride or config.patch_size)
    rows, columns = (height - patch[0]) // stride[0] + 1, (width - patch[1]) // stride[1] + 1
    for _ in range(stage % len(config.depths) if config.downsample != "none" else 0):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return rows, columns


class Decoder(NamedTuple):
    """What a head's decoder is where the configuration does not say otherwise; None goes by the encoder's width D."""

    hidden_size: int | None
    num_hidden_layers: int
    num_attention_heads: int | None  # None: as wide as 64 each, and as many as divide D
    intermediate_size: int | None  # None: 4 * D


DECODERS = {
    "pixels": Decoder(512, 8, 16, None),  # "Masked Autoencoders Are Scalable Vision Learners", 4.1
    "masks": Decoder(None, 2, None, None),  # "Segmenter: Transformer for Semantic Segmentation", 4.1
    "boxes": Decoder(256, 6, 8, 2048),  # "End-to-End Object Detection with Transformers", A.4
}


def make_decoder(config, name: str) -> StageConfig:
    """The row of one of `DECODERS`, with the fields that the configuration sets."""
    default = DECODERS[name]
    width = config.decoder_hidden_size or default.hidden_size or config.hidden_size
    depth = config.decoder_num_hidden_layers or default.num_hidden_layers
    heads = config.decoder_num_attention_heads or default.num_attention_heads or max(width // 64, 1)
    intermediate_size = config.decoder_intermediate_size or default.intermediate_size or 4 * width
    if width % heads or width % 4:
        raise ValueError(
            f"`decoder_hidden_size` must be a multiple of 4 and of `decoder_num_attention_heads`, got {width} for "
            f"{heads} heads: set both."
        )
    return StageConfig(0, config.hidden_size, width, depth, heads, intermediate_size, (0.0,) * depth, "none")


class DecoderSettings:
    """The encoder's configuration as a plain transformer decoder sees it: other values for a few names, the same live
    object for the rest, so that a later change of the attention's back-end reaches the decoder too."""

    def __init__(self, config, **changes: Any):
        plain: dict[str, Any] = dict(
            window_size=None,
            layer_scale_init_value=None,
            gated_mlp=False,
            qk_norm=False,
            qkv_biases=[True] * 3,
            norm_placement="pre",
            hidden_act="gelu",
            hidden_dropout_prob=config.decoder_dropout_prob,
            attention_probs_dropout_prob=config.decoder_dropout_prob,
        )
        vars(self).update(config=config, **plain | changes)

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "config":  # asked for by copy and pickle before there is one
            raise AttributeError(name)
        return getattr(self.config, name)
