"""Measure what the README claims, and write docs/results.md and the README's table from it.

    make results

Sizes of every preset; the largest difference of its logits from timm's and transformers' at equal random weights; and
the quickstart over several seeds. Takes minutes on two cores.
"""

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import transformers
from torch import nn

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.configuration_vit_custom import pair
from modeling_vit_custom.conversion import from_timm
from modeling_vit_custom.conversion import from_transformers
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters
from modeling_vit_custom.training import read_recipe
from modeling_vit_custom.training import train

ROOT = Path(__file__).parent.parent
COMPARED = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch32_224", "vit_base_patch16_224")
SEEDS = (0, 1, 2)
HEAD = "| preset | parameters | GMACs | difference from timm | from transformers |\n|---|---:|---:|---:|---:|\n"


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    rows = {path.stem: preset_row(path) for path in sorted((ROOT / "configs/models").glob("*.json"))}
    accuracies, seconds = zip(*(quickstart(seed) for seed in SEEDS), strict=True)
    learned = (
        f"`make quickstart` (scikit-learn's digits, from scratch): **{accuracies[0]:.2%}** of 360 held-out images in "
        f"{seconds[0]:.0f} s; seeds {', '.join(map(str, SEEDS))}: {', '.join(f'{a:.2%}' for a in accuracies)}."
    )
    certificate = birth_certificate("make results")
    birth = "".join(f"- {name}: {value}\n" for name, value in certificate.items())
    explained = (
        "The last two columns: the largest difference of a logit, relative to the largest logit, in float64 with equal "
        "random weights (every parameter and LayerNorm), through our converter; one image of the preset's size. "
        "The same in float32, hidden states and gradients stand in `tests/test_conversion.py`.\n"
    )
    (ROOT / "docs/results.md").write_text(
        f"# Results\n\nWritten by `make results`.\n\n{birth}\n## Sizes and parity\n\n{explained}\n{HEAD}"
        f"{''.join(rows.values())}\n## Quickstart\n\n{learned}\n"
    )
    first_screen = HEAD + "".join(rows[name] for name in (*COMPARED, "tutorial_vit")) + f"\n{learned}\n"
    readme = (ROOT / "README.md").read_text()
    marked = r"(<!-- results -->\n).*?(<!-- end of results -->)"
    note = "\n<sub>Difference: of the worst logit, relative to the largest, in float64 at equal random weights. "
    note += f"{certificate['hardware']}; torch {torch.__version__}, transformers {transformers.__version__}, "
    note += f"timm {timm.__version__}; commit {certificate['commit']}; `{certificate['command']}`; "
    note += "[all presets](docs/results.md).</sub>\n"
    table = first_screen + note
    (ROOT / "README.md").write_text(re.sub(marked, lambda m: m[1] + table + m[2], readme, flags=re.DOTALL))
    print((ROOT / "docs/results.md").read_text())


def preset_row(path: Path) -> str:
    config = ViTCustomConfig.from_pretrained(path)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    sizes = f"{count_parameters(model):,} | {count_macs(model, 1, 3, *pair(config.image_size)) / 1e9:.4f}"
    differences = ["-", "-"]
    if path.stem in COMPARED:
        side = pair(config.image_size)[0]
        theirs = transformers.ViTForImageClassification(transformers_config(config))
        makers: list[tuple[nn.Module, Callable]] = [
            (timm.create_model(path.stem), from_timm),
            (theirs, from_transformers),
        ]
        differences = [f"{relative_difference(source, convert, side):.1g}" for source, convert in makers]
    print(f"{path.stem}: {sizes}, {differences}", flush=True)
    return f"| {path.stem} | {sizes} | {differences[0]} | {differences[1]} |\n"


def transformers_config(config: ViTCustomConfig) -> transformers.ViTConfig:
    stage = config.stages[0]
    theirs = transformers.ViTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=stage.hidden_size,
        num_hidden_layers=stage.depth,
        num_attention_heads=stage.num_attention_heads,
        intermediate_size=stage.intermediate_size,
        layer_norm_eps=config.layer_norm_eps,
        id2label=config.id2label,
    )
    theirs._attn_implementation = "sdpa"  # its eager softmax is in float32 even in a float64 model
    return theirs


@torch.no_grad()
def relative_difference(source: nn.Module, convert: Callable, side: int) -> float:
    """The largest difference of our logits from the source's, with every parameter drawn anew, in float64."""
    torch.manual_seed(0)
    for parameter in source.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    source = source.double().eval()
    expected, ours = source(images), convert(source).eval()(images).logits
    expected = expected if isinstance(expected, torch.Tensor) else expected.logits
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def quickstart(seed: int) -> tuple[float, float]:
    """(accuracy, seconds) of the quickstart's recipe."""
    recipe = read_recipe(ROOT / "configs/recipes/quickstart.yaml")
    with tempfile.TemporaryDirectory() as folder:
        recipe.training.seed, recipe.training.output_dir = seed, folder
        trained = train(recipe)
    return trained.metrics["eval_accuracy"], trained.seconds


if __name__ == "__main__":
    main()
