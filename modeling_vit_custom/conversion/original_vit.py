"""The files of DeiT and DeiT-III, DINOv2 and Segmenter, whose names began as timm's."""

from typing import Any

from ..configuration_vit_custom import ViTCustomConfig
from . import original_reading as reading
from . import timm_vit
from .original_reading import Tensors
from .rename import Table
from .rename import join
from .rename import kept
from .rename import prefixed
from .rename import row
from .rename import split

OURS = "stages.0.layers.{n}."


def read_plain(
    tensors: Tensors, preset: ViTCustomConfig | None, tokens: list[str], positioned: tuple[int, ...], **fixed: Any
) -> ViTCustomConfig:
    """A ViT from the shapes of its tensors.

    Args:
        positioned: how many prefix tokens may have a position.
        fixed: what the source's code has without asking.
    """
    width, channels, *patch = tensors["patch_embed.proj.weight"].shape
    num_positions, grid = reading.position_grid(tensors["pos_embed"].shape[1], positioned, preset)
    block = "blocks.0."
    settings = dict(
        image_size=reading.image_size(grid, patch),
        patch_size=reading.side(patch),
        num_channels=channels,
        prefix_tokens=tokens,
        num_prefix_positions=num_positions,
        position_grid=grid,
        hidden_sizes=[width],
        depths=[reading.depth(tensors, r"blocks\.(\d+)\.norm1\.weight")],
        num_attention_heads=[reading.num_heads(width, preset)],
        qkv_bias=f"{block}attn.qkv.bias" in tensors,
        num_labels=reading.num_labels(tensors),
    )
    if f"{block}mlp.fc2.weight" in tensors:
        settings["intermediate_size"] = tensors[f"{block}mlp.fc2.weight"].shape[1]
    return ViTCustomConfig(**settings | fixed)


def read_deit(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """DeiT-III's layers end in scales, and its class token has no position; its drop path is the same in all layers."""
    distilled, third = "dist_token" in tensors, "blocks.0.gamma_1" in tensors
    tokens = ["cls", "distillation"] if distilled else ["cls"]
    fixed: dict[str, Any] = dict(layer_norm_eps=1e-6, position_interpolation="bicubic", distillation_head=distilled)
    if third:
        fixed |= dict(layer_scale_init_value=1e-4, drop_path_schedule="constant")
    return read_plain(tensors, preset, tokens, (0,) if third else (len(tokens),), **fixed)


def deit_tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    return {"original": [*timm_vit.tables(config, head)["original"], *kept("mask_token", "decoder_{rest}")]}  # MAE's


def read_timm(tensors: Tensors) -> ViTCustomConfig:
    """A state dict of timm, as its architectures for classification have it.

    Raises:
        ValueError: parts of which no shape says how they work.
    """
    if strange := [name for name in ("norm_pre.weight", "attn_pool.latent") if name in tensors]:
        raise ValueError(f"No shape says how the model with `{strange[0]}` works: name it with `--preset`.")
    tokens = ["cls"] * ("cls_token" in tensors) + ["distillation"] * ("dist_token" in tensors)
    tokens += ["register"] * (tensors["reg_token"].shape[1] if "reg_token" in tensors else 0)
    inner = tensors["blocks.0.mlp.fc2.weight"].shape[1]
    # DeiT-III's class token has no position, nor have those of some models with registers. Of a plain model all have
    # one: else 14 x 16 patches and a class token would be taken for 15 x 15 patches.
    scaled = any(name in tensors for name in ("blocks.0.ls1.gamma", "blocks.0.gamma_1", "reg_token"))
    return read_plain(
        tensors,
        None,
        tokens,
        (len(tokens), 0) if scaled else (len(tokens),),
        position_interpolation="bicubic_antialias",
        layer_norm_eps=1e-6,
        intermediate_size=inner,
        gated_mlp=tensors["blocks.0.mlp.fc1.weight"].shape[0] == 2 * inner,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        layer_scale_init_value=1e-5 if "blocks.0.ls1.gamma" in tensors or "blocks.0.gamma_1" in tensors else None,
        distillation_head="dist_token" in tensors,
        pooling="mean" if "fc_norm.weight" in tensors or "cls_token" not in tensors else "cls",
        final_norm="pooled" if "fc_norm.weight" in tensors else "all",
    )


def dinov2_names(tensors: Tensors) -> dict[str, Any]:
    """A training's tensors under the names of a released file: without `backbone.` and the chunks of its blocks."""
    released = {}
    for name, tensor in tensors.items():
        parts = name.removeprefix("backbone.").split(".")
        if parts[0] == "blocks" and parts[2].isdigit():
            del parts[1]
        released[".".join(parts)] = tensor
    return released


def read_dinov2(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    tensors = dinov2_names(tensors)
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    gated = "blocks.0.mlp.w12.weight" in tensors
    inner = tensors["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"].shape[1]
    return read_plain(
        tensors,
        preset,
        ["cls"] + ["register"] * registers,
        (1,),  # registers come after the positions
        position_interpolation="bicubic_antialias" if registers else "bicubic_offset",
        intermediate_size=inner,
        gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        layer_norm_eps=1e-6,
        layer_scale_init_value=1e-5,
        drop_path_schedule="constant",
    )


def dinov2_layer(theirs: str, ours: str, gated: bool) -> Table:
    modules = {"norm1": "norm1", "attn.proj": "attention.o_proj", "norm2": "norm2"}
    modules |= {"mlp.w3": "mlp.fc2"} if gated else {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    rows = [row(f"{theirs}.{left}.{{p}}", f"{ours}.{right}.{{p}}") for left, right in modules.items()]
    rows.append(
        row(f"{theirs}.attn.qkv.{{p}}", tuple(f"{ours}.attention.{name}_proj.{{p}}" for name in "qkv"), split(3))
    )
    if gated:  # CODEPATH: the giant's first projection holds the gate, then what it multiplies
        rows.append(row(f"{theirs}.mlp.w12.{{p}}", (f"{ours}.mlp.gate.{{p}}", f"{ours}.mlp.fc1.{{p}}"), split(2)))
    return [*rows, *(row(f"{theirs}.ls{number}.gamma", f"{ours}.branch{number}.scale") for number in "12")]


def dinov2_tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    """A released file's names; and those of a training, which deals its blocks to chunks and counts on across them."""
    registers = len(config.prefix_tokens) - 1
    tokens = row("cls_token", "embeddings.prefix_tokens")
    if registers:
        tokens = row(("cls_token", "register_tokens"), "embeddings.prefix_tokens", join(1, registers))
    base = [
        tokens,
        row("pos_embed", "embeddings.position_embeddings"),
        row("patch_embed.proj.{p}", "embeddings.patch_embeddings.{p}"),
        row("norm.{p}", "norm.{p}"),
        *kept("mask_token"),  # what a hidden patch becomes in training
    ]
    tables: dict[str, Table] = {"original": [*base, *dinov2_layer("blocks.{n}", OURS[:-1], config.gated_mlp)]}
    layers = config.depths[0]
    for chunks in (number for number in (4, 2, 1) if layers % number == 0):
        table = [*base]
        for n in range(layers):
            table += dinov2_layer(f"blocks.{n * chunks // layers}.{n}", f"stages.0.layers.{n}", config.gated_mlp)
        tables[f"in {chunks} chunks"] = table
    heads = kept("dino_head.{rest}", "ibot_head.{rest}")
    return tables | {
        f"training, {name}": [*prefixed(table, theirs="backbone."), *heads] for name, table in tables.items()
    }


def read_segmenter(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """The encoder of a Segmenter, whose norms have torch's own eps."""
    encoder = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    tokens = ["cls", "distillation"] if "dist_token" in encoder else ["cls"]
    return read_plain(
        encoder,
        preset,
        tokens,
        (len(tokens),),
        position_interpolation="bilinear",
        layer_norm_eps=1e-5,
        num_labels=0,
    )


def segmenter_tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    encoder = [*timm_vit.tables(config, head=False)["timm"], *kept("head.{p}", "head_dist.{p}", "pre_logits.{rest}")]
    return {"original": [*prefixed(encoder, theirs="encoder."), *kept("decoder.{rest}")]}
