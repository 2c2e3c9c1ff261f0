"""timm's SwinTransformer, read by its attributes: timm is not imported here."""

from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from . import timm_reading as reading
from .rename import Table
from .rename import kept
from .rename import row

OURS = "stages.{s}.layers.{n}."


def refuse_what_is_lost(model: Any):
    """Raise where a model that its names do not tell apart computes something else than ours."""
    stages, pooling = list(model.layers), model.head.global_pool.pool_type
    ratios = {stage.blocks[0].mlp.fc1.out_features / stage.blocks[0].dim for stage in stages}
    fixed = [model.patch_embed.norm, *(stage.downsample.norm for stage in stages[1:])]
    reading.refuse(
        {
            f"blocks of the kind {reading.kind(block)}": reading.kind(block) != "SwinTransformerBlock"
            for stage in stages
            for block in stage.blocks
        }
        | {
            f"global_pool={pooling!r}": pooling != "avg",
            "always_partition=True": any(stage.blocks[0].always_partition for stage in stages),
            f"feed-forwards of several widths over that of their stage, {sorted(ratios)}": len(ratios) > 1,
            "drop_rate, a dropout before its classifier": model.head.drop.p > 0,
            "norms in its stem or between its stages with another eps than 1e-5": any(
                getattr(norm, "eps", 1e-5) != 1e-5 for norm in fixed
            ),
        }
    )
    for stage in stages:
        reading.refuse_block(stage.blocks[0], ("WindowAttention",), ("Mlp",))


def convert_config(model: Any) -> ViTCustomConfig:
    refuse_what_is_lost(model)
    first = [stage.blocks[0] for stage in model.layers]
    blocks = [block for stage in model.layers for block in stage.blocks]
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        image_size=list(model.patch_embed.img_size),
        patch_size=list(model.patch_embed.patch_size),
        num_channels=model.patch_embed.proj.in_channels,
        prefix_tokens=[],
        embeddings_norm="none" if reading.absent(model.patch_embed.norm) else "patches",
        position_embedding="none",
        hidden_sizes=[block.dim for block in first],
        depths=[len(stage.blocks) for stage in model.layers],
        num_attention_heads=[block.attn.num_heads for block in first],
        downsample="merge",
        # timm shrinks the windows of a grid that is smaller, and their tables of biases with them: those do not fit.
        window_size=max(max(block.window_size) for block in blocks),
        window_pad_order="shift_then_pad",
        window_clamp="per_axis",
        mlp_ratio=first[0].mlp.fc1.out_features / first[0].dim,
        hidden_act=reading.hidden_act(first[0].mlp.act),
        layer_norm_eps=reading.layer_norm_eps([model.norm, *(n for b in first for n in (b.norm1, b.norm2))]),
        attention_probs_dropout_prob=first[0].attn.attn_drop.p,
        qkv_bias=first[0].attn.qkv.bias is not None,
        pooling="mean",
        num_labels=model.num_classes,
        **reading.drop_path(blocks),
    )


def tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    blocks = "layers.{s}.blocks.{n}."
    base = [
        row("patch_embed.proj.{p}", "embeddings.patch_embeddings.{p}"),
        row("patch_embed.norm.{p}", "embeddings.norm.{p}"),
        *reading.block_rows(blocks, OURS),
        row(blocks + "attn.relative_position_bias_table", OURS + "attention.relative_position_bias_table"),
        row("norm.{p}", "norm.{p}"),
        # Both follow from the window and the image size; the original's files hold them.
        *kept(blocks + "attn.relative_position_index", blocks + "attn_mask"),
    ]

    def merge(stage: str) -> list:
        ours = f"stages.{stage}.downsample."
        return [
            row("layers.{s}.downsample.norm.{p}", ours + "norm.{p}"),
            row("layers.{s}.downsample.reduction.weight", ours + "reduction.weight"),
        ]

    return {
        "timm": reading.with_heads([*base, *merge("{s}")], head, "head.fc.{p}"),
        # Microsoft's, with the downsampling at the end of the stage before; timm's oldest files kept it.
        "original": reading.with_heads([*base, *merge("{s+1}")], head),
    }


def write(config: ViTCustomConfig) -> tuple[str, dict[str, Any]]:
    """(an architecture of timm, the arguments that make it this model). The norms' eps, 1e-5, comes with it."""
    height, width = (n * p for n, p in zip(config.grid, pair(config.patch_size), strict=True))
    return "swin_tiny_patch4_window7_224", dict(
        img_size=reading.plain([height, width]),
        patch_size=reading.plain(config.patch_size),
        in_chans=config.num_channels,
        global_pool="avg",
        embed_dim=config.hidden_sizes[0],
        depths=list(config.depths),
        num_heads=list(config.num_attention_heads),
        window_size=config.window_size,
        mlp_ratio=reading.mlp_ratio(config.stages[0].intermediate_size, config.hidden_sizes[0]),
        qkv_bias=all(config.qkv_biases),
        attn_drop_rate=config.attention_probs_dropout_prob,
        drop_path_rate=config.drop_path_rate,
    )
