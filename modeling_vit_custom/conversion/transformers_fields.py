"""How a configuration of transformers is read as ours and written back; what ours cannot reproduce is refused."""

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from transformers import PretrainedConfig

from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig

LISTS = ("hidden_sizes", "depths", "num_attention_heads")
LOSSES = ("regression", "single_label_classification", "multi_label_classification")


def nothing(config: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Fields:
    """Which fields of theirs are which of ours.

    Args:
        same: our name -> theirs, equal values; where ours is a list and theirs a number, a list of one.
        fixed: our name -> the value that their code has without asking.
        read, write: theirs -> ours and ours -> theirs, where no row says it; they win over `same` and `fixed`.
        spoken: their names that `read` takes care of.
        only: their name -> (the one value that ours can reproduce, what to do about others).
        without_effect: their names that change no output of the encoder in evaluation.
    """

    same: Mapping[str, str]
    fixed: Mapping[str, Any]
    read: Callable[[Any], dict[str, Any]] = nothing
    write: Callable[[ViTCustomConfig], dict[str, Any]] = nothing
    spoken: tuple[str, ...] = ()
    only: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    without_effect: tuple[str, ...] = ()

    def to_ours(self, theirs: Any, labels: Any) -> ViTCustomConfig:
        """
        Args:
            labels: the configuration that holds the labels; None for a model without a classifier.

        Raises:
            ValueError: a value that ours cannot reproduce.
        """
        self.refuse(theirs)
        settings = dict(self.fixed)
        for ours, name in self.same.items():
            value = plain(getattr(theirs, name))
            settings[ours] = [value] if ours in LISTS and isinstance(value, int) else value
        settings |= self.read(theirs)
        if labels is not None:
            settings |= dict(id2label=labels.id2label, label2id=labels.label2id, problem_type=labels.problem_type)
        return ViTCustomConfig(**settings)

    def refuse(self, theirs: Any):
        for name, (value, fix) in self.only.items():
            if getattr(theirs, name, value) != value:
                raise ValueError(f"The source has {name}={getattr(theirs, name)!r}, which ours has not: {fix}.")
        if getattr(theirs, "quantization_config", None):
            raise ValueError("The source is quantised (`quantization_config`): convert the original weights instead.")
        default = type(theirs)()
        for name in self.unknown(default):
            if getattr(theirs, name) != getattr(default, name):
                raise ValueError(
                    f"The source has {name}={getattr(theirs, name)!r}, which this conversion does not know: set it to "
                    f"{getattr(default, name)!r} if the weights allow, or teach the conversion what it does."
                )

    def unknown(self, theirs: Any) -> list[str]:
        """The fields of theirs, beyond transformers' general ones, that are spoken of nowhere here."""
        known = {*self.same.values(), *self.only, *self.without_effect, *self.spoken, "out_features", "out_indices"}
        names = vars(theirs).keys() - vars(PretrainedConfig()).keys() - known
        return sorted(name for name in names if not name.startswith("_"))

    def to_theirs(self, ours: ViTCustomConfig, head: bool) -> dict[str, Any]:
        """
        Raises:
            ValueError: theirs has no list where ours needs one.
        """
        settings: dict[str, Any] = {}
        for name, theirs in reversed(list(self.same.items())):  # the first row wins
            value = plain(getattr(ours, name))
            if name in LISTS and len(value) > 1:
                raise ValueError(f"it has one stage, not the {len(value)} of `{name}`")
            settings[theirs] = value[0] if name in LISTS else value
        settings["image_size"] = nominal_size(ours)
        if head:
            settings |= dict(id2label=dict(ours.id2label or {}), label2id=dict(ours.label2id or {}))
            settings |= dict(problem_type=ours.problem_type if ours.problem_type in LOSSES else None)
        return settings | self.write(ours)


def nominal_size(ours: ViTCustomConfig) -> Any:
    """`image_size`; or the size that the position table is for, which is what theirs means by it."""
    grid = tuple(ours.position_grid or ours.grid)
    if ours.position_embedding != "learned" or grid == ours.grid:
        return plain(ours.image_size)
    sides = [n * patch for n, patch in zip(grid, pair(ours.patch_size), strict=True)]
    return sides[0] if sides[0] == sides[1] else sides


def plain(value: Any) -> Any:
    """Tuples as the lists that JSON has."""
    return list(value) if isinstance(value, tuple) else value
