"""Evaluate a checkpoint: its task's metrics, each class by itself, and what its frozen features are worth.

    vit-custom evaluate runs/quickstart/checkpoint
    vit-custom evaluate runs/fashion_mnist_mae/checkpoint --data fashion_mnist --knn --linear-probe
    vit-custom evaluate runs/emoji_captions/checkpoint --data fashion_mnist --zero-shot
    torchrun --nproc_per_node 2 -m vit_custom evaluate runs/quickstart/checkpoint

The data are those of `--data` or `--recipe`, else those of the run that made the checkpoint: its folder tells.
A folder of pictures without splits is evaluated whole; its class folders are matched with the model's classes by name.
Written are `evaluation.json`, and of classes `confusion.png` and `reliability.png`.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from ..hub import sha256
from ..inspection import birth_certificate
from ..training import metrics
from ..training import probing
from ..training.evaluation import ALL
from ..training.evaluation import CLASSES
from ..training.evaluation import evaluate
from ..training.evaluation import is_whole
from ..training.evaluation import load_again
from ..training.evaluation import load_checkpoint
from ..training.evaluation import recipe_for_evaluation
from ..training.evaluation import recipe_of_run
from ..training.evaluation import recipe_on
from ..training.evaluation import why_not
from ..training.evaluation import with_classes_of
from ..training.naming import inside_run
from ..training.recipe import CORRUPT
from ..training.recipe_values import read_settings
from ..training.tasks import TASKS
from .options import argument
from .options import command_of
from .options import option

CLASS_FIGURES = ("accuracy", "top_5_accuracy", "ece")


@dataclass
class Options:
    checkpoint: str = argument("a folder with a config.json, a run, or a name on the Hub")
    data: str | None = option(None, "what a recipe's `dataset` may be", names=["--data", "--dataset"], exclusive="of")
    recipe: Path | None = option(None, "for its data, and what it says of batches", exclusive="of")
    data_dir: str | None = option(None, "where `make data` has put the packages")
    split: str = option("test", "of the data set; `all`: everything, with no part held out")
    corrupt_images: str | None = option(None, "of the data; skipped ones are counted", choices=list(CORRUPT))
    task: str | None = option(None, "instead of the one that the checkpoint is for", choices=list(TASKS))
    batch_size: int | None = option(None, "of one process, instead of the recipe's")
    output: Path | None = option(None, "a folder; else `evaluation` beside the checkpoint")
    knn: bool = option(False, "20 nearest neighbours' vote on features")
    linear_probe: bool = option(False, "a linear classifier on features")
    zero_shot: bool = option(False, "classes by their names alone, for a dual encoder")


def main(options: Options) -> Path | None:
    """-> the folder; None on any process but the first."""
    options.checkpoint = inside_run(options.checkpoint)
    kinds = ["knn"] * options.knn + ["linear"] * options.linear_probe
    start, checkpoint = time.perf_counter(), options.checkpoint
    task, model = load_checkpoint(checkpoint, options.task)
    processor, probes = AutoProcessor.from_pretrained(checkpoint), bool(kinds or options.zero_shot)
    own = recipe_on(options.data, checkpoint) if options.data else None
    settings, was = settings_of(options, own, CLASSES if probes or task is None else task.name)
    with tempfile.TemporaryDirectory() as work:
        recipe = recipe_for_evaluation(settings, Path(work), task, model.config, probes)
        with recipe.training.main_process_first(desc="loading the data"):
            whole = False if kinds else is_whole(options.data, options.split, own is not None)
            splits = load_again(recipe, whole, bool(settings.get("streaming")), checkpoint if was else None)
        dataset, split = recipe.data.dataset, ALL if ALL in splits else options.split
        if split not in splits:
            raise ValueError(f"`--split {split}` is none of `dataset: {dataset}`: choose one of {', '.join(splits)}.")
        if probes and "label" not in splits[split].column_names:
            raise ValueError(f"`dataset: {dataset}` has no classes, which probes need: give another --data.")
        if task is not None and task.name == CLASSES:
            splits = with_classes_of(model.config, splits, dataset)
        reason, rows = why_not(task, model.config, splits, recipe), splits[split]
        if reason and not probes:
            raise ValueError(f"{reason}: give another --data, or ask for --knn, --linear-probe or --zero-shot.")
        figures, details = ({}, {}) if reason else evaluate(task, model, processor, recipe, rows)  # type: ignore[arg-type]
    if recipe.training.process_index != 0:
        return None
    if kinds:
        sets = [part for some in (splits["train"], rows) for part in probing.features(model, processor, some)]
        for kind in kinds:
            figures |= probing.PROBES[kind](*sets)
    if options.zero_shot:
        names = rows.features["label"].names
        details = metrics.classification(*probing.zero_shot(model, processor, rows, names), names)
        figures |= {f"zero_shot_{name}": details.pop(name) for name in CLASS_FIGURES}
    report = dict(
        checkpoint=checkpoint,
        weights={path.name: sha256(path) for path in sorted(Path(checkpoint).glob("*.safetensors"))},
        task=task.name if task else None,
        dataset=dataset,
        split=split,
        num_images=len(rows),
        not_evaluated=reason,
        metrics=figures,
        details={name: value for name, value in details.items() if name not in figures},
        seconds=time.perf_counter() - start,
        certificate=birth_certificate(command_of("evaluate", options)),
    )
    folder = options.output or folder_of(checkpoint)
    write(folder, report, was)
    return folder


def settings_of(options: Options, own: dict | None, task: str) -> tuple[dict[str, Any], dict[str, float]]:
    """A recipe; and where the checkpoint was made by it, what was reached then. `own`: by `recipe_on`."""
    was: dict[str, float] = {}
    if own:
        settings, was = own | dict(task=task), recipe_of_run(options.checkpoint)[1]
    elif options.data:
        settings = dict(dataset=options.data, task=task, num_examples=1)
    elif options.recipe:
        settings = read_settings(options.recipe)
    else:
        settings, was = recipe_of_run(options.checkpoint)
    given = dict(per_device_eval_batch_size=options.batch_size)
    given |= {name: getattr(options, name) for name in ("data_dir", "corrupt_images")}
    settings |= {name: value for name, value in given.items() if value is not None}
    return settings, was if options.split == "test" else {}


def folder_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    return path.resolve().parent / "evaluation" if path.is_dir() else Path("evaluation") / checkpoint.replace("/", "--")


def write(folder: Path, report: dict[str, Any], was: dict[str, float]):
    """The report and its pictures as files, and a table on the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    found, details = report["metrics"], report["details"]
    if "confusion" in details:
        draw(folder, details, found.get("zero_shot_ece", found.get("ece")))
    print(f"\n{report['num_images']} images of {report['dataset']} ({report['split']})")
    if report["not_evaluated"]:
        print(f"Not evaluated: {report['not_evaluated']}.")
    print(f"{'':<28}{'now':>10}{'when trained':>14}" if was else f"{'':<28}{'now':>10}")
    for name, value in found.items():
        if not name.endswith(("runtime", "per_second", "preparation_time")):
            print(f"{name:<28}{value:>10.4f}" + (f"{was[name]:>14.4f}" if name in was else ""))
    print(f"Each class and how it was measured: {folder / 'evaluation.json'}")


def draw(folder: Path, details: dict[str, Any], error: Any):
    """What a classifier confuses, and how far its confidence is right; without matplotlib it is said that they lack."""
    names = [name.removeprefix("accuracy_") for name in details if name.startswith("accuracy_")]
    try:
        from ..training import plots
    except ImportError as lacking:
        print(lacking)
        return
    plots.draw_confusion(details["confusion"], names).save(folder / "confusion.png")
    plots.draw_reliability(details["reliability"], error).save(folder / "reliability.png")
