"""The original Segmenter, encoder and decoder: its variant.yml, its tensors and its pictures as ours, and back."""

from collections.abc import Mapping
from typing import Any

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_segmentation import ViTCustomForSemanticSegmentation
from . import original_reading as reading
from . import original_vit
from .original_reading import Tensors
from .rename import Table
from .rename import load
from .rename import permute
from .rename import prefixed
from .rename import row
from .timm_reading import block_rows

# Its names for the colours of its encoders' pre-training: mean and standard deviation.
NORMALIZATIONS = {
    "vit": ([0.5] * 3, [0.5] * 3),
    "deit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


def read_variant(variant: Mapping[str, Any]) -> ViTCustomConfig:
    """variant.yml, which lies beside each checkpoint, as our configuration; its other entries are the training's.

    Raises:
        ValueError: it names what its published checkpoints do not use, and ours cannot compute.
    """
    net = variant["net_kwargs"]
    decoder, dropout = net["decoder"], net["dropout"]
    kind = "linear" if "linear" in decoder["name"] else decoder["name"]
    if kind not in ("linear", "mask_transformer") or decoder.get("drop_path_rate"):
        raise ValueError(
            f"A Segmenter's decoder can be linear or a mask_transformer without drop path, variant.yml has {decoder}."
        )
    return ViTCustomConfig(  # type: ignore[call-arg]  # num_labels is a property of transformers
        image_size=reading.side(net["image_size"]),
        patch_size=net["patch_size"],
        num_channels=net.get("channels", 3),
        prefix_tokens=["cls", "distillation"] if net.get("distilled") else ["cls"],
        position_interpolation="bilinear",
        hidden_sizes=[net["d_model"]],
        depths=[net["n_layers"]],
        num_attention_heads=[net["n_heads"]],
        layer_norm_eps=1e-5,
        embeddings_dropout_prob=dropout,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        drop_path_rate=net["drop_path_rate"],
        num_labels=net["n_cls"],
        segmentation_decoder=kind,
        mask_norm=None if kind == "linear" else "layer_norm",
        decoder_num_hidden_layers=decoder.get("n_layers"),
        decoder_dropout_prob=decoder.get("dropout", 0.0),
    )


def read(tensors: Tensors, preset: ViTCustomConfig | None) -> ViTCustomConfig:
    """The same from the shapes alone, for a file whose variant.yml is lost: without what acts in training."""
    config = original_vit.read_segmenter(tensors, preset)
    linear = "decoder.head.weight" in tensors
    config.segmentation_decoder = "linear" if linear else "mask_transformer"
    config.num_labels = len(tensors["decoder.head.bias" if linear else "decoder.mask_norm.bias"])
    if not linear:
        config.mask_norm = "layer_norm"
        config.decoder_num_hidden_layers = reading.depth(tensors, r"decoder\.blocks\.(\d+)\.norm1\.weight")
    return config


def tables(config: ViTCustomConfig) -> dict[str, Table]:
    """Its encoder's classifiers, which it does not use, are kept aside; its raw matrices multiply from the right."""
    encoder = [
        entry
        for entry in original_vit.segmenter_tables(config, head=False)["original"]
        if entry.names[0][0].startswith("encoder.")
    ]
    if config.segmentation_decoder == "linear":  # CODEPATH: Seg-B/8 and Seg-B linear
        decoder = [row("head.{p}", "classifier.{p}")]
    else:
        decoder = [
            row("cls_emb", "class_embeddings"),
            row("proj_dec.{p}", "projection.{p}"),
            row("proj_patch", "patch_projection.weight", permute(1, 0)),
            row("proj_classes", "class_projection.weight", permute(1, 0)),
            *block_rows("blocks.{n}.", "layers.{n}."),
            row("decoder_norm.{p}", "norm.{p}"),
            row("mask_norm.{p}", "mask_norm.{p}"),
        ]
    return {"original": [*prefixed(encoder, ours="vit."), *prefixed(decoder, "decoder.", "mask_decoder.")]}


def segmenter_from_original(
    tensors: Tensors, config: ViTCustomConfig
) -> tuple[ViTCustomForSemanticSegmentation, Tensors]:
    """(our model with the tensors of a checkpoint's entry "model", what is kept aside). The way back is
    `into_theirs(model.state_dict(), tables(config)["original"], aside)`."""
    return load(ViTCustomForSemanticSegmentation, config, tensors, tables(config)["original"])


def image_processor(config: ViTCustomConfig, normalization: str = "vit") -> dict[str, Any]:
    """preprocessor_config.json: pictures and, beside them, their maps of classes brought to the model's size.

    Of transformers' processors Segformer's: it resizes maps to the nearest pixel's class, where BEiT's and DPT's mix
    the numbers of neighbouring classes; and its `post_process_semantic_segmentation` draws the logits at a picture's
    size. A picture is squashed to `image_size`, so that batches stack; `{"shortest_edge": 512}` keeps its shape.
    """
    height, width = pair(config.image_size)
    mean, std = NORMALIZATIONS[normalization]
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": dict(height=height, width=width),
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "do_reduce_labels": False,
    }
