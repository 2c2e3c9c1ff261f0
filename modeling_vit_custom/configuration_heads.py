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
"""The fields that heads add to the encoder's, and a sentence for each mistake in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields
from typing import Any

PROBABILITIES = ("mask_ratio", "decoder_dropout_prob", "eos_coefficient")
COUNTS = (
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
    "num_queries",
)
COSTS = ("class_cost", "bbox_cost", "giou_cost", "bbox_loss_coefficient", "giou_loss_coefficient")
SEGMENTATION_WORDS = {
    "segmentation_decoder": ("mask_transformer", "linear"),
    "mask_norm": (None, "layer_norm", "scale"),
}


@dataclass
class HeadFields:
    r"""What a model with a head knows beyond its encoder; a head reads its own fields alone.

    Args:
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_intermediate_size (`int`,
            *optional*): the decoder's width, layers, heads and feed-forward width; if unset those of the head's paper:
            512, 8, 16, 2048 for pre-training (MAE); the encoder's width, 2, one a 64 channels, four times the width for
            segmentation (Segmenter); 256, 6, 8, 2048 for detection (DETR).
        decoder_dropout_prob (`float`): dropout in the decoder; 0.1 in DETR and Segmenter.
        mask_ratio (`float`): the share of patches that pre-training hides (MAE).
        norm_pix_loss (`bool`): pre-training predicts each patch's pixels after their mean and deviation are taken out.
        segmentation_decoder (`str`): `"mask_transformer"` or `"linear"` (Segmenter, 3.2).
        mask_norm (`str`, *optional*): how a mask transformer's cosines become logits: `"layer_norm"` over the classes
            (Segmenter), which of two leaves little but the sign, or a learned `"scale"` and offset a class. A model
            sets it when built: `"scale"` for two or three classes, else `"layer_norm"`.
        semantic_loss_ignore_index (`int`): a label that no pixel's loss counts.
        num_queries (`int`): how many objects a detection decoder can find. A model with `"detection"` tokens among its
            `prefix_tokens` has one a token instead, and no decoder (YOLOS).
        auxiliary_loss (`bool`): each layer of the detection decoder is trained to detect.
        class_cost, bbox_cost, giou_cost (`float`): weights of the matching of predictions to objects.
        bbox_loss_coefficient, giou_loss_coefficient (`float`): weights of the losses of the boxes.
        eos_coefficient (`float`): weight of the class "no object" in the loss.
    """

    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int | None = None
    decoder_num_attention_heads: int | None = None
    decoder_intermediate_size: int | None = None
    decoder_dropout_prob: float | int = 0.0
    mask_ratio: float | int = 0.75
    norm_pix_loss: bool = True
    segmentation_decoder: str = "mask_transformer"
    mask_norm: str | None = None
    semantic_loss_ignore_index: int = 255
    num_queries: int = 100
    auxiliary_loss: bool = True
    class_cost: float | int = 1
    bbox_cost: float | int = 5
    giou_cost: float | int = 2
    bbox_loss_coefficient: float | int = 5
    giou_loss_coefficient: float | int = 2
    eos_coefficient: float | int = 0.1


def without_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a file needs it: without the fields that its head leaves alone, or has no use for."""
    defaults = {field.name: field.default for field in fields(HeadFields)}
    return {key: value for key, value in settings.items() if key not in defaults or value != defaults[key]}


def head_problems(config) -> Iterator[str]:
    """What no head can be built with, a sentence each."""
    for name in COUNTS:
        value = getattr(config, name)
        if value is not None and value < 1:
            yield f"`{name}` must be positive, got {value}."
    for name in PROBABILITIES:
        if not 0 <= getattr(config, name) <= 1:
            yield f"`{name}` must be from 0 to 1, got {getattr(config, name)}."
    for name in COSTS:
        if not getattr(config, name) >= 0:
            yield f"`{name}` must not be negative, got {getattr(config, name)}."
    if not config.class_cost + config.bbox_cost + config.giou_cost > 0:
        yield "`class_cost`, `bbox_cost` and `giou_cost` are all 0: objects cannot be matched, raise one of them."
    detection = [place for place, token in enumerate(config.prefix_tokens) if token == "detection"]
    if detection and detection[-1] - detection[0] >= len(detection):
        yield "`prefix_tokens` has 'detection' tokens with others between them: put them side by side."
    for name, words in SEGMENTATION_WORDS.items():
        if getattr(config, name) not in words:
            yield f"`{name}` must be one of {', '.join(map(str, words))}; got {getattr(config, name)!r}."
