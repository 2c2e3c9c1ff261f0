"""timm's models as sources, in memory and as folders of the Hub. timm is imported where a model of it must be built."""

import copy
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import torch
from torch import nn

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from . import original_vit
from . import timm_eva
from . import timm_pit
from . import timm_swin
from . import timm_vit
from .equal_configs import differing
from .rename import Table
from .rename import choose
from .rename import into_ours
from .rename import into_theirs
from .rename import load
from .sources import BARS
from .sources import Checkpoint
from .sources import Source
from .timm_reading import as_tokens
from .trace import record

# How timm names what it does to a picture -> the number that PIL and transformers give it.
RESAMPLES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# What timm's architectures are trained with, where a configuration is silent.
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], crop_pct=0.875, interpolation="bicubic")

CROPS = {
    "center": "where a picture exceeds its crop by an odd number of pixels, timm's crop may begin one later",
    "border": "its pictures are padded (crop_mode 'border'), which no image processor of transformers does",
}


def create(config: Mapping[str, Any], device: str, **changes) -> nn.Module:
    """The model that a config.json of timm names, with weights as they are made.

    Raises:
        ImportError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "A config.json of timm names an architecture that only timm can build: `pip install timm`."
        ) from error
    settings = dict(config.get("pretrained_cfg") or config)  # the oldest files hold everything side by side
    settings.pop("architecture", None)
    if config.get("num_classes") is not None:
        settings["num_classes"] = config["num_classes"]
    arguments = dict(config.get("model_args") or {}) | changes
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    known = {"input_size", "fixed_input_size", "num_classes", "global_pool", "first_conv", "classifier"}
    arguments["pretrained_cfg"] = {name: value for name, value in settings.items() if name in known}
    with torch.device(device):
        return timm.create_model(config["architecture"], **arguments).eval()


def labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the classes, where timm's configuration holds them."""
    names = (config.get("pretrained_cfg") or config).get("label_names")
    if not names:
        return {}
    return dict(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


@dataclass(frozen=True)
class TimmSource(Source):
    """
    Args:
        classes: timm's classes that this source reads.
        marks: names of tensors that tell its files from those of other sources.
        foreign: names of tensors that it has not.
        read, names, write: model -> our configuration; the rename tables; our configuration -> architecture, arguments.
        modules: our name -> timm's module.
        dynamic: the arguments with which timm takes images of any size.
        windows: whether timm takes other sizes by `set_input_size`, its windows kept.
        shapes: tensors -> our configuration, where their shapes say enough.
        differs, bars: what differs, though outputs agree; how far they may be apart.
    """

    name: str
    classes: tuple[str, ...]
    marks: tuple[str, ...]
    read: Callable[[Any], ViTCustomConfig]
    names: Callable[[ViTCustomConfig, bool], dict[str, Table]]
    write: Callable[[ViTCustomConfig], tuple[str, dict[str, Any]]]
    modules: Mapping[str, str]
    foreign: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    windows: bool = False
    shapes: Callable[[Mapping[str, torch.Tensor]], ViTCustomConfig] | None = None
    differs: tuple[str, ...] = ()
    bars: Mapping[str, float] = field(default_factory=lambda: BARS)
    library: str = "timm"

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return "architecture" in checkpoint.config and self.knows_names(checkpoint.tensors)

    def knows_names(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        return all(mark in tensors for mark in self.marks) and not any(name in tensors for name in self.foreign)

    def from_shapes(self, tensors: Mapping[str, torch.Tensor]) -> ViTCustomConfig:
        return self.shapes(tensors) if self.shapes is not None else super().from_shapes(tensors)

    def convert(self, model: Any, config: Mapping[str, Any]) -> ViTCustomConfig:
        """
        Raises:
            ValueError: another class of timm.
        """
        if type(model).__name__ not in self.classes:
            raise ValueError(
                f"{self.name} reads timm's {' and '.join(self.classes)}, not {type(model).__name__}: use a model of "
                f"{KNOWN}."
            )
        ours = self.read(model)
        return ViTCustomConfig(**ours.to_dict() | named) if (named := labels(config)) else ours

    def read_config(self, checkpoint: Checkpoint) -> ViTCustomConfig:
        return self.convert(create(checkpoint.config, "meta"), checkpoint.config)

    def has_head(self, checkpoint: Checkpoint) -> bool:
        return any(name.startswith(("head.weight", "head.fc.weight")) for name in checkpoint.tensors)

    def tables(self, config: ViTCustomConfig, head: bool) -> dict[str, Table]:
        return self.names(config, head)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        crop = (checkpoint.config.get("pretrained_cfg") or {}).get("crop_mode", "center")
        return [*self.differs, *([CROPS[crop]] if crop in CROPS else [])]

    def write_config(self, config: ViTCustomConfig, head: bool) -> dict[str, Any]:
        architecture, arguments = self.write(config)
        size = arguments["img_size"]
        written: dict[str, Any] = {
            "architecture": architecture,
            "num_classes": config.num_labels if head else 0,
            "num_features": config.hidden_size,
            "model_args": arguments | {"num_classes": config.num_labels if head else 0},
            "pretrained_cfg": {
                "input_size": [config.num_channels, *(size if isinstance(size, list) else [size, size])],
                "fixed_input_size": True,
                "num_classes": config.num_labels if head else 0,
            },
        }
        names = dict(config.id2label or {})
        if head and any(name != f"LABEL_{index}" for index, name in names.items()):
            written["pretrained_cfg"]["label_names"] = list(names.values())
        try:
            back = self.read_config(Checkpoint(written, {}))
        except (AssertionError, TypeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.name} cannot hold this model: timm says {reason}") from error
        if different := differing(config, back, head):
            fields = ", ".join(f"`{name}` {ours!r} (only {other!r})" for name, (ours, other) in different.items())
            raise ValueError(f"{self.name} cannot hold this model: it cannot express {fields}.")
        return written

    def in_timms_names(self, config: ViTCustomConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors as the installed timm names them, whatever spelling their file has."""
        tables = self.tables(config, head=self.has_head(Checkpoint({}, tensors)))
        found = choose(tables, tensors)
        if found == "timm":
            return dict(tensors)
        return into_theirs(into_ours(tensors, tables[found])[0], tables["timm"])

    def build(self, checkpoint: Checkpoint) -> nn.Module:
        model = create(checkpoint.config, "cpu", **dict.fromkeys(self.dynamic, True))
        tensors = self.in_timms_names(self.read_config(checkpoint), checkpoint.tensors)
        model.load_state_dict(tensors)
        return model.to(next(iter(tensors.values())).dtype)

    def accepts(self, model: Any, height: int, width: int) -> bool:
        native = (height, width) == tuple(model.patch_embed.img_size)
        if native or not (self.dynamic or self.windows):
            return native
        rows, columns = (s / p for s, p in zip((height, width), model.patch_embed.patch_size, strict=True))
        if not (rows.is_integer() and columns.is_integer()):
            return False
        # On a smaller grid than a window, timm draws its biases anew for a smaller one.
        return not self.windows or min(rows, columns) > (window_of(model) - 1) * 2 ** (len(model.layers) - 1)

    def trace(self, model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        size = tuple(pixel_values.shape[2:])
        if self.windows and size != tuple(model.patch_embed.img_size):
            # Built for this size: fed another one, timm goes on with the shifts of the size that it was built for.
            model, window = copy.deepcopy(model), window_of(model)
            model.set_input_size(img_size=size, window_size=window)
        output, found = record(model, self.modules, pixel_values)
        found = {name: as_tokens(tensor) for name, tensor in found.items()}
        if "pooler_output" in found:
            found["pooler_output"] = found["pooler_output"].flatten(1)
        heads = {"cls_logits": "head", "distillation_logits": "head_dist"}
        if getattr(model, "head_dist", None) is None:
            heads = {}
        found |= {name: found.pop(module) for name, module in heads.items()}
        found = {name: tensor for name, tensor in found.items() if name not in ("head", "head_dist")}
        return found | ({"logits": output} if model.num_classes else {})

    def read_processor(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """How timm makes pictures of files, as transformers says it; None for what no processor of it does."""
        if not checkpoint.config:
            return None
        said = checkpoint.config.get("pretrained_cfg") or checkpoint.config
        data = IMAGENET | {name: value for name, value in said.items() if value is not None}
        height, width = list(data.get("input_size", (3, 224, 224)))[1:]
        sides = [int(side / data["crop_pct"]) for side in (height, width)]
        squash = data.get("crop_mode", "center") == "squash"
        if data.get("crop_mode", "center") not in ("center", "squash") or (height != width and not squash):
            return None
        return {
            "image_processor_type": "ViTImageProcessor" if squash else "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": dict(height=sides[0], width=sides[1]) if squash else {"shortest_edge": sides[0]},
            "resample": RESAMPLES.get(data["interpolation"], RESAMPLES["bicubic"]),
            "do_center_crop": [height, width] != sides or not squash,
            "crop_size": dict(height=height, width=width),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(data["mean"]),
            "image_std": list(data["std"]),
        }

    def with_processor(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> dict[str, Any]:
        """A config.json of timm that makes pictures as an image processor of transformers does, where timm can."""
        if processor is None:
            return dict(config)
        data = dict(config["pretrained_cfg"])
        if processor.get("do_normalize", True) and "image_mean" in processor:
            data |= dict(mean=list(processor["image_mean"]), std=list(processor["image_std"]))
        names = {number: name for name, number in RESAMPLES.items()}
        data["interpolation"] = names.get(processor.get("resample", 3), "bicubic")
        size = dict(processor.get("size") or {})
        data["crop_mode"] = "center" if "shortest_edge" in size else "squash"
        resized = size.get("shortest_edge", size.get("height"))
        if resized:
            data["crop_pct"] = data["input_size"][1] / resized
        return dict(config) | {"pretrained_cfg": data}


def window_of(model: Any) -> int:
    return max(max(block.window_size) for stage in model.layers for block in stage.blocks)


PLAIN = {"embeddings": "norm_pre", "stages.0.layers.{n}": "blocks.{n}", "last_hidden_state": "norm"}
ROTARY = "its rotary positions are rounded in another order than ours: by some 1e-7, in float64 too"
BEYOND = (
    "where a grid is smaller than a window, timm draws its position biases anew; ours reads the middle of its table"
)

SOURCES = (
    TimmSource(
        name="timm-swin",
        classes=("SwinTransformer",),
        marks=("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
        read=timm_swin.convert_config,
        names=timm_swin.tables,
        write=timm_swin.write,
        modules={
            "embeddings": "patch_embed",
            "stages.{s}.layers.{n}": "layers.{s}.blocks.{n}",
            "last_hidden_state": "norm",
            "pooler_output": "head.global_pool",
        },
        windows=True,
        differs=(BEYOND,),
    ),
    TimmSource(
        name="timm-pit",
        classes=("PoolingVisionTransformer",),
        marks=("patch_embed.conv.weight", "transformers.0.blocks.0.norm1.weight"),
        read=timm_pit.convert_config,
        names=timm_pit.tables,
        write=timm_pit.write,
        modules={
            "stages.{s}.layers.{n}": "transformers.{s}.blocks.{n}",
            "head": "head",
            "head_dist": "head_dist",
        },
    ),
    TimmSource(
        name="timm-dinov3",
        classes=("Eva",),
        marks=("patch_embed.proj.weight", "blocks.0.gamma_1"),
        foreign=("pos_embed",),
        read=timm_eva.convert_config,
        names=timm_eva.tables,
        write=timm_eva.write,
        modules=PLAIN | {"pooler_output": "fc_norm"},
        dynamic=("dynamic_img_size",),
        differs=(ROTARY,),
        bars=BARS | {"float64": 1e-6},
    ),
    TimmSource(
        name="timm-vit",
        classes=("VisionTransformer", "VisionTransformerDistilled"),
        marks=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        foreign=("mask_token", "register_tokens"),
        read=timm_vit.convert_config,
        names=timm_vit.tables,
        write=timm_vit.write,
        modules=PLAIN | {"pooler_output": "fc_norm", "head": "head", "head_dist": "head_dist"},
        dynamic=("dynamic_img_size",),
        shapes=original_vit.read_timm,
    ),
)
KNOWN = ", ".join(name for source in SOURCES for name in source.classes)


def source_of(model: Any) -> TimmSource:
    """The source that reads this model of timm.

    Raises:
        ValueError: there is none.
    """
    for source in SOURCES:
        if type(model).__name__ in source.classes:
            return source
    raise ValueError(f"There is no conversion of timm's {type(model).__name__}: use a model of {KNOWN}.")


def from_timm(model: Any) -> ViTCustomModel | ViTCustomForImageClassification:
    """A model of timm as ours, in the same dtype; the bare model if it has no classifier."""
    source = source_of(model)
    config = source.convert(model, getattr(model, "pretrained_cfg", None) or {})
    head = model.num_classes > 0
    make = ViTCustomForImageClassification if head else ViTCustomModel
    ours, _ = load(make, config, model.state_dict(), source.tables(config, head)["timm"])
    return ours.train(model.training)


def to_timm(model: ViTCustomModel | ViTCustomForImageClassification) -> nn.Module:
    """Ours as a model of timm, in the same dtype: the inverse of `from_timm`.

    Raises:
        ValueError: timm has no model that computes the same.
    """
    head, config = model.base_model is not model, model.config
    # What tells timm's classes apart.
    name = "timm-swin" if config.window_size is not None else "timm-pit" if config.downsample == "conv" else "timm-vit"
    name = "timm-dinov3" if config.position_embedding == "rotary" else name
    source = next(source for source in SOURCES if source.name == name)
    written = source.write_config(config, head)
    tensors = into_theirs(model.state_dict(), source.tables(config, head)["timm"])
    return source.build(Checkpoint(written, tensors)).train(model.training)
