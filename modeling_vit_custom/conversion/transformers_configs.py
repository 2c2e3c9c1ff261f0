"""transformers' configurations, field by field."""

from typing import Any

from ..configuration_vit_custom import ViTCustomConfig
from .transformers_fields import Fields

LISTED = {
    "hidden_sizes": "hidden_size",
    "depths": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
}
SHARED = {
    name: name
    for name in ("image_size", "patch_size", "num_channels", "hidden_act", "layer_norm_eps", "initializer_range")
}
HIDDEN_DROPOUT = {"hidden_dropout_prob": "hidden_dropout_prob", "embeddings_dropout_prob": "hidden_dropout_prob"}
ATTENTION_DROPOUT = {"attention_probs_dropout_prob": "attention_probs_dropout_prob"}
PLAIN = SHARED | LISTED | HIDDEN_DROPOUT | ATTENTION_DROPOUT | {"qkv_bias": "qkv_bias"}
INTERMEDIATE = {"intermediate_size": "intermediate_size"}
POOLER = ("pooler_output_size", "pooler_act", "encoder_stride")
BACKBONE = ("apply_layernorm", "reshape_hidden_states", "stage_names")


def intermediate_size(ours: ViTCustomConfig) -> int:
    return ours.stages[0].intermediate_size


def write_plain(ours: ViTCustomConfig) -> dict[str, Any]:
    return dict(intermediate_size=intermediate_size(ours), qkv_bias=all(ours.qkv_biases))


VIT = Fields(
    same=PLAIN | INTERMEDIATE,
    fixed=dict(position_interpolation="bicubic"),
    write=write_plain,
    without_effect=POOLER,
)


def deit(teacher: bool) -> Fields:
    tokens = dict(prefix_tokens=["cls", "distillation"], distillation_head=teacher)
    return Fields(
        same=PLAIN | INTERMEDIATE,
        fixed=dict(position_interpolation="bicubic", **tokens),
        write=write_plain,
        without_effect=POOLER,
    )


VIT_MAE = Fields(
    same=PLAIN | INTERMEDIATE,
    fixed=dict(position_interpolation="bicubic"),
    read=lambda theirs: dict(embeddings_dropout_prob=0.0),
    write=write_plain,
    without_effect=(
        *(
            f"decoder_{name}"
            for name in ("num_attention_heads", "hidden_size", "num_hidden_layers", "intermediate_size")
        ),
        "mask_ratio",
        "norm_pix_loss",
    ),
)


def read_swin(theirs: Any) -> dict[str, Any]:
    depths = list(theirs.depths)
    return dict(
        hidden_sizes=[theirs.embed_dim * 2**stage for stage in range(len(depths))],
        depths=depths,
        num_attention_heads=list(theirs.num_heads),
        downsample="merge" if len(depths) > 1 else "none",
        position_embedding="learned" if theirs.use_absolute_embeddings else "none",
    )


def write_swin(ours: ViTCustomConfig) -> dict[str, Any]:
    return dict(
        embed_dim=ours.hidden_sizes[0],
        depths=list(ours.depths),
        num_heads=list(ours.num_attention_heads),
        use_absolute_embeddings=ours.position_embedding == "learned",
        qkv_bias=all(ours.qkv_biases),
        mlp_ratio=ours.stages[0].intermediate_size / ours.hidden_sizes[0],
        **({} if ours.window_size is None else dict(window_size=ours.window_size)),
    )


SWIN = Fields(
    same=SHARED
    | HIDDEN_DROPOUT
    | ATTENTION_DROPOUT
    | {name: name for name in ("qkv_bias", "window_size", "mlp_ratio", "drop_path_rate")},
    fixed=dict(
        prefix_tokens=[],
        embeddings_norm="patches",
        pooling="mean",
        position_interpolation="bicubic",
        window_pad_order="pad_then_shift",
        window_clamp="joint",
    ),
    read=read_swin,
    write=write_swin,
    spoken=("embed_dim", "depths", "num_heads", "use_absolute_embeddings", "hidden_size", "num_layers"),
    without_effect=("encoder_stride", "stage_names"),
)


def swiglu_size(hidden_size: int, mlp_ratio: float) -> int:
    """Two thirds, rounded up to a multiple of 8, as their Dinov2SwiGLUFFN has it."""
    return (int(int(hidden_size * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def read_dinov2(theirs: Any) -> dict[str, Any]:
    ratio, width = theirs.mlp_ratio, theirs.hidden_size
    if theirs.use_swiglu_ffn:
        return dict(gated_mlp=True, hidden_act="silu", intermediate_size=swiglu_size(width, ratio))
    return dict(intermediate_size=int(width * ratio))


def write_dinov2(ours: ViTCustomConfig) -> dict[str, Any]:
    """`mlp_ratio` is a whole number in theirs: the one that gives our width, if there is one."""
    width, target = ours.hidden_size, intermediate_size(ours)
    size = swiglu_size if ours.gated_mlp else lambda width, ratio: width * ratio
    ratio = next((ratio for ratio in range(1, 33) if size(width, ratio) == target), 4)
    settings = dict(mlp_ratio=ratio, use_swiglu_ffn=ours.gated_mlp, qkv_bias=all(ours.qkv_biases))
    return settings | ({"hidden_act": "gelu"} if ours.gated_mlp and ours.hidden_act == "silu" else {})


def dinov2(head: bool, registers: bool) -> Fields:
    return Fields(
        same=PLAIN | {"layer_scale_init_value": "layerscale_value", "drop_path_rate": "drop_path_rate"},
        fixed=dict(
            position_interpolation="bicubic_antialias" if registers else "bicubic_float32",
            num_prefix_positions=1,
            drop_path_schedule="constant",
            pooling="cls_mean" if head else "cls",
        ),
        read=lambda theirs: read_dinov2(theirs) | (read_registers(theirs) if registers else {}),
        write=lambda ours: write_dinov2(ours) | (write_registers(ours) if registers else {}),
        spoken=("mlp_ratio", "use_swiglu_ffn") + ("num_register_tokens",) * registers,
        without_effect=(*BACKBONE, "use_mask_token"),
    )


def read_registers(theirs: Any) -> dict[str, Any]:
    return dict(prefix_tokens=["cls"] + ["register"] * theirs.num_register_tokens)


def write_registers(ours: ViTCustomConfig) -> dict[str, Any]:
    return dict(num_register_tokens=ours.prefix_tokens.count("register"))


DINOV3_BIASES = ("query_bias", "key_bias", "value_bias")
LINEAR = "our layers' output projection and feed-forward have biases: add zeros to the weights and set it to true"
DINOV3 = Fields(
    same=SHARED
    | LISTED
    | INTERMEDIATE
    | {
        "attention_probs_dropout_prob": "attention_dropout",
        "rope_theta": "rope_theta",
        "layer_scale_init_value": "layerscale_value",
        "drop_path_rate": "drop_path_rate",
        "gated_mlp": "use_gated_mlp",
    },
    fixed=dict(position_embedding="rotary", drop_path_schedule="constant"),
    read=lambda theirs: read_registers(theirs) | dict(qkv_bias=[getattr(theirs, name) for name in DINOV3_BIASES]),
    write=lambda ours: (
        write_registers(ours)
        | dict(zip(DINOV3_BIASES, ours.qkv_biases, strict=True))
        | dict(intermediate_size=intermediate_size(ours))
    ),
    spoken=("num_register_tokens", *DINOV3_BIASES),
    only={"proj_bias": (True, LINEAR), "mlp_bias": (True, LINEAR)},
    without_effect=(*BACKBONE, "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
)


def clip(head: bool) -> Fields:
    return Fields(
        same=SHARED | LISTED | INTERMEDIATE | {"attention_probs_dropout_prob": "attention_dropout"},
        fixed=dict(
            patch_bias=False,
            embeddings_norm="tokens",
            position_interpolation="bicubic",
            pooling="mean" if head else "cls",
            final_norm="none" if head else "pooled",
        ),
        write=lambda ours: dict(intermediate_size=intermediate_size(ours)),
        without_effect=("projection_dim", "initializer_factor"),
    )
