"""Measure what the README claims, and write docs/results.md and the README's table from it.

    make results

Sizes of every preset; its largest difference from timm's and transformers' model as docs/parity.md has it (`make
test-matrix`); and the quickstart over several seeds. And which presets have a twin there, into docs/twins.md. Takes
minutes on two cores.
"""

import argparse
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

import torch

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.configuration_checks import pair
from modeling_vit_custom.conversion import twin_rows
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from modeling_vit_custom.inspection.comparing_page import LEARNING
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train

ROOT = Path(__file__).parent.parent
FIRST_SCREEN = (
    "vit_tiny_patch16_224",
    "vit_base_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pit_s_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3_qkvb",
    "vit_base_patch32_clip_quickgelu_224",
    "tutorial_vit",
)
SEEDS = (0, 1, 2)
HEAD = "| preset | parameters | GMACs | difference from timm | from transformers |\n|---|---:|---:|---:|---:|\n"


def main(argv: list[str] | None = None):
    parse(argv)
    rows = {path.stem: preset_row(path) for path in sorted((ROOT / "configs/models").glob("*.json"))}
    accuracies, seconds = zip(*(quickstart(seed) for seed in SEEDS), strict=True)
    learned = (
        f"`make quickstart` (scikit-learn's digits, from scratch): **{accuracies[0]:.2%}** of 360 held-out images in "
        f"{seconds[0]:.0f} s; seeds {', '.join(map(str, SEEDS))}: {', '.join(f'{a:.2%}' for a in accuracies)}."
    )
    certificate = birth_certificate("make results")
    birth = "".join(f"- {name}: {value}\n" for name, value in certificate.items())
    explained = (
        "The last two columns: the largest difference of any hidden state, output or gradient of the pixels, relative "
        "to its largest value, in float64 with equal random weights; for presets up to the base size, where the "
        "library has the model. They come from [parity at full size](parity.md), which has versions and float32 too.\n"
    )
    page = ROOT / "docs/results.md"
    compared = page.read_text().partition(LEARNING)  # by `make compare`
    page.write_text(
        f"# Results\n\nWritten by `make results`.\n\n{birth}\n## Sizes and parity\n\n{explained}\n{HEAD}"
        f"{''.join(rows.values())}\n## Quickstart\n\n{learned}\n" + "".join(compared[1:])
    )
    first_screen = HEAD + "".join(rows[name] for name in FIRST_SCREEN) + f"\n{learned}\n"
    readme = (ROOT / "README.md").read_text()
    marked = r"(<!-- results -->\n).*?(<!-- end of results -->)"
    note = "\n<sub>Difference: of the worst hidden state, output or pixel gradient, relative to its largest value, in "
    note += (
        "float64 at equal random weights, native and other sizes ([versions and all pairs](docs/parity.md); DINOv3's "
    )
    note += "two libraries differ from each other as much). "
    note += f"{certificate['hardware']}; {certificate['versions']}; commit {certificate['commit']}; "
    note += f"`{certificate['command']}`; [all {len(rows)} presets](docs/results.md).</sub>\n"
    table = first_screen + note
    (ROOT / "README.md").write_text(re.sub(marked, lambda m: m[1] + table + m[2], readme, flags=re.DOTALL))
    print((ROOT / "docs/results.md").read_text())
    write_twins()


def preset_row(path: Path) -> str:
    config = ViTCustomConfig.from_pretrained(path)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    sizes = f"{count_parameters(model):,} | {count_macs(model, 1, 3, *pair(config.image_size)) / 1e9:.4f}"
    found = dict.fromkeys(("timm", "transformers"), "-")
    measured = (ROOT / "docs/parity.md").read_text()
    pattern = rf"^\| {path.stem} \| (timm|transformers)-\S+ \| [^|]+ \| (\S+) \|"
    found |= dict(re.findall(pattern, measured, flags=re.MULTILINE))
    return f"| {path.stem} | {sizes} | {found['timm']} | {found['transformers']} |\n"


def write_twins():
    """The table of docs/twins.md."""
    page = ROOT / "docs/twins.md"
    made = " and ".join(f"{name} {version(name)}" for name in ("transformers", "timm"))
    table = f"With {made}; written by `make results`.\n\n{twin_table()}"
    marked = r"(<!-- twins -->\n).*?(<!-- end of twins -->)"
    page.write_text(re.sub(marked, lambda m: m[1] + table + m[2], page.read_text(), flags=re.DOTALL))


def twin_table() -> str:
    presets = sorted((ROOT / "configs/models").glob("*.json")) + sorted((ROOT / "configs/models/heads").glob("*.json"))
    rows = "".join(f"| {' | '.join(row)} |\n" for row in twin_rows(presets))
    return f"| preset | in transformers | in timm | why not |\n|---|---|---|---|\n{rows}"


def quickstart(seed: int) -> tuple[float, float]:
    """(accuracy, seconds) of the quickstart's recipe."""
    recipe = read_recipe(ROOT / "configs/recipes/quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder:
        recipe.training.seed, recipe.training.output_dir = seed, folder
        trained = train(recipe)
    return trained.metrics["accuracy"], trained.seconds


if __name__ == "__main__":
    main()
