"""timm's PoolingVisionTransformer (PiT), plain and distilled, read by its attributes: timm is not imported here."""

from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from . import timm_reading as reading
from .rename import Table
from .rename import permute
from .rename import reshape
from .rename import row

OURS = "stages.{s}.layers.{n}."


def refuse_what_is_lost(model: Any):
    """Raise where a model that its names do not tell apart computes something else than ours."""
    stages, stem = list(model.transformers), model.patch_embed.conv
    ratios = {s.blocks[0].mlp.fc1.out_features / s.blocks[0].mlp.fc1.in_features for s in stages}
    reading.refuse(
        {
            f"blocks of the kind {reading.kind(stages[0].blocks[0])}": reading.kind(stages[0].blocks[0]) != "Block",
            f"global_pool={model.global_pool!r}": model.global_pool != "token",
            "a norm at the entry of its stages": any(not reading.absent(stage.norm) for stage in stages),
            "a padded stem": any(stem.padding),
            f"feed-forwards of several widths over that of their stage, {sorted(ratios)}": len(ratios) > 1,
            "drop_rate, a dropout before its classifier": model.head_drop.p > 0,
            "pos_drop_rate, which spares its class token": model.pos_drop.p > 0,
        }
    )
    for stage in stages:
        reading.refuse_block(stage.blocks[0], ("Attention",), ("Mlp",))


def convert_config(model: Any) -> ViTCustomConfig:
    refuse_what_is_lost(model)
    first = [stage.blocks[0] for stage in model.transformers]
    distilled = model.head_dist is not None
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        image_size=list(model.patch_embed.img_size),
        patch_size=list(model.patch_embed.patch_size),
        patch_stride=list(model.patch_embed.conv.stride),
        num_channels=model.patch_embed.conv.in_channels,
        prefix_tokens=["cls", "distillation"] if distilled else ["cls"],
        num_prefix_positions=0,
        hidden_sizes=[block.attn.proj.out_features for block in first],
        depths=[len(stage.blocks) for stage in model.transformers],
        num_attention_heads=[block.attn.num_heads for block in first],
        downsample="conv",
        mlp_ratio=first[0].mlp.fc1.out_features / first[0].mlp.fc1.in_features,
        hidden_act=reading.hidden_act(first[0].mlp.act),
        final_norm="pooled",
        layer_norm_eps=reading.layer_norm_eps([model.norm, *(n for b in first for n in (b.norm1, b.norm2))]),
        attention_probs_dropout_prob=first[0].attn.attn_drop.p,
        distillation_head=distilled,
        num_labels=model.num_classes,
        **reading.drop_path([block for stage in model.transformers for block in stage.blocks]),
    )


def tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    width, grid = config.hidden_sizes[0], config.position_grid or config.grid
    picture = reshape(theirs=(1, width, *grid), ours=(1, width, -1)), permute(0, 2, 1)
    base = [
        row("cls_token", "embeddings.prefix_tokens"),
        row("pos_embed", "embeddings.position_embeddings", *picture),
        row("patch_embed.conv.{p}", "embeddings.patch_embeddings.{p}"),
        *reading.block_rows("transformers.{s}.blocks.{n}.", OURS),
        row("norm.{p}", "pooled_norm.{p}"),
    ]

    def pools(theirs: str, stage: str) -> Table:
        ours = f"stages.{stage}.downsample."
        rows = [row(f"{theirs}.conv.{{p}}", ours + "conv.{p}"), row(f"{theirs}.fc.{{p}}", ours + "prefix.{p}")]
        return reading.with_heads([*base, *rows], head)

    # The second is Naver's own, which timm's oldest files kept.
    return {"timm": pools("transformers.{s}.pool", "{s}"), "original": pools("pools.{s}", "{s+1}")}


def write(config: ViTCustomConfig) -> tuple[str, dict[str, Any]]:
    """(an architecture of timm, the arguments that make it this model). The norms' eps, 1e-6, comes with it."""
    heads = config.num_attention_heads
    sides = zip(config.grid, pair(config.patch_size), pair(config.patch_stride or config.patch_size), strict=True)
    return "pit_s_distilled_224" if "distillation" in config.prefix_tokens else "pit_s_224", dict(
        img_size=reading.plain([(number - 1) * stride + patch for number, patch, stride in sides]),
        patch_size=reading.plain(config.patch_size),
        stride=reading.plain(config.patch_stride or config.patch_size),
        in_chans=config.num_channels,
        base_dims=[width // number for width, number in zip(config.hidden_sizes, heads, strict=True)],
        depth=list(config.depths),
        heads=list(heads),
        mlp_ratio=reading.mlp_ratio(config.stages[0].intermediate_size, config.hidden_sizes[0]),
        attn_drop_rate=config.attention_probs_dropout_prob,
        drop_path_rate=config.drop_path_rate,
    )
