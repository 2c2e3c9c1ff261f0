"""Measure what a second thread costs or brings on a busy machine, and write docs/threads.md.

    make threads

One process takes turns between one and two threads in training steps of the quickstart's model; beside it run no or two
processes that do nothing but compute. `passive` is how the scripts run, `default` is how torch runs by itself.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

ROOT = Path(__file__).parent.parent
# GNU's OpenMP without OMP_WAIT_POLICY: a thread that waits looks so many times before it sleeps.
POLICIES = {"passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "default": {"GOMP_SPINCOUNT": "300000"}}
PAGE = """# Threads on a busy machine

Training steps of the quickstart's model (batch of 64) by one and by two threads, which take turns in one process; the
ratio is the median over {rounds} rounds of {steps} steps, and its quartiles. Beside it run no or two processes that
compute. *passive*: `OMP_WAIT_POLICY=PASSIVE`, which the scripts set unless you have. *default*: torch as it is. With
two busy processes beside, two threads of the first may take at most 1.5 times as long as one.

| waiting | busy processes | one thread, ms a step | two threads, ms a step | two / one |
|---|---:|---:|---:|---|
{rows}
<sub>{hardware}; {versions}; commit {commit}; load of the machine before: {load:.1f}; `{command}`.</sub>
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of each turn")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/threads.md")
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)  # the process that is timed
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

import torch

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import interleaved
from modeling_vit_custom.inspection import ratio
from modeling_vit_custom.training import TASKS
from modeling_vit_custom.training import read_recipe


def main(argv: list[str] | None = None) -> Path | None:
    options = parse(argv)
    if options.turns:
        print(json.dumps(turns(options.rounds, options.steps)))
        return None
    load, rows = os.getloadavg()[0], []
    for policy, environment in POLICIES.items():
        for count in (0, 2):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                seconds = timed(environment, options)
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            rows.append(row(policy, count, seconds, options.steps))
            print(rows[-1], flush=True)
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    born = birth_certificate(f"make threads ARGS='{words}'" if words else "make threads")
    page = PAGE.format(rounds=options.rounds, steps=options.steps, rows="\n".join(rows), load=load, **born)
    options.page.write_text(page, encoding="utf-8")
    return options.page


def timed(environment: dict[str, str], options: argparse.Namespace) -> dict[str, list[float]]:
    """`turns` in a process of its own, as OpenMP reads its environment once."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--turns", "--rounds", str(options.rounds), "--steps", str(options.steps)]
    done = subprocess.run(command, env=kept | environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def turns(rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each turn, by the number of threads."""
    overrides = read_recipe(ROOT / "configs/recipes/quickstart.yaml").model.config_overrides
    model = ViTCustomForImageClassification(TASKS["image-classification"].config_class(**overrides, num_labels=10))
    optimizer = torch.optim.AdamW(model.parameters())
    pixels, labels = torch.randn(64, 3, 8, 8), torch.arange(64) % 10

    def train(threads: int):
        torch.set_num_threads(threads)
        for _ in range(steps):
            optimizer.zero_grad()
            model(pixels, labels=labels).loss.backward()
            optimizer.step()

    return interleaved({"1": lambda: train(1), "2": lambda: train(2)}, rounds)


def row(policy: str, count: int, seconds: dict[str, list[float]], steps: int) -> str:
    one, two = (1000 * statistics.median(seconds[key]) / steps for key in ("1", "2"))
    low, middle, high = ratio(seconds, "2", "1")
    return f"| {policy} | {count} | {one:.1f} | {two:.1f} | **{middle:.2f}** ({low:.2f} to {high:.2f}) |"


if __name__ == "__main__":
    main()
