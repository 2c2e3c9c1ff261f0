"""A recipe for data that came without one: the task by what is found, the rest by the data and the machine."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers import AutoImageProcessor

from ..configuration_presets import read_preset
from ..hub.origins import dataset_name
from ..training import DATASETS
from ..training import TASKS
from ..training import Recipe
from ..training import find_layout
from ..training import load_data
from ..training import read_recipe
from ..training.kept_processor import made_size
from ..training.recipe import ModelArguments
from ..training.recipe import known_kinds
from ..training.recipe import override
from ..training.recipe import plain
from ..training.recipe_values import read_settings
from ..training.starting import folder_of
from ..training.target_tasks import task_of
from ..training.targets import SINGLE
from .choosing import FEW
from .choosing import Chosen
from .choosing import choose
from .choosing import expectation
from .shipped import shipped
from .starting_point import starting_point

CONVERTED = "converted"  # beside the runs
CLASSES, CAPTIONS = "image-classification", "zero-shot-image-classification"
OF_CLASSES = ("label_column", "label_columns", "problem_type", "class_weights")
UNLABELLED = ("masked-image-modeling", "pre-training")


def recipe_from_data(words: list[str], refuse: Callable[[Recipe], None]) -> tuple[Recipe, Any]:
    """Keys of recipes and values -> the recipe with all that was chosen, and its data.

    Args:
        refuse: raises where the run may not begin, before data and checkpoint are read.

    Raises:
        ValueError: no data, nothing to begin from, or what `read_recipe`, `load_data` and `starting_point` refuse.
    """
    given = settings_of(words)
    if not given.get("dataset"):
        raise ValueError("There is nothing to train on: give --data with a folder of pictures, or a recipe.")
    task = str(given.get("task") or found_task(given))
    if task not in TASKS:
        raise ValueError(f"There is no `--task {task}`: choose one of {', '.join(TASKS)}.")
    beginnings = [given.get(key) for key in ("init_from", "preset", "model_type", "config_overrides")]
    if not any(beginnings):
        raise ValueError(
            "There is nothing to begin from: add --from with a checkpoint (a folder, a file or a Hub id), or --preset "
            "with a name such as deit_small_patch16_224, from scratch."
        )
    name = run_name(given)
    path = Path(f"{name}.yaml")
    base = read_settings(shipped("recipes") / "generic" / f"{task}.yaml")
    base |= dict(output_dir=f"runs/{name}", seed=0)
    if given.get("class_weights") or given.get("problem_type", SINGLE) != SINGLE:
        base.pop("label_smoothing_factor", None)  # Trainer's is for one class an image, all of one weight
    first = read_recipe(path, words, base)
    refuse(first)
    place = Path(str(first.training.output_dir)).parent / CONVERTED
    with first.training.main_process_first(desc="reading the data and the checkpoint"):
        splits = load_data(first)
        chosen = {} if first.data.streaming else chosen_for(first, splits, place)
    replaced = {*given, *(["num_train_epochs"] if "max_steps" in given else [])}
    taken = {key: one for key, one in chosen.items() if key not in replaced}
    recipe = read_recipe(path, words, base | {key: one.value for key, one in taken.items()})
    if recipe.training.process_index == 0:
        report(recipe, splits, taken)
    return recipe, splits


def settings_of(words: list[str]) -> dict[str, Any]:
    return override({}, words, known_kinds())


def found_task(given: dict[str, Any]) -> str:
    """By what is asked for, else by what the data hold, which is said.

    Raises:
        ValueError: nothing to learn from, or two readings.
    """
    dataset = str(given["dataset"])
    if given.get("caption_column"):
        return CAPTIONS
    files = (given.get("dataset_settings") or {}).get("data_files")
    if any(given.get(key) for key in OF_CLASSES) or files or dataset in DATASETS:
        return CLASSES
    found = find_layout(dataset)
    if int(os.environ.get("RANK", 0)) == 0:
        print(found.sentence(dataset))
    return found.task


def run_name(given: dict[str, Any]) -> str:
    """What the data are called, as the name of a folder."""
    named = dataset_name(dict(dataset=given["dataset"], dataset_name=given.get("dataset_name")), False)
    return re.sub(r"[^\w.+-]+", "-", named).strip("-.") or "run"


def chosen_for(recipe: Recipe, splits: Any, place: Path) -> dict[str, Chosen]:
    """What the data and the machine say of each setting that depends on them; nothing of another family's new model."""
    model, kind = recipe.model, task_of(recipe.model.task, recipe.model.problem)
    asked = model.config_overrides.get("image_size")
    if model.init_from:
        folder = folder_of(starting_point(model.init_from, place)[0])
        config = AutoConfig.from_pretrained(folder)
        has_processor = (folder / "preprocessor_config.json").is_file()
        seen = made_size(AutoImageProcessor.from_pretrained(folder)) if has_processor else None
    elif model.is_foreign:
        return {}
    else:
        config, seen = task_config(kind, model), None
    vision = getattr(config, "vision_config", config)
    size = asked or seen or vision.image_size
    tuned = bool(model.init_from) and model.task not in UNLABELLED
    return choose(model.task, vision, size, len(splits["train"]), tuned, recipe.training.world_size)


def task_config(kind: Any, model: ModelArguments) -> Any:
    """Of new weights."""
    fields = read_preset(model.preset, kind.config_class.model_type) if model.preset else {}
    return kind.config_class(**fields | model.config_overrides)


def report(recipe: Recipe, splits: Any, chosen: dict[str, Chosen]):
    """What was chosen and why, and what to expect."""
    counts = {name: len(rows) for name, rows in splits.items() if hasattr(rows, "__len__")}
    print(f"Task: {recipe.model.task}. Pictures: {counts.get('train', 'a stream')}, held out: {counts.get('test')}.")
    print("Chosen, where nothing was set (each is an option, as `--learning_rate 1e-4`):")
    for key, one in chosen.items():
        print(f"  {key:<30}{plain(one.value)!s:<10}{one.why}")
    print(f"  {'output_dir':<30}{recipe.training.output_dir}")
    warning = expectation(counts.get("train", FEW))
    if warning and not recipe.model.init_from and recipe.model.task not in UNLABELLED:
        print(warning)
