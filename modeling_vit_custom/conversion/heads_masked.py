"""transformers' models of masked images as ours and back: SimMIM's (ViT, DeiT, Swin), and MAE's with its decoder."""

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from typing import NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ..configuration_checks import pair
from ..configuration_stages import grid_at
from ..configuration_stages import make_decoder
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_embeddings import sincos_positions
from ..modeling_masked import ViTCustomForMaskedImageModeling
from ..modeling_masked import ViTCustomForPreTraining
from ..modeling_pixels import total_stride
from . import transformers_configs as configs
from . import transformers_tables as names
from .equal_configs import differing
from .rename import Table
from .rename import Tensors
from .rename import choose
from .rename import into_theirs
from .rename import kept
from .rename import load
from .rename import prefixed
from .rename import row
from .transformers_fields import Fields

MAE_CLASS = "ViTMAEForPreTraining"
POSITIONS = "decoder.decoder_pos_embed"  # of MAE's decoder: fixed, so that ours computes them


def read_mae(theirs: Any) -> dict[str, Any]:
    return configs.VIT_MAE.read(theirs) | dict(decoder_dropout_prob=theirs.hidden_dropout_prob)


def write_mae(ours: ViTCustomConfig) -> dict[str, Any]:
    decoder = make_decoder(ours, "pixels")
    return configs.VIT_MAE.write(ours) | dict(
        decoder_hidden_size=decoder.hidden_size,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.num_attention_heads,
        decoder_intermediate_size=decoder.intermediate_size,
    )


MAE = replace(
    configs.VIT_MAE,
    same={**configs.VIT_MAE.same, **{name: name for name in configs.VIT_MAE.without_effect}},  # the decoder's fields
    read=read_mae,
    write=write_mae,
    without_effect=(),
)


def simmim(base: Callable[[ViTCustomConfig, bool], dict[str, Table]], module: str) -> Callable:
    """The tables of an encoder below `module`, whose mask token is our head's, with the map to pixels."""

    def tables(config: ViTCustomConfig) -> dict[str, Table]:
        head = [row(f"{module}embeddings.mask_token", "mask_token"), row("decoder.0.{p}", "pixel_head.{p}")]
        return {spelling: [*head, *prefixed(table, module, "vit.")] for spelling, table in base(config, False).items()}

    return tables


def mae(config: ViTCustomConfig) -> dict[str, Table]:
    """Three spellings: of facebook's files, of those that transformers writes since 5.9, and of its memory since then.

    Its way back to the older names renames the decoder's "layers." as if they were the encoder's.
    """
    ends = [
        row("decoder.mask_token", "pixel_decoder.mask_token"),
        *(
            row(f"decoder.decoder_{theirs}.{{p}}", f"pixel_decoder.{ours}.{{p}}")
            for theirs, ours in MAE_MODULES.items()
        ),
        *kept(POSITIONS),
    ]
    spellings = {
        "on disk": ("on disk", "decoder.decoder_layers.{n}.", names.ON_DISK),
        "on disk since 5.9": ("on disk", "decoder.decoder_encoder.layer.{n}.", names.ON_DISK),
        "in memory": ("in memory", "decoder.decoder_layers.{n}.", names.IN_MEMORY),
    }
    encoder = names.vit_mae(config, False)
    return {
        spelling: [
            *prefixed(encoder[base], "vit.", "vit."),
            *ends,
            *names.layer(layers, "pixel_decoder.layers.{n}.", modules),
        ]
        for spelling, (base, layers, modules) in spellings.items()
    }


MAE_MODULES = {"embed": "embed", "norm": "norm", "pred": "prediction"}


class Kind(NamedTuple):
    """A class of transformers: ours, how its configuration is read, and which names are which."""

    ours: Any
    fields: Fields
    tables: Callable[[ViTCustomConfig], dict[str, Table]]


KINDS = {
    "ViTForMaskedImageModeling": Kind(ViTCustomForMaskedImageModeling, configs.VIT, simmim(names.vit, "vit.")),
    "DeiTForMaskedImageModeling": Kind(
        ViTCustomForMaskedImageModeling, configs.deit(False), simmim(names.deit, "deit.")
    ),
    "SwinForMaskedImageModeling": Kind(ViTCustomForMaskedImageModeling, configs.SWIN, simmim(names.swin, "swin.")),
    MAE_CLASS: Kind(ViTCustomForPreTraining, MAE, mae),
}


def read_config(architecture: str, theirs: Any) -> ViTCustomConfig:
    """
    Raises:
        ValueError: a value that ours cannot reproduce.
    """
    if architecture == MAE_CLASS and theirs.hidden_dropout_prob != theirs.attention_probs_dropout_prob:
        raise ValueError(
            "The source's decoder has one dropout for attention and another elsewhere, ours has one: set "
            "`hidden_dropout_prob` and `attention_probs_dropout_prob` to the same value."
        )
    ours = KINDS[architecture].fields.to_ours(theirs, None)
    stride = getattr(theirs, "encoder_stride", None)
    if stride is not None and pair(stride) != total_stride(ours):
        raise ValueError(
            f"The source draws {stride} x {stride} pixels for each of its last tokens, which stand for "
            f"{total_stride(ours)}: set its `encoder_stride` to that and train it anew."
        )
    return ours


def write_config(architecture: str, ours: ViTCustomConfig) -> dict[str, Any]:
    """The settings of theirs; the layout is not asked whether it can hold the model."""
    settings = KINDS[architecture].fields.to_theirs(ours, head=False)
    return settings if architecture == MAE_CLASS else settings | {"encoder_stride": total_stride(ours)[0]}


def as_ours(architecture: str, theirs: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, Tensors, Table]:
    """(our model with these tensors, in their dtype; what is kept aside; the table that leads back to their names).

    Raises:
        ValueError: a setting or a tensor that does not fit; the sentences name them.
    """
    kind, config = KINDS[architecture], read_config(architecture, theirs)
    tables = kind.tables(config)
    table = tables[choose(tables, tensors)]
    model, aside = load(kind.ours, config, tensors, table)
    if POSITIONS in aside:
        check_positions(config, aside[POSITIONS])
    return model, aside, table


def check_positions(config: ViTCustomConfig, table: torch.Tensor):
    """Raise where a decoder was trained with other positions (1, 1 + h * w, D) than the paper's."""
    expected = decoder_positions(config, table)
    rounding = 4 * max(torch.finfo(table.dtype).eps, torch.finfo(torch.float32).eps)
    if table.shape != expected.shape or not torch.allclose(table, expected, rtol=0, atol=rounding):
        raise ValueError(
            f"`{POSITIONS}` is not MAE's fixed table (a model that transformers builds from a configuration has zeros "
            "there): ours computes that table, so fill it before training, or load the encoder alone."
        )


def decoder_positions(config: ViTCustomConfig, like: torch.Tensor) -> torch.Tensor:
    """(..., D) -> (1, 1 + h * w, D): the paper's fixed table of that width, the class token's zeros first."""
    grid = grid_at(config, *pair(config.image_size))
    patches = sincos_positions(*grid, like.shape[-1], like.device, like_mae=True)
    return torch.nn.functional.pad(patches, (0, 0, 1, 0)).to(like.dtype)


def as_theirs(architecture: str, config: ViTCustomConfig, tensors: Tensors) -> tuple[dict[str, Any], Tensors, Any]:
    """(their config.json, their tensors as they are spelled in files, what their settings say as ours).

    Raises:
        ValueError: theirs cannot hold the model; the sentences say why.
    """
    kind, config_class = KINDS[architecture], getattr(transformers, architecture.split("For")[0] + "Config")
    try:
        theirs = config_class(**write_config(architecture, config))
        again = kind.fields.to_ours(theirs, None)
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(f"{architecture}: {' '.join(str(error).split())}") from None
    different = differing(config, again, head=False)
    different.pop("pooling", None)  # nothing is pooled here
    for name, sides in (("image_size", config.grid), ("patch_size", total_stride(config))):
        if sides[0] != sides[1]:
            different[name] = getattr(config, name), "a square"
    if different:
        fields = ", ".join(f"`{name}` {ours!r} (only {other!r})" for name, (ours, other) in different.items())
        raise ValueError(f"{architecture} cannot express {fields}")
    renamed = into_theirs(tensors, kind.tables(config)["on disk"])
    if architecture == MAE_CLASS:
        renamed[POSITIONS] = decoder_positions(config, renamed["decoder.mask_token"])
    return theirs.to_dict() | {"architectures": [architecture]}, renamed, again


def masked_from_transformers(model: Any) -> Any:
    """A model of transformers' SimMIM (ViT, DeiT, Swin) or MAE as ours, in the same dtype, and sharing no memory."""
    return as_ours(type(model).__name__, model.config, model.state_dict())[0].train(model.training)
