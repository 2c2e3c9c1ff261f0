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
"""An image tower of ours beside a text tower of transformers', in one space (CLIP: "Learning Transferable Visual Models
From Natural Language Supervision"; SigLIP: "Sigmoid Loss for Language Image Pre-Training").

B batch, C channels, H W pixels, M tokens of a caption, E width of the shared space.
"""

from typing import Any
from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils import TransformersKwargs

# Those that are not used here are for transformers, which copies only what an entry names.
from .checkpoint_files import check_loading
from .configuration_checks import pair
from .configuration_dual_encoder import ViTCustomDualEncoderConfig
from .configuration_heads import HeadFields
from .configuration_keys import unknown_keys
from .configuration_presets import ModelPresets
from .configuration_stages import StageConfig
from .configuration_vit_custom import ViTCustomConfig
from .modeling_adapting import adapt
from .modeling_arguments import may_look
from .modeling_attention import ViTCustomAttention
from .modeling_contrastive import CappedScale
from .modeling_contrastive import as_features
from .modeling_contrastive import check_captions
from .modeling_contrastive import contrastive_loss
from .modeling_contrastive import num_processes
from .modeling_contrastive import num_text_positions
from .modeling_contrastive import pool_text
from .modeling_contrastive import similarity
from .modeling_embeddings import ViTCustomEmbeddings
from .modeling_geometry import Geometry
from .modeling_heads import make_classifier
from .modeling_mixed_sizes import refuse_mixed_sizes
from .modeling_stages import ViTCustomLayer
from .modeling_vit_custom import ViTCustomModel
from .modeling_vit_custom import ViTCustomPreTrainedModel
from .near_names import near_miss


class ViTCustomDualEncoder(ViTCustomPreTrainedModel):
    """How well images and captions fit each other.

    In training on several processes, an image meets the captions of all of them, and the averaged gradient is that of
    one process with the whole batch. Accumulated batches do not meet: each is a smaller problem, with fewer wrong
    captions to tell apart, and the gradient is the mean of theirs. In evaluation every process works by itself.
    """

    config: ViTCustomDualEncoderConfig  # type: ignore[assignment]
    config_class = ViTCustomDualEncoderConfig  # type: ignore[assignment]
    base_model_prefix = "dual_encoder"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")  # type: ignore[assignment]
    accepts_loss_kwargs = False

    def __init__(
        self,
        config: ViTCustomDualEncoderConfig,
        vision_model: ViTCustomModel | None = None,
        text_model: PreTrainedModel | None = None,
    ):
        config.validate_architecture()  # again: attributes may have been set since
        super().__init__(config)
        vision: Any = config.vision_config
        text: Any = config.text_config
        self.vision_model = ViTCustomModel(vision) if vision_model is None else vision_model
        text_model = AutoModel.from_config(text) if text_model is None else text_model
        config.vision_config, config.text_config = self.vision_model.config, text_model.config  # theirs, where given
        self.text_model = getattr(text_model, "text_model", text_model)  # transformers 5.5 wraps CLIP's
        # CODEPATH: text towers with a pooler, such as BERT, where another pooling is chosen
        if config.text_pooling != "pooler_output" and getattr(self.text_model, "pooler", None) is not None:
            self.text_model.pooler = None  # it would never be used, and never learn
        # CODEPATH: towers that look both ways, such as BERT, may take "cls"; those that look back, such as GPT-2, not
        if config.text_pooling == "cls" and any(getattr(m, "is_causal", False) for m in self.text_model.modules()):
            raise ValueError(
                f"`text_pooling='cls'` takes the first token, which in {type(self.text_model).__name__} sees no other: "
                "set it to 'last'."
            )
        self.num_text_positions = num_text_positions(self.text_model)
        self.visual_projection = nn.Linear(vision.pooled_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(1))  # no scalar: FSDP could not shard it
        # CODEPATH: SigLIP, not CLIP
        self.logit_bias = nn.Parameter(torch.empty(1)) if config.contrastive_loss == "sigmoid" else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self:
            for projection in (self.visual_projection, self.text_projection):
                init.normal_(projection.weight, std=projection.in_features**-0.5)
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)
            if self.logit_bias is not None:
                init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision_model_name_or_path: str, text_model_name_or_path: str, dtype: torch.dtype = torch.float32, **kwargs
    ):
        """A new model from two trained towers: the backbone of any of our checkpoints, a text model of transformers'.

        Args:
            dtype: of the whole model, whatever the towers were saved in.
            kwargs: fields of the configuration. The projections, the temperature and the bias are new.

        Raises:
            RuntimeError: a checkpoint does not hold all of its tower.
        """
        vision_model: Any = ViTCustomModel.from_pretrained(vision_model_name_or_path, dtype=dtype)
        text_model, info = AutoModel.from_pretrained(text_model_name_or_path, dtype=dtype, output_loading_info=True)
        config = cls.config_class(vision_config=vision_model.config, text_config=text_model.config, **kwargs)
        # CODEPATH: as in the constructor
        unused = () if config.text_pooling == "pooler_output" else ("pooler.",)
        if missing := [name for name in sorted(info["missing_keys"]) if not name.startswith(unused)]:
            raise RuntimeError(
                f"{text_model_name_or_path} lacks {', '.join(missing)} of {type(text_model).__name__}: take another "
                "checkpoint, or, where only the pooler is missing, another `text_pooling` than 'pooler_output'."
            )
        model: Any = cls(config, vision_model, text_model)
        return model.to(dtype).eval()

    def get_input_embeddings(self) -> nn.Module:
        """The text tower's: `resize_token_embeddings` makes room for new words."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    def resize_position_embeddings(self, new_num_position_embeddings: int | tuple[int, int]):
        self.vision_model.resize_position_embeddings(new_num_position_embeddings)

    def resize_patch_embeddings(self, new_patch_size: int | tuple[int, int]):
        self.vision_model.resize_patch_embeddings(new_patch_size)

    def count_items(self, pixel_values: torch.Tensor, **batch) -> torch.Tensor:  # type: ignore[override]
        """(B, C, H, W) -> (): the pairs; see `num_items_in_batch`."""
        return torch.full((), len(pixel_values), device=pixel_values.device)

    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling | tuple:
        """(B, C, H, W) -> the tower's outputs, with `pooler_output` (B, E): projected, not yet of length 1"""
        self.refuse_slips(kwargs)
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        outputs = self.vision_model(pixel_values, return_dict=True, **kwargs)
        answer = as_features(outputs, self.visual_projection(outputs.pooler_output))
        return answer.to_tuple() if return_dict is False else answer

    def get_text_features(  # type: ignore[misc]  # TransformersKwargs names some of these too
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling | tuple:
        """(B, M) -> the tower's outputs, with `pooler_output` (B, E): projected, not yet of length 1"""
        self.refuse_slips(kwargs)
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        text: Any = self.config.text_config
        # CODEPATH: CLIP's and its kin's; BERT's pooler takes the first token
        end = getattr(self.text_model, "eos_token_id", None) if self.config.text_pooling == "pooler_output" else None
        check_captions(input_ids, mask, self.num_text_positions, text.vocab_size, end)
        given: dict[str, Any] = dict(position_ids=position_ids)
        if getattr(text, "type_vocab_size", 0):  # any tokenizer may give types; GPT-2 would take them for words
            given["token_type_ids"] = token_type_ids
        if getattr(text, "use_cache", False):  # GPT-2's, for writing on
            given["use_cache"] = False
        given = {name: value for name, value in given.items() if value is not None}
        outputs = self.text_model(input_ids, attention_mask=attention_mask, return_dict=True, **given, **kwargs)
        answer = as_features(outputs, self.text_projection(pool_text(outputs, mask, self.config.text_pooling)))
        return answer.to_tuple() if return_dict is False else answer

    def forward(  # type: ignore[misc]  # as above
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        token_type_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CLIPOutput | tuple:
        """(B, M), (B', C, H, W) -> `logits_per_text` (B, B'), `logits_per_image` (B', B), embeddings of length 1 (B, E)
        and (B', E), and the `loss` where caption n belongs to image n: B = B'.

        Args:
            return_loss: true by default, unlike in transformers' CLIP, so that Trainer gets it without being told.
        """
        return_dict = kwargs.pop("return_dict", self.config.return_dict)  # type: ignore[typeddict-item]
        if input_ids is None or pixel_values is None:
            raise ValueError(
                "Give `input_ids` and `pixel_values`, both: one alone is for get_text_features or get_image_features."
            )
        refuse_mixed_sizes(kwargs)
        kwargs["return_dict"] = True  # type: ignore[typeddict-unknown-key]
        images: Any = self.get_image_features(pixel_values, **kwargs)
        texts: Any = self.get_text_features(input_ids, attention_mask, position_ids, token_type_ids, **kwargs)
        image_embeds, text_embeds = (nn.functional.normalize(out.pooler_output, dim=1) for out in (images, texts))
        together = return_loss and self.training and num_processes() > 1
        scale = CappedScale.apply(self.logit_scale, together)
        logits_per_text, loss = similarity(text_embeds, image_embeds, scale, self.logit_bias), None
        if return_loss and len(image_embeds) == len(text_embeds):
            pairs = image_embeds, text_embeds, scale, self.logit_bias
            loss = contrastive_loss(*pairs, together=together, num_items_in_batch=num_items_in_batch)
        elif return_loss and self.training:
            raise ValueError(
                f"To learn, each image needs its one caption: got {len(image_embeds)} images and {len(text_embeds)} "
                "captions. Repeat an image for each of its captions, or pass `return_loss=False`."
            )
        answer = CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_text.t(),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=texts,
            vision_model_output=images,
        )
        return answer.to_tuple() if return_dict is False else answer


__all__ = ["ViTCustomDualEncoder"]
