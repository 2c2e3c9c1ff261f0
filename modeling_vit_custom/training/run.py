"""One recipe from start to end: data, model, Trainer, evaluation, the trivial baseline beside it."""

import inspect
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import DatasetDict
from transformers import AutoConfig
from transformers import AutoModelForImageClassification
from transformers import PreTrainedModel
from transformers import set_seed

from .adapters import add_lora
from .adapters import merge
from .averaging import WeightAverage
from .checkpoints import last_checkpoint
from .data import DATASETS
from .images import OTHERWISE
from .images import count_otherwise
from .pipeline import make_pipeline
from .probing import ProbeCallback
from .recipe import OWN
from .recipe import DataArguments
from .recipe import Recipe
from .recipe import refuse_unknown
from .sources import Decodes
from .sources import load_source
from .sources import numbered
from .streams import SavesPosition
from .streams import seek_to
from .tasks import TASKS
from .tasks import Task
from .trainer import ViTCustomTrainer


@dataclass
class Trained:
    task: Task
    trainer: ViTCustomTrainer
    model: PreTrainedModel  # with the averaged weights, where the recipe averages, and adapters merged
    processor: Any
    collate: Callable
    held_out: Dataset
    class_names: list[str]  # none where a task has no classes
    metrics: dict[str, float]  # without the prefix "eval_"
    baseline: dict[str, float]
    num_train_images: int | None  # None of a stream
    seen_otherwise: dict[str, Any]  # by `pipeline`: kinds of pictures, how many there are, lines that convert them
    seconds: float

    @property
    def is_main(self) -> bool:
        """Of several processes, the one that writes."""
        return self.trainer.is_world_process_zero()

    def save(self, folder: Path):
        """Weights, configuration, code and processor. All processes call it: sharded weights are gathered."""
        trainer, state = self.trainer, None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if self.is_main:
            self.model.save_pretrained(folder, state_dict=state)
            self.processor.save_pretrained(folder)


def load_data(recipe: Recipe) -> DatasetDict:
    """
    Raises:
        ValueError: a data set that cannot be read as the recipe says, a setting that it has not, columns that the task
            needs and it has not, or more examples than there are.
        FileNotFoundError: its files are not there.
    """
    data = recipe.data
    if data.dataset in DATASETS:
        if data.streaming:
            raise ValueError(f"`dataset: {data.dataset}` is built in and no stream: set `streaming: false`.")
        build = DATASETS[data.dataset]
        settings = [name for name in inspect.signature(build).parameters if name not in ("seed", "data_dir")]
        refuse_unknown(data.dataset_settings, settings, recipe.path)
        splits: Any = build(data.split_seed, Path(data.data_dir), **data.dataset_settings)
    elif "/" not in data.dataset and not Path(data.dataset).exists():
        raise ValueError(
            f"`dataset: {data.dataset}` is not built in: choose one of {', '.join(DATASETS)}, or write a folder, a "
            "file, or a Hub name as owner/name."
        )
    else:
        splits = load_source(
            data.dataset,
            settings=data.dataset_settings,
            streaming=data.streaming,
            split_seed=data.split_seed,
            test_share=data.test_share,
            image_column=data.image_column,
            label_column=data.label_column,
            corrupt=data.corrupt_images,
            needs_label="label" in TASKS[recipe.model.task].columns,
        )
        if data.streaming:
            splits["test"] = in_memory(splits["test"], data.dataset, data.corrupt_images)
    task = TASKS[recipe.model.task]
    if lacking := [name for name in task.columns if name not in splits["train"].column_names]:
        raise ValueError(
            f"`task: {task.name}` needs {', '.join(lacking)}, which `dataset: {data.dataset}` has not: choose another "
            f"of {', '.join(DATASETS)}."
        )
    if data.num_examples > len(splits["test"]):
        raise ValueError(f"`num_examples: {data.num_examples}` exceeds the {len(splits['test'])} held-out images.")
    return splits


def seen_otherwise(data: DataArguments, splits: Any) -> dict[str, Any]:
    """A kind of one's own pictures that `pipeline` sees otherwise than training -> how many there are (of a stream: of
    those held out), and the lines that convert them first. It is said too."""
    if data.dataset in DATASETS:  # all RGB or grey
        return {}
    whole = [rows.with_format(None) for rows in splits.values() if isinstance(rows, Dataset)]
    found = count_otherwise(value for rows in whole for value in rows["image"])
    for kind, count in found.items():
        print(
            f"{count} of {sum(map(len, whole))} pictures are {kind}: transformers' `pipeline` sees other pixels than "
            "training; convert such a picture first:\n    " + "\n    ".join(OTHERWISE[kind])
        )
    return {kind: dict(count=count, convert=OTHERWISE[kind]) for kind, count in found.items()}


def in_memory(rows: Any, dataset: str, corrupt: str) -> Dataset:
    """The held-out part of a stream, which every evaluation reads; its images stay undecoded."""
    name = f"test of {dataset}"
    read = numbered(Dataset.from_list(list(rows), features=rows.features), name, corrupt)
    return read.with_transform(Decodes(name))


def fast_seek(recipe: Recipe, stream: Any) -> SavesPosition:
    """
    Raises:
        ValueError: the data are no stream, which Trainer resumes exactly by itself.
    """
    args = recipe.training
    if not recipe.data.streaming:
        raise ValueError(f"{recipe.path} sets `fast_seek`, which is for streams: leave it out.")
    if args.resume_from_checkpoint:
        given = args.resume_from_checkpoint
        checkpoint = last_checkpoint(Path(str(args.output_dir))) if given is True else given
        if checkpoint:
            seek_to(stream, checkpoint)
            args.ignore_data_skip = True
    return SavesPosition(stream)


def make_model(recipe: Recipe, task: Task, splits: DatasetDict) -> PreTrainedModel:
    """A new model, or the recipe's checkpoint with a new head where it has none of this task's."""
    model, settings = recipe.model, recipe.model.config_overrides
    if model.init_from is not None and not Path(model.init_from, "config.json").is_file():
        raise FileNotFoundError(
            f"`init_from: {model.init_from}` holds no checkpoint: run the recipe that makes it first."
        )
    if model.is_foreign:
        return other_classifier(recipe, task, splits)
    if model.init_from is None:
        return task.model_class(task.config(splits, settings))
    found = json.loads(Path(model.init_from, "config.json").read_text(encoding="utf-8"))
    is_ours = found.get("model_type") in (task.model_class.config_class.model_type, OWN)
    if not is_ours:
        raise ValueError(
            f"`init_from: {model.init_from}` is a {found.get('model_type')}: set `model_type` to that, or convert it "
            "with scripts/convert.py."
        )
    labels = task.labels(splits)
    if new := bool(labels) and len(found.get("id2label") or {}) != len(labels["id2label"]):
        print(f"{model.init_from} has other classes than the data: its head is left out, and a new one begins.")
    return task.model_class.from_pretrained(model.init_from, ignore_mismatched_sizes=new, **labels | settings)


def other_classifier(recipe: Recipe, task: Task, splits: DatasetDict) -> PreTrainedModel:
    """One of transformers' own, to compare with or to learn from."""
    model = recipe.model
    if task.name != "image-classification" or "size" not in model.processor_overrides:
        raise ValueError(
            f"{recipe.path} has `model_type: {model.model_type}`, which is for image classification and wants "
            "`processor_overrides: {size: {height: ..., width: ...}}`."
        )
    if model.init_from is not None:
        return AutoModelForImageClassification.from_pretrained(
            model.init_from, ignore_mismatched_sizes=True, **task.labels(splits) | model.config_overrides
        )
    config = AutoConfig.for_model(model.model_type, **task.labels(splits) | model.config_overrides)
    return AutoModelForImageClassification.from_config(config)


def refuse_pairs(recipe: Recipe):
    """What would be without effect together, or other than meant."""
    model, data = recipe.model, recipe.data
    pairs = [
        (
            model.ema and recipe.training.load_best_model_at_end,
            "`ema` and `load_best_model_at_end`: the result is the last average",
        ),
        (model.lora and model.is_foreign, "`lora` and `model_type`: the new head would not be trained"),
        (model.probe and data.streaming, "`probe` and `streaming`: a probe needs all training images"),
        (
            data.repeated_augmentation > 1 and data.streaming,
            "`repeated_augmentation` and `streaming`: a stream gives each image once",
        ),
    ]
    for both, words in pairs:
        if both:
            raise ValueError(f"{recipe.path} sets {words}, so leave one of them out.")


def train(recipe: Recipe) -> Trained:
    """Train on the recipe's data and evaluate on its held-out part. Writes nothing but Trainer's own files.

    Raises:
        ValueError, FileNotFoundError: as `load_data` and `make_model`.
        FloatingPointError: the loss is no number; it names the rows.
        RuntimeError: a checkpoint could not be written.
    """
    start, settings = time.perf_counter(), recipe.model
    refuse_pairs(recipe)
    task = TASKS[settings.task]
    set_seed(recipe.training.seed)
    with recipe.training.main_process_first(desc="loading the data"):
        splits = load_data(recipe)
    otherwise = seen_otherwise(recipe.data, splits) if recipe.training.process_index == 0 else {}
    model = make_model(recipe, task, splits)
    config = model.config
    processor = task.processor(config, splits, settings.processor_overrides)
    plain_collate = task.collator(processor, config, settings.collator_settings)
    pipeline = make_pipeline(recipe, task, splits, config, processor, plain_collate)
    if settings.lora:
        model = add_lora(model, settings.lora)
    recipe.training.eval_do_concat_batches = task.concatenates
    recipe.training.remove_unused_columns = False  # the collator needs the image
    if recipe.data.streaming:  # each process takes its own rows of the stream, and nothing is sent between them
        accelerator_config: Any = recipe.training.accelerator_config
        accelerator_config.dispatch_batches = False
    refuse_unknown(settings.ema, inspect.signature(WeightAverage).parameters, recipe.path)
    average = WeightAverage(**settings.ema) if settings.ema else None
    callbacks: list[Any] = [average] if average else []
    if recipe.data.fast_seek:
        callbacks.append(fast_seek(recipe, pipeline.train))
    trainer = ViTCustomTrainer(
        model=model,
        args=recipe.training,
        data_collator=pipeline.collate,
        processing_class=processor,
        train_dataset=pipeline.train,
        eval_dataset=pipeline.test,
        compute_metrics=task.compute_metrics(processor, config),
        compute_loss_func=pipeline.loss,
        preprocess_logits_for_metrics=task.select,
        callbacks=callbacks,
        device_steps=pipeline.device_steps,
        layer_decay=settings.layer_decay,
        repeats=recipe.data.repeated_augmentation,
    )
    if settings.probe:
        rows = splits["train"], splits["test"]
        trainer.add_callback(ProbeCallback(*rows, processor, kinds=settings.probe, log=trainer.log))
    trainer.train(recipe.training.resume_from_checkpoint)
    evaluated = trainer.evaluate()
    figures = {key.removeprefix("eval_"): value for key, value in evaluated.items() if key.startswith("eval_")}
    if average:  # the result is the average, and the plain weights' figures stand beside its own
        average.copy_to(model)
        averaged = {key.removeprefix("ema_"): value for key, value in figures.items() if key.startswith("ema_")}
        figures = {(f"plain_{key}" if key in averaged else key): value for key, value in figures.items()} | averaged
        figures = {key: value for key, value in figures.items() if not key.startswith("ema_")}
    seconds = time.perf_counter() - start
    if recipe.data.streaming:  # its held-out part is read as a whole, and stands for the rest
        splits = DatasetDict(train=splits["test"], test=splits["test"])
    baseline = task.baseline(splits, plain_collate, config) if trainer.is_world_process_zero() else {}
    return Trained(
        task=task,
        trainer=trainer,
        model=merge(model) if settings.lora else model,
        processor=processor,
        collate=plain_collate,
        held_out=splits["test"],
        class_names=task.class_names(splits),
        metrics=figures,
        baseline=baseline,
        num_train_images=None if recipe.data.streaming else len(splits["train"]),
        seen_otherwise=otherwise,
        seconds=seconds,
    )
