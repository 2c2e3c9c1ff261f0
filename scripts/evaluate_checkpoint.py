"""Evaluate a checkpoint: its task's metrics, each class by itself, and what its frozen features are worth.

    python scripts/evaluate_checkpoint.py runs/quickstart/checkpoint
    python scripts/evaluate_checkpoint.py runs/fashion_mnist_mae/checkpoint --dataset fashion_mnist --knn --linear_probe
    python scripts/evaluate_checkpoint.py runs/emoji_captions/checkpoint --dataset fashion_mnist --zero_shot
    torchrun --nproc_per_node 2 scripts/evaluate_checkpoint.py runs/quickstart/checkpoint

The data are those of `--dataset` or `--recipe`, else those of the run that made the checkpoint: its folder tells.
A folder of pictures without splits is evaluated whole; its class folders are matched with the model's classes by name.
Written are `evaluation.json`, and of classes `confusion.png` and `reliability.png`.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from _evaluate_options import parse_options
from _start import as_script

if __name__ == "__main__":
    as_script(lambda: parse_options(None, __doc__))

from transformers import AutoProcessor

from modeling_vit_custom.hub import sha256
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.training import metrics
from modeling_vit_custom.training import pictures
from modeling_vit_custom.training import probing
from modeling_vit_custom.training.evaluation import ALL
from modeling_vit_custom.training.evaluation import CLASSES
from modeling_vit_custom.training.evaluation import evaluate
from modeling_vit_custom.training.evaluation import is_whole
from modeling_vit_custom.training.evaluation import load_again
from modeling_vit_custom.training.evaluation import load_checkpoint
from modeling_vit_custom.training.evaluation import recipe_for_evaluation
from modeling_vit_custom.training.evaluation import recipe_of_run
from modeling_vit_custom.training.evaluation import recipe_on
from modeling_vit_custom.training.evaluation import why_not
from modeling_vit_custom.training.evaluation import with_classes_of
from modeling_vit_custom.training.naming import inside_run
from modeling_vit_custom.training.recipe_values import read_settings

CLASS_FIGURES = ("accuracy", "top_5_accuracy", "ece")


def main(argv: list[str] | None = None) -> Path | None:
    """-> the folder; None on any process but the first."""
    arguments = parse_options(argv, __doc__)
    arguments.checkpoint = inside_run(arguments.checkpoint)
    start, checkpoint, kinds = time.perf_counter(), arguments.checkpoint, arguments.kinds or []
    task, model = load_checkpoint(checkpoint, arguments.task)
    processor, probes = AutoProcessor.from_pretrained(checkpoint), bool(kinds or arguments.zero_shot)
    own = recipe_on(arguments.dataset, checkpoint) if arguments.dataset else None
    settings, was = settings_of(arguments, own, CLASSES if probes or task is None else task.name)
    with tempfile.TemporaryDirectory() as work:
        recipe = recipe_for_evaluation(settings, Path(work))
        with recipe.training.main_process_first(desc="loading the data"):
            whole = False if kinds else is_whole(arguments.dataset, arguments.split, own is not None)
            splits = load_again(recipe, whole, bool(settings.get("streaming")), checkpoint if was else None)
        dataset, split = recipe.data.dataset, ALL if ALL in splits else arguments.split
        if split not in splits:
            raise ValueError(f"`--split {split}` is none of `dataset: {dataset}`: choose one of {', '.join(splits)}.")
        if probes and "label" not in splits[split].column_names:
            raise ValueError(f"`dataset: {dataset}` has no classes, which probes need: give another --dataset.")
        if task is not None and task.name == CLASSES:
            splits = with_classes_of(model.config, splits, dataset)
        reason, rows = why_not(task, model.config, splits, recipe), splits[split]
        if reason and not probes:
            raise ValueError(f"{reason}: give another --dataset, or ask for --knn, --linear_probe or --zero_shot.")
        figures, details = ({}, {}) if reason else evaluate(task, model, processor, recipe, rows)  # type: ignore[arg-type]
    if recipe.training.process_index != 0:
        return None
    if kinds:
        sets = [part for some in (splits["train"], rows) for part in probing.features(model, processor, some)]
        for kind in kinds:
            figures |= probing.PROBES[kind](*sets)
    if arguments.zero_shot:
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
        certificate=birth_certificate(f"python scripts/evaluate_checkpoint.py {shlex.join(argv or sys.argv[1:])}"),
    )
    folder = arguments.output or folder_of(checkpoint)
    write(folder, report, was)
    return folder


def settings_of(arguments: argparse.Namespace, own: dict | None, task: str) -> tuple[dict[str, Any], dict[str, float]]:
    """A recipe; and where the checkpoint was made by it, what was reached then. `own`: by `recipe_on`."""
    was: dict[str, float] = {}
    if own:
        settings, was = own | dict(task=task), recipe_of_run(arguments.checkpoint)[1]
    elif arguments.dataset:
        settings = dict(dataset=arguments.dataset, task=task, num_examples=1)
    elif arguments.recipe:
        settings = read_settings(arguments.recipe)
    else:
        settings, was = recipe_of_run(arguments.checkpoint)
    given = dict(per_device_eval_batch_size=arguments.batch_size)
    given |= {name: getattr(arguments, name) for name in ("data_dir", "corrupt_images")}
    settings |= {name: value for name, value in given.items() if value is not None}
    return settings, was if arguments.split == "test" else {}


def folder_of(checkpoint: str) -> Path:
    path = Path(checkpoint)
    return path.resolve().parent / "evaluation" if path.is_dir() else Path("evaluation") / checkpoint.replace("/", "--")


def write(folder: Path, report: dict[str, Any], was: dict[str, float]):
    """The report and its pictures as files, and a table on the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    found, details = report["metrics"], report["details"]
    if "confusion" in details:
        names = [name.removeprefix("accuracy_") for name in details if name.startswith("accuracy_")]
        pictures.draw_confusion(details["confusion"], names).save(folder / "confusion.png")
        error = found.get("zero_shot_ece", found.get("ece"))
        pictures.draw_reliability(details["reliability"], error).save(folder / "reliability.png")
    print(f"\n{report['num_images']} images of {report['dataset']} ({report['split']})")
    if report["not_evaluated"]:
        print(f"Not evaluated: {report['not_evaluated']}.")
    print(f"{'':<28}{'now':>10}{'when trained':>14}" if was else f"{'':<28}{'now':>10}")
    for name, value in found.items():
        if not name.endswith(("runtime", "per_second", "preparation_time")):
            print(f"{name:<28}{value:>10.4f}" + (f"{was[name]:>14.4f}" if name in was else ""))
    print(f"Each class and how it was measured: {folder / 'evaluation.json'}")


if __name__ == "__main__":
    main()
