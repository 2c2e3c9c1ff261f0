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
"""The table of contents: base class, model, image classification.

B batch, C channels, H W pixels, P prefix tokens, N tokens, D width, L labels.
"""

from typing import Any
from typing import Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_files import check_loading
from .configuration_vit_custom import ViTCustomConfig
from .configuration_vit_custom import pair
from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import ViTCustomEmbeddings
from .modeling_heads import POOL
from .modeling_heads import classification_loss
from .modeling_heads import make_classifier
from .modeling_stages import ViTCustomBranchEnd
from .modeling_stages import ViTCustomLayer
from .modeling_stages import ViTCustomStage


class ViTCustomPreTrainedModel(PreTrainedModel):
    """Initial weights, loading, and what transformers asks of a model."""

    config: ViTCustomConfig
    config_class = ViTCustomConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # a tuple in transformers' own ViT too
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTCustomEmbeddings", "ViTCustomLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ViTCustomLayer, "attentions": ViTCustomAttention}
    _input_embed_layer = "patch_embeddings"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)  # linear, convolution: normal(0, initializer_range), bias 0; norms: 1, bias 0
        if isinstance(module, ViTCustomEmbeddings):
            for tokens in (module.prefix_tokens, module.position_embeddings):
                if tokens is not None:
                    init.trunc_normal_(tokens, std=self.config.initializer_range)
        elif isinstance(module, ViTCustomBranchEnd) and module.scale is not None:
            init.constant_(module.scale, self.config.layer_scale_init_value)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """As transformers', except that no backbone tensor is ever initialised anew: a checkpoint that does not hold
        exactly these, in these shapes, raises RuntimeError. A head may be new; transformers' report names it."""
        kwargs.update(ignore_mismatched_sizes=True, output_loading_info=True)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model, info = loaded
        if pretrained_model_name_or_path is not None:
            check_loading(model, info, ignore_mismatched_sizes)
        return (model, info) if output_loading_info else model

    def resize_position_embeddings(self, new_num_position_embeddings: int | tuple[int, int]):
        """Draw the learned positions on another grid, (rows, columns) or a side, for good, to fine-tune them there.

        Without this, they are resampled to each image's grid in forward, with the same output.
        """
        embeddings: ViTCustomEmbeddings = self.base_model.embeddings  # type: ignore[assignment]
        embeddings.resize_positions(pair(new_num_position_embeddings))


class ViTCustomModel(ViTCustomPreTrainedModel):
    """The bare model: images to tokens, and to one vector an image."""

    def __init__(self, config: ViTCustomConfig):
        config.validate_architecture()  # again: attributes may have been set since
        config.position_grid = config.position_grid or list(config.grid)  # stays when `image_size` changes later
        super().__init__(config)
        self.embeddings = ViTCustomEmbeddings(config)
        self.stages = nn.ModuleList([ViTCustomStage(config, stage) for stage in config.stages])
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # CODEPATH: ViT norms all tokens, mean-pooled ViTs of timm and MAE the pooled vector, the tutorial nothing.
        self.norm = norm if config.final_norm == "all" else nn.Identity()
        # CODEPATH: as above
        self.pooled_norm = norm if config.final_norm == "pooled" else nn.Identity()
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """(B, C, H, W) -> `last_hidden_state` (B, N, D), `pooler_output` (B, D)"""
        hidden_states, grid = self.embeddings(pixel_values)
        for stage in self.stages:
            hidden_states, grid = stage(hidden_states, grid, **kwargs)
        last_hidden_state = self.norm(hidden_states)
        pooled = POOL[self.config.pooling](last_hidden_state, len(self.config.prefix_tokens))
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=self.pooled_norm(pooled))


class ViTCustomForImageClassification(ViTCustomPreTrainedModel):
    """The model with a classifier on the image's vector."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.classifier = make_classifier(config)
        self.loss_function = classification_loss
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ImageClassifierOutput | tuple:
        """(B, C, H, W) -> `logits` (B, L); with `labels` also the `loss` that `config.problem_type` declares."""
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        outputs = self.vit(pixel_values, return_dict=True, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        answer = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        # Not by transformers' decorator: as the outermost frame its older versions do not compile under torch 2.6.
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomForImageClassification", "ViTCustomModel", "ViTCustomPreTrainedModel"]
