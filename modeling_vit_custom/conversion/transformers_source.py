"""A model of transformers as a source."""

import re
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from .equal_configs import differing
from .names import match
from .processors import image_processor
from .rename import Table
from .rename import Tensors
from .sources import Checkpoint
from .sources import Source
from .trace import record
from .transformers_fields import Fields


@dataclass(frozen=True)
class TransformersSource(Source):
    """
    Args:
        config_class: the name of its configuration class; looked up when needed, since older versions lack some.
        classes: the model class -> its fields; those of `heads` have a classifier.
        heads: the classes with a classifier.
        below: the class -> the attribute that is the encoder, where theirs is more than that.
        vision: whether a `vision_config` within the configuration is what counts.
        modules: our name -> their modules, of the encoder.
        pooled: whether their `pooler_output` is our pooled vector.
        resamples: whether they are asked for other sizes by `interpolate_pos_encoding`.
        differs: what differs although outputs agree.
        processor: the image processor that transformers takes for these models where a file does not name one.
    """

    name: str
    config_class: str
    classes: Mapping[str, Fields]
    heads: tuple[str, ...]
    names: Callable[[ViTCustomConfig, bool], dict[str, Table]]
    modules: Mapping[str, str | tuple[str, ...]]
    base: str = ""
    below: Mapping[str, str] = field(default_factory=dict)
    vision: bool = False
    pooled: bool = True
    resamples: bool = True
    differs: tuple[str, ...] = ()
    processor: str = "ViTImageProcessor"
    library: str = "transformers"

    def architecture(self, checkpoint: Checkpoint) -> str:
        """The class that the configuration names; without a name, the one that the tensors speak for."""
        named = (checkpoint.config.get("architectures") or [None])[0]
        if named in self.classes:
            return named
        if named is not None or checkpoint.config.get("model_type") != self.model_type:
            return ""
        heads = [name for name in self.classes if name in self.heads]
        has_head = any("classifier." in name for name in checkpoint.tensors)
        if not has_head or not heads:
            return next(iter(self.classes))
        return heads[-1 if "distillation_classifier.weight" in checkpoint.tensors else 0]

    @property
    def model_type(self) -> str:
        config_class = getattr(transformers, self.config_class, None)
        return config_class.model_type if config_class else ""

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return bool(self.architecture(checkpoint))

    def knows_names(self, tensors: Tensors) -> bool:
        first = re.compile(rf"({self.base or 'vit'}\.)?embeddings\.patch_embeddings?\.(projection\.)?weight")
        return any(first.fullmatch(name) for name in tensors)

    def has_head(self, checkpoint: Checkpoint) -> bool:
        return self.architecture(checkpoint) in self.heads

    def their_config(self, checkpoint: Checkpoint) -> Any:
        """
        Raises:
            ImportError: the installed transformers is too old for this model.
        """
        name = "CLIPConfig" if "vision_config" in checkpoint.config else self.config_class
        config_class = getattr(transformers, name, None)
        if config_class is None:
            raise ImportError(f"transformers {transformers.__version__} has no {name}: install a newer one.")
        return config_class.from_dict({key: value for key, value in checkpoint.config.items() if key != "auto_map"})

    def read_config(self, checkpoint: Checkpoint) -> ViTCustomConfig:
        theirs = self.their_config(checkpoint)
        architecture = self.architecture(checkpoint)
        tower = theirs.vision_config if self.vision and hasattr(theirs, "vision_config") else theirs
        return self.classes[architecture].to_ours(tower, theirs if architecture in self.heads else None)

    def write_config(self, config: ViTCustomConfig, head: bool) -> dict[str, Any]:
        """The first of this source's classes that holds the same function."""
        reasons = []
        for architecture, known in self.classes.items():
            if (architecture in self.heads) != head or architecture in self.below:
                continue
            try:
                settings = known.to_theirs(config, head)
                theirs = self.make_config(settings, head)
                back = self.read_config(Checkpoint(config=theirs | {"architectures": [architecture]}, tensors={}))
            except (ValueError, StrictDataclassError) as error:
                reasons.append(f"{architecture}: {' '.join(str(error).split())}")
                continue
            different = differing(config, back, head)
            if not different:
                return theirs | {"architectures": [architecture]}
            fields = ", ".join(f"`{name}` {ours!r} (only {other!r})" for name, (ours, other) in different.items())
            reasons.append(f"{architecture} cannot express {fields}")
        if not reasons:
            kind = "with" if head else "without"
            raise ValueError(
                f"{self.name} has no class {kind} a classifier: choose another layout, or save the backbone."
            )
        fix = "set that in config.json first if it is what you mean"
        raise ValueError(f"{self.name} cannot hold this model: {'; '.join(reasons)}: {fix}.")

    def make_config(self, settings: dict[str, Any], head: bool) -> dict[str, Any]:
        if not (self.vision and head):
            return getattr(transformers, self.config_class)(**settings).to_dict()
        labels = {name: settings.pop(name) for name in ("id2label", "label2id", "problem_type")}
        return transformers.CLIPConfig(vision_config=settings, **labels).to_dict()

    def tables(self, config: ViTCustomConfig, head: bool) -> dict[str, Table]:
        return self.names(config, head)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        return list(self.differs)

    def read_processor(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        tower = checkpoint.config.get("vision_config") or checkpoint.config
        return image_processor(checkpoint.processor, self.processor, tower.get("num_channels", 3))

    def build(self, checkpoint: Checkpoint) -> Any:
        config = self.their_config(checkpoint)
        if hasattr(config, "mask_ratio"):  # MAE hides patches from its encoder; what it makes of all is compared
            config.mask_ratio = 0.0
        architecture = self.architecture(checkpoint)
        dtype = next(tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_floating_point())
        model_class = getattr(transformers, architecture)
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(checkpoint.tensors),
            dtype=dtype,
            attn_implementation="sdpa" if model_class._supports_sdpa else "eager",  # Swin before 5.9
            output_loading_info=True,
        )
        tables = self.tables(self.read_config(checkpoint), architecture in self.heads).values()
        unused = [name for table in tables for entry in table if not entry.names[1] for name in entry.names[0]]
        lacking = [key for key in info["missing_keys"] if all(match(name, key) is None for name in unused)]
        if lacking or info["mismatched_keys"]:
            raise ValueError(f"transformers could not load these tensors into {architecture}: {lacking}.")
        return (getattr(model, self.below[architecture]) if architecture in self.below else model).eval()

    def trace(self, model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        inner = "vision_model" if hasattr(model, "vision_model") and not hasattr(model, "classifier") else self.base
        prefix = f"{inner}." if hasattr(model, inner) else ""
        modules = {
            ours: tuple(prefix + name for name in ((theirs,) if isinstance(theirs, str) else theirs))
            for ours, theirs in self.modules.items()
        }
        arguments: dict[str, Any] = {}
        native = getattr(model.config, "vision_config", model.config).image_size
        if self.resamples and tuple(pixel_values.shape[2:]) != pair(native):
            arguments["interpolate_pos_encoding"] = True
        if hasattr(model.config, "mask_ratio"):  # noise in order, so that no patch changes its place
            patches = model.embeddings.patch_embeddings.projection(pixel_values)[0, 0].numel()
            arguments["noise"] = torch.arange(patches, dtype=pixel_values.dtype).expand(len(pixel_values), -1)
        windows = [(module, dict(vars(module))) for module in model.modules() if hasattr(module, "shift_size")]
        try:
            output, found = record(model, modules, pixel_values, **arguments)
        finally:
            for module, values in windows:  # theirs writes the clamped window on the module, for good
                module.shift_size, module.window_size = values["shift_size"], values["window_size"]
        names = ["logits", "cls_logits", "distillation_logits", "last_hidden_state", *["pooler_output"] * self.pooled]
        return found | {name: output[name] for name in names if output.get(name) is not None}

    def accepts(self, model: Any, height: int, width: int) -> bool:
        config = getattr(model.config, "vision_config", model.config)
        size, patch = pair(config.image_size), config.patch_size
        if window := getattr(config, "window_size", 0):
            smallest = min(side // patch for side, patch in zip((height, width), pair(patch), strict=True))
            for _ in config.depths[1:]:
                smallest = (smallest + 1) // 2
            if smallest < window:  # breaks theirs
                return False
        if (height, width) == size or (window and not config.use_absolute_embeddings):
            return True
        return size[0] == size[1] and (isinstance(patch, int) or not self.resamples)
