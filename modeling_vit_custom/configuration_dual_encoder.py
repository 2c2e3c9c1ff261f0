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
"""Two towers and what lies between them: the configuration of an image tower beside a text tower."""

import copy
import math
import os
from collections.abc import Iterator
from typing import Any
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers import PretrainedConfig

from .checkpoint_files import DUAL_ENCODER_AUTO_MAP
from .checkpoint_files import OwnFolders
from .checkpoint_files import save_with_code
from .configuration_checks import in_sentences
from .configuration_checks import pair  # for transformers, which copies what an entry names
from .configuration_heads import HeadFields
from .configuration_keys import refuse_foreign
from .configuration_keys import refuse_slips
from .configuration_keys import warn_of_unknown_keys
from .configuration_presets import ConfigPresets
from .configuration_stages import StageConfig
from .configuration_vit_custom import ViTCustomConfig
from .near_names import near_miss

MAX_LOGIT_SCALE = math.log(100)
WORDS = {
    "text_pooling": ("pooler_output", "cls", "mean", "last"),
    "contrastive_loss": ("softmax", "sigmoid"),
}


@in_sentences
@strict
class ViTCustomDualEncoderConfig(ConfigPresets, OwnFolders, PretrainedConfig):
    r"""An image tower of ours and a text tower of transformers', trained to agree on which caption is whose; by default
    ViT-B/16 and CLIP's text model ("Learning Transferable Visual Models From Natural Language Supervision").

    Args:
        vision_config (`ViTCustomConfig` or `dict`): the image tower, any member of the family.
        text_config (`PretrainedConfig` or `dict`): the text tower, any encoder or decoder for text that transformers'
            `AutoModel` knows, by its `model_type`.
        projection_dim (`int`): width of the space that both are projected to.
        text_pooling (`str`): a caption's vector: the text model's own `"pooler_output"` (CLIP, BERT), its `"cls"` (the
            first token, for models that look both ways), the `"mean"` of its tokens, or its `"last"` token (models that
            look back only, as GPT-2). Padding is no token.
        contrastive_loss (`str`): `"softmax"` over the batch, both ways (CLIP), or `"sigmoid"` of each pair by itself
            ("Sigmoid Loss for Language Image Pre-Training"), with a learned bias.
        logit_scale_init_value (`float`): the logarithm of the initial temperature; log(1 / 0.07) in CLIP, log(10) in
            SigLIP. What multiplies the cosines never exceeds 100.
        logit_bias_init_value (`float`): what the sigmoid loss adds to them at first, as most pairs do not match; -10 in
            SigLIP, for batches of tens of thousands.

    Raises:
        ConfigurationError: a StrictDataclassError and a ValueError; settings that cannot be built, with the fix.
        ValueError: a key that is close to one of these fields, with its name.
    """

    model_type = "vit_custom_dual_encoder"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": ViTCustomConfig, "text_config": AutoConfig}
    auto_classes: ClassVar[dict[str, str]] = DUAL_ENCODER_AUTO_MAP
    # An evaluation keeps the embeddings: retrieval over all its images needs them, a batch's own logits mean little.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("logits_per_image", "logits_per_text", "text_model_output", "vision_model_output"),
    ]

    vision_config: PretrainedConfig | dict | None = None
    text_config: PretrainedConfig | dict | None = None
    projection_dim: int = 512
    text_pooling: str = "pooler_output"
    contrastive_loss: str = "softmax"
    logit_scale_init_value: float | int = 2.6592
    logit_bias_init_value: float | int = -10.0

    def __post_init__(self, **kwargs):
        warn_of_unknown_keys(kwargs, type(self))
        # A configuration that another model has is left to it: what follows would forget its attention back-end.
        self.vision_config, self.text_config = copy.deepcopy((self.vision_config, self.text_config))
        if self.vision_config is None or isinstance(self.vision_config, dict):
            settings = {"model_type": ViTCustomConfig.model_type, **(self.vision_config or {})}
            known = settings.pop("model_type") == ViTCustomConfig.model_type
            self.vision_config = ViTCustomConfig(**settings) if known else None
        if self.text_config is None or isinstance(self.text_config, dict):
            settings = {"model_type": "clip_text_model", **(self.text_config or {})}
            self.text_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        refuse_foreign(config_dict, cls)
        refuse_slips(kwargs, cls)
        return super().from_dict(config_dict, **kwargs)

    def validate_output_attentions(self):
        """The towers say which attentions they can return, and with which back-end."""

    def validate_architecture(self):
        """Run by `@strict` at construction and at saving, and by the model before it is built."""
        for problem in problems(self):
            raise ValueError(problem)

    def to_dict(self):
        """As transformers'; of a tower what differs from its defaults, without what the whole says or it came from."""
        output = super().to_dict()
        for name in self.sub_configs:
            output[name] = getattr(self, name).to_diff_dict()
            for key in ("auto_map", "dtype", "transformers_version"):
                output[name].pop(key, None)
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Write config.json with the full `auto_map`, and beside it every file of code that loading it needs."""
        save_with_code(self, super().save_pretrained, save_directory, push_to_hub, **kwargs)


def problems(config) -> Iterator[str]:
    """What cannot be built, a sentence each that names the fix."""
    if not hasattr(config.vision_config, "prefix_tokens"):
        yield "`vision_config` is not a ViTCustomConfig: convert the image tower first, by `vit-custom convert`."
    if config.text_config.is_encoder_decoder:
        yield (
            f"`text_config` is an encoder with a decoder, {type(config.text_config).__name__}, which would need a text "
            "to write: take a model that only reads, such as BERT, CLIP's text model or GPT-2."
        )
    for name in ("hidden_size", "vocab_size"):
        if not hasattr(config.text_config, name):
            yield f"`text_config` has no `{name}`: {type(config.text_config).__name__} does not describe a text model."
    for name, allowed in WORDS.items():
        if getattr(config, name) not in allowed:
            yield f"`{name}` must be one of {', '.join(allowed)}; got {getattr(config, name)!r}."
    if config.projection_dim < 1:
        yield f"`projection_dim` must be positive, got {config.projection_dim}."
    if not config.logit_scale_init_value <= MAX_LOGIT_SCALE:  # NaN neither
        yield (
            f"`logit_scale_init_value` is a logarithm of at most log(100) = {MAX_LOGIT_SCALE:.4f}, got "
            f"{config.logit_scale_init_value}."
        )
    if not math.isfinite(config.logit_bias_init_value):
        yield f"`logit_bias_init_value` must be finite, got {config.logit_bias_init_value}."


__all__ = ["ViTCustomDualEncoderConfig"]
