"""One recipe from start to end: data, model, Trainer, evaluation, the trivial baseline beside it."""

import inspect
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import DatasetDict
from datasets import concatenate_datasets
from transformers import AutoConfig
from transformers import AutoModelForImageClassification
from transformers import EvalPrediction
from transformers import PreTrainedModel
from transformers import set_seed

from ..configuration_presets import read_preset
from .adapters import add_lora
from .adapters import merge
from .averaging import WeightAverage
from .balance import tell_balance
from .checkpoints import last_checkpoint
from .data import DATASETS
from .history import refuse_trackers
from .images import OTHERWISE
from .images import count_otherwise
from .naming import class_names
from .pipeline import make_pipeline
from .probing import ProbeCallback
from .recipe import DataArguments
from .recipe import Recipe
from .recipe import meant
from .recipe import refuse_unknown
from .recipe_pairs import CLASSIFICATION
from .recipe_pairs import refuse_pairs
from .recipe_pairs import refuse_unsized
from .sources import Decodes
from .sources import load_source
from .sources import numbered
from .starting import Start
from .starting import begin
from .starting import read_start
from .streams import SavesPosition
from .streams import seek_to
from .target_tasks import OF_PROBLEMS
from .target_tasks import task_of
from .targets import NUMBERS
from .targets import SINGLE
from .task import Task
from .tasks import TASKS
from .trainer import ViTCustomTrainer

CLASSES = ("num_labels", "id2label", "label2id")
PLACE = re.compile(r"[/*?[]")  # of a data set that is none of ours: a path, a pattern, a name on the Hub
OF_CLASSES = (*CLASSES, "architectures", "mask_norm", "model_type")


@dataclass
class Trained:
    task: Task
    trainer: ViTCustomTrainer
    model: PreTrainedModel  # with the averaged weights, where the recipe averages, and adapters merged
    processor: Any
    collate: Callable
    held_out: Dataset
    class_names: list[str]  # none where a task has no classes
    prediction: EvalPrediction | None  # of the held-out rows, by the model above, where mistakes can be told
    metrics: dict[str, float]  # without the prefix "eval_"
    baseline: dict[str, float]
    num_train_images: int | None  # None of a stream
    balance: dict[str, Any]  # of a classifier's images, how many show each class; nothing of a stream
    seen_otherwise: dict[str, Any]  # by `pipeline`: kinds of pictures, how many there are, lines that convert them
    seconds: float

    @property
    def of_the_data(self) -> dict[str, Any]:
        """What was found in the pictures and labels, where there is something to tell."""
        found = {"pictures_pipeline_sees_otherwise": self.seen_otherwise, "balance": self.balance}
        return {name: value for name, value in found.items() if value}

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


def load_data(recipe: Recipe, whole: bool | None = False, as_stream: bool = False) -> DatasetDict:
    """
    Args:
        whole, as_stream: as in `load_source`.

    Raises:
        ValueError: a data set that cannot be read as the recipe says, a setting that it has not, or columns that
            the task needs and it has not.
        FileNotFoundError: its files are not there.
    """
    data = recipe.data
    if data.dataset in DATASETS:
        if data.streaming:
            raise ValueError(f"`dataset: {data.dataset}` is built in and no stream: set `streaming: false`.")
        build = DATASETS[data.dataset]
        settings = [name for name in inspect.signature(build).parameters if name not in ("seed", "data_dir")]
        refuse_unknown(data.dataset_settings, settings, recipe.path)
        if data.group_column is not None:
            raise ValueError(f"`dataset: {data.dataset}` is built in, with a split of its own: omit `group_column`.")
        splits: Any = build(data.split_seed, Path(data.data_dir), **data.dataset_settings)
        if whole:
            splits["all"] = concatenate_datasets(list(splits.values()))
    elif not (PLACE.search(data.dataset) or "data_files" in data.dataset_settings or Path(data.dataset).exists()):
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
            group_column=data.group_column,
            corrupt=data.corrupt_images,
            needs_label="label" in TASKS[recipe.model.task].columns,
            problem_type=recipe.model.problem if recipe.model.task == CLASSIFICATION else SINGLE,
            label_columns=data.label_columns,
            label_separator=data.label_separator,
            caption_column=data.caption_column,
            needs_caption="caption" in TASKS[recipe.model.task].columns,
            whole=whole,
            as_stream=as_stream,
            task=recipe.model.task,
        )
        if data.streaming:
            splits["test"] = in_memory(splits["test"], data.dataset, data.corrupt_images)
    task = task_of(recipe.model.task, recipe.model.problem)
    if recipe.data.dataset in DATASETS and task.problem_type not in (None, SINGLE):
        raise ValueError(
            f"`dataset: {data.dataset}` is built in and has one class an image: leave `problem_type` out, or choose "
            "data of your own."
        )
    if lacking := [name for name in task.columns if name not in splits["train"].column_names]:
        raise ValueError(
            f"`task: {task.name}` needs {', '.join(lacking)}, which `dataset: {data.dataset}` has not: choose another "
            f"of {', '.join(DATASETS)}."
        )
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


def new_model(recipe: Recipe, task: Task, splits: DatasetDict) -> PreTrainedModel:
    """A new one; of another kind, to compare with or to learn from."""
    model = recipe.model
    if not model.is_foreign:
        return task.model_class(task.config(splits, of_preset(recipe, task) | model.config_overrides))
    config = AutoConfig.for_model(model.model_type, **task.labels(splits) | model.config_overrides)
    return AutoModelForImageClassification.from_config(config)


def of_preset(recipe: Recipe, task: Task) -> dict[str, Any]:
    """The fields of the recipe's preset, without those of its classes."""
    if recipe.model.preset is None:
        return {}
    fields = read_preset(recipe.model.preset, task.config_class.model_type)
    return {key: value for key, value in fields.items() if key not in OF_CLASSES}


def without_classes(settings: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A recipe's fields of the configuration, as pasted from a preset, without classes where the data have theirs."""
    kept = {key: value for key, value in settings.items() if key not in CLASSES}
    if not names or kept == settings:
        return settings
    if settings.get("num_labels", len(names)) != len(names):
        print(f"The data have {len(names)} classes, which count, not `num_labels: {settings['num_labels']}`.")
    return kept


def known_classes(start: Start | None) -> list[str] | None:
    """The names of a checkpoint's answers, if they are of the kind that is learned here."""
    return class_names(start.config) if start and start.config.problem_type == NUMBERS else None


def train(recipe: Recipe, splits: DatasetDict | None = None) -> Trained:
    """Train on the recipe's data and evaluate on its held-out part. Writes nothing but Trainer's own files.

    Args:
        splits: its data, where `load_data` has read them before.

    Raises:
        ValueError, FileNotFoundError: as `load_data`, `read_start` and `begin`.
        FloatingPointError: the loss is no number; it names the rows.
        ImportError: a tracker is not installed.
        RuntimeError: a checkpoint could not be written.
    """
    began, settings = time.perf_counter(), recipe.model
    refuse_pairs(recipe)
    refuse_trackers(recipe.training.report_to or ())
    task = task_of(settings.task, settings.problem)
    set_seed(recipe.training.seed)
    if splits is None:
        with recipe.training.main_process_first(desc="loading the data"):
            splits = load_data(recipe)
    settings.config_overrides = without_classes(settings.config_overrides, task.class_names(splits))
    if settings.problem != SINGLE:
        settings.config_overrides |= {"problem_type": settings.problem}
    balance = {} if recipe.data.streaming else task.balance(splits)
    if balance and recipe.training.process_index == 0:
        tell_balance(balance, len(splits["train"]), bool(settings.class_weights))
    otherwise = seen_otherwise(recipe.data, splits) if recipe.training.process_index == 0 else {}
    start = read_start(recipe, task) if settings.init_from else None
    model = begin(start, task, splits, settings.is_foreign) if start else new_model(recipe, task, splits)
    config: Any = model.config
    if task.problem_type == SINGLE and config.problem_type in OF_PROBLEMS:  # of a checkpoint that learned otherwise
        config.problem_type = SINGLE
    settled = [] if recipe.data.streaming else task.settle(model, splits, known_classes(start))
    processor = start.processor if start else None
    if processor is None:
        refuse_unsized(recipe)
        with meant("processor_overrides", settings.processor_overrides, recipe.path):
            processor = task.processor(config, splits, settings.processor_overrides)
    plain_collate = task.collator(processor, config, settings.collator_settings)
    pipeline = make_pipeline(recipe, task, splits, config, processor, plain_collate)
    if settings.lora:
        with meant("lora", settings.lora, recipe.path):
            model = add_lora(model, settings.lora)
    recipe.training.eval_do_concat_batches = task.concatenates
    recipe.training.remove_unused_columns = False  # the collator needs the image
    if recipe.data.streaming:  # each process takes its own rows of the stream, and nothing is sent between them
        accelerator_config: Any = recipe.training.accelerator_config
        accelerator_config.dispatch_batches = False
    refuse_unknown(settings.ema, inspect.signature(WeightAverage).parameters, recipe.path)
    with meant("ema", settings.ema, recipe.path):
        average = WeightAverage(**settings.ema) if settings.ema else None
    callbacks: list[Any] = [*settled, average] if average else settled
    if recipe.data.fast_seek:
        callbacks.append(fast_seek(recipe, pipeline.train))
    compute, seen = task.compute_metrics(processor, config), deque[EvalPrediction](maxlen=2)

    def compute_and_keep(prediction: EvalPrediction) -> dict[str, float]:
        if task.tells_mistakes:
            seen.append(prediction)
        return compute(prediction) if compute else {}

    trainer = ViTCustomTrainer(
        model=model,
        args=recipe.training,
        data_collator=pipeline.collate,
        processing_class=processor,
        train_dataset=pipeline.train,
        eval_dataset=pipeline.test,
        compute_metrics=compute_and_keep if compute else None,
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
    seen.clear()
    evaluated = trainer.evaluate()  # of the average, where there is one, and then of the plain weights
    figures = {key.removeprefix("eval_"): value for key, value in evaluated.items() if key.startswith("eval_")}
    if average:  # the result is the average, and the plain weights' figures stand beside its own
        average.copy_to(model)
        averaged = {key.removeprefix("ema_"): value for key, value in figures.items() if key.startswith("ema_")}
        figures = {(f"plain_{key}" if key in averaged else key): value for key, value in figures.items()} | averaged
        figures = {key: value for key, value in figures.items() if not key.startswith("ema_")}
    seconds = time.perf_counter() - began
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
        prediction=seen[0] if seen else None,
        metrics=figures,
        baseline=baseline,
        num_train_images=None if recipe.data.streaming else len(splits["train"]),
        balance=balance,
        seen_otherwise=otherwise,
        seconds=seconds,
    )
