"""What begins from a checkpoint: its weights stay, its classes by their names, and its image processor. What does not
stay is said.

L classes.
"""

import copy
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig
from transformers import AutoModelForImageClassification
from transformers import PreTrainedConfig
from transformers import PreTrainedModel

from .kept_processor import SIZES
from .kept_processor import changed
from .kept_processor import fitted
from .kept_processor import in_kind
from .naming import class_names
from .naming import inside_run
from .recipe import Recipe
from .recipe import plain
from .recipe import refuse_unknown
from .task import Task
from .task import named

HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass
class Start:
    name: str  # as the recipe calls it
    folder: Path
    config: Any
    processor: Any | None  # with the recipe's changes; None if the checkpoint has none
    settings: dict[str, Any]  # the recipe's fields of the configuration, with the size that the processor makes


def folder_of(name: str, told_as: str | None = None) -> Path:
    """A folder, of a run's folder the checkpoint in it; or owner/name[@revision] on the Hub, which is fetched.

    Args:
        told_as: how sentences call it, if it is no recipe's `init_from`.

    Raises:
        FileNotFoundError: there is no checkpoint of that name.
    """
    folder, told_as = Path(inside_run(name)), told_as or f"`init_from: {name}`"
    if (folder / "config.json").is_file():
        return folder
    found = HUB_NAME.fullmatch(name)
    if folder.exists() or not found:
        saved = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f"name one of its sub-folders, {', '.join(saved)}" if saved else "run the recipe that makes it first"
        raise FileNotFoundError(f"{told_as} holds no checkpoint: {hint}.")
    try:
        for weights in ("*.safetensors", "*.bin"):
            place = snapshot_download(
                found[1], revision=found[2], allow_patterns=[*FILES, weights], ignore_patterns=["*/*"]
            )
            if any(Path(place).glob(weights)):
                break
    except (OSError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise FileNotFoundError(
            f"{told_as} is no folder with a config.json, and could not be fetched from the Hub ({said}): run "
            "the recipe that makes it first, or check the name, the network and HF_HUB_OFFLINE."
        ) from error
    return Path(place)


def read_start(recipe: Recipe, task: Task) -> Start:
    """
    Raises:
        FileNotFoundError: as `folder_of`; or a dual encoder without its tokenizer.
        ValueError: a checkpoint of another kind, or settings of the processor that do not fit it.
    """
    model, name = recipe.model, str(recipe.model.init_from)
    folder = folder_of(name)
    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"`init_from: {name}` has a config.json that cannot be read ({said}).") from error
    wanted = model.model_type if model.is_foreign else task.model_class.config_class.model_type
    fits = config.model_type == wanted
    if not fits:
        raise ValueError(
            f"`init_from: {name}` is a {config.model_type}, where this recipe begins from a {wanted}: set "
            "`model_type` to what it is, or convert it with `vit-custom convert`."
        )
    start = Start(name, folder, config, None, whole(model.config_overrides, config))
    if not any((folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")):
        print(f"{name} has no image processor: one with the settings of `task: {task.name}` begins.")
        return start
    try:
        kept = task.read_processor(folder)
    except (OSError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise ValueError(f"`init_from: {name}` has an image processor that cannot be read ({said}).") from error
    images = getattr(kept, "image_processor", kept)
    known = {*images.to_dict(), *task.processor_class().to_dict(), *SIZES}
    refuse_unknown(model.processor_overrides, known, recipe.path)
    made = images if task.takes(images) else in_kind(task.processor_class, images)
    overrides = {"do_convert_rgb": True} | model.processor_overrides  # training makes RGB anyway
    made, size = fitted(changed(made, overrides), config, recipe)
    start.settings = whole(model.config_overrides | size, config)
    was, now = (plain(one.to_dict()) for one in (images, made))
    untold = {"do_convert_rgb"}.difference(model.processor_overrides)
    changes = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in untold]
    words = [f"{key}: {was.get(key)} -> {now.get(key)}" for key in changes]
    if words:
        print(f"The image processor of {name} is kept, but for {', '.join(words)}.")
    start.processor = made
    if kept is not images:
        kept.image_processor, start.processor = made, kept
    return start


def whole(settings: dict[str, Any], config: Any) -> dict[str, Any]:
    """Fields of a configuration; of one within it, as a tower's, those that are not set stay what they are."""
    inner = {key: getattr(config, key, None) for key, value in settings.items() if isinstance(value, dict)}
    return settings | {
        key: one.to_dict() | settings[key] for key, one in inner.items() if isinstance(one, PreTrainedConfig)
    }


def begin(start: Start, task: Task, splits: Any, foreign: bool) -> PreTrainedModel:
    """The checkpoint's model for the data's classes. A class that both know by one name keeps its rows of every tensor
    that has a row for each; classes without names are matched by their number.

    Raises:
        RuntimeError: weights that do not fit the configuration.
    """
    names, own = task.class_names(splits), class_names(start.config)
    labels = named(names) if names else {}
    alike = not names or own == names or (own is None and start.config.num_labels == len(names))
    with torch.random.fork_rng(devices=[], enabled=not alike):
        model, lost = load(start, task, foreign, labels if alike else {})
    axes = class_axes(model) if names else {}
    if names and not axes.keys() - lost:
        print(f"{start.name} has no head for `task: {task.name}`: a new one begins.")
        return model if alike else load(start, task, foreign, labels)[0]
    if not alike:
        return with_classes(model, axes, lost, names, own, start)
    if names and own is None:
        print(
            f"{start.name} has no names for its {len(names)} classes, and the data have as many: they are taken for "
            "the same, in this order."
        )
    return model


def load(start: Start, task: Task, foreign: bool, labels: dict[str, Any]) -> tuple[Any, set[str]]:
    """-> the model, and the names of its tensors that the checkpoint has not."""
    loader: Any = AutoModelForImageClassification if foreign else task.model_class
    model, info = loader.from_pretrained(
        start.folder, ignore_mismatched_sizes=foreign, output_loading_info=True, **labels | start.settings
    )
    if info["mismatched_keys"]:
        key, there, here = sorted(info["mismatched_keys"])[0]
        raise RuntimeError(
            f"`init_from: {start.name}` has {key} as {tuple(there)}, and the recipe's model as {tuple(here)}: take the "
            "change out of `config_overrides`, or convert the checkpoint with `vit-custom convert`."
        )
    return model, set(info["missing_keys"])


def class_axes(model: PreTrainedModel) -> dict[str, int]:
    """{name: axis} of the tensors with a row for each class, as two models of other numbers of classes tell."""
    shapes = []
    for count in (7, 8):
        config = copy.deepcopy(model.config)
        config.num_labels = count
        with torch.device("meta"):
            shapes.append({name: tensor.shape for name, tensor in type(model)(config).state_dict().items()})
    return {
        name: next(axis for axis, (few, many) in enumerate(zip(shape, shapes[1][name], strict=True)) if few != many)
        for name, shape in shapes[0].items()
        if shape != shapes[1][name]
    }


def with_classes(
    old: Any, axes: dict[str, int], lost: set[str], names: list[str], own: list[str] | None, start: Start
) -> PreTrainedModel:
    """A model of other classes: rows of classes that both have are `old`'s, and so is all that is no class's."""
    config = copy.deepcopy(old.config)
    config.id2label, config.label2id = named(names).values()
    model, rows, count = type(old)(config).to(old.dtype), shared(own or [], names), old.config.num_labels
    kept = {name: tensor for name, tensor in old.state_dict().items() if name not in lost}
    for name, tensor in model.state_dict().items():
        if name in axes and name in kept:
            there, here = (value.movedim(axes[name], 0) for value in (kept[name], tensor))
            here[list(rows)] = there[list(rows.values())]
            here[len(names) :] = there[count:]  # of no class, as a detector's "no object"
        elif name in kept:
            tensor.copy_(kept[name])
    if own is None:
        print(f"{start.name} has no names for its {count} classes, and the data have {len(names)}: all rows are new.")
    elif sorted(own) == sorted(names):
        print(f"{start.name} has the data's classes in another order: each keeps its row.")
    else:
        new = [name for place, name in enumerate(names) if place not in rows]
        gone = [name for row, name in enumerate(own) if row not in rows.values()]
        print(
            f"Of the classes of {start.name} {some([names[place] for place in rows])} keep their rows; "
            f"new: {some(new)}; left out: {some(gone)}."
        )
    return model


def shared(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """{place in `new`: place in `old`} of each name that both have equally often, in turn."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(old):
        places.setdefault(name, []).append(place)
    counts, seen = Counter(new), Counter[str]()
    rows = {}
    for place, name in enumerate(new):
        if counts[name] == len(places.get(name, ())):
            rows[place] = places[name][seen[name]]
            seen[name] += 1
    return rows


def some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
