"""Put what a tutorial says of ViTs and CNNs to the test, and write docs/vit_vs_cnn.md with its figures.

    make compare
    python scripts/compare.py --only cost locality --seeds 0 1

Trainings are `scripts/train.py` with the recipes compare_*.yaml. Those that are already in runs/compare are not
repeated: delete a folder there to run it again. What each part found is kept there too; the page is of all that were.
"""

import argparse
import inspect
import json
import sys
import time
from functools import cache
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

ROOT = Path(__file__).parent.parent
NAMES = ("efficiency", "cost", "robustness", "locality", "depth")
SETS = ("sklearn_digits", "fashion_mnist", "scenes", "emoji_captions", "tuxpaint_captions", "clipart")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), help="these parts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000], help="numbers of training images")
    parser.add_argument("--dataset", default="fashion_mnist", choices=SETS, help="one of grey pictures of classes")
    parser.add_argument("--max_steps", type=int, default=400, help="of every training")
    parser.add_argument("--num_images", type=int, default=2000, help="held-out ones that are made worse")
    parser.add_argument("--sides", type=int, nargs="+", default=[112, 224, 384, 512, 768, 1024], help="pixels, timed")
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/compare")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/vit_vs_cnn.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

import numpy as np
import torch

from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection.comparing_page import LEARNING
from modeling_vit_custom.inspection.comparing_page import learning
from modeling_vit_custom.inspection.comparing_page import page
from modeling_vit_custom.inspection.comparing_parts import PARTS
from modeling_vit_custom.inspection.comparing_parts import Pictures
from modeling_vit_custom.inspection.comparing_parts import Study
from modeling_vit_custom.inspection.comparing_runs import Runs
from modeling_vit_custom.inspection.plots import DRAW
from modeling_vit_custom.training import DATASETS


def main(argv: list[str] | None = None) -> Path:
    options = parse(argv)
    torch.set_num_threads(1)
    cuts = "num_train" in inspect.signature(DATASETS[options.dataset]).parameters
    if not cuts and len(options.sizes) > 1:
        raise ValueError(f"`--dataset {options.dataset}` is always whole: give one number of images, as `--sizes 1`.")

    @cache
    def pictures(seed: int, size: int) -> Pictures:
        splits = DATASETS[options.dataset](seed, **({"num_train": size} if cuts else {}))
        grey = {name: [np.asarray(image.convert("L")) for image in rows["image"]] for name, rows in splits.items()}
        return {name: (np.stack(images), np.asarray(splits[name]["label"])) for name, images in grey.items()}

    shared = ["--dataset", options.dataset, "--max_steps", str(options.max_steps)]
    study = Study(
        runs=Runs(options.runs, ROOT, shared, cuts),
        seeds=options.seeds,
        sizes=sorted(options.sizes),
        pictures=pictures,
        presets=ROOT / "configs/models",
        num_images=options.num_images,
        timed_sides=options.sides,
        rounds=options.rounds,
    )
    facts = dict(dataset=options.dataset, max_steps=options.max_steps, size=study.size)
    results = {}
    for part, measure in PARTS.items():
        file = options.runs / f"parts/{part}.json"
        if part in options.only:
            study.runs.train(study.needed(part), options.jobs)
            start = time.perf_counter()
            found = measure(study) | facts
            found |= dict(seconds_taken=time.perf_counter() - start, certificate=birth_certificate("make compare"))
            found["runs"] = {run.name: study.runs.birth(run) for run in study.needed(part)}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if file.is_file():
            results[part] = json.loads(file.read_text(encoding="utf-8"))
    names = {part: f"figures/vit_vs_cnn_{part}.png" for part in results}
    for part, name in names.items():
        DRAW[part](results[part], options.page.parent / name)
    options.page.write_text(page(results, names), encoding="utf-8")
    measured = options.page.with_name("results.md")
    if "efficiency" in results and measured.is_file():
        text = measured.read_text(encoding="utf-8").partition(LEARNING)[0]
        measured.write_text(text + learning(results), encoding="utf-8")
    print(f"The page: {options.page}")
    return options.page


if __name__ == "__main__":
    main()
