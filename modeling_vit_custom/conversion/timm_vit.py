"""timm's VisionTransformer (ViT, DeiT-III, CLIP's image tower, DINOv2, MAE's encoder, FlexiViT) and
VisionTransformerDistilled (DeiT), read by their attributes: timm is not imported here."""

from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from . import timm_reading as reading
from .rename import Table
from .rename import join
from .rename import row

OURS = "stages.0.layers.{n}."
TOKENS = {"cls": "cls_token", "distillation": "dist_token", "register": "reg_token"}


def refuse_what_is_lost(model: Any):
    """Raise where a model that its names do not tell apart computes something else than ours."""
    block = model.blocks[0]
    distilled = getattr(model, "dist_token", None) is not None
    reading.refuse_stem(model)
    reading.refuse(
        {
            f"blocks of the kind {reading.kind(block)}": reading.kind(block) != "Block",
            f"global_pool={model.global_pool!r}": model.global_pool not in reading.POOLINGS,
            "pool_include_prefix=True": getattr(model, "pool_include_prefix", False),
            "embed_norm_layer, a norm on its patches": not reading.absent(model.patch_embed.norm),
            "dynamic_img_pad=True": model.patch_embed.dynamic_img_pad,
            "drop_rate, a dropout before its classifier": model.head_drop.p > 0,
            "patch_drop_rate": not reading.absent(model.patch_drop),
            "fc_norm=True, which its two heads do not use": distilled and not reading.absent(model.fc_norm),
        }
    )
    reading.refuse_block(block, ("Attention",), ("Mlp", "GluMlp"))
    reading.refuse({"a gate behind what it multiplies": getattr(block.mlp, "gate_last", False)})


def convert_config(model: Any) -> ViTCustomConfig:
    refuse_what_is_lost(model)
    block, norms = model.blocks[0], (model.norm, model.fc_norm)
    tokens = ["cls"] * model.has_class_token + ["distillation"] * hasattr(model, "dist_token")
    tokens += ["register"] * model.num_reg_tokens
    eps = [*norms, model.norm_pre, block.norm1, block.norm2, block.attn.q_norm, block.attn.k_norm]
    learned = model.pos_embed is not None
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        prefix_tokens=tokens,
        position_embedding="learned" if learned else "none",
        num_prefix_positions=len(tokens) if learned and not model.no_embed_class else 0,
        position_interpolation="bicubic_antialias",
        gated_mlp=reading.kind(block.mlp) == "GluMlp",
        layer_norm_eps=reading.layer_norm_eps(eps),
        qkv_bias=block.attn.qkv.bias is not None,
        layer_scale_init_value=block.ls1.init_values if hasattr(block.ls1, "gamma") else None,
        distillation_head=hasattr(model, "dist_token"),
        **reading.of_one_grid(model),
    )


def tokens_row(config: ViTCustomConfig) -> Table:
    """timm holds each kind of prefix token apart."""
    kinds = list(dict.fromkeys(config.prefix_tokens))
    sizes = [config.prefix_tokens.count(kind) for kind in kinds]
    return [row(tuple(TOKENS[kind] for kind in kinds), "embeddings.prefix_tokens", join(*sizes))] if kinds else []


def tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    base = [
        *tokens_row(config),
        row("pos_embed", "embeddings.position_embeddings"),
        row("patch_embed.proj.{p}", "embeddings.patch_embeddings.{p}"),
        row("norm_pre.{p}", "embeddings.norm.{p}"),
        *reading.block_rows("blocks.{n}.", OURS, config.gated_mlp),
        row("norm.{p}", "norm.{p}"),
        row("fc_norm.{p}", "pooled_norm.{p}"),
    ]

    def scales(name: str) -> Table:
        rows = [row("blocks.{n}." + name.format(number), f"{OURS}branch{number}.scale") for number in "12"]
        return reading.with_heads([*base, *rows], head)

    # The second is DeiT-III's own, which files of timm on the Hub may have kept.
    return {"timm": scales("ls{}.gamma"), "original": scales("gamma_{}")}


def write(config: ViTCustomConfig) -> tuple[str, dict[str, Any]]:
    """(an architecture of timm, the arguments that make it this model). Norms and gates cannot be said in JSON, so they
    come with the architecture."""
    stage = config.stages[0]
    distilled = "distillation" in config.prefix_tokens
    arguments = dict(
        img_size=reading.plain([n * p for n, p in zip(config.grid, pair(config.patch_size), strict=True)]),
        patch_size=reading.plain(config.patch_size),
        in_chans=config.num_channels,
        global_pool=next(
            (theirs for theirs, ours in reading.POOLINGS.items() if ours == config.pooling), config.pooling
        ),
        embed_dim=stage.hidden_size,
        depth=stage.depth,
        num_heads=stage.num_attention_heads,
        mlp_ratio=reading.mlp_ratio(stage.intermediate_size * (2 if config.gated_mlp else 1), stage.hidden_size),
        qkv_bias=all(config.qkv_biases),
        qk_norm=config.qk_norm,
        init_values=config.layer_scale_init_value,
        class_token="cls" in config.prefix_tokens,
        no_embed_class=not config.num_positioned_prefix_tokens and bool(config.prefix_tokens),
        reg_tokens=config.prefix_tokens.count("register"),
        pos_embed="learn" if config.position_embedding == "learned" else "none",
        pre_norm=config.embeddings_norm == "tokens",
        final_norm=config.final_norm != "none",
        fc_norm=config.final_norm == "pooled",
        pos_drop_rate=config.embeddings_dropout_prob,
        attn_drop_rate=config.attention_probs_dropout_prob,
        drop_path_rate=config.drop_path_rate,
    )
    if config.gated_mlp:
        return "vit_giant_patch14_dinov2", arguments
    arguments["act_layer"] = reading.ACT_LAYERS.get(config.hidden_act, config.hidden_act)
    if distilled:
        return "deit_base_distilled_patch16_224", arguments
    return "vit_base_patch16_clip_224" if config.layer_norm_eps == 1e-5 else "vit_base_patch16_224", arguments
