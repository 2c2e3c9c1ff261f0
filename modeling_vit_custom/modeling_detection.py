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
"""Object detection: queries that a decoder lets look at the patches (DETR), or tokens among the patches (YOLOS).

B batch, C channels, H W pixels, D width, Q queries, L labels, n decoder layers.
"""

from dataclasses import dataclass
from typing import Any
from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils import TransformersKwargs

# Some for transformers 5.8 alone, which copies to a user's machine what an entry names itself.
from .checkpoint_files import check_loading
from .configuration_checks import pair
from .configuration_heads import HeadFields
from .configuration_keys import unknown_keys
from .configuration_presets import ModelPresets
from .configuration_stages import make_decoder
from .configuration_vit_custom import ViTCustomConfig
from .modeling_adapting import adapt
from .modeling_arguments import may_look
from .modeling_attention import ViTCustomAttention
from .modeling_detection_decoder import ViTCustomDetectionDecoder
from .modeling_detection_loss import check_sizes
from .modeling_detection_loss import check_targets
from .modeling_detection_loss import count_boxes
from .modeling_detection_loss import detection_loss
from .modeling_embeddings import Masking
from .modeling_geometry import Geometry
from .modeling_heads import POOL
from .modeling_mixed_sizes import in_batch_order
from .modeling_mixed_sizes import same_size_parts
from .modeling_stages import ViTCustomLayer
from .modeling_vit_custom import ViTCustomModel
from .modeling_vit_custom import ViTCustomPreTrainedModel
from .near_names import near_miss


@dataclass
class ViTCustomObjectDetectionOutput(ModelOutput):
    """Boxes are (centre x, centre y, width, height), each from 0 to 1 of its own image's size, whatever the padding.

    Args:
        loss (`torch.FloatTensor` of shape `()`, with `labels`): the weighted sum of the parts.
        loss_dict (`dict[str, torch.FloatTensor]`, with `labels`): the parts, under transformers' names.
        logits (`torch.FloatTensor` of shape `(batch_size, num_queries, num_labels + 1)`): the last is "no object".
        pred_boxes (`torch.FloatTensor` of shape `(batch_size, num_queries, 4)`).
        auxiliary_outputs (`list[dict]`, with `labels`): `logits` and `pred_boxes` of the decoder's earlier layers.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_queries, hidden_size)`): what they are read
            from: the decoder's output, or the detection tokens.
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): the encoder's.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    auxiliary_outputs: list[dict[str, torch.Tensor]] | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class ViTCustomPredictor(nn.Module):
    """Three linear maps with ReLU between them."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, size) for size in (width, width, num_outputs)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., L)"""
        first, second, last = self.layers
        return last(second(first(hidden_states).relu()).relu())


class ViTCustomForObjectDetection(ViTCustomPreTrainedModel):
    """The model with a class and a box for each query: of a decoder on the patches, or of its own detection tokens."""

    accepts_loss_kwargs = False  # a plain Trainer does not count boxes: it takes the mean over micro-batches
    _no_split_modules = ["ViTCustomEmbeddings", "ViTCustomLayer", "ViTCustomDetectionLayer"]

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.box_decoder = None
        num_classes = (config.num_labels or 0) + 1  # the last: no object
        self.class_labels_classifier: nn.Module
        if "detection" in config.prefix_tokens:  # CODEPATH: YOLOS
            first = config.prefix_tokens.index("detection")
            self.detection_tokens = first, first + config.prefix_tokens.count("detection")
            width = config.hidden_size
            self.class_labels_classifier = ViTCustomPredictor(width, num_classes)
        else:  # CODEPATH: DETR
            self.box_decoder = ViTCustomDetectionDecoder(config)
            width = self.box_decoder.norm.normalized_shape[0]
            self.class_labels_classifier = nn.Linear(width, num_classes)
        self.bbox_predictor = ViTCustomPredictor(width, 4)
        self.loss_function = detection_loss
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTCustomDetectionDecoder):
            init.normal_(module.query_positions)
        elif isinstance(module, nn.Linear):  # of the head: transformers asks the encoder for its own
            # As in DETR's released code: from small weights a decoder whose norms come last hardly learns.
            init.xavier_uniform_(module.weight)

    def count_items(self, labels: list[dict], **batch) -> torch.Tensor:  # type: ignore[override]
        """() -> (2): boxes and images, which the parts of the loss are means over."""
        check_targets(labels, self.config.num_labels or 0)
        return count_boxes(labels, self.config.prefix_tokens.count("detection") or self.config.num_queries)

    def queries(self, pixel_values: torch.Tensor, **kwargs) -> tuple[torch.Tensor, BaseModelOutputWithPooling]:
        """(B, C, H, W) -> (B, n, Q, D), the encoder's output: what classes and boxes are read from."""
        outputs = self.vit(pixel_values, return_dict=True, **kwargs)
        if self.box_decoder is not None:
            return self.box_decoder(self.vit.patch_map(outputs.last_hidden_state, pixel_values)), outputs
        first, end = self.detection_tokens
        return self.vit.pooled_norm(outputs.last_hidden_state[:, None, first:end]), outputs

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        labels: list[dict] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ViTCustomObjectDetectionOutput | tuple:
        """(B, C, H, W) -> `logits` (B, Q, L + 1), `pred_boxes` (B, Q, 4); with `labels` also the `loss`.

        Images of several sizes share a batch by `pixel_mask` (B, H, W), 0 on the padding; each is computed by itself.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        num_items_in_batch: Any = kwargs.pop("num_items_in_batch", None)
        parts = [(at, *self.queries(images, **kwargs)) for at, images in same_size_parts(pixel_values, pixel_mask)]
        outputs = parts[0][2]
        if len(parts) > 1 and (outputs.hidden_states or outputs.attentions):
            raise ValueError(
                "Hidden states and attentions of images of several sizes are no single tensors: ask for them with one "
                "size at a time, or not at all."
            )
        states = in_batch_order([(at, found) for at, found, _ in parts])  # (B, n, Q, D)
        if labels is None or not self.config.auxiliary_loss:  # CODEPATH: training sets it for DETR
            states = states[:, -1:]
        logits = self.class_labels_classifier(states).transpose(0, 1)  # (n, B, Q, L + 1)
        pred_boxes = self.bbox_predictor(states).sigmoid().transpose(0, 1)
        loss = loss_dict = None
        if labels is not None:
            loss, loss_dict = self.loss_function(logits, pred_boxes, labels, self.config, num_items_in_batch)
            if pixel_mask is not None:
                check_sizes(labels, pixel_mask)
        earlier = zip(logits[:-1], pred_boxes[:-1], strict=True)
        answer = ViTCustomObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits[-1],
            pred_boxes=pred_boxes[-1],
            auxiliary_outputs=[dict(zip(("logits", "pred_boxes"), layer, strict=True)) for layer in earlier] or None,
            last_hidden_state=states[:, -1],
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomForObjectDetection"]
