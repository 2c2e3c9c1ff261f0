"""The files of Microsoft's Swin and of Naver's PiT: stages whose downsampling is at the end of the stage before."""

import math
import re
from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from . import original_reading as reading
from . import timm_pit
from . import timm_swin
from .original_reading import Tensors
from .rename import Table
from .rename import prefixed
from .rename import row

# Widths -> heads: no tensor's shape tells the heads of a PiT.
PIT_HEADS: dict[tuple[int, ...], tuple[int, ...]] = {
    (64, 128, 256): (2, 4, 8),
    (96, 192, 384): (2, 4, 8),
    (144, 288, 576): (3, 6, 12),
    (256, 512, 1024): (4, 8, 16),
}


def depths(tensors: Tensors, stages: str) -> list[int]:
    """Layers of each stage."""
    number = reading.depth(tensors, rf"{stages}\.(\d+)\.blocks\.0\.norm1\.weight")
    return [reading.depth(tensors, rf"{stages}\.{stage}\.blocks\.(\d+)\.norm1\.weight") for stage in range(number)]


def read_swin(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """All but the nominal image size follows from the shapes: the published ones are a last grid of one window."""
    layers = depths(tensors, "layers")
    first = [f"layers.{stage}.blocks.0." for stage in range(len(layers))]
    width, channels, *patch = tensors["patch_embed.proj.weight"].shape
    offsets, _ = tensors[f"{first[0]}attn.relative_position_bias_table"].shape
    window = (math.isqrt(offsets) + 1) // 2
    settings: dict[str, Any] = dict(image_size=reading.side([p * 2 ** (len(layers) - 1) * window for p in patch]))
    if preset is not None:
        settings["image_size"] = reading.side(preset.image_size)
    if "absolute_pos_embed" in tensors:
        _, grid = reading.position_grid(tensors["absolute_pos_embed"].shape[1], (0,), preset)
        settings = dict(image_size=reading.image_size(grid, patch), position_grid=grid)
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        **settings,
        patch_size=reading.side(patch),
        num_channels=channels,
        prefix_tokens=[],
        embeddings_norm="patches" if "patch_embed.norm.weight" in tensors else "none",
        position_embedding="learned" if "absolute_pos_embed" in tensors else "none",
        hidden_sizes=[tensors[f"{block}norm1.weight"].shape[0] for block in first],
        depths=layers,
        num_attention_heads=[tensors[f"{block}attn.relative_position_bias_table"].shape[1] for block in first],
        downsample="merge",
        window_size=window,
        # The original refuses a grid that is no multiple of the window, so its order of padding and shift is open.
        window_pad_order="pad_then_shift",
        window_clamp="joint",
        mlp_ratio=tensors[f"{first[0]}mlp.fc1.weight"].shape[0] / width,
        layer_norm_eps=1e-5,
        qkv_bias=f"{first[0]}attn.qkv.bias" in tensors,
        pooling="mean",
        num_labels=reading.num_labels(tensors),
    )


def swin_tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    positions = prefixed([row("absolute_pos_embed", "embeddings.position_embeddings")], ours="vit." if head else "")
    return {"original": [*timm_swin.tables(config, head)["original"], *positions]}


def read_pit(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """
    Raises:
        ValueError: the widths are not published ones, and no preset tells the heads.
    """
    layers = depths(tensors, "transformers")
    widths = tuple(tensors[f"transformers.{stage}.blocks.0.norm1.weight"].shape[0] for stage in range(len(layers)))
    if preset is None and widths not in PIT_HEADS:
        raise ValueError(
            f"No tensor says how many attention heads share widths of {', '.join(map(str, widths))}, and no published "
            "PiT has them: name a preset of the same sizes with `--preset`."
        )
    if preset is not None and tuple(preset.hidden_sizes) != widths:
        raise ValueError(
            f"The preset has widths of {', '.join(map(str, preset.hidden_sizes))}, the file has "
            f"{', '.join(map(str, widths))}: name a preset of the same sizes."
        )
    heads = PIT_HEADS[widths] if preset is None else tuple(preset.num_attention_heads)
    _, channels, *patch = tensors["patch_embed.conv.weight"].shape
    # Patches overlap by half in all of them.
    stride = [side // 2 for side in patch] if preset is None else pair(preset.patch_stride or preset.patch_size)
    grid = tensors["pos_embed"].shape[2:]
    distilled = tensors["cls_token"].shape[1] == 2
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        image_size=reading.image_size(grid, patch, stride),
        patch_size=reading.side(patch),
        patch_stride=reading.side(stride),
        num_channels=channels,
        prefix_tokens=["cls", "distillation"] if distilled else ["cls"],
        num_prefix_positions=0,
        position_grid=list(grid),
        hidden_sizes=list(widths),
        depths=layers,
        num_attention_heads=list(heads),
        downsample="conv",
        mlp_ratio=tensors["transformers.0.blocks.0.mlp.fc1.weight"].shape[0] / widths[0],
        final_norm="pooled",
        layer_norm_eps=1e-6,
        distillation_head=distilled,
        num_labels=reading.num_labels(tensors),
    )


def pit_tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    return {"original": timm_pit.tables(config, head)["original"]}


def is_pit(names: Tensors) -> bool:
    return any(re.fullmatch(r"pools\.\d+\.conv\.weight", name) for name in names)
