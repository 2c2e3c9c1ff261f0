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
"""Segmenter: a class for each pixel ("Segmenter: Transformer for Semantic Segmentation").

B batch, C channels, H W pixels, h w grid, P prefix tokens, N tokens (P + h * w), D width, L labels.
"""

from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import TransformersKwargs

# Those that are not used here are for transformers, which copies only what an entry names.
from .checkpoint_files import check_loading
from .configuration_checks import pair
from .configuration_heads import HeadFields
from .configuration_keys import unknown_keys
from .configuration_presets import ModelPresets
from .configuration_stages import DecoderSettings
from .configuration_stages import make_decoder
from .configuration_vit_custom import ViTCustomConfig
from .modeling_adapting import adapt
from .modeling_arguments import may_look
from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import ViTCustomEmbeddings
from .modeling_geometry import Geometry
from .modeling_heads import make_classifier
from .modeling_mixed_sizes import in_batch_order
from .modeling_mixed_sizes import same_size_parts
from .modeling_stages import ViTCustomLayer
from .modeling_vit_custom import ViTCustomModel
from .modeling_vit_custom import ViTCustomPreTrainedModel
from .near_names import near_miss


class ViTCustomLinearDecoder(nn.Module):
    """A linear map of each patch (section 3.2, "Linear")."""

    def __init__(self, config):
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, patch_map: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) -> (B, L, h, w)"""
        return self.classifier(patch_map.movedim(1, 3)).movedim(3, 1)


class ViTCustomScale(nn.Module):
    """A gain and an offset for each class."""

    def __init__(self, num_labels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels))
        self.bias = nn.Parameter(torch.empty(num_labels))

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """(B, h * w, L) -> (B, h * w, L)"""
        return masks * self.weight + self.bias


class ViTCustomMaskTransformer(nn.Module):
    """Patches and one learned vector a class attend to each other; how alike they then are is the class's mask (section
    3.2, "Mask Transformer")."""

    def __init__(self, config):
        super().__init__()
        settings, stage = DecoderSettings(config), make_decoder(config, "masks")
        width = stage.hidden_size
        self.num_labels = config.num_labels
        self.projection = nn.Linear(config.hidden_size, width)
        self.class_embeddings = nn.Parameter(torch.empty(1, config.num_labels, width))
        self.layers = nn.ModuleList([ViTCustomLayer(settings, stage, layer) for layer in range(stage.depth)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.patch_projection = nn.Linear(width, width, bias=False)
        self.class_projection = nn.Linear(width, width, bias=False)
        config.mask_norm = config.mask_norm or ("scale" if config.num_labels < 4 else "layer_norm")
        # CODEPATH: Segmenter's own; new models of two or three classes, whose LayerNorm leaves hardly more than signs
        norm = nn.LayerNorm if config.mask_norm == "layer_norm" else ViTCustomScale
        self.mask_norm = norm(config.num_labels, eps=config.layer_norm_eps)

    def forward(self, patch_map: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) -> (B, L, h, w)"""
        patches = self.projection(patch_map.flatten(2).transpose(1, 2))
        classes = self.class_embeddings.expand(patches.shape[0], -1, -1).to(patches.dtype)
        hidden_states = torch.cat((patches, classes), dim=1)  # (B, h * w + L, D')
        for layer in self.layers:
            hidden_states = layer(hidden_states, geometry=Geometry())
        patches, classes = self.norm(hidden_states).tensor_split((-self.num_labels,), dim=1)
        patches = nn.functional.normalize(self.patch_projection(patches), dim=-1)
        classes = nn.functional.normalize(self.class_projection(classes), dim=-1)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))  # (B, h * w, L)
        return masks.transpose(1, 2).unflatten(2, patch_map.shape[2:])


DECODER = {"linear": ViTCustomLinearDecoder, "mask_transformer": ViTCustomMaskTransformer}


def whole_side(config, side: int, axis: int) -> int:
    """The least length in pixels, from `side` on, that whole patches fill and that merging halves without a rest."""
    patch, stride = pair(config.patch_size)[axis], pair(config.patch_stride or config.patch_size)[axis]
    count = max(side - patch + stride - 1, 0) // stride + 1
    if config.downsample == "merge":  # CODEPATH: Swin; PiT's convolution centres its tokens whatever the grid
        count += -count % 2 ** (len(config.depths) - 1)
    return patch + (count - 1) * stride


def check_pixel_labels(
    labels: torch.Tensor, logits: torch.Tensor, ignore_index: int, pixel_mask: torch.Tensor | None = None
):
    """(B, H, W), (B, L, H, W), (B, H, W) -> nothing; raises where `labels` cannot be meant.

    Values are looked at on CPU only, since elsewhere it would stall the device; beside a mask, which stalls it too,
    everywhere: padding that is labelled as a class would be learned.
    """
    expected, num_labels = (logits.shape[0], *logits.shape[2:]), logits.shape[1]
    if labels.is_floating_point() or labels.shape != expected:
        raise ValueError(
            f"`labels` must be one integer a pixel, (batch, height, width) as `pixel_values`, here {expected}, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}: take both from one call of the image processor."
        )
    if pixel_mask is not None and (labels != ignore_index)[~pixel_mask.bool()].any():
        raise ValueError(
            f"Some `labels` where `pixel_mask` is 0 are classes: pad the labels with {ignore_index} "
            "(`semantic_loss_ignore_index`), as the images with 0."
        )
    if not may_look(labels):
        return
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= num_labels))]
    if len(wrong):
        raise ValueError(
            f"Label {int(wrong[0])} is out of range: `num_labels` is {num_labels}, so labels are 0 to {num_labels - 1} "
            f"(or {ignore_index}, ignored: `semantic_loss_ignore_index`). Set `num_labels`, or map the labels."
        )


def segmentation_loss(labels, logits, config, pixel_mask=None, num_items_in_batch=None, **kwargs) -> torch.Tensor:
    """(B, H, W), (B, L, H, W) -> scalar: cross entropy, the mean over the pixels that are not ignored.

    Or, given the number of such pixels in a whole optimizer step (`num_items_in_batch`), this batch's share of that
    step's mean. Where every pixel is ignored the loss is 0, and so is each gradient: such a batch says nothing, and a
    mean over no pixels would be NaN, which one empty crop could spread to every weight.
    """
    ignore_index = config.semantic_loss_ignore_index
    labels = labels.to(logits.device)
    check_pixel_labels(labels, logits, ignore_index, pixel_mask)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = nn.functional.cross_entropy(logits, labels.long(), ignore_index=ignore_index, reduction="sum")
    count = (labels != ignore_index).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return losses / (count + (count == 0)).to(losses.device)


class ViTCustomForSemanticSegmentation(ViTCustomPreTrainedModel):
    """The model with a decoder that gives each pixel a class."""

    accepts_loss_kwargs = False  # a plain Trainer counts labels that are not -100; see `count_items`
    _no_split_modules = ["ViTCustomEmbeddings", "ViTCustomLayer", "ViTCustomMaskTransformer"]

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        if (config.num_labels or 0) < 2:
            raise ValueError(
                f"Segmentation chooses between classes for each pixel, and `num_labels` is {config.num_labels}: set it "
                "to at least 2, the background being one."
            )
        self.vit = ViTCustomModel(config)
        # CODEPATH: Segmenter's Seg-*-Mask and its Seg-*
        self.mask_decoder = DECODER[config.segmentation_decoder](config)
        self.loss_function = segmentation_loss
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTCustomMaskTransformer):
            init.trunc_normal_(module.class_embeddings, std=self.config.initializer_range)
            for projection in (module.patch_projection, module.class_projection):  # as in the original
                init.normal_(projection.weight, std=projection.in_features**-0.5)
        elif isinstance(module, ViTCustomScale):
            init.constant_(module.weight, 8.0)  # cosines alone, from -1 to 1, could not make a loss small
            init.zeros_(module.bias)

    def count_items(self, labels: torch.Tensor, **batch) -> torch.Tensor:
        """(B, H, W) -> (): the pixels that are not ignored."""
        return (labels != self.config.semantic_loss_ignore_index).sum()

    def segment(self, pixel_values: torch.Tensor, **kwargs) -> tuple[torch.Tensor, BaseModelOutputWithPooling]:
        """(B, C, H, W) -> (B, L, H, W), and what the encoder returned.

        As in the original, the image is filled up below and to the right with zeros (the mean colour) to whole patches,
        and the masks are cut to its size: each token is drawn where it looked, and every pixel was seen.
        """
        height, width = pixel_values.shape[-2:]
        below, right = whole_side(self.config, height, 0) - height, whole_side(self.config, width, 1) - width
        pixel_values = nn.functional.pad(pixel_values, (0, right, 0, below))
        outputs = self.vit(pixel_values, return_dict=True, **kwargs)
        masks = self.mask_decoder(self.vit.patch_map(outputs.last_hidden_state, pixel_values))
        masks = nn.functional.interpolate(masks, size=pixel_values.shape[2:], mode="bilinear", align_corners=False)
        return masks[:, :, :height, :width], outputs

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput | tuple:
        """(B, C, H, W) -> `logits` (B, L, H, W); with `labels` (B, H, W) also the `loss`.

        `pixel_mask` (B, H, W) is 1 on each image and 0 on the padding below and to the right of it: images are computed
        at their own sizes. In the padding logits are 0, and labels must be `config.semantic_loss_ignore_index`.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        parts = same_size_parts(pixel_values, pixel_mask)
        results = [(index, *self.segment(images, **kwargs)) for index, images in parts]
        _, logits, outputs = results[0]
        if len(parts) > 1 and (outputs.hidden_states or outputs.attentions):
            raise ValueError(
                "Images of several sizes have hidden states and attentions of several shapes: ask for them without "
                "`pixel_mask`, one size at a time."
            )
        if pixel_mask is not None:
            height, width = pixel_values.shape[2:]
            room = [(0, width - part.shape[3], 0, height - part.shape[2]) for _, part, _ in results]
            padded = [(index, nn.functional.pad(part, r)) for (index, part, _), r in zip(results, room, strict=True)]
            logits = in_batch_order(padded)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, pixel_mask=pixel_mask, **kwargs)
        answer = SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomForSemanticSegmentation"]
