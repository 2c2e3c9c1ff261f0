"""The trainings of the comparison: each a process of scripts/train.py and a folder, which is kept and not repeated."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageClassification

TEACHER = "resnet"
DISTILLED = "deit_distilled"


@dataclass(frozen=True)
class Run:
    model: str  # of configs/recipes/compare_<model>.yaml
    size: int  # number of training images
    seed: int
    depths: tuple[int, ...] = ()  # in place of the recipe's

    @property
    def name(self) -> str:
        return "-".join(map(str, (self.model, *(f"d{depth}" for depth in self.depths), self.size, self.seed)))


class Runs:
    """`settings` are options of scripts/train.py that all runs share."""

    def __init__(self, folder: Path, root: Path, settings: Sequence[str], cuts: bool):
        self.folder, self.root, self.settings = folder.resolve(), root, list(settings)
        self.cuts = cuts  # whether the data set can be cut to a number of training images

    def command(self, run: Run) -> list[str]:
        recipe = f"configs/recipes/compare_{run.model}.yaml"
        options = ["--seed", str(run.seed), "--split_seed", str(run.seed), "--output_dir", str(self.folder / run.name)]
        options += ["--dataset_settings", f"{{num_train: {run.size}}}" if self.cuts else "{}"]
        if run.depths:
            options += ["--config_overrides.depths", str(list(run.depths))]
        if run.model == DISTILLED:
            teacher = self.folder / Run(TEACHER, run.size, run.seed).name / "checkpoint"
            options += ["--distillation.teacher", str(teacher)]
        return [sys.executable, "scripts/train.py", recipe, *options, *self.settings]

    def train(self, runs: Iterable[Run], jobs: int):
        """Those that are not there, the teachers first.

        Raises:
            RuntimeError: some failed, after all others have run; or a folder is of another command.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = dict.fromkeys(runs)
        teachers = dict.fromkeys(Run(TEACHER, run.size, run.seed) for run in wanted if run.model == DISTILLED)
        students = [run for run in wanted if run not in teachers]
        with ThreadPoolExecutor(jobs) as pool:
            done = [*pool.map(self.one, teachers), *pool.map(self.one, students)]
        if failed := [name for name in done if name is not None]:
            raise RuntimeError(f"These trainings failed: {', '.join(failed)}; why is in {self.folder}/<name>.log.")

    def one(self, run: Run) -> str | None:
        """-> its name if it failed. The first line of its log is the command."""
        command, log = self.command(run), self.folder / f"{run.name}.log"
        said = shlex.join(command[1:])
        if (self.folder / run.name / "metrics.json").is_file():
            if log.is_file() and log.read_text(encoding="utf-8").splitlines()[0] != said:
                raise RuntimeError(f"{self.folder / run.name} is of another command: remove it, or give other --runs.")
            return None
        print(f"{run.name} ...", flush=True)
        with log.open("w", encoding="utf-8") as stream:
            print(said, file=stream, flush=True)
            code = subprocess.run(
                command, cwd=self.root, stdout=stream, stderr=subprocess.STDOUT, check=False
            ).returncode
        return run.name if code else None

    def metrics(self, run: Run) -> dict[str, Any]:
        return json.loads((self.folder / run.name / "metrics.json").read_text(encoding="utf-8"))

    def birth(self, run: Run) -> dict[str, Any]:
        return {key: self.metrics(run)[key] for key in ("seconds", "certificate")}

    def reached(self, runs: Iterable[Run]) -> list[float]:
        return [self.metrics(run)["reached"]["accuracy"] for run in runs]

    def checkpoint(self, run: Run) -> Path:
        return self.folder / run.name / "checkpoint"

    def load(self, run: Run, **settings: Any) -> Any:
        return AutoModelForImageClassification.from_pretrained(self.checkpoint(run), **settings).eval()
