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
"""Every choice of the family as a field: a new size or variant of known parts is a JSON file and no Python."""

import os
from dataclasses import field
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .checkpoint_files import AUTO_MAP
from .checkpoint_files import OwnFolders
from .checkpoint_files import save_with_code
from .configuration_checks import in_sentences
from .configuration_checks import pair
from .configuration_checks import problems
from .configuration_heads import HeadFields
from .configuration_heads import without_defaults
from .configuration_keys import refuse_foreign
from .configuration_keys import refuse_slips
from .configuration_keys import warn_of_unknown_keys
from .configuration_presets import ConfigPresets
from .configuration_stages import StageConfig
from .configuration_stages import grid_at
from .configuration_stages import make_stages
from .near_names import near_miss


@in_sentences
@strict
class ViTCustomConfig(ConfigPresets, HeadFields, OwnFolders, BackboneConfigMixin, PretrainedConfig):
    r"""A Vision Transformer as data; by default ViT-B/16 at 224 pixels ("An Image is Worth 16x16 Words", table 1).

    Args:
        image_size (`int` or `[height, width]`, pixels): the nominal size. Any size of at least one patch can be fed.
        patch_size (`int` or `[height, width]`, pixels): side of a patch; another one at loading resamples the kernel.
        patch_stride (`int` or `[height, width]`, *optional*): distance between patches, the patch size if unset.
        patch_bias (`bool`): bias of the patch embedding; CLIP has none.
        patch_kernel_size (`[height, width]`, *optional*): the patch size of the weights; a model sets it when built.
        num_channels (`int`): channels of `pixel_values`.
        prefix_tokens (`list[str]`): tokens before the patches, in order: `"cls"`, `"distillation"`, any
            `"register"`s and `"detection"`s.
        embeddings_norm (`str`): LayerNorm over the `"patches"` before their positions (Swin, eps 1e-5), over all
            `"tokens"` after them (CLIP), or `"none"`.
        position_embedding (`str`): `"learned"`, `"sincos"` (fixed; big_vision's formula), `"rotary"` (DINOv3) or
            `"none"`.
        rope_theta (`float`): base of the rotary positions' wavelengths.
        num_prefix_positions (`int`, *optional*): how many prefix tokens have a learned position; all of them if unset.
        position_grid (`[rows, columns]`, *optional*): the grid that the position table is for; that of `image_size`
            if unset. Kept apart from `image_size`, so that a checkpoint loads at any size with its positions resampled.
        position_interpolation (`str`): the recipe of that resampling: `"bicubic"` (transformers), `"bicubic_float32"`
            (its DINOv2), `"bicubic_antialias"` (timm), `"bicubic_offset"` (the original DINOv2), `"bilinear"`
            (Segmenter), `"bilinear_corners"` (Google's own), `"bilinear_antialias"` (FlexiViT).
        hidden_sizes, depths, num_attention_heads (`list[int]`): width, layers and heads of each stage.
        downsample (`str`): how each stage but the first halves the grid: `"merge"` (Swin), `"conv"` (PiT), `"none"`.
        window_size (`int`, *optional*): attention within windows of this side with relative position biases, shifted
            in every second layer (Swin); over the whole image if unset.
        window_pad_order (`str`): what comes first where a grid is no multiple of the window: `"pad_then_shift"`
            (transformers, mmdetection) or `"shift_then_pad"` (timm).
        window_clamp (`str`): a window larger than the grid shrinks along both sides and is not shifted (`"joint"`:
            the original, transformers), along each side by itself (`"per_axis"`: timm), or `"never"` (backbones of
            transformers and mmdetection), where the grid is padded instead.
        mlp_ratio (`float`): width of the feed-forward over that of its stage.
        intermediate_size (`int`, *optional*): that width itself, for a model of one stage; wins over `mlp_ratio`.
        gated_mlp (`bool`): a gate multiplies the feed-forward's inner units (SwiGLU with `hidden_act="silu"`).
        hidden_act (`str`): `"gelu"` (exact), `"gelu_pytorch_tanh"`, `"quick_gelu"`, `"relu"`, or any of transformers'.
        norm_placement (`str`): LayerNorm `"pre"` (ViT) or `"post"` (the 2017 Transformer) each residual branch.
        final_norm (`str`): LayerNorm over `"all"` tokens, over the `"pooled"` vector only, or `"none"`.
        layer_norm_eps (`float`): 1e-6 in the original and timm, 1e-12 in transformers' ViT.
        qkv_bias (`bool` or a list of three): bias of the query, key and value projections.
        qk_norm (`bool`): LayerNorm on each head's queries and keys (ViT-22B).
        layer_scale_init_value (`float`, *optional*): LayerScale on both branches from this value (CaiT); none if unset.
        hidden_dropout_prob (`float`): dropout at the end of both residual branches.
        embeddings_dropout_prob (`float`): dropout on the tokens after their positions.
        attention_probs_dropout_prob (`float`): dropout on the attention probabilities.
        layer_position_embeddings (`bool`): learned positions are added again after each layer but the last (YOLOS).
        drop_path_rate (`float`): stochastic depth of both branches in the last layer.
        drop_path_schedule (`str`): `"linear"` from 0 at the first layer, or `"constant"` (DeiT-III, DINOv2).
        initializer_range (`float`): standard deviation of the initial weights.
        pooling (`str`): the image's vector is the `"cls"` token, the `"mean"` of the patch tokens, or both side by
            side (`"cls_mean"`: DINOv2's classifier).
        distillation_head (`bool`): a second classifier on the `"distillation"` token (DeiT); logits are the average.
        head_hidden_size (`int`, *optional*): width of the classifier's hidden layer; a linear classifier if unset.
        head_hidden_act (`str`): its activation, `"tanh"` in the original's pre-training head.
        problem_type (`str`, *optional*): the loss: `"single_label_classification"`, `"multi_label_classification"`,
            `"soft_label_classification"` (cross entropy with probabilities, as Mixup makes them) or `"regression"`.
        decoder_hidden_size (`int`): of a head, as all `decoder_*`, `mask_ratio` and others of configuration_heads.py.
        out_features (`list[str]`), out_indices (`list[int]`): feature maps of a backbone, of `stage_names`; the last.

    Raises:
        ConfigurationError: a StrictDataclassError and a ValueError; settings that cannot be built, with the fix.
        ValueError: a key that is close to one of these fields, with its name.
    """

    model_type = "vit_custom"
    auto_classes: ClassVar[dict[str, str]] = AUTO_MAP
    keys_to_ignore_at_inference: ClassVar[list[str]] = [  # Trainer keeps the rest of each evaluation: logits, boxes
        *("hidden_states", "attentions", "cls_logits", "distillation_logits"),
        *("last_hidden_state", "auxiliary_outputs", "reconstruction", "mask", "ids_restore"),
        "loss_dict",
    ]

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    patch_stride: int | list[int] | tuple[int, int] | None = None
    patch_bias: bool = True
    patch_kernel_size: list[int] | tuple[int, int] | None = None
    num_channels: int = 3
    prefix_tokens: list[str] = field(default_factory=lambda: ["cls"])
    embeddings_norm: str = "none"
    position_embedding: str = "learned"
    rope_theta: float | int = 100.0
    num_prefix_positions: int | None = None
    position_grid: list[int] | tuple[int, int] | None = None
    position_interpolation: str = "bicubic"
    hidden_sizes: list[int] = field(default_factory=lambda: [768])
    depths: list[int] = field(default_factory=lambda: [12])
    num_attention_heads: list[int] = field(default_factory=lambda: [12])
    downsample: str = "none"
    window_size: int | None = None
    window_pad_order: str = "pad_then_shift"
    window_clamp: str = "joint"
    mlp_ratio: float | int = 4.0
    intermediate_size: int | None = None
    gated_mlp: bool = False
    hidden_act: str = "gelu"
    norm_placement: str = "pre"
    final_norm: str = "all"
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool | list[bool] = True
    qk_norm: bool = False
    layer_scale_init_value: float | int | None = None
    hidden_dropout_prob: float | int = 0.0
    embeddings_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_position_embeddings: bool = False
    drop_path_rate: float | int = 0.0
    drop_path_schedule: str = "linear"
    initializer_range: float | int = 0.02
    pooling: str = "cls"
    distillation_head: bool = False
    head_hidden_size: int | None = None
    head_hidden_act: str = "tanh"
    problem_type: str | None = None  # type: ignore[assignment]  # transformers knows three, we know soft labels too
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        maps = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        warn_of_unknown_keys(kwargs, type(self))
        super().__post_init__(**kwargs)
        self.set_output_features_output_indices(*maps)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        refuse_foreign(config_dict, cls)
        refuse_slips(kwargs, cls)
        is_segmenter = "ViTCustomForSemanticSegmentation" in (config_dict.get("architectures") or ())
        if is_segmenter and config_dict.get("segmentation_decoder") != "linear":
            config_dict = {"mask_norm": "layer_norm", **config_dict}  # before the field there was no other
        labels = kwargs.get("num_labels") or len(kwargs.get("id2label") or ())
        if labels not in (0, len(config_dict.get("id2label") or ()) or config_dict.get("num_labels", 2)):
            void = ("id2label", "label2id", "mask_norm")  # of the old classes
            config_dict = {key: config_dict[key] for key in config_dict if key not in void}
        # At once, not one by one: settings are judged together, and what is wrong in a file can be put right.
        config_dict = config_dict | {key: kwargs[key] for key in kwargs if key in cls.__dataclass_fields__}
        return super().from_dict(config_dict, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage: of `last_hidden_state`."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self) -> int:
        return sum(self.depths)

    @property
    def pooled_size(self) -> int:
        """Width of the pooled vector."""
        return 2 * self.hidden_size if self.pooling == "cls_mean" else self.hidden_size

    @property
    def stage_names(self) -> list[str]:
        """The feature maps that a backbone has: the embeddings', then each stage's; where no stage changes the grid,
        each layer's, as in transformers' plain backbones."""
        num_maps = self.num_hidden_layers if self.downsample == "none" else len(self.depths)
        return ["stem", *(f"stage{index}" for index in range(1, num_maps + 1))]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches of an image of `image_size`."""
        return grid_at(self, *pair(self.image_size), stage=0)

    @property
    def num_positioned_prefix_tokens(self) -> int:
        if self.num_prefix_positions is not None:
            return self.num_prefix_positions
        return len(self.prefix_tokens) if self.position_embedding == "learned" else 0

    @property
    def qkv_biases(self) -> list[bool]:
        return [self.qkv_bias] * 3 if isinstance(self.qkv_bias, bool) else self.qkv_bias

    @property
    def stages(self) -> list[StageConfig]:
        """The stages as rows."""
        return make_stages(self)

    def validate_output_attentions(self):
        """transformers allows attentions with the eager back-end only; our layers return them with every one."""

    def validate_architecture(self):
        """Run by `@strict` at construction and at saving, and by every model before it is built."""
        for problem in problems(self):
            raise ValueError(problem)

    def to_dict(self):
        """As transformers'; fields of heads only where set, feature maps only where they are not simply the last."""
        output = without_defaults(super().to_dict())
        if output["out_indices"] == [len(self.stage_names) - 1]:
            del output["out_features"], output["out_indices"]
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Write config.json with the full `auto_map`, and beside it every file of code that loading it needs."""
        save_with_code(self, super().save_pretrained, save_directory, push_to_hub, **kwargs)


__all__ = ["ViTCustomConfig"]
