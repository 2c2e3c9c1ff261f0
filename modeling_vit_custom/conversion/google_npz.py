"""Google's .npz files: google-research/vision_transformer (ViT, AugReg) and big_vision.

Their GELU is flax's, the approximation by tanh: what the originals compute. timm's ports of the same files take the
exact one, which differs by up to 4.7e-4 for each unit.
"""

from typing import Any

from ..configuration_vit_custom import ViTCustomConfig
from . import original_reading as reading
from .original_reading import Tensors
from .rename import Op
from .rename import Table
from .rename import permute
from .rename import prefixed
from .rename import reshape
from .rename import row

# The parts of a layer of either code base: norms, attention, feed-forward; and what its file puts before all names.
VISION_TRANSFORMER = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
BIG_VISION = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
LEARNED = {VISION_TRANSFORMER: "Transformer/posembed_input/pos_embedding", BIG_VISION: "pos_embedding"}
PREFIXES = {"": VISION_TRANSFORMER, "opt/target/": VISION_TRANSFORMER, "params/": BIG_VISION}
FLEXIVIT = "bilinear_antialias"
LAYER = "Transformer/encoderblock_{n}/"
OURS = "stages.0.layers.{n}."


def prefix_of(names: Tensors) -> str | None:
    """What stands before all names; None where it is no file of theirs."""
    return next((prefix for prefix in PREFIXES if f"{prefix}embedding/kernel" in names), None)


def read(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """Everything is in the shapes, heads too; but where positions are computed, not the image size."""
    prefix = prefix_of(tensors) or ""
    parts = PREFIXES[prefix]
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    layer = LAYER.format(n=0)
    *patch, channels, width = tensors["embedding/kernel"].shape
    learned, has_cls = LEARNED[parts] in tensors, "cls" in tensors
    # Where positions are learned, both codes draw their table anew when they load it at another size; FlexiViT, whose
    # files have big_vision's names, does it at each call and otherwise: its preset says so.
    recipe = "bilinear_corners"
    if preset is not None and parts is BIG_VISION and preset.position_interpolation == FLEXIVIT:
        recipe = FLEXIVIT
    settings: dict[str, Any] = dict(position_interpolation=recipe)
    if learned:
        # big_vision puts its class token before tokens that have their positions already.
        counts = (1,) if has_cls and parts is VISION_TRANSFORMER else (0,)
        count, grid = reading.position_grid(tensors[LEARNED[parts]].shape[1], counts, preset)
        settings |= dict(image_size=reading.image_size(grid, patch), num_prefix_positions=count, position_grid=grid)
    else:
        settings |= dict(position_embedding="sincos", image_size=224 if preset is None else preset.image_size)
    if "pre_logits/kernel" in tensors:
        settings |= dict(head_hidden_size=tensors["pre_logits/kernel"].shape[1], head_hidden_act="tanh")
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        **settings,
        patch_size=reading.side(patch),
        num_channels=channels,
        prefix_tokens=["cls"] if has_cls else [],
        hidden_sizes=[width],
        depths=[reading.depth(tensors, r"Transformer/encoderblock_(\d+)/LayerNorm_0/scale")],
        num_attention_heads=[tensors[f"{layer}{parts[1]}/query/kernel"].shape[1]],
        intermediate_size=tensors[f"{layer}{parts[3]}/Dense_0/kernel"].shape[1],
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        pooling="cls" if has_cls else "mean",
        num_labels=tensors["head/kernel"].shape[1] if "head/kernel" in tensors else 0,
    )


def dense(theirs: str, ours: str, *weight: Op) -> Table:
    """A linear layer: flax multiplies from the right."""
    return [
        row(f"{theirs}/kernel", f"{ours}.weight", *(weight or (permute(1, 0),))),
        row(f"{theirs}/bias", f"{ours}.bias"),
    ]


def norm(theirs: str, ours: str) -> Table:
    return [row(f"{theirs}/scale", f"{ours}.weight"), row(f"{theirs}/bias", f"{ours}.bias")]


def layout(config: ViTCustomConfig, head: bool, parts: tuple[str, str, str, str]) -> Table:
    width, heads = config.hidden_size, config.num_attention_heads[0]
    first, attention, second, mlp = (LAYER + part for part in parts)
    into = reshape(theirs=(width, heads, width // heads), ours=(width, width)), permute(1, 0)
    out = reshape(theirs=(heads, width // heads, width), ours=(width, width)), permute(1, 0)
    by_head = reshape(theirs=(heads, width // heads), ours=(width,))
    base = [
        row("cls", "embeddings.prefix_tokens"),
        row(LEARNED[parts], "embeddings.position_embeddings"),
        *dense("embedding", "embeddings.patch_embeddings", permute(3, 2, 0, 1)),
        *norm(first, OURS + "norm1"),
        *(row(f"{attention}/{a}/kernel", f"{OURS}attention.{a[0]}_proj.weight", *into) for a in PROJECTIONS),
        *(row(f"{attention}/{a}/bias", f"{OURS}attention.{a[0]}_proj.bias", by_head) for a in PROJECTIONS),
        *dense(f"{attention}/out", OURS + "attention.o_proj", *out),
        *norm(second, OURS + "norm2"),
        *dense(f"{mlp}/Dense_0", OURS + "mlp.fc1"),
        *dense(f"{mlp}/Dense_1", OURS + "mlp.fc2"),
        *norm("Transformer/encoder_norm", "norm"),
    ]
    if not head:
        return base
    hidden = config.head_hidden_size is not None
    heads_table = dense("head", "classifier.fc2" if hidden else "classifier")
    return [*prefixed(base, ours="vit."), *heads_table, *(dense("pre_logits", "classifier.fc1") if hidden else [])]


PROJECTIONS = ("query", "key", "value")


def tables(config: ViTCustomConfig, head: bool) -> dict[str, Table]:
    """vision_transformer's layout first if its class token has a position, else big_vision's."""
    order = sorted(
        PREFIXES, key=lambda prefix: (PREFIXES[prefix] is BIG_VISION) == (config.num_positioned_prefix_tokens > 0)
    )
    return {prefix or "original": prefixed(layout(config, head, PREFIXES[prefix]), theirs=prefix) for prefix in order}
