"""LoRA ("LoRA: Low-Rank Adaptation of Large Language Models", section 4) on any member of the family, by peft: the
encoder stays as it is but for small updates of its attention, and the task's head learns whole.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..common import extra
from ..near_names import near_miss
from .recipe_words import advice

ENCODERS = ("vit", "vision_model", "text_model")
# Queries and values, as in the paper (its table 5); the rank and the scale are those that most use.
DEFAULTS: dict[str, Any] = dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
LISTED = "peft's page of LoraConfig lists them all."


def import_peft() -> Any:
    with extra("lora", "Adapters need"):
        import peft
    return peft


def heads(model: PreTrainedModel) -> list[str]:
    """The modules that are no encoder, such as a classifier: a checkpoint of an encoder has no weights for them."""
    if not any(hasattr(model, name) for name in ENCODERS):
        return []  # the encoder itself
    found = []
    for name, module in model.named_children():
        if name in ENCODERS or not any(True for _ in module.parameters()):
            continue
        if isinstance(module, nn.ModuleDict):  # peft takes none: it does not know what calls one
            found += [f"{name}.{key}" for key in module]
        else:
            found.append(name)
    return found


def add_lora(model: PreTrainedModel, settings: dict[str, Any]) -> Any:
    """-> peft's PeftModel around `model`, which computes the same until it is trained.

    Parameters that stand in no module of a head (`mask_token` of SimMIM, `logit_scale` of a dual encoder) stay as they
    are, and the adapter's file does not hold them: keep the model they are in, or save the merged one.
    Reentrant checkpoints of activations would give adapters no gradient: ViTCustomTrainer sees to it, elsewhere call
    the model's `enable_input_require_grads()` before training.

    Args:
        model: any of ours; it is changed.
        settings: of peft's LoraConfig, over the defaults here; `modules_to_save` are the task's heads.

    Raises:
        ImportError: peft is not installed.
        ValueError: a setting that LoraConfig has not, with the nearest, or `target_modules` that the model has not.
    """
    peft = import_peft()
    known = [field.name for field in fields(peft.LoraConfig) if field.init]
    for name in settings:
        if name not in known:
            raise ValueError(f"LoRA has no setting `{name}`: {advice(name, known, near_miss, listed=LISTED)}")
    whole = DEFAULTS | {"modules_to_save": heads(model) or None} | settings
    for name in ("target_modules", "modules_to_save"):
        refuse_missing(model, name, whole[name])
    with peft_as_it_is():
        return peft.get_peft_model(model, peft.LoraConfig(**whole))


def refuse_missing(model: nn.Module, setting: str, wanted: Any):
    """peft passes over a module that is not there, if another is."""
    if not wanted or isinstance(wanted, str):  # a pattern, which peft checks
        return
    names = [name for name, _ in model.named_modules()]
    for module in wanted:
        if not any(f".{name}".endswith(f".{module}") for name in names):
            ends = sorted({name.split(".")[-1] for name in names} - {""})
            end = advice(module, ends, near_miss, listed=f"choose from {', '.join(ends)}.")
            raise ValueError(f"`{setting}` names {module!r}, which {type(model).__name__} has not: {end}")


def load_lora(model: PreTrainedModel, folder: str | Path, is_trainable: bool = False) -> Any:
    """-> a PeftModel around `model`, with the adapters and heads that another's `save_pretrained` wrote to `folder`."""
    peft = import_peft()
    with peft_as_it_is():
        return peft.PeftModel.from_pretrained(model, folder, is_trainable=is_trainable)


@contextmanager
def peft_as_it_is() -> Iterator[None]:
    """peft 0.21 calls a property by a name that transformers has since changed: no user of ours can help that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def let_gradients_through(model: nn.Module) -> bool:
    """Reentrant checkpoints compute no gradient for a layer whose input has none, as behind frozen embeddings: so the
    embeddings' output gets one. False where no such layer learns.
    """
    if not any(is_reentrant(module) and learns(module) for module in model.modules()):
        return False
    outermost(model).enable_input_require_grads()  # of all towers
    return True


def outermost(model: nn.Module) -> PreTrainedModel:
    """Within peft's model, and others'."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def is_reentrant(module: nn.Module) -> bool:
    function = getattr(module, "_gradient_checkpointing_func", None)
    settings = getattr(function, "keywords", {})
    return getattr(module, "gradient_checkpointing", False) and settings.get("use_reentrant") is not False


def learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def merge(model: Any) -> PreTrainedModel:
    """A PeftModel -> the model inside it, with what its adapters learned in its own weights: it can be saved and loaded
    as if there had been no adapters, and all of it can be trained."""
    merged = model.merge_and_unload()
    return merged.requires_grad_(True)
