"""What a model computes on the way, ours and theirs under the same names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .names import fill
from .names import match

# Where our model computes what: their traces name their modules beside these.
LAYERS = "stages.{s}.layers.{n}"
OURS = {"embeddings": "embeddings", LAYERS: LAYERS}
OUTPUTS = ("last_hidden_state", "pooler_output", "cls_logits", "distillation_logits", "logits")


def record(
    model: nn.Module, modules: Mapping[str, str | tuple[str, ...]], pixel_values: torch.Tensor, **kwargs
) -> tuple[Any, dict[str, torch.Tensor]]:
    """(what `model` returns, what its `modules` return by our names).

    Args:
        modules: our name -> theirs, with fields, or several that it may have; of what a module returns the first.
    """
    found: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(module, arguments, output):
            found[name] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    hooks = []
    for name, module in model.named_modules():
        for ours, theirs in modules.items():
            for known in (theirs,) if isinstance(theirs, str) else theirs:
                if (fields := match(known, name)) is not None:
                    hooks.append(module.register_forward_hook(keep(fill(ours, fields))))
    try:
        output = model(pixel_values, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return output, found


def trace_ours(model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """(B, C, H, W) -> tensors by name: of our classifier or bare model, in the order of computation."""
    base = model.base_model
    below = "" if base is model else f"{model.base_model_prefix}."
    modules = {name: below + module for name, module in OURS.items()}
    hidden: dict[str, torch.Tensor] = {}
    hook = base.register_forward_hook(lambda module, arguments, output: hidden.update(output))
    try:
        output, found = record(model, modules, pixel_values)
    finally:
        hook.remove()
    outputs = {**hidden, **output}
    return found | {name: outputs[name] for name in OUTPUTS if outputs.get(name) is not None}
