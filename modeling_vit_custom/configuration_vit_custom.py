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
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from .checkpoint_files import AUTO_MAP
from .checkpoint_files import copy_shipped_files
from .checkpoint_files import unknown_keys
from .checkpoint_files import warn_of_unknown_keys

# The same positions at another grid differ by recipe: mode and antialias of torch's interpolate, always in float32.
POSITION_INTERPOLATIONS = {
    "bicubic": ("bicubic", False),  # transformers' ViT, DeiT and CLIP
    "bicubic_antialias": ("bicubic", True),  # timm
    "bilinear": ("bilinear", False),  # Segmenter
    "bilinear_antialias": ("bilinear", True),  # big_vision, FlexiViT
}
SINGLE, MULTI, SOFT = (f"{kind}_label_classification" for kind in ("single", "multi", "soft"))
PROBLEM_TYPES = (SINGLE, MULTI, SOFT, "regression")


def pair(value: Any) -> tuple[int, int]:
    """A side or (height, width) as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class StageConfig:
    """One row of the parallel lists: what a stage needs to know of itself."""

    index: int
    hidden_size: int
    depth: int
    num_attention_heads: int
    intermediate_size: int
    drop_path_rates: tuple[float, ...]


@strict
class ViTCustomConfig(PretrainedConfig):
    r"""A Vision Transformer as data; by default ViT-B/16 at 224 pixels ("An Image is Worth 16x16 Words", table 1).

    Args:
        image_size (`int` or `[height, width]`, pixels): the nominal size. Any size of at least one patch can be fed.
        patch_size (`int` or `[height, width]`, pixels): side of a patch, and the distance between patches.
        num_channels (`int`): channels of `pixel_values`.
        prefix_tokens (`list[str]`): tokens put before the patches, in order: `"cls"`, `"register"` (any number).
        position_embedding (`str`): `"learned"`, `"sincos"` (fixed; big_vision's formula) or `"none"`.
        num_prefix_positions (`int`, *optional*): how many prefix tokens have a learned position; all of them if unset.
        position_grid (`[rows, columns]`, *optional*): the grid that the position table is for; that of `image_size`
            if unset. Kept apart from `image_size`, so that a checkpoint loads at any size with its positions resampled.
        position_interpolation (`str`): the recipe of that resampling: `"bicubic"` (transformers),
            `"bicubic_antialias"` (timm), `"bilinear"` (Segmenter), `"bilinear_antialias"` (big_vision).
        hidden_sizes, depths, num_attention_heads (`list[int]`): width, layers and heads of each stage.
        mlp_ratio (`float`): width of the feed-forward over that of its stage.
        intermediate_size (`int`, *optional*): that width itself, for a model of one stage; wins over `mlp_ratio`.
        hidden_act (`str`): `"gelu"` (exact), `"gelu_pytorch_tanh"`, `"quick_gelu"`, `"relu"`, or any of transformers'.
        norm_placement (`str`): LayerNorm `"pre"` (ViT) or `"post"` (the 2017 Transformer) each residual branch.
        final_norm (`str`): LayerNorm over `"all"` tokens, over the `"pooled"` vector only, or `"none"`.
        layer_norm_eps (`float`): 1e-6 in the original and timm, 1e-12 in transformers' ViT.
        qkv_bias, qk_norm (`bool`): bias of the three projections; LayerNorm on each head's queries and keys (ViT-22B).
        layer_scale_init_value (`float`, *optional*): LayerScale on both branches from this value (CaiT); none if unset.
        hidden_dropout_prob (`float`): dropout at the end of both residual branches.
        embeddings_dropout_prob (`float`): dropout on the tokens after their positions.
        attention_probs_dropout_prob (`float`): dropout on the attention probabilities.
        drop_path_rate (`float`): stochastic depth of both branches, linearly from 0 at the first layer.
        initializer_range (`float`): standard deviation of the initial weights.
        pooling (`str`): the image's vector is the `"cls"` token, or the `"mean"` of the patch tokens.
        head_hidden_size (`int`, *optional*): width of the classifier's hidden layer; a linear classifier if unset.
        head_hidden_act (`str`): its activation, `"tanh"` in the original's pre-training head.
        problem_type (`str`, *optional*): the loss: `"single_label_classification"`, `"multi_label_classification"`,
            `"soft_label_classification"` (cross entropy with probabilities, as Mixup makes them) or `"regression"`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: settings that cannot be built, with the fix.
        ValueError: a key that is close to one of these fields, with its name.
    """

    model_type = "vit_custom"
    auto_classes: ClassVar[dict[str, str]] = AUTO_MAP

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    prefix_tokens: list[str] = field(default_factory=lambda: ["cls"])
    position_embedding: str = "learned"
    num_prefix_positions: int | None = None
    position_grid: list[int] | tuple[int, int] | None = None
    position_interpolation: str = "bicubic"
    hidden_sizes: list[int] = field(default_factory=lambda: [768])
    depths: list[int] = field(default_factory=lambda: [12])
    num_attention_heads: list[int] = field(default_factory=lambda: [12])
    mlp_ratio: float | int = 4.0
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    norm_placement: str = "pre"
    final_norm: str = "all"
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale_init_value: float | int | None = None
    hidden_dropout_prob: float | int = 0.0
    embeddings_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02
    pooling: str = "cls"
    head_hidden_size: int | None = None
    head_hidden_act: str = "tanh"
    problem_type: str | None = None  # type: ignore[assignment]  # transformers knows three, we know soft labels too

    def __post_init__(self, **kwargs):
        warn_of_unknown_keys(kwargs, type(self))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        unknown_keys(kwargs, cls)
        if kwargs.get("num_labels") not in (None, len(config_dict.get("id2label") or ())):  # the old names are void
            config_dict = {key: config_dict[key] for key in config_dict if key not in ("id2label", "label2id")}
        return super().from_dict(config_dict, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the last stage: of `last_hidden_state` and of the pooled vector."""
        return self.hidden_sizes[-1]

    @property
    def num_hidden_layers(self) -> int:
        return sum(self.depths)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches of an image of `image_size`."""
        (height, width), (patch_height, patch_width) = pair(self.image_size), pair(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def num_positioned_prefix_tokens(self) -> int:
        return len(self.prefix_tokens) if self.num_prefix_positions is None else self.num_prefix_positions

    @property
    def stages(self) -> list[StageConfig]:
        """The stages as rows. Drop path grows linearly over the layers of all stages (Huang et al. 2016, section 3)."""
        lists = (self.hidden_sizes, self.depths, self.num_attention_heads)
        last, first, rows = max(self.num_hidden_layers - 1, 1), 0, []
        for index, (width, depth, heads) in enumerate(zip(*lists, strict=True)):
            rates = tuple(self.drop_path_rate * layer / last for layer in range(first, first + depth))
            intermediate_size = self.intermediate_size or int(width * self.mlp_ratio)
            rows.append(StageConfig(index, width, depth, heads, intermediate_size, rates))
            first += depth
        return rows

    def validate_output_attentions(self):
        """transformers allows attentions with the eager back-end only; our layers return them with every one."""

    def validate_architecture(self):
        """Run by `@strict` at construction and at saving, and by every model before it is built."""
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self):
        lists = {name: getattr(self, name) for name in ("hidden_sizes", "depths", "num_attention_heads")}
        if len({len(values) for values in lists.values()}) != 1 or not self.depths:
            yield f"`hidden_sizes`, `depths` and `num_attention_heads` need one entry per stage each, got {lists}."
        for name, values in lists.items():
            if any(value < 1 for value in values):
                yield f"`{name}` must hold positive numbers, got {values}."
        for width, heads in zip(self.hidden_sizes, self.num_attention_heads, strict=True):
            if width % heads:
                yield f"`num_attention_heads` must divide `hidden_sizes`: {heads} does not divide {width}."
        if len(set(self.hidden_sizes)) > 1:
            yield f"Stages without downsampling share a width: make `hidden_sizes` equal, got {self.hidden_sizes}."
        for name in ("image_size", "patch_size", "position_grid"):
            value = getattr(self, name)
            if value is not None and ((not isinstance(value, int) and len(value) != 2) or min(pair(value)) < 1):
                yield f"`{name}` must be a positive side or a pair of them, got {value}."
        if min(self.grid) < 1:
            yield f"`image_size` {self.image_size} is smaller than one patch: it needs at least {self.patch_size}."
        for name, allowed in {
            "position_embedding": ("learned", "sincos", "none"),
            "position_interpolation": POSITION_INTERPOLATIONS,
            "hidden_act": ACT2FN,
            "head_hidden_act": ACT2FN,
            "norm_placement": ("pre", "post"),
            "final_norm": ("all", "pooled", "none"),
            "pooling": ("cls", "mean"),
            "problem_type": (None, *PROBLEM_TYPES),
        }.items():
            if getattr(self, name) not in allowed:
                yield f"`{name}` must be one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}."
        if set(self.prefix_tokens) - {"cls", "register"} or "cls" in self.prefix_tokens[1:]:
            yield f"`prefix_tokens` is at most one 'cls', first, and any 'register's, got {self.prefix_tokens}."
        if self.pooling == "cls" and "cls" not in self.prefix_tokens:
            yield "`pooling='cls'` needs the token: put 'cls' first in `prefix_tokens`, or pool by 'mean'."
        if not 0 <= self.num_positioned_prefix_tokens <= len(self.prefix_tokens):
            yield f"`num_prefix_positions` must be 0 to the {len(self.prefix_tokens)} of `prefix_tokens`."
        if self.position_embedding == "sincos":
            if self.hidden_sizes[0] % 4:
                yield f"`position_embedding='sincos'` needs a width that 4 divides, got {self.hidden_sizes[0]}."
            if self.num_prefix_positions:
                yield "`position_embedding='sincos'` gives prefix tokens no position: leave `num_prefix_positions` out."
        for name in (name for name in vars(self) if name.endswith("_dropout_prob") or name == "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                yield f"`{name}` is a probability, at least 0 and below 1, got {getattr(self, name)}."
        sizes = ("num_channels", "mlp_ratio", "intermediate_size", "head_hidden_size")
        for name in (*sizes, "layer_norm_eps", "layer_scale_init_value", "initializer_range"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # NaN neither
                yield f"`{name}` must be positive, got {value}."
        if len(self.depths) > 1 and self.intermediate_size is not None:
            yield "`intermediate_size` is for a model of one stage: give `mlp_ratio` instead."
        if min(stage.intermediate_size for stage in self.stages) < 1:
            yield f"`mlp_ratio` {self.mlp_ratio} leaves no width for the feed-forward: make it larger."

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Write config.json with the full `auto_map`, and beside it every file of code that loading it needs."""
        unknown_keys(vars(self), type(self))  # an attribute that was misspelt could not be loaded again
        os.makedirs(save_directory, exist_ok=True)
        self.auto_map = dict(self.auto_classes)
        vars(self).pop("use_cache", None)  # Trainer sets it on every model
        super().save_pretrained(save_directory)
        copy_shipped_files(save_directory, self.name_or_path)
        if push_to_hub:  # transformers alone would push config.json
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)


__all__ = ["ViTCustomConfig"]
