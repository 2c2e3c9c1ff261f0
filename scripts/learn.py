"""Run every recipe over three seeds and write what they reach, beside a trivial answer, into docs/learning.md.

    make learning

Runs that are already in runs/learning are not repeated: delete a folder there to run it again.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
RECIPES = ("scenes_segmentation", "scenes_detection", "emoji_captions", "clipart_masked", "fashion_mnist_mae")
SCRATCH, TUNED = "fashion_mnist_1000", "fashion_mnist_1000_after_mae"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=[*RECIPES, SCRATCH, TUNED], help="these runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/learning")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/learning.md")
    return parser.parse_args(argv)


INTRODUCTION = """# What the recipes learn

Each recipe over three seeds, on its held-out images, beside a trivial answer: all background; each class's mean box,
scored by its frequency; chance; the mean colour of the visible pixels; each patch its own mean; the commonest class.
It counts as learned where the mean over the seeds beats that answer by more than twice the spread: the
difference between the best and the worst seed. Losses are better when lower.
"""
DETAILS = ("iou_", "map", "caption", "image")


def main(argv: list[str] | None = None) -> Path:
    arguments = parse(argv)

    for name in arguments.only:
        for seed in arguments.seeds:
            run(name, seed, arguments.runs)
    found = {name: results(name, arguments.runs) for name in (*RECIPES, SCRATCH, TUNED)}
    if missing := [name for name, runs in found.items() if len(runs) < len(SEEDS)]:
        print(f"Not all seeds have run yet of {', '.join(missing)}: the page stays as it was.")
        return arguments.page
    for name in found.keys() - {TUNED}:
        stamp(name, found[name])
    arguments.page.write_text(page(found), encoding="utf-8")
    print(f"The page: {arguments.page}")
    return arguments.page


def run(name: str, seed: int, runs: Path):
    folder = runs / f"{name}-{seed}"
    if (folder / "metrics.json").is_file():
        return
    start = ["--init_from", str((runs / f"fashion_mnist_mae-{seed}/checkpoint").resolve())] if name == TUNED else []
    recipe = str(recipe_of(name).relative_to(ROOT))
    settings = ["--seed", str(seed), "--output_dir", str(folder.resolve()), *start]
    subprocess.run([sys.executable, "scripts/train.py", recipe, *settings], cwd=ROOT, check=True)


def recipe_of(name: str) -> Path:
    return ROOT / f"configs/recipes/{name.removesuffix('_after_mae')}.yaml"


def results(name: str, runs: Path) -> list[dict]:
    files = [runs / f"{name}-{seed}/metrics.json" for seed in SEEDS]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def figures(runs: list[dict]) -> list[float]:
    return [run["reached"][run["metric"]] for run in runs]


def row(name: str, runs: list[dict]) -> str:
    """It counts as learned where the mean beats the trivial answer by twice the spread: the range over seeds."""
    reached, metric = figures(runs), runs[0]["metric"]
    spread, trivial = max(reached) - min(reached), mean(run["baseline"][metric] for run in runs)
    gain = (trivial - mean(reached)) if metric == "loss" else (mean(reached) - trivial)
    verdict = "yes" if len(runs) > 1 and gain > 2 * spread else "**no**"
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
    values = ", ".join(f"{value:.4f}" for value in reached)
    return (
        f"| {name} | {metric} | {trivial:.4f} | {values} | {mean(reached):.4f} | {spread:.4f} | {verdict} | {seconds} |"
    )


def page(found: dict[str, list[dict]]) -> str:
    lines = [
        INTRODUCTION,
        "| recipe | metric | trivial | reached | mean | spread | learned | seconds |",
        "|---|---|---:|---|---:|---:|---|---|",
        *(row(name, runs) for name, runs in found.items()),
        "",
    ]
    lines += ["## Does MAE help?", "", *compare(found[SCRATCH], found[TUNED]), ""]
    lines += ["## In detail", ""]
    for name, runs in found.items():
        rest = [f"{key} {value:.4f}" for key, value in runs[0]["reached"].items() if key.startswith(DETAILS)]
        lines += [f"{name}, seed {runs[0]['seed']}: {', '.join(rest)}.", ""] if rest else []
    certificates = [run["certificate"] for runs in found.values() for run in runs]
    told = ["; ".join(sorted({one[key] for one in certificates})) for key in ("hardware", "versions", "commit")]
    lines += [f"<sub>{', '.join(told[:2])}; commits {told[2]} (+: with changes); `make learning`.</sub>"]
    return "\n".join(lines) + "\n"


def stamp(name: str, runs: list[dict]):
    """The recipe's header says what it reached, and what a trivial answer reaches."""
    path, metric, reached = recipe_of(name), runs[0]["metric"], figures(runs)
    hardware = runs[0]["certificate"]["hardware"].split(",")[0]
    seconds, trivial = mean(run["seconds"] for run in runs), runs[0]["baseline"][metric]
    spread = f"{min(reached):.4f} to {max(reached):.4f} over {len(runs)} seeds"
    line = f"#   result:   {metric} {mean(reached):.4f} ({spread}); a trivial answer {trivial:.4f}\n"
    line += f"#   time:     {seconds:.0f} s, {hardware}\n"
    text = re.sub(
        r"(^#   (hardware|result|time)[:,].*\n)+", lambda _: line, path.read_text(), count=1, flags=re.MULTILINE
    )
    path.write_text(text)


def compare(scratch: list[dict], tuned: list[dict]) -> list[str]:
    """The same 1,000 labelled images, the same recipe, from nothing and from an encoder trained without labels."""
    spreads = [max(figures(runs)) - min(figures(runs)) for runs in (scratch, tuned)]
    gain, spread = mean(figures(tuned)) - mean(figures(scratch)), max(spreads)
    verdict = "more" if gain > 2 * spread else "**not more**"
    means = f"{mean(figures(scratch)):.2%} and {mean(figures(tuned)):.2%}"
    return [
        "1,000 labelled images of Fashion-MNIST, by one recipe: from scratch, and from the encoder that",
        f"fashion_mnist_mae.yaml has trained on all 60,000 images without labels. Mean accuracy {means}:",
        f"a gain of {100 * gain:.2f} points, {verdict} than twice the larger spread over seeds",
        f"({100 * spread:.2f} points).",
    ]


if __name__ == "__main__":
    listen(parse)
    main()
