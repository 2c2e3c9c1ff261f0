"""Train by a recipe and leave a folder that is ready for the Hub.

    python scripts/train.py configs/recipes/quickstart.yaml
    python scripts/train.py configs/recipes/quickstart.yaml --seed 1 --config_overrides.depths '[8]'
    python scripts/train.py configs/recipes/quickstart.yaml --save_steps 100 --resume_from_checkpoint
    accelerate launch --config_file configs/accelerate/ddp.yaml scripts/train.py configs/recipes/quickstart.yaml

Every key of a recipe is an option too. The folder holds `checkpoint/` (weights, configuration, code, processor, card),
`examples/` (held-out images), for most tasks `predictions.png`, of classifiers `mistakes.csv`, the surest first,
`history.csv` and `history.png`: what was logged by step, `recipe.yaml`: the run with all that was set, and
`metrics.json`: what the model reached, and what a trivial answer reaches. Until a run ends, its checkpoints are in
`<folder>.unfinished`, from which the same command with `--resume_from_checkpoint` goes on.
TRACEBACK=1 shows where an error is from, here and in every script."""

import json
import os
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from _start import as_script
from _train_options import parse_options

if __name__ == "__main__":
    as_script(lambda: parse_options(None, __doc__))

import yaml

from modeling_vit_custom.hub import origins
from modeling_vit_custom.hub import public_command
from modeling_vit_custom.hub import refuse_strangers
from modeling_vit_custom.hub import run_folder
from modeling_vit_custom.hub import sha256
from modeling_vit_custom.hub import write_card
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.training import DATASETS
from modeling_vit_custom.training import Recipe
from modeling_vit_custom.training import Trained
from modeling_vit_custom.training import checkpoints_in
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import save_examples
from modeling_vit_custom.training import train
from modeling_vit_custom.training import write_history

ROOT = Path(__file__).parent.parent


def main(argv: list[str] | None = None) -> Path:
    arguments, settings = parse_options(argv, __doc__)
    recipe = read_recipe(arguments.recipe, settings)
    name, folder = recipe.path.stem, Path(str(recipe.training.output_dir))
    resolved, main_process = recipe.resolved(), recipe.training.process_index == 0
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    chosen: Any = recipe.training.resume_from_checkpoint  # True: the last
    refuse_to_forget(folder, unfinished, chosen, arguments.overwrite)
    recipe.training.output_dir = str(unfinished)
    refuse_strangers(folder, name)
    try:
        trained = train(recipe)
    except BaseException as error:
        if checkpoints_in(unfinished):
            error.add_note(f"{unfinished} holds the run's checkpoints: go on with --resume_from_checkpoint.")
        raise
    with run_folder(folder, run=name) if main_process else nullcontext(folder) as partial:
        trained.save(partial / "checkpoint")
        if main_process:
            write_results(partial, name, recipe, resolved, trained, [str(arguments.recipe), *settings])
    if main_process:
        keep_checkpoints(unfinished, folder / "trainer")
        metric, task = trained.metrics, trained.task.metric
        print(f"\n{task} on {len(trained.held_out)} held-out images: {metric[task]:.4f}")
        print(f"of a trivial answer: {trained.baseline[task]:.4f}; {trained.seconds:.0f} s.")
        print(f"The checkpoint, ready for the Hub: {folder / 'checkpoint'}")
    return folder


def refuse_to_forget(folder: Path, unfinished: Path, chosen: str | bool | None, overwrite: bool):
    there = next(path for path in (unfinished, *unfinished.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise NotADirectoryError(f"{unfinished} cannot be written, because of {there}: set another `output_dir`.")
    if chosen is True and not checkpoints_in(unfinished) and (folder / "metrics.json").is_file():
        raise FileExistsError(
            f"{folder} is the result of a run that ended, so there is nothing to resume: set another `output_dir`, or "
            f"name one of its checkpoints in {folder / 'trainer'}."
        )
    if (folder / "metrics.json").is_file() and not overwrite:
        raise FileExistsError(
            f"{folder} holds the result of a run that ended: add --overwrite to replace it, or set another "
            "`output_dir`."
        )
    events = Path(os.environ.get("TENSORBOARD_LOGGING_DIR", os.devnull)).absolute()
    if folder.absolute() in (events, *events.parents):
        raise ValueError(
            f"TENSORBOARD_LOGGING_DIR is in {folder}, which is there only when a run has ended: leave it out, and the "
            "events come into the result, or name another folder."
        )
    if not chosen and checkpoints_in(unfinished):
        raise FileExistsError(
            f"{unfinished} holds checkpoints of a run that did not end: go on with --resume_from_checkpoint, or remove "
            "that folder."
        )


def keep_checkpoints(unfinished: Path, place: Path):
    """They come to rest in the result, and so does what trackers wrote there."""
    if any(path.is_file() for path in unfinished.rglob("*")):
        unfinished.rename(place)
    else:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_results(folder: Path, name: str, recipe: Recipe, resolved: dict, trained: Trained, words: list[str]):
    task, checkpoint = trained.task, folder / "checkpoint"
    certificate = birth_certificate(f"python scripts/train.py {shlex.join(words)}")
    origin = origins(resolved, recipe.path, built_in=recipe.data.dataset in DATASETS)
    command = public_command(["python", "scripts/train.py", *words], resolved, origin["dataset"])
    told = "".join(f"# {key}: {certificate[key]}\n" for key in ("command", "hardware", "versions", "commit"))
    text = told + yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    figures = dict(
        **origin,  # licence, names of the data and of what it began from, recipe_text
        task=task.name,
        num_train_images=trained.num_train_images,
        num_test_images=len(trained.held_out),
        metric=task.metric,
        reached=trained.metrics,
        baseline=trained.baseline,
        **({"pictures_pipeline_sees_otherwise": trained.seen_otherwise} if trained.seen_otherwise else {}),
        weights={path.name: sha256(path) for path in checkpoint.glob("*.safetensors")},
        seed=recipe.training.seed,
        seconds=trained.seconds,
        certificate=certificate | {"command": command},
        recipe=recipe.path.name,
    )
    (folder / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not recipe.model.is_foreign:  # another's card is not ours to write
        write_card(checkpoint, ROOT / "model_card.md", repo=f"owner/vit-custom-{name}", metrics=figures)
    write_history(trained.trainer.state.log_history, folder)
    try:
        save_examples(folder, trained, recipe.data.num_examples)
    except Exception as error:  # no picture is worth a trained model
        print(f"Examples and pictures are not whole: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
