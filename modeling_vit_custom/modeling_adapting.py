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
"""Tensors that are adapted at loading: to patches of another size, to other channels, to another window.

C channels, D width, K heads, p q pixels of a patch.
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging

from .checkpoint_files import refuse_other_paths
from .configuration_checks import pair
from .configuration_keys import refuse_foreign
from .modeling_attention import ViTCustomAttention
from .modeling_embeddings import resample_kernel
from .modeling_embeddings import reshape_parameter

logger = logging.get_logger(__name__)

# The fields whose tensors follow them, and how.
ADAPTED = {
    "patch_size": "the patches' kernel is resampled",
    "num_channels": "the patches' kernel is summed over channels, or repeated and scaled",
    "window_size": "the tables of relative positions are resampled",
}
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def change_channels(kernel: torch.Tensor, count: int) -> torch.Tensor:
    """(D, C, p, q) -> (D, C', p, q): summed for one channel, else repeated and scaled, as by timm's `in_chans` from 3;
    repeated from 1 it sees in equal channels what it saw in one."""
    old = kernel.shape[1]
    if old == count:
        return kernel
    exact = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    if count == 1 and old <= 3:
        return exact.sum(dim=1, keepdim=True).to(kernel.dtype)
    if old not in (1, 3):
        raise ValueError(
            f"`num_channels` cannot go from {old} to {count}: a kernel of 1 or 3 channels is repeated for any number, "
            f"one of 2 or 3 summed for 1. Give images {old} channels, or set `patch_embeddings.weight` by hand."
        )
    return (exact.repeat(1, math.ceil(count / old), 1, 1)[:, :count] * (old / count)).to(kernel.dtype)


def geometric_steps(old: int, new: int) -> torch.Tensor:
    """() -> (2 * old - 1): where timm (after BEiT) puts a table's offsets, in steps of a table for windows of `new`:
    ever further apart, from 1 in the middle until the last is beyond the new one's edge."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        ratio = (left + right) / 2
        if (1 - ratio ** (old - 1)) / (1 - ratio) > new - 1:
            right = ratio
        else:
            left = ratio
    reach = torch.cumsum(ratio ** torch.arange(old - 1, dtype=torch.float64), dim=0)
    return torch.cat((-reach.flip(0), reach.new_zeros(1), reach))


def linear_weights(places: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(n), (m) -> (m, n): what each of n places has in the linear interpolation at each of m targets; beyond the last
    place its value stays."""
    targets = targets.clamp(places[0], places[-1])
    right = torch.searchsorted(places, targets).clamp(1, len(places) - 1)
    share = (targets - places[right - 1]) / (places[right] - places[right - 1])
    weights = targets.new_zeros(len(targets), len(places))
    weights.scatter_(1, right[:, None] - 1, 1 - share[:, None])
    return weights.scatter_(1, right[:, None], share[:, None])


def resample_table(table: torch.Tensor, side: int, like_timm: bool) -> torch.Tensor:
    """((2 * s - 1)^2, K) -> ((2 * s' - 1)^2, K): the relative positions of windows of another side, drawn bicubically
    as in the original's code, or by timm's, whose middle keeps its scale."""
    old = (math.isqrt(table.shape[0]) + 1) // 2
    image = table.to(torch.promote_types(table.dtype, torch.float32)).T.unflatten(1, (2 * old - 1, 2 * old - 1))
    if old == 1:
        image = image.expand(-1, 2 * side - 1, 2 * side - 1)
    elif like_timm:  # CODEPATH: timm's Swin; checkpoints of Microsoft and transformers by the other
        targets = torch.arange(1 - side, side, dtype=torch.float64)
        weights = linear_weights(geometric_steps(old, side), targets).to(image)
        image = weights @ image @ weights.T
    else:
        image = nn.functional.interpolate(image[None], size=(2 * side - 1, 2 * side - 1), mode="bicubic")[0]
    return image.flatten(1).T.contiguous().to(table.dtype)


def image_tower(whole: Any, attribute: str) -> Any:
    """What has the patches: itself, or the part of a dual encoder or its configuration that does."""
    return getattr(whole, attribute, whole)


def keep_sizes(name_or_path: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take sizes that may differ from the checkpoint's out of `from_pretrained`'s arguments, and return them: the
    weights load at their own first. They stand there by name, or, from Auto classes, in the configuration."""
    if kwargs.get("config") is None:
        refuse_other_paths(name_or_path, kwargs.get("subfolder"))
    sizes = {name: kwargs.pop(name) for name in ADAPTED if name in kwargs}
    if isinstance(kwargs.get("vision_config"), dict):
        kwargs["vision_config"] = {**kwargs["vision_config"]}
        sizes |= {name: kwargs["vision_config"].pop(name) for name in ADAPTED if name in kwargs["vision_config"]}
    config: Any = kwargs.get("config")
    if name_or_path is None or not hasattr(config, "to_diff_dict"):
        return sizes
    try:
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        own = PretrainedConfig.get_config_dict(name_or_path, **hub)[0]
    except (OSError, ValueError):
        own = {}
    refuse_foreign(own, type(config))
    ours = own.get("model_type") == config.model_type  # else there is no file, or a stranger's
    own = own if ours else config.to_dict()
    own = own.get("vision_config", own)
    kwargs["config"] = copy.deepcopy(config)
    tower = image_tower(kwargs["config"], "vision_config")
    sizes = {name: getattr(tower, name) for name in ADAPTED} | sizes
    for name in ADAPTED:
        setattr(tower, name, own.get(name, tower.__dataclass_fields__[name].default))
    kernel = own.get("patch_kernel_size")
    if kernel and pair(kernel) != pair(tower.patch_size):  # else it stays a side where it was one
        tower.patch_size = kernel
    return sizes


def adapt(model: Any, sizes: dict[str, Any]):
    """Fit a model's tensors to other `sizes`, fields of `ADAPTED`, for good, and say so.

    Raises:
        ValueError: sizes that cannot be, or that the model's head or its weights cannot follow.
    """
    tower = image_tower(model, "vision_model").base_model
    config, wanted = tower.config, copy.deepcopy(tower.config)
    for name, size in sizes.items():
        setattr(wanted, name, size)
    wanted.validate_architecture()
    sides = {name: [getattr(c, name) and pair(getattr(c, name)) for c in (config, wanted)] for name in sizes}
    changed = [name for name, (old, new) in sides.items() if old != new]
    if kept := [name for name in changed if name in getattr(model, "keeps_sizes", ())]:
        raise ValueError(
            f"This model draws patches of {config.patch_size} pixels in {config.num_channels} channels, so they keep "
            f"their size: load its encoder with another `{kept[0]}` (ViTCustomModel), save that, and load this model "
            "from there."
        )
    if "window_size" in changed and None in sides["window_size"]:
        raise ValueError(
            f"`window_size` cannot go from {config.window_size} to {wanted.window_size}: only windows have tables of "
            "relative positions. Leave it out."
        )
    if changed and any(parameter.is_meta for parameter in tower.parameters()):
        raise ValueError(
            f"Offloaded weights cannot follow another `{changed[0]}`: load without `device_map`, and save."
        )
    stem, size = tower.embeddings.patch_embeddings, pair(wanted.patch_size)
    if {"patch_size", "num_channels"} & {*changed}:
        kernel = change_channels(stem.weight.detach(), wanted.num_channels)
        kernel = kernel if kernel.shape[2:] == size else resample_kernel(kernel, size)
        reshape_parameter(stem, "weight", kernel)
        stem.in_channels, stem.kernel_size = wanted.num_channels, size
        stem.stride = pair(wanted.patch_stride or size)  # unless set, as far apart as they are large
        wanted.patch_size, wanted.patch_kernel_size = list(size), list(size)
        config.patch_kernel_size = list(size)
    if "window_size" in changed:
        for module in tower.modules():
            if isinstance(module, ViTCustomAttention):
                old: Any = module.relative_position_bias_table
                table = resample_table(old.detach(), wanted.window_size, config.window_clamp == "per_axis")
                reshape_parameter(module, "relative_position_bias_table", table)
    for name in changed:
        logger.warning(f"`{name}` {getattr(config, name)} -> {getattr(wanted, name)}: {ADAPTED[name]}.")
        setattr(config, name, getattr(wanted, name))
