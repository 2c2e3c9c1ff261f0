"""Whether two configurations of ours describe the same function, however they spell it."""

import copy
from collections.abc import Iterator
from itertools import product
from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig

# What acts in training alone: a layout that has no word for it still holds the model.
TRAINING = (
    "hidden_dropout_prob",
    "embeddings_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "drop_path_schedule",
    "initializer_range",
    "layer_scale_init_value",
    "problem_type",
)


def function(config: ViTCustomConfig, head: bool) -> dict[str, Any]:
    """What the outputs in evaluation depend on, in one spelling."""
    names = [name for name in ViTCustomConfig.__annotations__ if not name.startswith("_")]
    values = {name: getattr(config, name) for name in names if name not in ("auto_classes", *TRAINING)}
    one_way = {
        "patch_size": pair(config.patch_size),
        "patch_stride": pair(config.patch_stride or config.patch_size),
        "patch_kernel_size": pair(config.patch_kernel_size or config.patch_size),
        "position_grid": tuple(config.position_grid or config.grid),
        "num_prefix_positions": config.num_positioned_prefix_tokens,
        "qkv_bias": list(config.qkv_biases),
        "intermediate_size": [stage.intermediate_size for stage in config.stages],
        "layer_scale": config.layer_scale_init_value is not None,
        "id2label": {int(key): value for key, value in (config.id2label or {}).items()},
    }
    without_effect = ["image_size", "mlp_ratio"]
    if config.position_embedding != "learned":
        without_effect += ["num_prefix_positions"] + ["position_grid"] * (config.position_embedding != "sincos")
    if config.position_embedding not in ("learned", "sincos"):
        without_effect += ["position_interpolation"]
    if config.position_embedding != "rotary":
        without_effect += ["rope_theta"]
    if config.window_size is None:
        without_effect += ["window_pad_order", "window_clamp"]
    if len(config.depths) == 1:
        without_effect += ["downsample"]
    if config.head_hidden_size is None or not head:
        without_effect += ["head_hidden_act"]
    if not head:
        without_effect += ["id2label", "distillation_head", "head_hidden_size"]
    values |= one_way
    return {name: value for name, value in values.items() if name not in without_effect}


def differing(ours: ViTCustomConfig, other: ViTCustomConfig, head: bool) -> dict[str, tuple[Any, Any]]:
    """field -> (value in `ours`, in `other`), of those that change an output."""
    first, second = function(ours, head), function(other, head)
    return {
        name: (first.get(name), second.get(name)) for name in {**first, **second} if first.get(name) != second.get(name)
    }


def lost_in_training(ours: ViTCustomConfig, other: ViTCustomConfig) -> dict[str, tuple[Any, Any]]:
    """The same of what acts in training alone."""
    return {
        name: (getattr(ours, name), getattr(other, name))
        for name in TRAINING
        if getattr(ours, name) != getattr(other, name)
    }


# Each library knows its own words alone for what it does at other sizes; at a checkpoint's native size no word acts.
AT_OTHER_SIZES: dict[str, dict[str, tuple[str, ...]]] = {
    "timm": {
        "position_interpolation": ("bicubic_antialias",),
        "window_pad_order": ("shift_then_pad",),
        "window_clamp": ("per_axis",),
    },
    "transformers": {
        "position_interpolation": ("bicubic", "bicubic_float32", "bicubic_antialias"),
        "window_pad_order": ("pad_then_shift",),
        "window_clamp": ("joint",),
    },
}


def ways(config: ViTCustomConfig, library: str) -> Iterator[ViTCustomConfig]:
    """The configuration itself, then with each of the library's ways at other sizes."""
    yield config
    words = AT_OTHER_SIZES.get(library, {})
    for choice in product(*words.values()):
        candidate = copy.deepcopy(config)
        for name, word in zip(words, choice, strict=True):
            setattr(candidate, name, word)
        yield candidate
