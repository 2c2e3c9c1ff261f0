"""A training run as one YAML file, read by transformers' HfArgumentParser."""

import dataclasses
import difflib
import os
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser
from transformers import TrainingArguments

from .data import DATASETS
from .packages import DATA_DIR
from .tasks import TASKS

OWN = "vit_custom"  # the `model_type` of this family
CORRUPT = ("fail", "skip")
CONTAINERS: dict[Any, type] = {dict: dict, list[str]: list}


@dataclass
class DataArguments:
    dataset: str = field(metadata={"help": "built in, a folder, .parquet, .arrow or .tar files, or a Hub name"})
    dataset_name: str | None = field(default=None, metadata={"help": "in the card; else the last part of its path"})
    license: str | None = field(default=None, metadata={"help": "of the result: the Hub's id of it, as apache-2.0"})
    data_dir: str = field(default=str(DATA_DIR), metadata={"help": "where `make data` has put the packages"})
    dataset_settings: dict = field(default_factory=dict, metadata={"help": "settings of that data set"})
    split_seed: int = field(default=0, metadata={"help": "seed of the split into training and held-out images"})
    test_share: float = field(default=0.2, metadata={"help": "held out where a data set has no such split"})
    image_column: str | None = field(default=None, metadata={"help": "where a data set has several"})
    label_column: str | None = field(default=None, metadata={"help": "where there are several, or none of classes"})
    group_column: str | None = field(
        default=None, metadata={"help": "rows with one value stay on one side; `stem`: of files' names"}
    )
    corrupt_images: str = field(default="fail", metadata={"help": "fail, or skip and count them"})
    streaming: bool = field(default=False, metadata={"help": "read while training; needs `max_steps`"})
    shuffle_buffer: int = field(default=1000, metadata={"help": "of a stream, from which rows are drawn"})
    fast_seek: bool = field(default=False, metadata={"help": "resume a stream without reading again what it gave"})
    augmentation: dict = field(default_factory=dict, metadata={"help": "policy, crop, flip, erasing ..."})
    mix: dict = field(default_factory=dict, metadata={"help": "mixup_alpha, cutmix_alpha, label_smoothing ..."})
    repeated_augmentation: int = field(default=1, metadata={"help": "copies of an image that follow each other"})
    num_examples: int = field(default=10, metadata={"help": "held-out images kept beside the checkpoint, at most 25"})


@dataclass
class ModelArguments:
    task: str = field(default="image-classification", metadata={"help": "what the model is for"})
    model_type: str = field(default=OWN, metadata={"help": "another classifier of transformers, such as resnet"})
    init_from: str | None = field(
        default=None, metadata={"help": "a checkpoint, a run or a name on the Hub, to go on from"}
    )
    config_overrides: dict = field(default_factory=dict, metadata={"help": "fields of the configuration"})
    processor_overrides: dict = field(default_factory=dict, metadata={"help": "settings of the image processor"})
    collator_settings: dict = field(default_factory=dict, metadata={"help": "settings of what makes the batches"})
    layer_decay: float = field(default=1.0, metadata={"help": "each layer learns by this factor slower than the next"})
    ema: dict = field(default_factory=dict, metadata={"help": "average the weights: decay ..."})
    distillation: dict = field(default_factory=dict, metadata={"help": "teacher, kind, alpha, temperature, cache"})
    lora: dict = field(default_factory=dict, metadata={"help": "peft's LoraConfig: r, lora_alpha, target_modules ..."})
    probe: list[str] = field(
        default_factory=list, metadata={"help": "knn, linear: of the features, at each evaluation"}
    )

    @property
    def is_foreign(self) -> bool:
        """Not of this family."""
        return self.model_type != OWN


@dataclass
class Recipe:
    path: Path
    data: DataArguments
    model: ModelArguments
    training: TrainingArguments

    def resolved(self) -> dict[str, Any]:
        """What a recipe would say to have this run again: our keys, and Trainer's that are not its defaults."""
        kept = {**dataclasses.asdict(self.data), **dataclasses.asdict(self.model)}
        for one in fields(self.training):
            default = one.default_factory() if callable(one.default_factory) else one.default
            value = getattr(self.training, one.name)
            if one.init and value != default and one.name not in ("logging_dir", "resume_from_checkpoint", "debug"):
                kept[one.name] = plain(value)
        return kept


def plain(value: Any) -> Any:
    """As YAML has it: enumerations by their values, configurations as dictionaries."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return getattr(value, "value", value)


def read_recipe(path: str | Path, arguments: Sequence[str] = ()) -> Recipe:
    """Read a recipe; its file name is the run's name. `arguments` are `--key value` in place of its own, a part of a
    dictionary as `--config_overrides.image_size 32`.

    Raises:
        ValueError: a file that is no recipe, a key that nothing has, with the nearest, or a text in place of a number.
        FileNotFoundError: there is no such file.
    """
    kinds: tuple[Any, ...] = (DataArguments, ModelArguments, TrainingArguments)
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no recipe {path}: those of this project are in configs/recipes.")
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(settings, dict) or "dataset" not in settings:
        raise ValueError(
            f"{path} is no recipe: write `key: value` lines, `dataset: {next(iter(DATASETS))}` among them."
        )
    known = {f.name: f.type for kind in kinds for f in fields(kind) if f.init}
    settings = override(settings, arguments)
    refuse_unknown(settings, known, path)
    for key, value in settings.items():
        if known[key] in CONTAINERS:
            settings[key] = value = value or CONTAINERS[known[key]]()
            if not isinstance(value, CONTAINERS[known[key]]):
                raise ValueError(f"{path} sets `{key}` to {value!r}: write a {CONTAINERS[known[key]].__name__}.")
        if value is False and key.endswith("_strategy"):
            settings[key] = "no"  # YAML 1.1 reads it as false
        if isinstance(value, str) and "float" in str(known[key]):
            settings[key] = to_float(value, key, path)  # YAML 1.1 reads 3e-3, without a point, as text
    name = settings.get("task", ModelArguments.task)
    if name not in TASKS:
        raise ValueError(f"{path} has `task: {name}`, which is none: choose one of {', '.join(TASKS)}.")
    task = TASKS[name]
    if not settings.get("init_from"):  # else the checkpoint's processor says what it knows
        refuse_unknown(settings.get("processor_overrides", {}), task.processor_class().to_dict(), path)
    refuse_unknown(settings.get("collator_settings", {}), task.collator_settings, path)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not torch.accelerator.is_available():  # else Trainer takes them for so many runs of their own
        settings.setdefault("use_cpu", True)
    recipe = Recipe(Path(path), *HfArgumentParser(kinds).parse_dict(settings))
    if recipe.training.world_size != processes:
        raise ValueError(
            f"{processes} processes were launched, but each is alone: launch with torchrun, or accelerate and a file "
            "of configs/accelerate."
        )
    if not recipe.model.is_foreign:
        fields_of = {*task.config_class().to_dict(), *(one.name for one in fields(task.config_class))}
        refuse_unknown(recipe.model.config_overrides, {*fields_of, "num_labels", "attn_implementation"}, path)
    if recipe.data.corrupt_images not in CORRUPT:
        raise ValueError(f"{path} has `corrupt_images: {recipe.data.corrupt_images}`: choose {' or '.join(CORRUPT)}.")
    if recipe.data.streaming and recipe.training.max_steps <= 0:
        raise ValueError(f"{path} streams, so the run cannot know an epoch's length: set `max_steps`.")
    return recipe


def override(settings: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value` or, for true, `--key`; the value is YAML.

    Raises:
        ValueError: an argument that is no key, or a part of what is no dictionary.
    """
    settings, position = dict(settings), 0
    while position < len(arguments):
        word = arguments[position]
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is no `--key value`: write the key before it.")
        key, equal, text = word[2:].partition("=")
        position += 1
        if not equal:
            has_value = position < len(arguments) and not arguments[position].startswith("--")
            text = arguments[position] if has_value else "true"
            position += has_value
        first, *rest = key.replace("-", "_").split(".")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"--{key} {text!r} is no YAML value: quote it.") from None
        if isinstance(value, bool) and text.lower() not in ("true", "false"):
            value = text  # `no` is a word of Trainer's, not false
        if not rest:
            settings[first] = value
            continue
        settings[first] = inner = dict(settings.get(first) or {})
        for name in rest[:-1]:
            inner[name] = inner = dict(inner.get(name) or {})
        inner[rest[-1]] = value
    return settings


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
