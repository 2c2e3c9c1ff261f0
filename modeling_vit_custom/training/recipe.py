"""A training run as one YAML file, read by transformers' HfArgumentParser."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers import TrainingArguments
from transformers import ViTImageProcessor

from .data import DATASETS


@dataclass
class DataArguments:
    dataset: str = field(metadata={"help": "name of a built-in data set"})
    split_seed: int = field(default=0, metadata={"help": "seed of the split into training and held-out images"})
    num_examples: int = field(default=10, metadata={"help": "held-out images kept beside the checkpoint"})


@dataclass
class ModelArguments:
    config_overrides: dict = field(default_factory=dict, metadata={"help": "fields of ViTCustomConfig"})
    processor_overrides: dict = field(default_factory=dict, metadata={"help": "settings of ViTImageProcessor"})


@dataclass
class Recipe:
    path: Path
    data: DataArguments
    model: ModelArguments
    training: TrainingArguments


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe; its file name is the run's name.

    Raises:
        ValueError: a file that is no recipe, a key that nothing has, with the nearest, or a text in place of a number.
    """
    kinds: tuple[Any, ...] = (DataArguments, ModelArguments, TrainingArguments)
    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "dataset" not in settings:
        raise ValueError(
            f"{path} is no recipe: write `key: value` lines, `dataset: {next(iter(DATASETS))}` among them."
        )
    known = {f.name: f.type for kind in kinds for f in fields(kind) if f.init}
    refuse_unknown(settings, known, path)
    for key, value in settings.items():
        if known[key] is dict:
            settings[key] = value = value or {}
        if isinstance(value, str) and "float" in str(known[key]):
            settings[key] = to_float(value, key, path)  # YAML 1.1 reads 3e-3, without a point, as text
    refuse_unknown(settings.get("processor_overrides", {}), ViTImageProcessor().to_dict(), path)
    return Recipe(Path(path), *HfArgumentParser(kinds).parse_dict(settings))


def refuse_unknown(settings: dict[str, Any], known: Iterable[str], path: str | Path):
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1, cutoff=0)
            raise ValueError(f"{path} has an unknown key `{key}`: did you mean `{near[0]}`?")


def to_float(value: str, key: str, path: str | Path) -> float | str:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{path} sets `{key}` to {value!r}, which is no number.") from None
