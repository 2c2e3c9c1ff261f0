"""Measure what training costs beside the model: Trainer's step beside a bare loop's, and pictures prepared a second
beside pictures trained on; into docs/training_speed.md.

    make training-speed

Trainer and the bare loop take turns, step by step, in one run: the same model, pictures, collator and optimizer.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

ROOT = Path(__file__).parent.parent
SMALL: dict[str, Any] = dict(image_size=28, patch_size=7, hidden_sizes=[96], depths=[4], num_attention_heads=[4])
MODELS = {"as in the recipes, 28 px": (SMALL, 64)}
PRESETS = {"deit_tiny_patch16_224": 8}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--page", type=Path, default=ROOT / "docs/training_speed.md")
    parser.add_argument("--models", nargs="+", default=[*MODELS, *PRESETS])
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import ratio
from modeling_vit_custom.training import time_training

PAGE = """# What training costs beside the model

**Trainer beside a bare loop**: the same model, pictures, collator, optimizer, clipping and schedule, taking turns step
by step in one run, in float32, pictures decoded and augmented in the same process. The ratio is the median over {steps}
steps of Trainer's time over the bare loop's in the same turn, and its quartiles; the aim is at most 1.05.

**Pictures**: decoded (JPEG of 320 x 320 pixels), augmented (RandAugment, random crop, flip, erasing) and resized by one
core, beside what the model trains on with one core. Where the first is less than the second, one worker cannot keep
ahead of the model; after training ViTCustomTrainer says how long the model had to wait.

| model | batch | Trainer, ms | bare loop, ms | ratio | prepared, 1/s | trained on, 1/s | workers for a core of model |
|---|---:|---:|---:|---|---:|---:|---:|
{rows}
<sub>{hardware}; {versions}; commit {commit}; `make training-speed`.</sub>
"""


def main(argv: list[str] | None = None) -> Path:
    arguments = parse(argv)
    table = []
    for name in arguments.models:
        if name in MODELS:
            settings, batch = MODELS[name]
            config = ViTCustomConfig(**settings)
        else:
            config, batch = ViTCustomConfig.from_pretrained(ROOT / f"configs/models/{name}.json"), PRESETS[name]
        config.id2label, config.problem_type = {0: "temple", 1: "flower"}, "single_label_classification"
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_training(config, batch, arguments.steps, folder)
        table.append(row(name, batch, seconds))
        print(table[-1], flush=True)
    certificate = birth_certificate("make training-speed")
    arguments.page.write_text(
        PAGE.format(steps=arguments.steps, rows="\n".join(table), **certificate), encoding="utf-8"
    )
    return arguments.page


def row(name: str, batch: int, seconds: dict[str, list[float]]) -> str:
    low, middle, high = ratio(seconds, "trainer", "bare")
    trainer, bare = (statistics.median(seconds[key]) for key in ("trainer", "bare"))
    prepared = 1 / seconds["picture"][0]
    trained = 1 / (bare / batch - seconds["picture"][0])
    return (
        f"| {name} | {batch} | {1000 * trainer:.1f} | {1000 * bare:.1f} | **{middle:.3f}** ({low:.3f} to {high:.3f}) | "
        f"{prepared:.0f} | {trained:.0f} | {trained / prepared:.2f} |"
    )


if __name__ == "__main__":
    main()
