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

from .data import DATASETS
from .packages import DATA_DIR
from .tasks import TASKS


@dataclass
class DataArguments:
    dataset: str = field(metadata={"help": "name of a built-in data set"})
    data_dir: str = field(default=str(DATA_DIR), metadata={"help": "where `make data` has put the packages"})
    dataset_settings: dict = field(default_factory=dict, metadata={"help": "settings of that data set"})
    split_seed: int = field(default=0, metadata={"help": "seed of the split into training and held-out images"})
    num_examples: int = field(default=10, metadata={"help": "held-out images kept beside the checkpoint"})


@dataclass
class ModelArguments:
    task: str = field(default="image-classification", metadata={"help": "what the model is for"})
    init_from: str | None = field(default=None, metadata={"help": "a checkpoint's folder, whose encoder is kept"})
    config_overrides: dict = field(default_factory=dict, metadata={"help": "fields of the configuration"})
    processor_overrides: dict = field(default_factory=dict, metadata={"help": "settings of the image processor"})
    collator_settings: dict = field(default_factory=dict, metadata={"help": "settings of what makes the batches"})


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
    name = settings.get("task", ModelArguments.task)
    if name not in TASKS:
        raise ValueError(f"{path} has `task: {name}`, which is none: choose one of {', '.join(TASKS)}.")
    task = TASKS[name]
    refuse_unknown(settings.get("processor_overrides", {}), task.processor_class().to_dict(), path)
    refuse_unknown(settings.get("collator_settings", {}), task.collator_settings, path)
    return Recipe(Path(path), *HfArgumentParser(kinds).parse_dict(settings))


def refuse_unknown(settings: dict[str, Any], known: Iterable[str], path: str | Path):
    known = list(known)
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            hint = f"did you mean `{near[0]}`?" if near else "this task has none there."
            raise ValueError(f"{path} has an unknown key `{key}`: {hint}")


def to_float(value: str, key: str, path: str | Path) -> float | str:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{path} sets `{key}` to {value!r}, which is no number.") from None
