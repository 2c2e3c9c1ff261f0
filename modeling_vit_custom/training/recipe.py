"""A training run as one YAML file, read by transformers' HfArgumentParser."""

import difflib
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers import TrainingArguments


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
        ValueError: a key that no argument has, with the nearest that one has.
    """
    kinds: tuple[Any, ...] = (DataArguments, ModelArguments, TrainingArguments)
    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    known = [f.name for kind in kinds for f in fields(kind) if f.init]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise ValueError(f"{path} has an unknown key `{key}`: did you mean `{near[0]}`?")
    return Recipe(Path(path), *HfArgumentParser(kinds).parse_dict(settings))
