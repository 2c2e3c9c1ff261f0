"""Checkpoints that are complete or absent, whenever a run is killed; in front of anyone's Trainer.

class MyTrainer(WholeCheckpoints, Trainer): ...

Trainer writes a checkpoint where it will stay, so that a run that is killed meanwhile leaves half of one, from which
Trainer then resumes. Here it is written aside, flushed to the disk, and renamed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

UNFINISHED = "unfinished"  # where a checkpoint is written, and taken apart
STATE = "trainer_state.json"
LAYOUT = "layout.json"


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints are complete or absent, and that resumes from complete ones of its own layout only.

    Callbacks that have a `save(folder)`, such as WeightAverage, add their files before the checkpoint gets its name.
    """

    staged: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self.staged is None else str(self.staged)

    def _save_checkpoint(self, model: Any, trial: Any):
        """
        Raises:
            RuntimeError: the disk is full or the folder cannot be written; the last good checkpoint is named.
        """
        runs, name = Path(super()._get_output_dir(trial)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        stage = runs / UNFINISHED
        with self.told(runs):
            if self.args.should_save:
                shutil.rmtree(stage, ignore_errors=True)
                (stage / name).mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.staged = stage
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.staged = None
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "save"):
                    callback.save(stage / name)
            self.accelerator.wait_for_everyone()
            best = runs / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.name == name or is_whole(best) else None
            if self.args.should_save:
                (stage / name / LAYOUT).write_text(json.dumps(self.layout()) + "\n")
                self.state.save_to_json(str(stage / name / STATE))
                flush(stage / name, *(stage / name).rglob("*"))
                put(stage / name, runs / name)
                self.forget(runs)
                shutil.rmtree(stage, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def forget(self, runs: Path):
        """Older checkpoints than `save_total_limit` allows, except the best. Each disappears at once."""
        limit = self.args.save_total_limit
        best = Path(self.state.best_model_checkpoint).name if self.state.best_model_checkpoint else None
        if limit and limit > 0:
            for folder in checkpoints_in(runs)[:-limit]:
                if folder.name != best:
                    remove(folder)

    @contextmanager
    def told(self, runs: Path) -> Iterator[None]:
        """What went wrong while saving, in one sentence. torch says RuntimeError where the system says OSError."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(runs / UNFINISHED, ignore_errors=True)
            last = last_checkpoint(runs) if runs.is_dir() else None
            kept = f"The last good one is {last}: free space or set another `output_dir`, and resume from it"
            nothing = "There is none before it: free space or set another `output_dir`"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RuntimeError(
                f"The checkpoint of step {self.state.global_step} could not be written to {runs} ({reason}). "
                f"{kept if last else nothing}."
            ) from error

    def layout(self) -> dict[str, Any]:
        """How weights and optimizer state are cut, which a resumed run must do alike."""
        kind = "replicated"
        if self.is_deepspeed_enabled:
            stage = self.accelerator.state.deepspeed_plugin.zero_stage
            kind = f"DeepSpeed ZeRO-{stage}"
        elif self.is_fsdp_enabled:
            kind = f"FSDP{getattr(self.accelerator.state.fsdp_plugin, 'fsdp_version', 1)}"
        return {"kind": kind, "processes": self.args.world_size}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; `True` takes the last complete checkpoint, or says that there is none and begins.

        Raises:
            ValueError: the checkpoint is not complete, or was written in another layout.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(Path(str(self.args.output_dir)), tell=self.args.should_log)
        if isinstance(resume_from_checkpoint, str):
            self.refuse_other_layout(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def refuse_other_layout(self, folder: Path):
        if not is_whole(folder):
            inner = [one for place in (folder, folder / "trainer") for one in checkpoints_in(place) if is_whole(one)]
            which = str(inner[-1]) if inner else "another"  # in a run's folder
            raise ValueError(f"{folder} is no complete checkpoint ({what_lacks(folder)}): resume from {which}.")
        try:
            written = json.loads((folder / LAYOUT).read_text())
        except FileNotFoundError:  # of a plain Trainer
            return
        here = self.layout()
        if written != here:
            there, now = (f"{one['kind']} on {one['processes']} process(es)" for one in (written, here))
            raise ValueError(
                f"{folder} was written by {there}, and this run is {now}: its optimizer state resumes only there. "
                f"Launch it so, or begin a new run from its weights: `init_from: {folder}`."
            )


def refuse_unsharded(model: Any, wanted: bool):
    """What accelerate does on a CPU: it turns FSDP into DDP without a word.

    Raises:
        RuntimeError: sharding was asked for, and no parameter is sharded.
    """
    if wanted and not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise RuntimeError(
            "FSDP2 was asked for, but no parameter of the model is sharded, as on a CPU, where accelerate runs DDP "
            "instead: launch on several GPUs, or with configs/accelerate/cpu.yaml."
        )


def what_lacks(folder: Path) -> str:
    """Of a checkpoint; nothing if it is complete. Trainer writes its state last."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return f"no readable {STATE}, which is written last"
    return ""


def is_whole(folder: Path) -> bool:
    return not what_lacks(folder)


def checkpoints_in(runs: Path) -> list[Path]:
    """Complete or not, by steps."""
    found = [path for path in runs.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def last_checkpoint(runs: Path, tell: bool = False) -> str | None:
    """The last complete one. With `tell` it says which it passes over, and if there is none."""
    for folder in reversed(checkpoints_in(runs)):
        if is_whole(folder):
            return str(folder)
        if tell:
            print(f"{folder} is passed over: {what_lacks(folder)}.")
    if tell:
        print(f"There is no checkpoint in {runs} yet: this run begins at the beginning.")
    return None


def flush(*paths: Path):
    """To the disk: a rename may otherwise outlive what it names."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def put(new: Path, place: Path):
    """What was there before, of an earlier run that went further, goes."""
    if place.exists():
        remove(place)
    new.rename(place)
    flush(place.parent)


def remove(folder: Path):
    aside = folder.parent / UNFINISHED / f"{folder.name}.old"
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
