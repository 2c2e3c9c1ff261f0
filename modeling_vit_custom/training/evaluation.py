"""A checkpoint, the data to try it on, and its task's figures: what `vit-custom evaluate` reports."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
import yaml
from datasets import ClassLabel
from datasets import DatasetDict
from datasets import List
from transformers import AutoConfig
from transformers import AutoModel
from transformers import AutoModelForImageClassification
from transformers import EvalPrediction
from transformers import TrainingArguments

from .collators import Numbered
from .recipe import Recipe
from .recipe import read_recipe
from .run import load_data
from .target_tasks import task_of
from .targets import NUMBERS
from .targets import SINGLE
from .task import Task
from .tasks import TASKS
from .trainer import ViTCustomTrainer

ALL = "all"  # of `--split`: no part is held out
CLASSES = "image-classification"
KEPT = (  # of a recipe's TrainingArguments: what an evaluation goes by
    *("per_device_eval_batch_size", "dataloader_num_workers", "dataloader_pin_memory", "disable_tqdm"),
    *("label_smoothing_factor", "seed", "bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "use_cpu"),
)


def load_checkpoint(checkpoint: str, wanted: str | None = None) -> tuple[Task | None, Any]:
    """A folder or a name on the Hub -> its task, `wanted` or what its architecture is for, and the model. A bare
    encoder has no task.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it lacks weights of the task's model.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{checkpoint} is no folder with a config.json, and no model on the Hub that can be read: check the name."
        ) from error
    kind = (config.architectures or ["model of no architecture"])[0]
    ours = {task.model_class.__name__: task for task in TASKS.values()}
    task = TASKS[wanted] if wanted else ours.get(kind)
    loader: Any = AutoModel
    if task is not None:
        loader = task.model_class
    elif kind.endswith("ForImageClassification"):  # one of transformers' own, to compare with
        task, loader = TASKS[CLASSES], AutoModelForImageClassification
    model, told = loader.from_pretrained(checkpoint, output_loading_info=True)
    if task is not None:
        task = task_of(task.name, model.config.problem_type)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{checkpoint} is a {kind} and has no {missing[0]}: leave --task out, or name its own.")
    return task, model


def recipe_of_run(checkpoint: str) -> tuple[dict[str, Any], dict[str, float]]:
    """What the run that made a checkpoint was told, and the figures that it reached on its held-out images.

    Raises:
        FileNotFoundError: the checkpoint does not lie in the folder of a run.
    """
    run = Path(checkpoint).resolve().parent
    if not (run / "metrics.json").is_file():
        raise FileNotFoundError(
            f"{run / 'metrics.json'}, which tells the data, is not there: give --dataset or --recipe."
        )
    told, whole = json.loads((run / "metrics.json").read_text(encoding="utf-8")), run / "recipe.yaml"
    text = whole.read_text(encoding="utf-8") if whole.is_file() else told["recipe_text"]
    return yaml.safe_load(text), told["reached"]


def with_answers(settings: dict[str, Any], task: Task | None, config: Any, probes: bool) -> dict[str, Any]:
    """With the kind of answers that a checkpoint gives, and of numbers their columns, where a recipe does not say.

    Raises:
        ValueError: probes of data whose images have no one class.
    """
    if probes:
        if (settings.get("problem_type") or SINGLE) != SINGLE:
            raise ValueError(
                f"Probes find one class an image, and the data are read for {settings['problem_type']}: leave them out."
            )
        return settings
    if task is None or task.problem_type in (None, SINGLE):
        return settings
    told: dict[str, Any] = {"problem_type": task.problem_type}
    if task.problem_type == NUMBERS and not (settings.get("label_column") or settings.get("label_columns")):
        told["label_columns"] = list(config.id2label.values())
    return settings | {key: value for key, value in told.items() if not settings.get(key)}


def recipe_for_evaluation(
    settings: dict[str, Any], work: Path, task: Task | None = None, config: Any = None, probes: bool = False
) -> Recipe:
    """A recipe's settings without those of a training, and with a checkpoint's task as `with_answers`; `work` is an
    empty folder."""
    settings = with_answers(settings, task, config, probes)
    unused = {field.name for field in fields(TrainingArguments)}.difference(KEPT)
    settings = {key: value for key, value in settings.items() if key not in unused and key != "streaming"}
    settings.setdefault("use_cpu", not torch.accelerator.is_available())  # else torchrun's processes do not share work
    settings |= dict(output_dir=str(work), report_to="none", remove_unused_columns=False)
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    try:
        return read_recipe(path)
    except (ValueError, FileNotFoundError) as error:  # of a file that nobody has written
        raise type(error)(str(error).replace(str(path), "The evaluation")) from error


def recipe_on(dataset: str, checkpoint: str) -> dict[str, Any] | None:
    """The recipe of the run that made the checkpoint, if that was on this folder or file: its split, columns and
    classes are those to evaluate by. A folder of the same name counts where the old one is gone.
    """
    place = Path(dataset).expanduser()
    try:
        settings = recipe_of_run(checkpoint)[0]
    except FileNotFoundError:
        return None
    trained_on = Path(settings["dataset"]).expanduser()
    if settings["dataset"] == dataset or (place.exists() and trained_on.resolve() == place.resolve()):
        why = "is what this model was trained on"
    elif place.exists() and not trained_on.exists() and trained_on.name == place.name:
        why = f"has the name of what this model was trained on, {trained_on}, which is not there"
    else:
        return None
    print(f"{dataset} {why}: what that run held out of it is evaluated; `--split all` takes everything.")
    return settings | {"dataset": dataset}


def load_again(recipe: Recipe, whole: bool | None, as_stream: bool, checkpoint: str | None) -> DatasetDict:
    """As `load_data`. Of the run that made a checkpoint it is said where the data are not as many as they were, so that
    another part is held out.
    """
    splits = load_data(recipe, whole, as_stream)
    if checkpoint is None or whole is not False:
        return splits
    told = json.loads((Path(checkpoint).resolve().parent / "metrics.json").read_text(encoding="utf-8"))
    then = told.get("num_train_images"), told.get("num_test_images")
    now = len(splits["train"]), len(splits["test"])
    if None not in then and then != now:
        print(
            f"The data have {now[0]} images to train on and {now[1]} held out; when this model was trained it was "
            f"{then[0]} and {then[1]}: it may have been trained on some of those that are held out now."
        )
    return splits


def is_whole(dataset: str | None, split: str, of_the_run: bool) -> bool | None:
    """As `load_source` takes it. `--split all`: everything. Of a `--dataset` without splits too (None), unless the run
    that made the checkpoint was on it.
    """
    if split == ALL or dataset is None or of_the_run or not Path(dataset).expanduser().exists():
        return split == ALL
    return None


def with_classes_of(config: Any, splits: Any, dataset: str) -> Any:
    """With the labels of a model's classes, where those of the data are among them by name."""
    own = [normalize("NFC", name) for _, name in sorted((config.id2label or {}).items())]
    feature = splits["test"].features.get("label")
    kind = getattr(feature, "feature", feature)
    if not isinstance(kind, ClassLabel) or kind.names == own or not set(kind.names) <= set(own):
        return splits
    if lacking := [name for name in own if name not in kind.names]:
        print(f"`dataset: {dataset}` has no images of {', '.join(lacking[:5])}{' ...' * (len(lacking) > 5)}.")
    numbers, made = [own.index(name) for name in kind.names], {}
    for name, rows in splits.items():
        several = kind is not feature
        labels = [[numbers[one] for one in label] if several else numbers[label] for label in rows["label"]]
        plain, classes = rows.with_format(None).remove_columns("label"), ClassLabel(names=own)
        made[name] = plain.add_column("label", labels, feature=List(classes) if several else classes)
        if rows.format["type"] == "custom":
            made[name] = made[name].with_transform(rows.format["format_kwargs"]["transform"])
    return DatasetDict(made)


def why_not(task: Task | None, config: Any, splits: Any, recipe: Recipe) -> str | None:
    """Why a model's own task cannot be evaluated on a recipe's data, if so."""
    dataset = recipe.data.dataset
    if task is None:
        return "A bare encoder has no task to evaluate"
    if task.name != recipe.model.task:
        return f"The model is for {task.name}, the data were read for {recipe.model.task}"
    if lacking := [name for name in task.columns if name not in splits["train"].column_names]:
        return f"`dataset: {dataset}` has no {', '.join(lacking)}, which {task.name} needs"
    names = [normalize("NFC", name) for name in task.class_names(splits)]
    own = [normalize("NFC", name) for name in (config.id2label or {}).values()]
    strange = [name for name in names if name not in own]
    if strange and len(strange) < len(names):
        return f"`dataset: {dataset}` has classes that the model has not ({', '.join(strange[:5])})"
    if names and own not in (names, [f"LABEL_{index}" for index in range(len(names))]):
        return (
            f"The model's {len(own)} classes ({', '.join(own[:3])} ...) are not the {len(names)} of "
            f"`dataset: {dataset}` ({', '.join(names[:3])} ...)"
        )
    return None


def evaluate(
    task: Task, model: Any, processor: Any, recipe: Recipe, rows: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """-> the task's figures as a training logs them, and on the first process each class's by itself."""
    arguments, settings = recipe.training, recipe.model.collator_settings
    arguments.eval_do_concat_batches = task.concatenates
    compute, seen = task.compute_metrics(processor, model.config), []

    def compute_and_keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return compute(prediction) if compute else {}

    trainer = ViTCustomTrainer(
        model=model,
        args=arguments,
        data_collator=task.collator(processor, model.config, settings),
        eval_dataset=Numbered(rows),
        compute_metrics=compute_and_keep if compute else None,
        preprocess_logits_for_metrics=task.select,
    )
    found = trainer.evaluate()
    figures = {name.removeprefix("eval_"): value for name, value in found.items() if name.startswith("eval_")}
    if not seen or not trainer.is_world_process_zero():
        return figures, {}
    return figures, task.details(seen[0], processor, model.config)
