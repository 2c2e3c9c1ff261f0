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
"""The table of contents: base class, model, backbone, image classification.

B batch, C channels, H W pixels, h w grid, P prefix tokens, N tokens, D width, L labels.
"""

from typing import Any
from typing import Unpack

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_files import check_loading
from .configuration_checks import pair
from .configuration_heads import HeadFields  # for transformers, which copies what an entry names
from .configuration_keys import unknown_keys
from .configuration_presets import ModelPresets
from .configuration_stages import grid_at
from .configuration_vit_custom import ViTCustomConfig
from .modeling_adapting import adapt
from .modeling_adapting import keep_sizes
from .modeling_arguments import CheckedArguments
from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import NOTHING_MASKED
from .modeling_embeddings import Masking
from .modeling_embeddings import ViTCustomEmbeddings
from .modeling_embeddings import patch_grid
from .modeling_geometry import check_back_end
from .modeling_heads import POOL
from .modeling_heads import ViTCustomImageClassifierOutput
from .modeling_heads import classification_loss
from .modeling_heads import make_classifier
from .modeling_mixed_sizes import refuse_mixed_sizes
from .modeling_stages import ViTCustomBranchEnd
from .modeling_stages import ViTCustomLayer
from .modeling_stages import ViTCustomStage
from .near_names import near_miss


class ViTCustomPreTrainedModel(CheckedArguments, ModelPresets, PreTrainedModel):
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
        elif isinstance(module, ViTCustomAttention) and module.relative_position_bias_table is not None:
            init.trunc_normal_(module.relative_position_bias_table, std=self.config.initializer_range)
        elif isinstance(module, ViTCustomStage) and module.layer_position_embeddings is not None:
            init.trunc_normal_(module.layer_position_embeddings, std=self.config.initializer_range)
        elif isinstance(module, ViTCustomBranchEnd) and module.scale is not None:
            init.constant_(module.scale, self.config.layer_scale_init_value)

    def count_items(self, labels: torch.Tensor, **batch) -> torch.Tensor:
        """(B) or (B, L) -> (): the items of a batch that its loss is a mean over; see `num_items_in_batch`."""
        return ((labels != -100) | labels.is_floating_point()).sum()  # -100 may be a number to learn

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
        exactly these, in these shapes, raises RuntimeError. A head may be new; transformers' report names it.

        Other sizes than the checkpoint's adapt its tensors, in a line of the log: `patch_size` resamples the patch
        embedding's kernel (FlexiViT), `num_channels` sums or repeats it (timm), `window_size` resamples Swin's tables.
        """
        kwargs.update(ignore_mismatched_sizes=True, output_loading_info=True)
        sizes = keep_sizes(pretrained_model_name_or_path, kwargs)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model, info = loaded
        if pretrained_model_name_or_path is not None:
            check_loading(model, info, ignore_mismatched_sizes)
        adapt(model, sizes)
        return (model, info) if output_loading_info else model

    def resize_position_embeddings(self, new_num_position_embeddings: int | tuple[int, int]):
        """Draw the learned positions on another grid, (rows, columns) or a side, for good, to fine-tune them there;
        otherwise forward does it for each call, with the same output."""
        grid = pair(new_num_position_embeddings)
        model: Any = self.base_model
        for module in (model.embeddings, *model.stages):
            module.resize_positions(grid)
        self.config.position_grid = list(grid)

    def resize_patch_embeddings(self, new_patch_size: int | tuple[int, int]):
        """Resample the patch embedding to patches of another size in pixels, (height, width) or a side, for good."""
        adapt(self, {"patch_size": new_patch_size})


class ViTCustomModel(ViTCustomPreTrainedModel):
    """The bare model: images to tokens, and to one vector an image."""

    def __init__(self, config: ViTCustomConfig):
        config.validate_architecture()  # again: attributes may have been set since
        config.position_grid = config.position_grid or list(config.grid)  # stays when `image_size` changes later
        config.patch_kernel_size = list(pair(config.patch_size))
        super().__init__(config)
        check_back_end(config)
        self.embeddings = ViTCustomEmbeddings(config)
        self.stages = nn.ModuleList([ViTCustomStage(config, stage) for stage in config.stages])
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # CODEPATH: ViT and Swin norm all tokens; CLIP, PiT and mean-pooled ViTs the pooled one; the tutorial none.
        self.norm = norm if config.final_norm == "all" else nn.Identity()
        self.pooled_norm = norm if config.final_norm == "pooled" else nn.Identity()  # CODEPATH: as above
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, masking: Masking = NOTHING_MASKED, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """(B, C, H, W) -> `last_hidden_state` (B, N, D), `pooler_output` (B, D)"""
        refuse_mixed_sizes(kwargs)
        hidden_states = self.embeddings(pixel_values, masking=masking)
        grid = patch_grid(self.config, pixel_values)
        for stage in self.stages:
            hidden_states, grid = stage(hidden_states, grid=grid, **kwargs)
        last_hidden_state = self.norm(hidden_states)
        pooled = POOL[self.config.pooling](last_hidden_state, len(self.config.prefix_tokens))
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=self.pooled_norm(pooled))

    def patch_map(self, last_hidden_state: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, P + h * w, D), (B, C, H, W) -> (B, D, h, w): the patches, normed, as an image for dense heads."""
        patches = self.pooled_norm(last_hidden_state[:, len(self.config.prefix_tokens) :])
        return patches.transpose(1, 2).unflatten(2, grid_at(self.config, *pixel_values.shape[2:]))


class ViTCustomBackbone(BackboneMixin, ViTCustomPreTrainedModel):
    """The model as a source of feature maps, for transformers' detection and segmentation models.

    The maps are those of `config.stage_names`. A map passes through the model's own final norm if it is the last, or if
    all maps share a width and a grid; the others through norms of their own, which start anew (as Swin's do).
    """

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.plain = config.downsample == "none"
        widths = [config.hidden_size] * config.num_hidden_layers if self.plain else config.hidden_sizes
        self.num_features = [config.hidden_sizes[0], *widths]
        own = {} if self.plain else dict(zip(self.out_features, self.channels, strict=True))
        own.pop(self.stage_names[-1], None)
        self.feature_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in own.items()})
        self.post_init()

    def norm_of(self, name: str) -> nn.Module:
        if self.plain or name == self.stage_names[-1]:
            # CODEPATH: CLIP and PiT norm what they pool, the others all tokens
            return self.vit.pooled_norm if self.config.final_norm == "pooled" else self.vit.norm
        return self.feature_norms[name]

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """(B, C, H, W) -> `feature_maps`, one (B, D, h, w) for each of `out_features`"""
        refuse_mixed_sizes(kwargs)
        steps = [(self.vit.embeddings(pixel_values), patch_grid(self.config, pixel_values))]
        for stage in self.vit.stages:
            outputs = stage(steps[-1][0], grid=steps[-1][1], every_layer=True, **kwargs)
            steps += outputs if self.plain else outputs[-1:]
        maps = []
        for name, (hidden_states, grid) in zip(self.stage_names, steps, strict=True):
            if name in self.out_features:
                patches = self.norm_of(name)(hidden_states)[:, len(self.config.prefix_tokens) :]
                maps.append(patches.transpose(1, 2).unflatten(2, grid))
        return BackboneOutput(feature_maps=tuple(maps))


class ViTCustomForImageClassification(ViTCustomPreTrainedModel):
    """The model with a classifier on the image's vector, and in distilled models another on the distillation token."""

    def __init__(self, config: ViTCustomConfig):
        super().__init__(config)
        self.vit = ViTCustomModel(config)
        self.classifier = make_classifier(config)
        # CODEPATH: distilled DeiT and PiT
        self.distillation_classifier = make_classifier(config) if config.distillation_head else None
        self.loss_function = classification_loss
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> ViTCustomImageClassifierOutput | tuple:
        """(B, C, H, W) -> `logits` (B, L); with `labels` also the `loss` that `config.problem_type` declares.

        With a distillation head both heads' logits too; their average is `logits`, and the loss is the mean of theirs.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        outputs = self.vit(pixel_values, return_dict=True, **kwargs)
        heads = [self.classifier(outputs.pooler_output)]
        if self.distillation_classifier is not None:
            token = outputs.last_hidden_state[:, self.config.prefix_tokens.index("distillation")]
            heads.append(self.distillation_classifier(self.vit.pooled_norm(token)))
        losses = (self.loss_function(labels, logits, self.config, **kwargs) for logits in heads)
        loss = None if labels is None else sum(losses) / len(heads)
        cls_logits, distillation_logits = heads if len(heads) == 2 else (None, None)
        answer = ViTCustomImageClassifierOutput(
            loss=loss,
            logits=sum(heads) / len(heads),
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        # Not by transformers' decorator: as the outermost frame its older versions do not compile under torch 2.6.
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomBackbone", "ViTCustomForImageClassification", "ViTCustomModel", "ViTCustomPreTrainedModel"]
