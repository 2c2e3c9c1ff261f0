"""Which weights decay, and how fast each layer learns: the groups of an optimizer's parameters."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import Trainer
from transformers import TrainingArguments

# Weight decay pulls to 0, which for these means nothing: a token or a position is no map whose size is to be small.
# Whole parts of a dotted name: ours first, then what transformers, timm and torchvision call the same.
TOKENS = (
    "prefix_tokens",  # class, distillation, register and detection tokens
    "mask_token",
    "class_embeddings",  # Segmenter's
    *("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_tokens"),
    "detection_tokens",
)
POSITIONS = (
    "position_embeddings",
    "layer_position_embeddings",
    "query_positions",
    *("position_embedding", "pos_embed", "pos_embedding", "absolute_pos_embed", "mid_position_embeddings", "wpe"),
    "query_position_embeddings",
)
TABLES_AND_SCALES = ("relative_position_bias_table", "layer_scale", "logit_scale")  # most scales are vectors anyway
WITHOUT_DECAY = re.compile(rf"(?:^|\.)(?:{'|'.join((*TOKENS, *POSITIONS, *TABLES_AND_SCALES))})(?:\.|$)")
OTHER_GROUPS = ("galore", "apollo", "lomo")  # optimizers of transformers that group the parameters themselves


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters of any model, each once, from the embeddings to the head.

    Vectors (norms, biases, LayerScale), tokens, positions and relative-position tables do not decay. With
    `layer_decay` a layer's learning rate is `learning_rate * layer_decay ** (n + 1 - depth)` for n layers counted over
    all stages ("BEiT: BERT Pre-Training of Image Transformers", appendix; MAE, table 9): embeddings have depth 0,
    layers 1 to n, and n + 1 is what stands behind the backbone or beside it: heads, decoders, a norm of the pooled
    vector, a text tower. A stage's downsampling counts with its first layer and the norm of all tokens with the last,
    as timm counts them.

    Returns:
        groups with `name`, `params`, `names`, `weight_decay`, `lr`, and `lr_scale` = lr / learning_rate.

    Raises:
        ValueError: layers are asked to learn differently in a model that has no backbone of ours.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay: {layer_decay}` must be above 0 and at most 1: 1 is the same rate everywhere.")
    refuse_flat_parameters(model)
    places = {id(parameter): (place, distance) for parameter, place, distance in places_of(model)}
    if layer_decay != 1 and not places:
        raise ValueError(
            f"{type(model).__name__} has no backbone of this package, whose layers `layer_decay: {layer_decay}` could "
            "count: set it to 1."
        )
    declared = declared_without_decay(model)
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place, distance = places.get(id(parameter), ("head", 0))
        shape = getattr(parameter, "ds_shape", parameter.shape)  # DeepSpeed's ZeRO-3 holds an empty vector here
        decays = len(shape) > 1 and not (
            name.endswith(".bias") or WITHOUT_DECAY.search(name) or id(parameter) in declared
        )
        if layer_decay == 1:
            place, distance = "model", 0
        scale = layer_decay**distance
        new = dict(
            name=f"{place}, {'decay' if decays else 'no decay'}",
            params=[],
            names=[],
            weight_decay=weight_decay if decays else 0.0,
            lr=learning_rate * scale,
            lr_scale=scale,
        )
        group = groups.setdefault((-distance, place, not decays), new)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameter to train: unfreeze some by `requires_grad_()`.")
    return [groups[key] for key in sorted(groups)]


def places_of(model: Any) -> Iterator[tuple[nn.Parameter, str, int]]:
    """(parameter, name of its place, steps to the head) for our backbones, by modules: so names may be wrapped."""
    for module in model.modules():
        # By name: a class that was loaded from the Hub is another than this package's.
        classes = {base.__name__ for base in type(module).__mro__}
        if "ViTCustomModel" in classes:
            yield from places_in(module)
        elif "ViTCustomForMaskedImageModeling" in classes:
            yield module.mask_token, "embeddings", sum(module.config.depths) + 1


def places_in(backbone: Any) -> Iterator[tuple[nn.Parameter, str, int]]:
    num_layers = sum(len(stage.layers) for stage in backbone.stages)

    def within(module: nn.Module, depth: int) -> Iterator[tuple[nn.Parameter, str, int]]:
        for parameter in module.parameters():
            yield parameter, f"layer {depth}" if depth else "embeddings", num_layers + 1 - depth

    depth = 0
    yield from within(backbone.embeddings, 0)
    for stage in backbone.stages:
        if stage.layer_position_embeddings is not None:
            yield stage.layer_position_embeddings, "embeddings", num_layers + 1
        yield from within(stage.downsample, depth + 1)
        for layer in stage.layers:
            depth += 1
            yield from within(layer, depth)
    yield from within(backbone.norm, num_layers)


def declared_without_decay(model: nn.Module) -> set[int]:
    """What timm's models themselves say by `no_weight_decay()`, as ids."""
    found: set[int] = set()
    for module in model.modules():
        if callable(declare := getattr(module, "no_weight_decay", None)):
            patterns = declare()
            found |= {id(p) for name, p in module.named_parameters() if any(fnmatch(name, one) for one in patterns)}
    return found


def refuse_flat_parameters(model: nn.Module):
    """
    Raises:
        ValueError: FSDP's first version cuts all parameters into vectors.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise ValueError(
            "FSDP 1 flattens all parameters, so that none can be told from another: set `fsdp_version: 2`."
        )


def optimizer_cls_and_kwargs(
    args: TrainingArguments, model: Any, layer_decay: float = 1.0
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """What transformers' `args.optim` names, with these groups as `params`: as Trainer's argument of that name is.

    Raises:
        ValueError: an optimizer that needs groups of its own.
    """
    choice = str(getattr(args.optim, "value", args.optim))
    other = f"`optim: {choice}` groups the parameters itself: choose another, such as adamw_torch."
    if any(name in choice for name in OTHER_GROUPS):
        raise ValueError(other)
    cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(other)
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, layer_decay)
    return cls, {**kwargs, "params": groups}


def make_optimizer(args: TrainingArguments, model: Any, layer_decay: float = 1.0) -> torch.optim.Optimizer:
    """transformers' `args.optim` over `parameter_groups`.

    Raises:
        ValueError: as `optimizer_cls_and_kwargs` and `parameter_groups`.
    """
    cls, kwargs = optimizer_cls_and_kwargs(args, model, layer_decay)
    return cls(kwargs.pop("params"), **kwargs)
