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
"""The words and numbers that a configuration may hold, and a sentence for each mistake."""

import math
import os
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from itertools import pairwise
from types import NoneType
from types import UnionType
from typing import Any
from typing import NamedTuple
from typing import get_args

from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN

from .configuration_heads import head_problems


class Interpolation(NamedTuple):
    """How learned positions are drawn on another grid, in torch's terms."""

    mode: str
    antialias: bool = False
    exactly_float32: bool = False  # whatever the model is; else at least float32
    align_corners: bool | None = None
    offset: float = 0.0  # added to the new side before it is divided by the old: the scale that interpolate is told


POSITION_INTERPOLATIONS = {
    "bicubic": Interpolation("bicubic"),  # transformers' ViT, DeiT, Swin, CLIP and MAE
    "bicubic_float32": Interpolation("bicubic", exactly_float32=True),  # transformers' DINOv2
    "bicubic_antialias": Interpolation("bicubic", antialias=True, exactly_float32=True),  # timm; DINOv2 with registers
    "bicubic_offset": Interpolation("bicubic", exactly_float32=True, offset=0.1),  # the original DINOv2
    "bilinear": Interpolation("bilinear"),  # Segmenter
    "bilinear_corners": Interpolation("bilinear", align_corners=True),  # Google's checkpoints in JAX
    "bilinear_antialias": Interpolation("bilinear", antialias=True),  # FlexiViT
}
SINGLE, MULTI, SOFT = (f"{kind}_label_classification" for kind in ("single", "multi", "soft"))
PROBLEM_TYPES = (SINGLE, MULTI, SOFT, "regression")
PREFIX_TOKENS = ("cls", "distillation", "register", "detection")
WORDS = {
    "position_embedding": ("learned", "sincos", "rotary", "none"),
    "position_interpolation": POSITION_INTERPOLATIONS,
    "embeddings_norm": ("none", "patches", "tokens"),
    "downsample": ("none", "merge", "conv"),
    "window_pad_order": ("pad_then_shift", "shift_then_pad"),
    "window_clamp": ("joint", "per_axis", "never"),
    "hidden_act": ACT2FN,
    "head_hidden_act": ACT2FN,
    "norm_placement": ("pre", "post"),
    "final_norm": ("all", "pooled", "none"),
    "drop_path_schedule": ("linear", "constant"),
    "pooling": ("cls", "mean", "cls_mean"),
    "problem_type": (None, *PROBLEM_TYPES),
}
PAIRS = ("image_size", "patch_size", "patch_stride", "position_grid", "patch_kernel_size")
KINDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
KINDS |= {list[int]: "a list of integers", list[str]: "a list of words", list[bool]: "a list of true and false"}
KINDS[tuple[int, int]] = KINDS[list[int]]  # as which it is kept
STRICT = ("__setattr__", "validate", "__dataclass_fields__")
POSITIVE = ("num_channels", "mlp_ratio", "intermediate_size", "head_hidden_size", "window_size", "rope_theta")


def pair(value: Any) -> tuple[int, int]:
    """A side or (height, width) as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class ConfigurationError(StrictDataclassError, ValueError):
    """A setting that cannot be, in one sentence."""


def plain(value: Any) -> Any:
    """A value as JSON holds it: lists for tuples and sets, Python's numbers for numpy's and torch's, paths as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def wrong_type(name: str, value: Any, hint: Any) -> str:
    """The sentence for a value of another type than its field's."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = list(dict.fromkeys(KINDS.get(part, getattr(part, "__name__", part)) for part in parts if part != NoneType))
    fix = ""
    if kinds[0].startswith("a list of") and not isinstance(value, list | dict | NoneType):
        whole = kinds[0] == KINDS[list[int]] and str(value).strip().removesuffix(".0").isdigit()
        fix = f": write [{int(float(value)) if whole else repr(value)}]"
    elif kinds[0] in ("a number", "an integer") and isinstance(value, str | float):
        try:
            whole = float(value).is_integer()
            number = repr(int(float(value)) if whole else float(value)) if whole or kinds[0] == "a number" else "none"
        except (ValueError, OverflowError):
            number = "n"  # as in nan
        if "n" not in number:
            fix = f": write {number if '.' in number else number.replace('e', '.0e')}"
            fix += " without quotes" if isinstance(value, str) else ""
            fix += "; YAML takes 1e-6 for text, 1.0e-6 for a number" if "e" in number else ""
    return f"`{name}` must be {' or '.join(kinds)}, got {value!r}{fix}."


def check_classes(name: str, value: Any):
    """Raise where transformers would take apart what cannot be meant before it looks."""
    if name == "num_labels" and (type(value) is not int or value < 0):
        raise ConfigurationError(f"`num_labels` must be an integer from 0 on, got {value!r}.")
    if name not in ("id2label", "label2id") or value is None:
        return
    numbers = value if name == "id2label" else value.values() if isinstance(value, dict) else ()
    if not isinstance(value, dict) or not all(str(number).isdigit() for number in numbers):
        form = "{0: 'cat', 1: 'dog'}" if name == "id2label" else "{'cat': 0, 'dog': 1}"
        raise ConfigurationError(f"`{name}` must be numbers and names of classes, as {form}, got {value!r}.")


def in_sentences(cls: type) -> type:
    """Decorates a strict dataclass: fields take what `plain` makes of a value, and a mistake is one sentence."""
    strictly, strict_validate, fields = (getattr(cls, name) for name in STRICT)

    def set_plainly(self, name: str, value: Any):
        if name not in fields and name != "num_labels":
            return strictly(self, name, value)
        value = plain(value)
        check_classes(name, value)
        try:
            strictly(self, name, value)
        except StrictDataclassError:
            raise ConfigurationError(wrong_type(name.lstrip("_"), value, fields[name].type)) from None

    def validate(self):
        """Run class validators on the instance."""
        try:
            strict_validate(self)
        except StrictDataclassError as error:
            raise ConfigurationError(str(error.__cause__)) from None

    validate.__is_defined_by_strict_decorator__ = True  # type: ignore[attr-defined]  # subclasses are strict again
    cls.__setattr__, cls.validate = set_plainly, validate  # type: ignore
    return cls


def problems(config) -> Iterator[str]:
    """What cannot be built, a sentence each that names the fix; sentences after the first rest on those before."""
    lists = {name: getattr(config, name) for name in ("hidden_sizes", "depths", "num_attention_heads")}
    if len({len(values) for values in lists.values()}) != 1 or not config.depths:
        yield f"`hidden_sizes`, `depths` and `num_attention_heads` need one entry per stage each, got {lists}."
    for name, values in lists.items():
        if any(value < 1 for value in values):
            yield f"`{name}` must hold positive numbers, got {values}."
    for name in PAIRS:
        value = getattr(config, name)
        if value is not None and ((not isinstance(value, int) and len(value) != 2) or min(pair(value)) < 1):
            yield f"`{name}` must be a positive side or a pair of them, got {value}."
    if min(config.grid) < 1:
        yield f"`image_size` {config.image_size} is smaller than one patch: it needs at least {config.patch_size}."
    for name, allowed in WORDS.items():
        if getattr(config, name) not in allowed:
            yield f"`{name}` must be one of {', '.join(map(str, allowed))}; got {getattr(config, name)!r}."
    for name in (name for name in vars(config) if name.endswith("_dropout_prob") or name == "drop_path_rate"):
        if not 0 <= getattr(config, name) < 1:
            yield f"`{name}` is a probability, at least 0 and below 1, got {getattr(config, name)}."
    for name in (*POSITIVE, "layer_norm_eps", "layer_scale_init_value", "initializer_range"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:  # NaN neither
            yield f"`{name}` must be {'finite' if value > 0 else 'positive'}, got {value}."
    if not isinstance(config.qkv_bias, bool) and len(config.qkv_bias) != 3:
        yield f"`qkv_bias` is true, false, or a list of three for query, key and value, got {config.qkv_bias}."
    yield from stage_problems(config)
    yield from token_problems(config)
    yield from head_problems(config)


def stage_problems(config) -> Iterator[str]:
    for width, heads in zip(config.hidden_sizes, config.num_attention_heads, strict=True):
        if width % heads:
            yield f"`num_attention_heads` must divide `hidden_sizes`: {heads} does not divide {width}."
        if config.position_embedding == "rotary" and width // heads % 4:
            yield f"`position_embedding='rotary'` needs heads whose width 4 divides, got {width} / {heads}."
    widths = config.hidden_sizes
    if config.downsample == "none" and len(set(widths)) > 1:
        yield f"Stages without `downsample` share a width: make `hidden_sizes` equal, got {widths}, or set it."
    if config.downsample == "conv" and any(new % old for old, new in pairwise(widths)):
        yield f"`downsample='conv'` needs each of `hidden_sizes` to be a multiple of the one before, got {widths}."
    if len(config.depths) > 1 and config.intermediate_size is not None:
        yield "`intermediate_size` is for a model of one stage: give `mlp_ratio` instead."
    if min(stage.intermediate_size for stage in config.stages) < 1:
        yield f"`mlp_ratio` {config.mlp_ratio} leaves no width for the feed-forward: make it larger."
    if config.window_size is not None and config.position_embedding == "rotary":
        yield "`window_size` brings relative positions: set `position_embedding` to 'none' rather than 'rotary'."


def token_problems(config) -> Iterator[str]:
    tokens = config.prefix_tokens
    unique = [token for token in tokens if token not in ("register", "detection")]
    if set(tokens) - set(PREFIX_TOKENS) or "cls" in tokens[1:] or len(unique) != len(set(unique)):
        yield (
            "`prefix_tokens` is at most one 'cls', first, at most one 'distillation', any 'register's and "
            f"'detection's, got {tokens}."
        )
    for setting, value, token in (
        ("pooling", config.pooling, "cls" if "cls" in config.pooling else None),
        ("distillation_head", config.distillation_head, "distillation" if config.distillation_head else None),
    ):
        if token is not None and token not in tokens:
            yield f"`{setting}={value!r}` needs the token: put '{token}' in `prefix_tokens`, or change `{setting}`."
    if config.pooling == "cls_mean" and config.final_norm == "pooled":
        yield "`final_norm='pooled'` norms one vector, `pooling='cls_mean'` makes two: set `final_norm` to 'all'."
    if config.pooling == "cls_mean" and config.distillation_head:
        yield "`distillation_head` has one vector, `pooling='cls_mean'` makes two: set `pooling` to 'cls'."
    if config.out_features == []:
        yield "`out_features` and `out_indices` name no feature map: leave both out for the last one."
    if tokens and (config.window_size is not None or config.downsample == "merge"):
        yield (
            "Windows and `downsample='merge'` have no place for prefix tokens: empty `prefix_tokens` (a detector then "
            f"has a decoder), got {len(tokens)} of them."
        )
    if not 0 <= config.num_positioned_prefix_tokens <= len(tokens):
        yield f"`num_prefix_positions` must be 0 to the {len(tokens)} of `prefix_tokens`."
    if config.position_embedding == "sincos" and config.hidden_sizes[0] % 4:
        yield f"`position_embedding='sincos'` needs a width that 4 divides, got {config.hidden_sizes[0]}."
    if config.layer_position_embeddings and (config.position_embedding != "learned" or config.downsample != "none"):
        yield "`layer_position_embeddings` needs `position_embedding='learned'` and no `downsample`: unset it."
    if config.position_embedding != "learned" and config.num_prefix_positions:
        yield (
            f"`position_embedding='{config.position_embedding}'` gives prefix tokens no position: leave "
            "`num_prefix_positions` out."
        )
