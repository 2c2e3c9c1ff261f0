"""What a source of checkpoints is: its configuration as ours and back, its names, its model to compare with."""

import copy
from abc import ABC
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any

import torch

from ..configuration_vit_custom import ViTCustomConfig
from .equal_configs import ways
from .rename import Table
from .rename import Tensors

# How far from the source a layer may be, relative to its largest value.
BARS = {"float64": 1e-9, "float32": 1e-5}


@dataclass(frozen=True)
class WeightFile:
    """A file of weights as it was read: what it takes to write it again, bit for bit."""

    name: str
    sha256: str
    metadata: Mapping[str, str] | None
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Somebody's model as it lies in a folder or a file.

    Args:
        config: their config.json, or what stands for it; empty where a file comes without one.
        tensors: their state dict.
        processor: their preprocessor_config.json, if there is one.
        name: the file's stem or the Hub id, for sources whose names say what is inside.
        files, index: the files of weights, and the index.json of sharded ones.
        revision: the commit on the Hub.
        preset: a configuration of ours, for files that hold tensors alone and whose shapes do not say all.
        notes: what was left out when it was read.
        entry: where in a pickled file they lie.
        names: their name -> the file's, where a wrapper made it longer.
        outside: what else the file holds, under its names there.
    """

    config: Mapping[str, Any]
    tensors: Tensors
    processor: Mapping[str, Any] | None = None
    name: str = ""
    files: tuple[WeightFile, ...] = ()
    index: Mapping[str, Any] | None = None
    revision: str | None = None
    preset: ViTCustomConfig | None = None
    notes: tuple[str, ...] = ()
    entry: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    outside: Tensors = field(default_factory=dict)

    @property
    def in_files(self) -> dict[str, torch.Tensor]:
        """All tensors, under the names of the files."""
        return {self.names.get(name, name): tensor for name, tensor in self.tensors.items()} | dict(self.outside)


class Source(ABC):
    """One kind of foreign checkpoint. Nothing here may import the source's library when the module is imported."""

    name: str  # as given to `--source`: "transformers-vit", "timm-swin", "original-deit"
    library: str  # the package whose version is recorded: "transformers", "timm"; "" for files without one
    bars: Mapping[str, float] = BARS  # looser only where `notes` says why it cannot be exact

    @abstractmethod
    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether this source made it, by its configuration or, without one, by its names."""

    def knows_names(self, tensors: Tensors) -> bool:
        """Whether a file of tensors alone may be its own, once it is named."""
        return False

    def from_shapes(self, tensors: Tensors) -> ViTCustomConfig:
        """Our configuration of a file of tensors alone.

        Raises:
            ValueError: shapes do not say enough here.
        """
        raise ValueError(
            f"No configuration came with this file, which {self.name} needs: give their config.json with `--config`, "
            "or a preset of the same sizes with `--preset`."
        )

    def configured(self, checkpoint: Checkpoint) -> Checkpoint:
        """With the configuration that this source writes for the preset, or for the shapes, where a file has none."""
        if checkpoint.config or not self.library:
            return checkpoint
        preset = copy.deepcopy(checkpoint.preset) or self.from_shapes(checkpoint.tensors)
        heads = ("head.weight", "head.fc.weight", "classifier.weight", "cls_classifier.weight")
        found = [checkpoint.tensors[name].shape[0] for name in heads if name in checkpoint.tensors]
        if found and preset.num_labels != found[0]:
            preset.num_labels = found[0]
        reasons = []
        for candidate in ways(preset, self.library):
            try:
                return replace(checkpoint, config=self.write_config(candidate, bool(found)))
            except ValueError as error:
                reasons.append(error)
        raise reasons[0]

    @abstractmethod
    def read_config(self, checkpoint: Checkpoint) -> ViTCustomConfig:
        """Every setting that matters as ours.

        Raises:
            ValueError: a setting that ours cannot reproduce, by name and with the fix.
        """

    @abstractmethod
    def has_head(self, checkpoint: Checkpoint) -> bool:
        """Whether ours is a classifier, or the bare model."""

    @abstractmethod
    def tables(self, config: ViTCustomConfig, head: bool) -> dict[str, Table]:
        """The rename table of each spelling that files of this source have, the usual one first.

        With a head our names are those of the classifier (`vit.` before the backbone's).
        """

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What differs although every output agrees, in sentences: warned of, and written into parity.json."""
        return []

    def assumed(self, checkpoint: Checkpoint, named: bool = False) -> list[str]:
        """The same of a file that may be another source's too, unless it was named; and of what no tensor says."""
        return []

    def write_config(self, config: ViTCustomConfig, head: bool) -> dict[str, Any]:
        """Our configuration as theirs, ready for their config.json.

        Raises:
            ValueError: theirs cannot express it; the sentence names the field.
        """
        raise ValueError(f"There is no way back to {self.name}: convert to a library's layout instead.")

    def with_processor(self, settings: dict[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
        """What `write_config` gave, with the image processor's settings where theirs keeps them within."""
        return settings

    def build(self, checkpoint: Checkpoint) -> Any:
        """Their model with the tensors of `checkpoint`, in eval mode, from their installed library.

        Raises:
            ImportError: the library is not installed, or too old.
        """
        raise ImportError(f"{self.name} has no library to compare with.")

    def trace(self, model: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """What their model computes, under the names of `trace.OURS`: of embeddings, layers and outputs, in order."""
        raise NotImplementedError

    def accepts(self, model: Any, height: int, width: int) -> bool:
        """Whether their model takes images of this size."""
        return True

    def read_processor(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """The preprocessor_config.json for one of transformers' own classes; None where the source says nothing."""
        return dict(checkpoint.processor) if checkpoint.processor is not None else None
