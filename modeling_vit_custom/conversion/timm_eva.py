"""timm's Eva as DINOv3 uses it, read by its attributes: timm is not imported here."""

from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from . import timm_reading as reading
from .rename import Table
from .rename import row
from .rename import split
from .timm_vit import OURS
from .timm_vit import tokens_row


def refuse_what_is_lost(model: Any):
    """Raise where a model that its names do not tell apart computes something else than ours: EVA and EVA02 do."""
    block, rope = model.blocks[0], model.rope
    reading.refuse_stem(model)
    reading.refuse(
        {
            f"blocks of the kind {reading.kind(block)}": reading.kind(block) != "EvaBlock",
            f"global_pool={model.global_pool!r}": model.global_pool not in reading.POOLINGS,
            f"rotary positions of the kind {reading.kind(rope)}": reading.kind(rope) != "RotaryEmbeddingDinoV3",
            "learned positions beside the rotary ones": model.pos_embed is not None,
            "dynamic_img_pad=True": model.patch_embed.dynamic_img_pad,
            "drop_rate, a dropout before its classifier": model.head_drop.p > 0,
            "patch_drop_rate": model.patch_drop is not None,
            "two final norms": not reading.absent(model.norm) and not reading.absent(model.fc_norm),
        }
    )
    reading.refuse_block(block, ("EvaAttention",), ("Mlp", "SwiGLU"))
    coordinates = ("shift_coords", "jitter_coords", "rescale_coords", "min_period", "max_period")
    reading.refuse(
        {
            "qkv_fused=False": block.attn.qkv is None,
            "attn_only_layer_scale=True": (block.gamma_1 is None) != (block.gamma_2 is None),
            "interleaved rotary positions (rope_rotate_half=False)": not block.attn.rotate_half,
            "rotary positions on another grid than the patches' centres": rope.grid_offset != 0
            or rope.grid_indexing != "ij"
            or rope.normalize_coords != "separate",
        }
        | {f"rotary positions with {name}": getattr(rope, name) is not None for name in coordinates}
    )


def convert_config(model: Any) -> ViTCustomConfig:
    refuse_what_is_lost(model)
    block = model.blocks[0]
    norms = [model.norm, model.fc_norm, model.norm_pre, block.norm1, block.norm2, block.attn.q_norm, block.attn.k_norm]
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        prefix_tokens=["cls"] * (model.cls_token is not None) + ["register"] * registers,
        position_embedding="rotary",
        rope_theta=model.rope.temperature,
        gated_mlp=reading.kind(block.mlp) == "SwiGLU",
        layer_norm_eps=reading.layer_norm_eps(norms),
        # The key's is a buffer of zeros, which is in no file.
        qkv_bias=False if block.attn.q_bias is None else [True, False, True],
        layer_scale_init_value=block.init_values,
        **reading.of_one_grid(model),
    )


def tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    modules = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj", "mlp.fc2": "mlp.fc2"}
    modules |= {"attn.q_norm": "attention.q_norm", "attn.k_norm": "attention.k_norm"}
    modules |= {"mlp.fc1_g": "mlp.gate", "mlp.fc1_x" if config.gated_mlp else "mlp.fc1": "mlp.fc1"}
    qkv = tuple(f"{OURS}attention.{name}_proj.weight" for name in "qkv")
    table = [
        *tokens_row(config),
        row("patch_embed.proj.{p}", "embeddings.patch_embeddings.{p}"),
        row("norm_pre.{p}", "embeddings.norm.{p}"),
        *(row(f"blocks.{{n}}.{theirs}.{{p}}", f"{OURS}{ours}.{{p}}") for theirs, ours in modules.items()),
        row("blocks.{n}.attn.qkv.weight", qkv, split(3)),
        *(row(f"blocks.{{n}}.attn.{name}_bias", f"{OURS}attention.{name}_proj.bias") for name in "qv"),
        *(row(f"blocks.{{n}}.gamma_{number}", f"{OURS}branch{number}.scale") for number in "12"),
        row("norm.{p}", "norm.{p}"),
        row("fc_norm.{p}", "pooled_norm.{p}"),
    ]
    return {"timm": reading.with_heads(table, head)}


def write(config: ViTCustomConfig) -> tuple[str, dict[str, Any]]:
    """(an architecture of timm, the arguments that make it this model). The norms' eps, 1e-5, comes with it."""
    stage = config.stages[0]
    return "vit_base_patch16_dinov3", dict(
        img_size=reading.plain([n * p for n, p in zip(config.grid, pair(config.patch_size), strict=True)]),
        patch_size=reading.plain(config.patch_size),
        in_chans=config.num_channels,
        global_pool=next(
            (theirs for theirs, ours in reading.POOLINGS.items() if ours == config.pooling), config.pooling
        ),
        embed_dim=stage.hidden_size,
        depth=stage.depth,
        num_heads=stage.num_attention_heads,
        mlp_ratio=reading.mlp_ratio(stage.intermediate_size, stage.hidden_size),
        swiglu_mlp=config.gated_mlp,
        swiglu_align_to=1 if config.gated_mlp else 0,  # 0 would make timm pack the gate and what it multiplies
        qkv_bias=any(config.qkv_biases),
        qk_norm=config.qk_norm,
        init_values=config.layer_scale_init_value,
        class_token="cls" in config.prefix_tokens,
        num_reg_tokens=config.prefix_tokens.count("register"),
        rope_temperature=config.rope_theta,
        use_pre_transformer_norm=config.embeddings_norm == "tokens",
        use_post_transformer_norm=config.final_norm == "all",
        use_fc_norm=config.final_norm == "pooled",
        pos_drop_rate=config.embeddings_dropout_prob,
        attn_drop_rate=config.attention_probs_dropout_prob,
        drop_path_rate=config.drop_path_rate,
    )
