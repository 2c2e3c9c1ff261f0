"""Detectors of transformers as ours, and back: YOLOS whole, DETR's decoder with its heads."""

from typing import Any

import torch
import transformers

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_detection import ViTCustomForObjectDetection
from .equal_configs import differing
from .rename import Row
from .rename import Table
from .rename import Tensors
from .rename import choose
from .rename import each
from .rename import into_ours
from .rename import into_theirs
from .rename import join
from .rename import kept
from .rename import load
from .rename import prefixed
from .rename import reshape
from .rename import row
from .transformers_configs import INTERMEDIATE
from .transformers_configs import PLAIN as PLAIN_FIELDS
from .transformers_configs import write_plain
from .transformers_fields import Fields
from .transformers_tables import FINAL_NORM
from .transformers_tables import ON_DISK
from .transformers_tables import PATCHES
from .transformers_tables import PLAIN
from .transformers_tables import layer

LOSS = {
    name: name
    for name in (
        *("auxiliary_loss", "class_cost", "bbox_cost", "giou_cost"),
        *("bbox_loss_coefficient", "giou_loss_coefficient", "eos_coefficient"),
    )
}
HEADS = [row(f"{name}.{{rest}}", f"{name}.{{rest}}") for name in ("class_labels_classifier", "bbox_predictor")]


def read_yolos(theirs: Any) -> dict[str, Any]:
    return dict(
        prefix_tokens=["cls"] + ["detection"] * theirs.num_detection_tokens,
        layer_position_embeddings=theirs.use_mid_position_embeddings,
    )


def write_yolos(ours: ViTCustomConfig) -> dict[str, Any]:
    return write_plain(ours) | dict(
        num_detection_tokens=ours.prefix_tokens.count("detection"),
        use_mid_position_embeddings=ours.layer_position_embeddings,
    )


YOLOS = Fields(
    same=PLAIN_FIELDS | INTERMEDIATE | LOSS,
    fixed=dict(position_interpolation="bicubic"),
    read=read_yolos,
    write=write_yolos,
    spoken=("num_detection_tokens", "use_mid_position_embeddings"),
)
# Our field -> DETR's. Where it has dropout within the feed-forward or on the attention, its own numbers count.
DETR = LOSS | {
    "decoder_hidden_size": "d_model",
    "decoder_num_hidden_layers": "decoder_layers",
    "decoder_num_attention_heads": "decoder_attention_heads",
    "decoder_intermediate_size": "decoder_ffn_dim",
    "decoder_dropout_prob": "dropout",
    "num_queries": "num_queries",
}


def patches_last(num_tokens: int) -> Any:
    """Of positions (..., tokens, D): theirs are class, patches, detection tokens; ours class, detection, patches."""

    def into(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat((tensor[..., :1, :], tensor[..., -num_tokens:, :], tensor[..., 1:-num_tokens, :]), dim=-2)

    def back(tensor: torch.Tensor) -> torch.Tensor:
        first, patches = tensor[..., : 1 + num_tokens, :], tensor[..., 1 + num_tokens :, :]
        return torch.cat((first[..., :1, :], patches, first[..., 1:, :]), dim=-2)

    return each(into, back)


def yolos_tables(config: ViTCustomConfig) -> dict[str, Table]:
    """The positions between the layers have two names: "on disk" in files, "in memory" since transformers 5.8."""
    num_tokens, width = config.prefix_tokens.count("detection"), config.hidden_size
    base = [
        row(("embeddings.cls_token", "embeddings.detection_tokens"), "embeddings.prefix_tokens", join(1, num_tokens)),
        row("embeddings.position_embeddings", "embeddings.position_embeddings", patches_last(num_tokens)),
        PATCHES,
        FINAL_NORM,
        *layer("encoder.layer.{n}.", PLAIN, ON_DISK),
    ]

    def spelled(name: str) -> Table:
        positions: Row = row(
            f"encoder.{name}",
            "stages.0.layer_position_embeddings",
            reshape((config.depths[0] - 1, 1, -1, width), (config.depths[0] - 1, -1, width)),
            patches_last(num_tokens),
        )
        return [*prefixed([*base, positions], "vit.", "vit."), *HEADS]

    names = {"on disk": "mid_position_embeddings", "in memory": "interpolation.mid_position_embeddings"}
    return {spelling: spelled(name) for spelling, name in names.items()}


def yolos_from_transformers(model: Any) -> ViTCustomForObjectDetection:
    """A model of transformers' YolosForObjectDetection as ours, in its dtype and sharing no memory with it.

    Raises:
        ValueError: a setting or a tensor that does not fit.
    """
    config = YOLOS.to_ours(model.config, model.config)
    tables, tensors = yolos_tables(config), model.state_dict()
    ours, _ = load(ViTCustomForObjectDetection, config, tensors, tables[choose(tables, tensors)])
    return ours.train(model.training)


def yolos_to_transformers(model: ViTCustomForObjectDetection) -> Any:
    """The way back: a YolosForObjectDetection, in our dtype and sharing no memory with ours.

    Raises:
        ValueError: what ours is, YOLOS cannot be.
    """
    theirs = transformers.YolosConfig(**YOLOS.to_theirs(model.config, head=True))
    different = differing(model.config, YOLOS.to_ours(theirs, theirs), head=True)
    if "detection" not in model.config.prefix_tokens or different:
        fields = ", ".join(f"`{name}` {ours!r} (only {other!r})" for name, (ours, other) in different.items())
        raise ValueError(f"YOLOS cannot hold this model: {fields or 'it has no detection tokens'}.")
    made = transformers.YolosForObjectDetection(theirs)
    tables, tensors = yolos_tables(model.config), model.state_dict()
    made.load_state_dict(into_theirs(tensors, tables[choose(tables, made.state_dict())]), assign=True)
    return made.train(model.training)


def detr_fields(theirs: Any) -> dict[str, Any]:
    """The settings of a DetrConfig's decoder and loss, under our names.

    Raises:
        ValueError: a setting that ours cannot reproduce.
    """
    for name, value in (("activation_function", "relu"), ("position_embedding_type", "sine")):
        if getattr(theirs, name) != value:
            raise ValueError(f"The source has {name}={getattr(theirs, name)!r}, our decoder knows {value!r} alone.")
    return {ours: getattr(theirs, name) for ours, name in DETR.items()}


def detr_tables(config: ViTCustomConfig) -> dict[str, Table]:
    """Its backbone and its encoder, whose place our encoder takes, are kept aside."""
    attention: dict[str, str] = {}
    rest = {"self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2"}
    rest["final_layer_norm"] = "norm3"
    for theirs, ours in (("self_attn", "self_attention"), ("encoder_attn", "cross_attention")):
        attention |= {f"{theirs}.{name}_proj": f"{ours}.{name}_proj" for name in "qkv"}
    outputs = {"self_attn.{}_proj": "self_attention.o_proj", "encoder_attn.{}_proj": "cross_attention.o_proj"}
    tables: dict[str, Table] = {}
    for spelling, out, feed_forward in (("on disk", "out", ""), ("in memory", "o", "mlp.")):
        names = attention | rest | {name.format(out): ours for name, ours in outputs.items()}
        names |= {f"{feed_forward}{name}": f"mlp.{name}" for name in ("fc1", "fc2")}
        tables[spelling] = [
            row(
                "model.query_position_embeddings.weight",
                "box_decoder.query_positions",
                reshape((config.num_queries, -1), (1, config.num_queries, -1)),
            ),
            row("model.input_projection.{p}", "box_decoder.input_projection.{p}"),
            *layer("model.decoder.layers.{n}.", "box_decoder.layers.{n}.", names),
            row("model.decoder.layernorm.{p}", "box_decoder.norm.{p}"),
            *HEADS,
            *kept("model.backbone.{rest}", "model.encoder.{rest}"),
        ]
    return tables


def take_detr_decoder(model: ViTCustomForObjectDetection, tensors: Tensors) -> Tensors:
    """Give our model the decoder and the heads of a DetrForObjectDetection's state dict; return the rest of it. Ours
    must have its `detr_fields`.

    Raises:
        ValueError: tensors that no row names.
        RuntimeError: tensors of other sizes than ours.
    """
    tables = detr_tables(model.config)
    ours, aside = into_ours(tensors, tables[choose(tables, tensors)])
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("vit.")}
    model.load_state_dict(own | ours)
    return aside


def give_detr_decoder(model: ViTCustomForObjectDetection, aside: Tensors, spelling: str = "in memory") -> Tensors:
    """The way back: the state dict of which `aside` is the rest."""
    ours = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("vit.")}
    return into_theirs(ours, detr_tables(model.config)[spelling], aside)
