"""timm's VisionTransformer -> ours. timm itself is not imported: its models are read by their attributes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .rename import Table
from .rename import load
from .rename import rename

POOLINGS = {"token": "cls", "avg": "mean"}
OURS = "stages.0.layers.{n}."
BASE: Table = {
    "cls_token": "embeddings.prefix_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.{p}": "embeddings.patch_embeddings.{p}",
    "blocks.{n}.norm1.{p}": OURS + "norm1.{p}",
    "blocks.{n}.attn.qkv.{p}": tuple(OURS + f"attention.{name}_proj.{{p}}" for name in "qkv"),
    "blocks.{n}.attn.q_norm.{p}": OURS + "attention.q_norm.{p}",
    "blocks.{n}.attn.k_norm.{p}": OURS + "attention.k_norm.{p}",
    "blocks.{n}.attn.proj.{p}": OURS + "attention.o_proj.{p}",
    "blocks.{n}.ls1.gamma": OURS + "branch1.scale",
    "blocks.{n}.norm2.{p}": OURS + "norm2.{p}",
    "blocks.{n}.mlp.fc1.{p}": OURS + "mlp.fc1.{p}",
    "blocks.{n}.mlp.fc2.{p}": OURS + "mlp.fc2.{p}",
    "blocks.{n}.ls2.gamma": OURS + "branch2.scale",
    "norm.{p}": "norm.{p}",
    "fc_norm.{p}": "pooled_norm.{p}",
}


def hidden_act(activation: nn.Module) -> str:
    if isinstance(activation, nn.GELU):
        return "gelu_pytorch_tanh" if activation.approximate == "tanh" else "gelu"
    names = {"ReLU": "relu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_pytorch_tanh"}
    if type(activation).__name__ not in names:
        raise ValueError(
            f"The activation {activation} has no counterpart here: add its name to `hidden_act` beside {names}."
        )
    return names[type(activation).__name__]


def refuse_what_is_lost(model: Any):
    """Raise where a model that its names do not tell apart computes something else than ours."""
    block = model.blocks[0]
    for part, found in {
        f"blocks of the kind {type(block).__name__}": type(block).__name__ != "Block",
        f"global_pool={model.global_pool!r}": model.global_pool not in POOLINGS,
        "pool_include_prefix=True": getattr(model, "pool_include_prefix", False),
        "register tokens": getattr(model, "reg_token", None) is not None,
        "proj_drop, which acts inside its MLP too": block.mlp.drop1.p > 0,
    }.items():
        if found:
            raise ValueError(f"This timm model has {part}, which has no counterpart here: create it without.")


def convert_config(model: Any) -> ViTCustomConfig:
    refuse_what_is_lost(model)
    block = model.blocks[0]
    pooled = not isinstance(model.fc_norm, nn.Identity)
    normed = not isinstance(model.norm, nn.Identity)
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        image_size=list(model.patch_embed.img_size),
        patch_size=list(model.patch_embed.patch_size),
        num_channels=model.patch_embed.proj.in_channels,
        prefix_tokens=["cls"] * model.num_prefix_tokens,
        num_prefix_positions=0 if model.no_embed_class else model.num_prefix_tokens,
        position_interpolation="bicubic_antialias",
        hidden_sizes=[model.embed_dim],
        depths=[len(model.blocks)],
        num_attention_heads=[block.attn.num_heads],
        intermediate_size=block.mlp.fc1.out_features,
        hidden_act=hidden_act(block.mlp.act),
        final_norm="pooled" if pooled else "all" if normed else "none",
        layer_norm_eps=block.norm1.eps,
        embeddings_dropout_prob=model.pos_drop.p,
        attention_probs_dropout_prob=block.attn.attn_drop.p,
        drop_path_rate=getattr(model.blocks[-1].drop_path1, "drop_prob", 0.0),
        qkv_bias=block.attn.qkv.bias is not None,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        layer_scale_init_value=block.ls1.init_values if hasattr(block.ls1, "gamma") else None,
        pooling=POOLINGS[model.global_pool],
        num_labels=model.num_classes,
    )


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names to ours: of a classifier if the source has one."""
    renamed = rename(state_dict, {**BASE, "head.{p}": "classifier.{p}"})
    if "head.weight" not in state_dict:
        return renamed
    return {name if name.startswith("classifier.") else f"vit.{name}": tensor for name, tensor in renamed.items()}


def from_timm(model: Any) -> ViTCustomModel | ViTCustomForImageClassification:
    """A timm `VisionTransformer` as ours, in the same dtype; the bare model if it has no classifier."""
    make = ViTCustomForImageClassification if model.num_classes else ViTCustomModel
    ours = make(convert_config(model)).to(dtype=model.patch_embed.proj.weight.dtype)  # type: ignore[call-arg]
    return load(ours, convert_state_dict(model.state_dict()))
