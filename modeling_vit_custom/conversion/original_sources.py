"""Files of the code bases that the models come from. They have no configuration: shapes and presets tell it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from . import google_npz
from . import original_pyramids
from . import original_vit
from .equal_configs import differing
from .original_reading import Tensors
from .rename import Table
from .rename import into_theirs
from .sources import Checkpoint
from .sources import Source

IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], resample=3)
# Names that timm alone has, and MAE's fine-tuned models: what no file of DeiT holds.
TIMM_ONLY = {"reg_token", "norm_pre.weight", "fc_norm.weight", "blocks.0.ls1.gamma", "blocks.0.attn.q_norm.weight"}
JAX = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2)


def cropped(resized: int, size: int, **settings: Any) -> dict[str, Any]:
    """An image processor that brings the shorter side to a length and takes the middle."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resized},
        "do_center_crop": True,
        "crop_size": dict(height=size, width=size),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **settings,
    }


def like_deit(config: ViTCustomConfig) -> dict[str, Any] | None:
    """256 for a crop of 224, and in the same proportion at other sizes: DeiT's evaluation, and those after it."""
    size = config.image_size
    return cropped(256 * size // 224, size, **IMAGENET) if isinstance(size, int) else None


def like_dinov2(config: ViTCustomConfig) -> dict[str, Any]:
    """Its evaluation is at 224 pixels, although its positions are for 518."""
    return cropped(256, 224, **IMAGENET)


def like_jax(config: ViTCustomConfig) -> dict[str, Any] | None:
    """vision_transformer squashes a picture to a square; big_vision (whose positions are for patches alone) crops."""
    size = config.image_size
    if not isinstance(size, int):
        return None
    if config.num_positioned_prefix_tokens == 0:
        return cropped(256 * size // 224, size, **JAX)
    settings = cropped(size, size, **JAX)
    return settings | dict(
        image_processor_type="ViTImageProcessor", size=dict(height=size, width=size), do_center_crop=False
    )


@dataclass(frozen=True)
class OriginalSource(Source):
    """
    Args:
        marks: whether a file's names are this source's.
        read: tensors and a preset -> our configuration.
        names: the rename tables.
        heads: the names that a classifier's weight may have.
        differs: what differs although outputs agree.
        alike: whose files may have the same names.
        picture: what its evaluation does to a picture, as one of transformers' processors says it.
    """

    name: str
    marks: Callable[[Tensors], bool]
    read: Callable[[Tensors, ViTCustomConfig | None], ViTCustomConfig]
    names: Callable[[ViTCustomConfig, bool], dict[str, Table]]
    heads: tuple[str, ...] = ("head.weight",)
    differs: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    picture: Callable[[ViTCustomConfig], dict[str, Any] | None] = like_deit
    library: str = ""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return self.marks(checkpoint.tensors)

    def read_config(self, checkpoint: Checkpoint) -> ViTCustomConfig:
        return self.read(checkpoint.tensors, checkpoint.preset)

    def has_head(self, checkpoint: Checkpoint) -> bool:
        return any(name in checkpoint.tensors for name in self.heads)

    def tables(self, config: ViTCustomConfig, head: bool) -> dict[str, Table]:
        return self.names(config, head)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        return list(self.differs)

    def assumed(self, checkpoint: Checkpoint, named: bool = False) -> list[str]:
        config, processor = self.read_config(checkpoint), self.read_processor(checkpoint)
        if named or not self.alike:
            heads = "no tensor says how many heads there are: it is read with"
            return [f"{heads} {config.num_attention_heads[0]}"] if self.alike and checkpoint.preset is None else []
        pictures = "no image processor"
        if processor is not None:
            sides = "x".join(str(side) for side in processor["size"].values())
            mean = ", ".join(map(str, processor["image_mean"]))
            pictures = f"an image processor that resizes to {sides} and subtracts {mean}"
        return [
            f"files of {', '.join(self.alike)} have the same names: this one is read as {self.name}'s, with "
            f"{config.num_attention_heads[0]} heads, `layer_norm_eps` {config.layer_norm_eps:g}, "
            f"`position_interpolation` {config.position_interpolation!r} and {pictures}; if it is another's, name that "
            f"by `--source`, as in `--source {self.alike[0]}`"
        ]

    def write_config(self, config: ViTCustomConfig, head: bool) -> dict[str, Any]:
        """Nothing, for they have no configuration; after a look whether their code would compute the same.

        Raises:
            ValueError: it would not.
        """
        make = ViTCustomForImageClassification if head else ViTCustomModel
        with torch.device("meta"):
            tensors = make(config).state_dict()
        try:
            back = self.read(into_theirs(tensors, next(iter(self.names(config, head).values()))), config)
        except (KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.name} cannot hold this model, whose settings it has no place for: {reason}"
            ) from None
        if different := differing(config, back, head=False):
            fields = ", ".join(f"`{name}` {ours!r} (only {other!r})" for name, (ours, other) in different.items())
            raise ValueError(f"{self.name} cannot hold this model: it cannot express {fields}.")
        return {}

    def read_processor(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        return self.picture(self.read_config(checkpoint))


def is_deit(names: Tensors) -> bool:
    needed = {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight", "cls_token", "pos_embed"}
    return needed <= names.keys() and not is_dinov2(names) and not names.keys() & TIMM_ONLY


def is_dinov2(names: Tensors) -> bool:
    return any({f"{outer}mask_token", f"{outer}pos_embed"} <= names.keys() for outer in ("", "backbone.")) and not any(
        name.startswith("decoder") for name in names
    )


def is_segmenter(names: Tensors) -> bool:
    encoder = {"encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight"} <= names.keys()
    return encoder and any(name.startswith("decoder.") for name in names)


def is_swin(names: Tensors) -> bool:
    first = {"layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"}
    return first <= names.keys() and "head.fc.weight" not in names and "layers.0.downsample.norm.weight" in names


ONE_SIZE = "its code takes images of one size, and draws learned positions anew as it loads them at another"
SOURCES = (
    OriginalSource(
        name="original-segmenter",
        marks=is_segmenter,
        read=original_vit.read_segmenter,
        names=original_vit.segmenter_tables,
        heads=(),
        picture=lambda config: None,  # it segments windows of whole pictures
        differs=("it pads an image to whole patches, ours does not see what is beyond the last whole patch",),
    ),
    OriginalSource(
        name="original-dinov2",
        marks=is_dinov2,
        read=original_vit.read_dinov2,
        names=original_vit.dinov2_tables,
        heads=(),
        picture=like_dinov2,
    ),
    OriginalSource(
        name="original-deit",
        marks=is_deit,
        read=original_vit.read_deit,
        names=original_vit.deit_tables,
        alike=("timm-vit", "MAE", "MoCo v3", "DINO"),
    ),
    OriginalSource(
        name="original-swin",
        marks=is_swin,
        read=original_pyramids.read_swin,
        names=original_pyramids.swin_tables,
        alike=("timm-swin",),
        differs=("it refuses images whose grid is no multiple of the window, ours pads them",),
    ),
    OriginalSource(
        name="original-pit",
        marks=original_pyramids.is_pit,
        read=original_pyramids.read_pit,
        names=original_pyramids.pit_tables,
        alike=("timm-pit",),
        differs=("in training, its drop path grows to a little less than its rate",),
    ),
    OriginalSource(
        name="google-npz",
        marks=lambda names: google_npz.prefix_of(names) is not None,
        read=google_npz.read,
        names=google_npz.tables,
        heads=tuple(f"{prefix}head/kernel" for prefix in google_npz.PREFIXES),
        picture=like_jax,
        differs=(ONE_SIZE,),
    ),
)
