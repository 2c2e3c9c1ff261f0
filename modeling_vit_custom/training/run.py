"""One recipe from start to end: data, model, Trainer, evaluation, the trivial baseline beside it."""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import DatasetDict
from transformers import PreTrainedModel
from transformers import set_seed

from .collators import Numbered
from .data import DATASETS
from .recipe import Recipe
from .recipe import refuse_unknown
from .tasks import TASKS
from .tasks import Task
from .trainer import ViTCustomTrainer


@dataclass
class Trained:
    task: Task
    model: PreTrainedModel
    processor: Any
    collate: Callable
    held_out: Dataset
    class_names: list[str]  # none where a task has no classes
    metrics: dict[str, float]  # without the prefix "eval_"
    baseline: dict[str, float]
    num_train_images: int
    seconds: float


def load_data(recipe: Recipe) -> DatasetDict:
    """
    Raises:
        ValueError: the recipe names a data set that is not built in, a setting that it has not, or asks for more
            examples than there are.
        FileNotFoundError: its files are not there.
    """
    data = recipe.data
    if data.dataset not in DATASETS:
        raise ValueError(f"`dataset: {data.dataset}` is not built in: choose one of {', '.join(DATASETS)}.")
    build = DATASETS[data.dataset]
    settings = [name for name in inspect.signature(build).parameters if name not in ("seed", "data_dir")]
    refuse_unknown(data.dataset_settings, settings, recipe.path)
    splits = build(data.split_seed, Path(data.data_dir), **data.dataset_settings)
    task = TASKS[recipe.model.task]
    if lacking := [name for name in task.columns if name not in splits["train"].column_names]:
        raise ValueError(
            f"`task: {task.name}` needs {', '.join(lacking)}, which `dataset: {data.dataset}` has not: choose another "
            f"of {', '.join(DATASETS)}."
        )
    if data.num_examples > len(splits["test"]):
        raise ValueError(f"`num_examples: {data.num_examples}` exceeds the {len(splits['test'])} held-out images.")
    return splits


def make_model(recipe: Recipe, task: Task, splits: DatasetDict) -> PreTrainedModel:
    """A new model, or the recipe's checkpoint with a new head where it has none of this task's."""
    settings = recipe.model.config_overrides
    if recipe.model.init_from is None:
        return task.model_class(task.config(splits, settings))
    if not Path(recipe.model.init_from, "config.json").is_file():
        raise FileNotFoundError(
            f"`init_from: {recipe.model.init_from}` holds no checkpoint: run the recipe that makes it first."
        )
    return task.model_class.from_pretrained(recipe.model.init_from, **task.labels(splits) | settings)


def train(recipe: Recipe) -> Trained:
    """Train on the recipe's data and evaluate on its held-out part. Writes nothing but Trainer's own files.

    Raises:
        ValueError, FileNotFoundError: as `load_data` and `make_model`.
        FloatingPointError: the loss is no number; it names the rows.
    """
    start = time.perf_counter()
    task = TASKS[recipe.model.task]
    set_seed(recipe.training.seed)
    splits = load_data(recipe)
    model = make_model(recipe, task, splits)
    config = model.config
    processor = task.processor(config, splits, recipe.model.processor_overrides)
    collate = task.collator(processor, config, recipe.model.collator_settings)
    recipe.training.eval_do_concat_batches = task.concatenates
    trainer = ViTCustomTrainer(
        model=model,
        args=recipe.training,
        data_collator=collate,
        train_dataset=Numbered(splits["train"]),
        eval_dataset=Numbered(splits["test"]),
        compute_metrics=task.compute_metrics(processor, config),
        preprocess_logits_for_metrics=task.select,
    )
    trainer.train()
    evaluated = trainer.evaluate()
    figures = {key.removeprefix("eval_"): value for key, value in evaluated.items() if key.startswith("eval_")}
    seconds = time.perf_counter() - start
    baseline = task.baseline(splits, collate, config)
    names, count = task.class_names(splits), len(splits["train"])
    return Trained(task, model, processor, collate, splits["test"], names, figures, baseline, count, seconds)
