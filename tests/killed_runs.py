"""Runs that are killed (SIGKILL) at chosen moments, and gone on with by the same command, until they end.

    python -m tests.killed_runs FOLDER RECIPE.yaml KILLS SEED

One process imports everything, and forks a child for each attempt; the child tells its phase by a pipe. Prints JSON:
the phases in which it was killed, and for the run that never was and the one that was the hashes of all that a run
leaves: weights, averages, what Trainer logged.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from safetensors import safe_open

from modeling_vit_custom.training.averaging import WeightAverage
from modeling_vit_custom.training.checkpoints import WholeCheckpoints
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from scripts.train import main as train

LETTERS = {"train": b"t", "evaluate": b"e", "save": b"s", "average": b"a"}
# Of each phase, how long one lasts here about, in seconds; a kill falls somewhere in it.
LASTS = {"train": 0.3, "evaluate": 0.08, "save": 0.02, "average": 0.001}


def told(function, phase: str, pipe: int):
    """A method that says when it begins and when it ends."""

    def wrapped(*args, **kwargs):
        os.write(pipe, LETTERS[phase])
        try:
            return function(*args, **kwargs)
        finally:
            os.write(pipe, LETTERS["train"])

    return wrapped


def attempt(arguments: list[str], log: Path) -> tuple[int, int]:
    """Fork a child that trains -> its process id, and the end of the pipe that its phases are read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    WholeCheckpoints._save_checkpoint = told(WholeCheckpoints._save_checkpoint, "save", writing)
    ViTCustomTrainer.evaluation_loop = told(ViTCustomTrainer.evaluation_loop, "evaluate", writing)
    WeightAverage.save = told(WeightAverage.save, "average", writing)
    try:
        os.write(writing, LETTERS["train"])
        train(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def live(arguments: list[str], log: Path, phase: str | None, rng: random.Random) -> str | None:
    """One attempt, killed in the phase, at one of its turns -> in which phase it was when killed; None: it ended."""
    pid, pipe = attempt(arguments, log)
    turn, seen, now = rng.randrange(1, 4), 0, ""
    while letter := os.read(pipe, 1):
        now = next(name for name, one in LETTERS.items() if one == letter)
        seen += now == phase
        if now == phase and seen == turn:
            time.sleep(rng.uniform(0, LASTS[phase]))
            os.set_blocking(pipe, False)
            try:
                rest = os.read(pipe, 100)
                now = next(name for name, one in LETTERS.items() if one == rest[-1:]) if rest else now
            except BlockingIOError:
                pass
            os.kill(pid, signal.SIGKILL)
            break
    os.close(pipe)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return now
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"An attempt failed by itself:\n{log.read_text()[-3000:]}")
    return None


def left(folder: Path) -> dict[str, str]:
    """What a run leaves -> hashes. Of Trainer's state, all but what it took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":  # the order of a header's entries is drawn anew each time
            with safe_open(path, "pt") as file:
                told = f"{sorted((file.metadata() or {}).items())}{sorted(file.keys())}".encode()
                content = [file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys())]
            found[str(path.relative_to(folder))] = hashlib.sha256(b"".join([told, *content])).hexdigest()
        elif path.suffix in (".pt", ".pth"):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "trainer_state.json":
            times = ("runtime", "per_second", "flos")
            history = [
                {key: value for key, value in one.items() if not any(word in key for word in times)}
                for one in json.loads(path.read_text())["log_history"]
            ]
            found[str(path.relative_to(folder))] = json.dumps(history)
    return found


def main(folder: str, recipe: str, kills: str, seed: str):
    place, rng, phases = Path(folder), random.Random(int(seed)), []
    whole = [recipe, "--output_dir", str(place / "whole")]
    broken = [recipe, "--output_dir", str(place / "broken"), "--resume_from_checkpoint"]
    live(whole, place / "whole.log", None, rng)
    while len(phases) < int(kills):
        phase = rng.choice(["train", "evaluate", "save", "save", "average"])
        died = live(broken, place / "broken.log", phase, rng)
        if died is None and len(phases) < int(kills):  # it came through: begin again, as a new run
            compare(place)
            broken[2] = str(place / f"broken-{len(phases)}")
        elif died:
            phases.append(died)
    live(broken, place / "broken.log", None, rng)
    outcome = {"phases": phases, "equal": compare(place), "log": (place / "broken.log").read_text()}
    print("OUTCOME" + json.dumps(outcome))


def compare(place: Path) -> bool:
    """All runs that ended are the whole one to the bit."""
    runs = [path for path in place.glob("broken*") if (path / "metrics.json").is_file()]
    whole = left(place / "whole")
    for run in runs:
        other = left(run)
        if other != whole:
            unequal = [name for name in whole.keys() | other.keys() if whole.get(name) != other.get(name)]
            raise RuntimeError(f"{run.name} differs from the whole run in {unequal}.")
    return bool(runs)


if __name__ == "__main__":
    main(*sys.argv[1:])
