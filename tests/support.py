"""What several test files need: small models, and weights and pictures made by a formula."""

import math
import zlib
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_vit_custom import ViTCustomConfig

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "configs" / "models").glob("*.json"))


def often(names: Iterable[str], always: Sequence[str]) -> list:
    """Cases of which every run takes `always`, one of each kind, and `make test-matrix` all."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.full_size) for name in names]


def tiny(**changes) -> ViTCustomConfig:
    """Two layers of width 32 on a grid of 4 x 4, with every optional part off unless a test turns it on."""
    settings = dict(image_size=32, patch_size=8, hidden_sizes=[32], depths=[2], num_attention_heads=[4], num_labels=5)
    return ViTCustomConfig(**settings | changes)


PYRAMID = dict(hidden_sizes=[16, 32, 64], depths=[2, 2, 1], num_attention_heads=[2, 4, 8])
# The members of the family, small, and what between them turns every part on: a law that must hold for all of them runs
# over these.
VARIANTS = {
    "vit": {},
    "tutorial": dict(norm_placement="post", final_norm="none", hidden_act="relu", intermediate_size=48),
    "mean": dict(prefix_tokens=[], pooling="mean", final_norm="pooled", position_embedding="sincos"),
    "everything": dict(
        prefix_tokens=["cls", "register", "register"],
        num_prefix_positions=1,
        qk_norm=True,
        qkv_bias=False,
        layer_scale_init_value=0.5,
        hidden_act="gelu_pytorch_tanh",
        head_hidden_size=24,
        position_interpolation="bicubic_antialias",
        num_channels=4,
    ),
    "two_stages": dict(hidden_sizes=[32, 32], depths=[1, 2], num_attention_heads=[4, 8], hidden_act="quick_gelu"),
    "no_positions": dict(position_embedding="none", patch_size=[8, 4], image_size=[32, 24]),
    "deit": dict(prefix_tokens=["cls", "distillation"], distillation_head=True),
    "swin": dict(
        **PYRAMID,
        patch_size=2,
        prefix_tokens=[],
        position_embedding="none",
        embeddings_norm="patches",
        downsample="merge",
        window_size=3,
        pooling="mean",
    ),
    "swin_timm": dict(
        **PYRAMID,
        patch_size=4,
        prefix_tokens=[],
        position_embedding="learned",
        embeddings_norm="patches",
        downsample="merge",
        window_size=4,
        window_pad_order="shift_then_pad",
        window_clamp="per_axis",
        pooling="mean",
    ),
    "pit": dict(
        **PYRAMID,
        patch_size=8,
        patch_stride=4,
        prefix_tokens=["cls", "distillation"],
        num_prefix_positions=0,
        downsample="conv",
        final_norm="pooled",
        distillation_head=True,
    ),
    "dinov2": dict(
        prefix_tokens=["cls", "register"],
        num_prefix_positions=1,
        position_interpolation="bicubic_offset",
        layer_scale_init_value=0.5,
        gated_mlp=True,
        hidden_act="silu",
        intermediate_size=40,
        pooling="cls_mean",
    ),
    "dinov3": dict(
        prefix_tokens=["cls", "register", "register"],
        position_embedding="rotary",
        layer_scale_init_value=0.5,
        qkv_bias=[True, False, True],
    ),
    "yolos": dict(prefix_tokens=["cls", "detection", "detection"], layer_position_embeddings=True),
    "clip": dict(embeddings_norm="tokens", patch_bias=False, hidden_act="quick_gelu", final_norm="pooled"),
}


def formula(name: str, shape: torch.Size) -> torch.Tensor:
    """Numbers that depend on a name and a shape alone: exact integer hashing, so the same on every machine."""
    x = torch.arange(math.prod(shape), dtype=torch.int64) + zlib.crc32(name.encode())
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
    noise = (x.double() / 2**31 - 1).view(shape) * 3**0.5  # uniform, of mean 0 and variance 1
    if len(shape) > 1 and shape[0] != 1:
        return noise * 1.5 * (shape[0] / math.prod(shape)) ** 0.5  # attention far from uniform
    if name.endswith("scale") or ("norm" in name and name.endswith("weight")):
        return 1 + 0.3 * noise
    return 0.3 * noise


def fill(model: nn.Module) -> nn.Module:
    """Every parameter from `formula`, norms and biases too."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(formula(name, parameter.shape))
    return model.eval()


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return formula("picture", torch.Size((1, *shape)))[0].to(dtype) / 0.3
