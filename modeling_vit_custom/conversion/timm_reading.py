"""What the conversions of timm's models share. Models are read by their attributes: timm is not imported here."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .rename import Row
from .rename import Table
from .rename import prefixed
from .rename import row
from .rename import split

POOLINGS = {"token": "cls", "avg": "mean"}
# The names of timm's activation modules; `act_layer` of its constructors takes the words on the right of `ACT_LAYERS`.
ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "QuickGELU": "quick_gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "Swish": "silu",
}
ACT_LAYERS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}


def refuse(found: Mapping[str, Any]):
    """Raise for the first part that a model has and ours would lose."""
    for part, is_there in found.items():
        if is_there:
            raise ValueError(f"This timm model has {part}, which has no counterpart here: create it without.")


def kind(module: Any) -> str:
    return type(module).__name__


def absent(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)


def hidden_act(activation: nn.Module) -> str:
    if getattr(activation, "approximate", "none") == "tanh":
        return "gelu_pytorch_tanh"
    if kind(activation) not in ACTIVATIONS:
        raise ValueError(
            f"The activation {activation} has no counterpart here: add its name to `ACTIVATIONS` beside "
            f"{', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[kind(activation)]


def layer_norm_eps(norms: Iterable[Any]) -> float:
    """The eps of all that are there.

    Raises:
        ValueError: a norm of another kind than LayerNorm with weight and bias, or another eps.
    """
    norms = [norm for norm in norms if not absent(norm)]
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            refuse({f"norms of the kind {norm}": True})
    if len({norm.eps for norm in norms}) > 1:
        refuse({f"norms with several eps, {sorted({norm.eps for norm in norms})}": True})
    return norms[0].eps


def drop_path(blocks: Sequence[Any]) -> dict[str, Any]:
    """The rate of the last block and the schedule that leads there. timm computes rates in float32."""
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    rate = float(f"{rates[-1]:.6g}")
    schedules = {
        "linear": [rate * block / max(len(rates) - 1, 1) for block in range(len(rates))],
        "constant": [rate] * len(rates),
    }
    for schedule, expected in schedules.items():
        if max(abs(first - second) for first, second in zip(rates, expected, strict=True)) < 1e-6:
            return dict(drop_path_rate=rate, drop_path_schedule=schedule)
    refuse({f"drop path rates that are neither linear nor constant, {rates}": True})
    raise AssertionError


def refuse_stem(model: Any):
    """A CNN before the ViT (R50-ViT, ViTamin) first: it has none of the attributes that other refusals look at."""
    stem, hybrid = kind(model.patch_embed), hasattr(model.patch_embed, "backbone")
    refuse({f"a stem of the kind {stem}{', a CNN before a ViT (a hybrid)' * hybrid}": stem != "PatchEmbed"})


def refuse_block(block: Any, attention: Sequence[str], mlps: Sequence[str]):
    """Parts of a transformer block that its names do not tell apart, or that act in training alone."""
    attn, mlp = block.attn, block.mlp
    refuse(
        {
            f"attention of the kind {kind(attn)}": kind(attn) not in attention,
            f"a feed-forward of the kind {kind(mlp)}": kind(mlp) not in mlps,
        }
    )
    dropouts = [attn.proj_drop, mlp.drop1, getattr(mlp, "drop2", None)]
    refuse(
        {
            "scale_attn_norm, a norm before the output projection": not absent(getattr(attn, "norm", None)),
            "gated attention": getattr(attn, "gate", None) is not None,
            "scale_mlp_norm, a norm within its feed-forward": not absent(getattr(mlp, "norm", None)),
            "an output projection without bias": attn.proj.bias is None,
            "a feed-forward without bias": mlp.fc2.bias is None,
            "heads whose widths do not add up to its width": attn.proj.in_features != attn.proj.out_features,
            "proj_drop, which acts inside its MLP too": any(p is not None and p.p > 0 for p in dropouts),
        }
    )


def mlp_ratio(intermediate_size: int, width: int) -> float:
    """The ratio r for which int(width * r) is exactly the size asked for."""
    ratio = intermediate_size / width
    return ratio if int(width * ratio) == intermediate_size else (intermediate_size + 0.5) / width


def plain(size: Any) -> Any:
    """A pair as JSON has it: one number for a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return height if height == width else [height, width]


def block_rows(theirs: str, ours: str, gated: bool = False) -> list[Row]:
    """A block as timm names it, and as DeiT, DINOv2, Segmenter, Swin and PiT do, which began as copies of it."""
    modules = {"norm1": "norm1", "attn.proj": "attention.o_proj", "norm2": "norm2", "mlp.fc2": "mlp.fc2"}
    modules |= {"attn.q_norm": "attention.q_norm", "attn.k_norm": "attention.k_norm"}
    rows = [row(f"{theirs}{left}.{{p}}", f"{ours}{right}.{{p}}") for left, right in modules.items()]
    qkv = tuple(f"{ours}attention.{name}_proj.{{p}}" for name in "qkv")
    rows.append(row(f"{theirs}attn.qkv.{{p}}", qkv, split(3)))
    if gated:  # CODEPATH: DINOv2 giant, whose first projection holds the gate, then what it multiplies
        rows.append(row(f"{theirs}mlp.fc1.{{p}}", (f"{ours}mlp.gate.{{p}}", f"{ours}mlp.fc1.{{p}}"), split(2)))
    else:
        rows.append(row(f"{theirs}mlp.fc1.{{p}}", f"{ours}mlp.fc1.{{p}}"))
    return rows


def with_heads(table: Table, head: bool, classifier: str = "head.{p}") -> Table:
    """The backbone below `vit.`, and the classifiers beside it."""
    if not head:
        return table
    distilled = row("head_dist.{p}", "distillation_classifier.{p}")
    return [*prefixed(table, ours="vit."), row(classifier, "classifier.{p}"), distilled]


def as_tokens(output: torch.Tensor) -> torch.Tensor:
    """(B, h, w, D) or (B, N, D) -> (B, N, D)"""
    return output.flatten(1, 2) if output.ndim == 4 else output


def of_one_grid(model: Any) -> dict[str, Any]:
    """What timm's ViT and Eva models say alike."""
    block = model.blocks[0]
    return dict(
        image_size=list(model.patch_embed.img_size),
        patch_size=list(model.patch_embed.patch_size),
        patch_bias=model.patch_embed.proj.bias is not None,
        num_channels=model.patch_embed.proj.in_channels,
        embeddings_norm="none" if absent(model.norm_pre) else "tokens",
        hidden_sizes=[model.embed_dim],
        depths=[len(model.blocks)],
        num_attention_heads=[block.attn.num_heads],
        intermediate_size=block.mlp.fc2.in_features,
        hidden_act=hidden_act(block.mlp.act),
        final_norm="pooled" if not absent(model.fc_norm) else "none" if absent(model.norm) else "all",
        embeddings_dropout_prob=model.pos_drop.p,
        attention_probs_dropout_prob=block.attn.attn_drop.p,
        qk_norm=not absent(block.attn.q_norm),
        pooling=POOLINGS[model.global_pool],
        num_labels=model.num_classes,
        **drop_path(model.blocks),
    )
