"""Time one member of each family beside transformers' and timm's own model, and write docs/speed.md.

    make speed

Every row is one run in which the contenders take turns, with equal weights and inputs; what counts is the ratio of
their times, round by round. Takes some 8 minutes on two cores, which should have nothing else to do.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

ROOT = Path(__file__).parent.parent
# Preset, and images in a batch: some seconds a step on two cores.
MEMBERS = {
    "vit_small_patch16_224": 8,
    "deit_small_distilled_patch16_224": 8,
    "deit3_small_patch16_224": 8,
    "swin_tiny_patch4_window7_224": 4,
    "pit_s_224": 8,
    "vit_small_patch14_reg4_dinov2": 1,
    "vit_small_patch16_dinov3_qkvb": 8,
    "vit_base_patch32_clip_quickgelu_224": 8,
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(MEMBERS), help=f"of {', '.join(MEMBERS)}; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed.md")
    args = parser.parse_args(argv)
    if unknown := set(args.presets) - MEMBERS.keys():
        parser.error(f"no batch size is known for {', '.join(sorted(unknown))}: choose of {', '.join(MEMBERS)}")
    return args


if __name__ == "__main__":
    listen(parse)

import torch
from torch import nn

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_checks import pair
from modeling_vit_custom.conversion import peer
from modeling_vit_custom.inspection import birth_certificate
from modeling_vit_custom.inspection import interleaved
from modeling_vit_custom.inspection import ratio

LIBRARIES = ("transformers", "timm")
HEAD = "| preset | batch | what | ours, ms | transformers | timm | ours / faster peer |\n" + "|---" * 7 + "|\n"


def main(argv: list[str] | None = None):
    args = parse(argv)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = []
    for name in args.presets:
        rows += member_rows(name, MEMBERS[name], args.rounds)
        print(*rows[-4:], sep="", end="", flush=True)
    birth = "".join(f"- {key}: {value}\n" for key, value in birth_certificate("make speed").items())
    args.output.write_text(
        f"# Speed\n\nWritten by `make speed`.\n\n{birth}- threads: {torch.get_num_threads()}\n- rounds: {args.rounds}\n"
        "\nThe contenders have equal weights and take turns, in float32. Times are medians; the last column is the "
        "median of the ratio round by round, and its quartiles. *forward*: one batch, no gradients. *training step*: "
        "forward and backward. *build*: the model from its configuration, with initial weights. *load*: "
        f"`from_pretrained` from a local folder; timm's loads are not compared.\n\n{HEAD}{''.join(rows)}"
    )


def member_rows(name: str, batch: int, rounds: int) -> list[str]:
    config = ViTCustomConfig.from_pretrained(ROOT / f"configs/models/{name}.json")
    ours = (ViTCustomForImageClassification if config.num_labels else ViTCustomModel)(config).eval()  # type: ignore[operator]
    models: dict[str, nn.Module] = {"ours": ours}
    for library in LIBRARIES:
        try:
            models[library] = peer(ours, library)[1]
        except ValueError as error:
            print(f"{name}: {error}", flush=True)
    pixels = torch.randn(batch, 3, *pair(config.image_size))
    own = {key: model for key, model in models.items() if key != "timm"}
    with tempfile.TemporaryDirectory() as folder:
        for key, model in own.items():
            model.save_pretrained(f"{folder}/{key}")  # type: ignore[operator]
        kinds: dict[str, dict[str, Callable]] = {
            "forward": {key: lambda model=model: forward(model, pixels) for key, model in models.items()},
            "training step": {key: lambda model=model: step(model, pixels) for key, model in models.items()},
            "build": {key: lambda model=model: type(model)(model.config) for key, model in own.items()},
            "load": {
                key: lambda key=key, model=model: type(model).from_pretrained(f"{folder}/{key}")  # type: ignore[attr-defined]
                for key, model in own.items()
            },
        }
        return [row(name, batch, kind, interleaved(tasks, rounds)) for kind, tasks in kinds.items()]


def answer(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, L) or (B, D): what each library's model is run for."""
    output = model(pixels)
    for name in ("logits", "pooler_output"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return output


@torch.no_grad()
def forward(model: nn.Module, pixels: torch.Tensor):
    answer(model, pixels)


def step(model: nn.Module, pixels: torch.Tensor):
    model.zero_grad()
    answer(model, pixels).square().mean().backward()


def row(name: str, batch: int, kind: str, seconds: dict[str, list[float]]) -> str:
    middle = {key: f"{1000 * statistics.median(values):,.1f}" for key, values in seconds.items()}
    peers = [key for key in seconds if key != "ours"]
    verdict = "-"
    if peers:
        fastest = min(peers, key=lambda key: statistics.median(seconds[key]))
        low, median, high = ratio(seconds, "ours", fastest)
        verdict = f"**{median:.3f}** ({low:.3f} to {high:.3f})"
    times = " | ".join(middle.get(key, "-") for key in ("ours", *LIBRARIES))
    return f"| {name} | {batch} | {kind} | {times} | {verdict} |\n"


if __name__ == "__main__":
    main()
