"""Train on pictures of your own, or by a recipe, and leave a folder that is ready for the Hub.

    vit-custom train --data my/pictures --from CHECKPOINT
    vit-custom train --data my/pictures --preset deit_tiny_patch16_224 --num_train_epochs 100
    vit-custom train quickstart
    vit-custom train recipe.yaml --seed 1 --config_overrides.depths '[8]'
    vit-custom train recipe.yaml --save_steps 100 --resume_from_checkpoint
    accelerate launch -m vit_custom train recipe.yaml

Without a recipe the task is chosen by what the data hold, and settings by the data and the machine; all are printed.
Every key of a recipe is an option too. The folder holds `checkpoint/` (weights, configuration, code, processor, card),
`examples/` (held-out images), for most tasks `predictions.png`, of classifiers `mistakes.csv`, the surest first,
`history.csv` and `history.png`: what was logged by step, `recipe.yaml`: the run with all that was set, and
`metrics.json`: what the model reached, and what a trivial answer reaches. Until a run ends, its checkpoints are in
`<folder>.unfinished`, from which the same command with `--resume_from_checkpoint` goes on.
"""

import json
import os
import shlex
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

from ..hub import origins
from ..hub import public_command
from ..hub import refuse_strangers
from ..hub import run_folder
from ..hub import sha256
from ..hub import write_card
from ..inspection import birth_certificate
from ..training import DATASETS
from ..training import Recipe
from ..training import Trained
from ..training import checkpoints_in
from ..training import read_recipe
from ..training import save_examples
from ..training import train
from ..training import write_history
from .from_data import CONVERTED
from .from_data import recipe_from_data
from .options import argument
from .options import command_of
from .options import option
from .shipped import shipped
from .starting_point import starting_point

KEYS = "training/recipe_keys.txt"  # more options, by `python -m modeling_vit_custom.training.recipe_keys`


@dataclass
class Options:
    recipe: Path | None = argument("a YAML file or `quickstart`, in place of --data", default=None)
    data: str | None = option(None, "pictures to learn from: a folder, files, a table or a name on the Hub")
    start: str | None = option(None, "a checkpoint to begin from: a folder, a file or a Hub id", names=["--from"])
    overwrite: bool = option(False, "replace the result of a run that ended")
    settings: list[str] = field(default_factory=list)  # keys of recipes with their values

    def words(self) -> list[str]:
        """Keys of recipes and values, those of --data and --from too."""
        given = {"--dataset": self.data, "--init_from": self.start}
        return [word for key, value in given.items() if value is not None for word in (key, value)] + self.settings


def main(options: Options) -> Path:
    def refuse(recipe: Recipe):
        folder = Path(str(recipe.training.output_dir))
        refuse_to_forget(folder, unfinished_of(folder), recipe.training.resume_from_checkpoint, options.overwrite)
        refuse_strangers(folder, recipe.path.stem)

    splits = None
    if options.recipe is not None:
        recipe = read_recipe(recipe_file(options.recipe), options.words())
        refuse(recipe)
    else:
        recipe, splits = recipe_from_data(options.words(), refuse)
    name, folder = recipe.path.stem, Path(str(recipe.training.output_dir))
    unfinished = unfinished_of(folder)
    main_process = recipe.training.process_index == 0
    resolved = begun(recipe, folder.parent / CONVERTED)
    recipe.training.output_dir = str(unfinished)
    try:
        trained = train(recipe, splits)
    except BaseException as error:
        if checkpoints_in(unfinished):
            error.add_note(f"{unfinished} holds the run's checkpoints: go on with --resume_from_checkpoint.")
        raise
    with run_folder(folder, run=name) if main_process else nullcontext(folder) as partial:
        trained.save(partial / "checkpoint")
        if main_process:
            write_results(partial, name, recipe, resolved, trained, options)
    if main_process:
        keep_checkpoints(unfinished, folder / "trainer")
        metric, task = trained.metrics, trained.task.metric
        print(f"\n{task} on {len(trained.held_out)} held-out images: {metric[task]:.4f}")
        print(f"of a trivial answer: {trained.baseline[task]:.4f}; {trained.seconds:.0f} s.")
        print(f"The checkpoint, ready for the Hub: {folder / 'checkpoint'}")
    return folder


def recipe_file(path: Path) -> Path:
    """A file, or by its name a recipe that comes with the package: `quickstart`."""
    known = shipped("recipes") / f"{path}.yaml"
    return known if known.is_file() and not path.exists() else path


def begun(recipe: Recipe, place: Path) -> dict[str, Any]:
    """The recipe with all that is set. What it begins from is converted if it has to be, and named by its commit."""
    start = recipe.model.init_from
    if start and not recipe.model.is_foreign:
        with recipe.training.main_process_first(desc="reading the checkpoint"):
            read, recipe.model.init_from = starting_point(start, place)
        resolved = recipe.resolved()
        recipe.model.init_from = read
        return resolved
    return recipe.resolved()


def unfinished_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.unfinished")


def refuse_to_forget(folder: Path, unfinished: Path, chosen: Any, overwrite: bool):
    """
    Args:
        chosen: the checkpoint to resume from; True: the last.
    """
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


def write_results(folder: Path, name: str, recipe: Recipe, resolved: dict, trained: Trained, options: Options):
    task, checkpoint = trained.task, folder / "checkpoint"
    command = command_of("train", options)
    certificate = birth_certificate(command)
    origin = origins(resolved, recipe.path, built_in=recipe.data.dataset in DATASETS, recipes=shipped("recipes"))
    public = public_command(shlex.split(command), resolved, origin["dataset"])
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
        **trained.of_the_data,
        weights={path.name: sha256(path) for path in checkpoint.glob("*.safetensors")},
        seed=recipe.training.seed,
        seconds=trained.seconds,
        certificate=certificate | {"command": public},
        recipe=recipe.path.name,
    )
    (folder / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not recipe.model.is_foreign:  # another's card is not ours to write
        write_card(checkpoint, shipped("model_card.md"), repo=f"owner/vit-custom-{name}", metrics=figures)
    try:
        write_history(trained.trainer.state.log_history, folder)
    except ImportError as error:
        print(error)
    try:
        save_examples(folder, trained, recipe.data.num_examples)
    except Exception as error:  # no picture is worth a trained model
        print(f"Examples and pictures are not whole: {type(error).__name__}: {error}", file=sys.stderr)
