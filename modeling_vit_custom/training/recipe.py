"""A training run as one YAML file, read by transformers' HfArgumentParser."""

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any
from typing import get_type_hints

import torch
from transformers import CONFIG_MAPPING
from transformers import HfArgumentParser
from transformers import TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

from ..configuration_presets import find_preset
from ..configuration_vit_custom import ViTCustomConfig
from ..near_names import near_miss
from .data import DATASETS
from .packages import DATA_DIR
from .recipe_values import fits
from .recipe_values import load_yaml
from .recipe_values import members
from .recipe_values import of_kind
from .recipe_values import read_settings
from .recipe_words import advice
from .recipe_words import split_options
from .targets import PROBLEMS
from .targets import SINGLE
from .tasks import TASKS
from .tasks import Task

OWN = "vit_custom"  # the `model_type` of this family
OTHERS = f"leave it out for {OWN}, or write the `model_type` of an image classifier of transformers, such as resnet."
CORRUPT = ("fail", "skip")
BATCHES = ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size")
LEAST = dict.fromkeys((*BATCHES, "repeated_augmentation"), 1) | dict.fromkeys(("num_examples", "split_seed"), 0)


@dataclass
class DataArguments:
    dataset: str = field(metadata={"help": "built in, a folder, files of rows, a table of paths, or a Hub name"})
    dataset_name: str | None = field(default=None, metadata={"help": "in the card; else the last part of its path"})
    license: str | None = field(default=None, metadata={"help": "of the result: the Hub's id of it, as apache-2.0"})
    data_dir: str = field(default=str(DATA_DIR), metadata={"help": "where `make data` has put the packages"})
    dataset_settings: dict = field(default_factory=dict, metadata={"help": "settings of that data set"})
    split_seed: int = field(default=0, metadata={"help": "seed of the split into training and held-out images"})
    test_share: float = field(default=0.2, metadata={"help": "held out where a data set has no such split"})
    image_column: str | None = field(default=None, metadata={"help": "where a data set has several"})
    label_column: str | None = field(default=None, metadata={"help": "where there are several, or none of classes"})
    label_columns: list[str] = field(
        default_factory=list, metadata={"help": "several numbers an image, or classes as columns of 0 and 1"}
    )
    label_separator: str | None = field(default=None, metadata={"help": "of several classes in one text: ';' ..."})
    caption_column: str | None = field(default=None, metadata={"help": "of texts or lists of them; else `caption`"})
    group_column: str | None = field(
        default=None, metadata={"help": "rows with one value stay on one side; `stem`: of files' names"}
    )
    corrupt_images: str = field(default="fail", metadata={"help": "fail, or skip and count them"})
    streaming: bool = field(default=False, metadata={"help": "read while training; needs `max_steps`"})
    shuffle_buffer: int = field(default=1000, metadata={"help": "of a stream, from which rows are drawn"})
    fast_seek: bool = field(default=False, metadata={"help": "resume a stream without reading again what it gave"})
    augmentation: dict = field(default_factory=dict, metadata={"help": "policy, crop, flip, erasing, scale_jitter ..."})
    mix: dict = field(default_factory=dict, metadata={"help": "mixup_alpha, cutmix_alpha, label_smoothing ..."})
    repeated_augmentation: int = field(default=1, metadata={"help": "copies of an image that follow each other"})
    num_examples: int = field(default=10, metadata={"help": "held-out images kept beside the checkpoint, at most 25"})


@dataclass
class ModelArguments:
    task: str = field(default="image-classification", metadata={"help": "what the model is for"})
    problem_type: str | None = field(default=None, metadata={"help": "multi_label_classification, regression"})
    class_weights: str | dict | None = field(default=None, metadata={"help": "balanced, or a weight for each class"})
    model_type: str = field(default=OWN, metadata={"help": "another classifier of transformers, such as resnet"})
    init_from: str | None = field(
        default=None, metadata={"help": "a checkpoint, a run or a name on the Hub, to go on from"}
    )
    preset: str | None = field(
        default=None,
        metadata={"help": "a published model with new weights: deit_tiny_patch16_224 ..."},
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

    @property
    def problem(self) -> str:
        """Which answer an image has; `config_overrides` may name it too, as the configuration has that field."""
        named = self.problem_type or self.config_overrides.get("problem_type")
        return str(named) if named in PROBLEMS else SINGLE


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


KINDS: tuple[Any, ...] = (DataArguments, ModelArguments, TrainingArguments)


def known_kinds() -> dict[str, Any]:
    """Each key of a recipe with its type."""
    hints = {key: hint for kind in KINDS for key, hint in get_type_hints(kind).items()}
    kinds = {f.name: hints[f.name] for kind in KINDS for f in fields(kind) if f.init}
    for key in ("resume_from_checkpoint", "fsdp"):  # true is the usual value of these texts
        kinds[key] = kinds[key] | bool
    return kinds


def read_recipe(path: str | Path, arguments: Sequence[str] = (), base: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe; its file name is the run's name. `arguments` are `--key value` in place of its own, a part of a
    dictionary as `--config_overrides.image_size 32`. With `base` the recipe is no file: these are its keys and values.

    Raises:
        ValueError: a file that is no recipe, a key that nothing has or in the wrong place, a value of another type.
        OSError: there is no such file, or what it names is not there.
    """
    known = known_kinds()
    settings = override(read_settings(path) if base is None else base, arguments, known)
    task = TASKS.get(str(settings.get("task", ModelArguments.task)), TASKS[ModelArguments.task])
    places: dict[str, Iterable[str]] = {
        "": known,
        "config_overrides": {*task.config_class().to_dict(), *(one.name for one in fields(task.config_class))},
        "processor_overrides": task.processor_class().to_dict(),
        "collator_settings": task.collator_settings,
    }
    refuse_unknown(settings, known, path, "", places)
    if settings.get("dataset") in (None, ""):
        raise ValueError(f"{path} is no recipe: it needs a `dataset`, as in `dataset: {next(iter(DATASETS))}`.")
    settings = {key: of_kind(value, known[key], key, path) for key, value in settings.items()}
    refuse_names(settings, path)
    places["config_overrides"] = configuration_of(settings, task)
    if settings.get("init_from"):  # its processor says what it knows
        del places["processor_overrides"]
    for place in places.keys() - {""}:
        foreign = place == "config_overrides" and settings.get("model_type", OWN) != OWN
        listed = dict(listed=f"transformers' page of {settings['model_type']} lists them all.") if foreign else {}
        if place == "config_overrides" and not foreign and task.config_class is not ViTCustomConfig:
            listed = dict(listed=f"{task.config_class.__name__} lists them all; a tower's stand in `vision_config`.")
        refuse_unknown(settings.get(place, {}), places[place], path, place, places, **listed)
    if settings.get("report_to", "none") is None:
        settings["report_to"] = "none"
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not torch.accelerator.is_available():  # else Trainer takes them for so many runs of their own
        settings.setdefault("use_cpu", True)
    for key, least in LEAST.items():
        if isinstance(settings.get(key), int) and settings[key] < least:
            raise ValueError(f"{path} has `{key}: {settings[key]}`: write a number from {least} on.")
    try:
        recipe = Recipe(Path(path), *HfArgumentParser(KINDS).parse_dict(settings))
    except (TypeError, ValueError) as error:  # of a dictionary's keys, or of settings that do not go together
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} has what TrainingArguments refuses: {said}.") from error
    if recipe.training.world_size != processes:
        raise ValueError(
            f"{processes} processes were launched, but each is alone: launch with torchrun, or accelerate and a file "
            "of configs/accelerate."
        )
    if recipe.data.streaming and recipe.training.max_steps <= 0:
        raise ValueError(f"{path} streams, so the run cannot know an epoch's length: set `max_steps`.")
    return recipe


@contextmanager
def meant(key: str, value: Any, path: str | Path) -> Iterator[None]:
    """
    Raises:
        ValueError: inside, a value was of a type that cannot be meant.
    """
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{path} sets `{key}` to {value!r}, which cannot be meant: {error}.") from error


def configuration_of(settings: dict[str, Any], task: Task) -> set[str]:
    """The fields that `config_overrides` may hold."""
    kind = settings.get("model_type", OWN)
    config = task.config_class() if kind == OWN else CONFIG_MAPPING[kind]()
    names = {*config.to_dict(), *config.attribute_map, *(one.name for one in fields(config))}
    return {*names, "num_labels", "attn_implementation"}


def refuse_names(settings: dict[str, Any], path: str | Path):
    """
    Raises:
        ValueError, FileNotFoundError: one of few names, and none of them; a folder that is not there.
    """
    few = {
        "task": (TASKS, ""),
        "problem_type": (PROBLEMS, ""),
        "corrupt_images": (CORRUPT, ""),
        "model_type": ((OWN, *CLASSIFIERS), OTHERS),
    }
    for key, (names, others) in few.items():
        name = settings.get(key)
        if name is not None and name not in names:
            near = near_miss(name, names)
            choice = others or f"choose {' or '.join(names) if len(names) == 2 else 'one of ' + ', '.join(names)}."
            raise ValueError(f"{path} has `{key}: {name}`: {f'did you mean `{near}`?' if near else choice}")
    if settings.get("preset"):
        try:
            find_preset(settings["preset"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    dataset = settings["dataset"]
    is_place = dataset.startswith(("/", "./", "../", "~")) or dataset.count("/") > 1 or "\\" in dataset
    is_pattern = any(letter in dataset for letter in "*?[") or "://" in dataset
    if is_place and not is_pattern and not Path(dataset).expanduser().exists():
        raise FileNotFoundError(f"{path} has `dataset: {dataset}`: there is no such folder or file.")


def override(settings: dict[str, Any], arguments: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """`--key value`, `--key=value` or, for true, `--key`; the value is YAML, or a text where the key wants one.

    Raises:
        ValueError: an argument that is no key, or a part of what is no dictionary.
    """
    settings = dict(settings)
    for key, text in split_options(arguments):
        first, *rest = key.split(".")
        try:
            value = load_yaml(text)
        except ValueError:
            raise ValueError(f"--{key} {text!r} is no YAML value: quote it.") from None
        if not rest:
            kinds = members(known.get(first, Any))
            is_word = isinstance(value, bool) and text.lower() not in ("true", "false")  # `no` is one of Trainer's
            if str in kinds and (is_word or not any(fits(value, kind) for kind in (*kinds, bool))):
                value = text
            settings[first] = value
            continue
        inner = settings
        for name in (first, *rest[:-1]):
            part = inner.get(name) or {}
            if not isinstance(part, dict):
                raise ValueError(f"--{key} is a part of `{name}`, which is {part!r} and no dictionary: leave one out.")
            inner[name] = inner = dict(part)
        inner[rest[-1]] = value
    return settings


def refuse_unknown(
    settings: dict[str, Any],
    known: Iterable[str],
    path: str | Path,
    place: str | None = None,
    elsewhere: dict[str, Iterable[str]] | None = None,
    **listed: str,
):
    """The last arguments are those of `advice`."""
    known = list(known)
    for key in settings:
        if key not in known:
            raise ValueError(
                f"{path} has an unknown key `{key}`: {advice(key, known, near_miss, place, elsewhere, **listed)}"
            )
