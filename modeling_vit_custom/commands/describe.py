"""Say what a model costs, from its configuration alone: nothing is built, so the largest takes no time.

    vit-custom describe swin_tiny_patch4_window7_224 --training --memory 16GiB

Multiply-accumulates and memory are for one batch. Memory is what torch's CPU kernels hold in tensors; gradients of
activations on their way, kernels' work space and what an allocator rounds up come on top: allow some 5 %.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import ViTCustomConfig
from ..common import extra
from ..configuration_checks import pair
from ..configuration_presets import list_presets
from ..inspection import Run
from ..inspection import cost
from ..inspection import largest
from ..inspection import memory
from ..inspection import total
from ..training.naming import inside_run
from .options import argument
from .options import option

MIB, GIB = 2**20, 2**30
SIDES = range(224, 2241, 224)  # which the patches and windows of most presets divide, so that nothing is padded
COLOURS = ("#0072B2", "#D55E00")  # blue and vermilion of Okabe and Ito, which all eyes tell apart


@dataclass
class Options:
    config: str = argument("a preset's name, a JSON file, a checkpoint's folder or a Hub id")
    image_size: list[int] | None = option(None, "the configuration's if not given", nargs=2, metavar=["H", "W"])
    batch: int = option(1, "images at once")
    dtype: str = option("float32", "of weights and images", choices=["float64", "float32", "bfloat16", "float16"])
    attention: str = option("sdpa", "the back-end", choices=["sdpa", "eager"])
    training: bool = option(False, "memory of a step with AdamW, rather than of inference")
    checkpointing: bool = option(False, "each layer is run again in the backward pass")
    memory: str | None = option(None, "find the largest batch and image: 16GiB", metavar="SIZE")
    plot: Path | None = option(None, "draw how the cost grows with the image: .svg, .png", metavar="FILE")
    against: str | None = option(None, "another model in the same picture", metavar="CONFIG")


def num_bytes(text: str) -> float:
    """Bytes of a text like 16GiB."""
    found = re.fullmatch(r"(\d+\.?\d*) *([MGT])(i?)B", text)
    if found is None:
        raise ValueError(f"{text!r} is no size of a memory: write a number and a unit, as in 16GiB.")
    return float(found[1]) * (1024 if found[3] else 1000) ** (" MGT".index(found[2]) + 1)


def read(name: str) -> ViTCustomConfig:
    """The configuration of a preset, or in a file, a folder or a Hub repository."""
    if name in list_presets():
        return ViTCustomConfig.from_preset(name)
    try:
        return ViTCustomConfig.from_pretrained(name if name.endswith(".json") else inside_run(name))
    except OSError as error:
        raise ValueError(
            f"There is no configuration at {name}: give a preset, a JSON file, a folder or a Hub id."
        ) from error


def main(options: Options):
    available = None if options.memory is None else num_bytes(options.memory)
    run = Run(options.batch, getattr(torch, options.dtype), options.attention, options.checkpointing)
    if options.batch < 1:
        raise ValueError(f"`--batch` {options.batch} holds no image: make it at least 1.")
    config = read(options.config)
    image = pair(options.image_size or config.image_size)
    answer = table(config, image, run, options.training)
    print(f"{Path(options.config).stem}: {image[0]} x {image[1]} pixels, batch {run.batch_size}, {options.dtype}")
    print(answer)
    if available is not None:
        print(limits(config, image, run, options.training, available))
    if options.plot is not None:
        models = [options.config, *([options.against] if options.against else [])]
        draw(options.plot, {Path(name).stem: read(name) for name in models})
        print(f"\nThe picture: {options.plot}")


def table(config: ViTCustomConfig, image: tuple[int, int], run: Run, training: bool) -> str:
    """A line for each part, and the memory below."""
    costs = cost(config, image, run)
    whole = total(costs)
    lines = [f"{'':<36}{'parameters':>15}{'GMACs':>12}{'share':>8}{'kept MiB' if training else 'peak MiB':>12}"]
    names = {f"{where + ',':<12}{what}": part for (where, what), part in costs.items()}
    for name, part in (names | {"total": whole}).items():
        held = (part.kept if training else part.peak) / MIB
        share = part.macs / whole.macs
        lines.append(f"{name:<36}{part.parameters:>15,}{part.macs / 1e9:>12.4f}{share:>8.1%}{held:>12.1f}")
    needed = memory(config, image, run, training)
    rows = (needed | {"memory": sum(needed.values())}).items()
    return "\n".join([*lines, "", *(f"{name:<40}{size / MIB:>12,.1f} MiB" for name, size in rows)])


def limits(config: ViTCustomConfig, image: tuple[int, int], run: Run, training: bool, available: float) -> str:
    """The largest batch of these images, and the largest square image in this batch."""

    def fits(size: tuple[int, int], batch_size: int) -> bool:
        return sum(memory(config, size, run._replace(batch_size=batch_size), training).values()) <= available

    patch, stride = max(pair(config.patch_size)), max(pair(config.patch_stride or config.patch_size))
    batch = largest(lambda number: fits(image, number))
    rows = largest(lambda number: fits(pair(patch + (number - 1) * stride), run.batch_size))
    side = patch + (rows - 1) * stride
    answer = f"\nInto {available / GIB:,.2f} GiB fits\n  at {image[0]} x {image[1]} pixels: a batch of {batch}"
    return f"{answer}\n  at batch {run.batch_size}: " + (f"images of {side} x {side} pixels" if rows else "no image")


def draw(path: Path, models: dict[str, ViTCustomConfig]):
    """Multiply-accumulates against the image's side, and what part of them compares tokens with tokens."""
    with extra("plots", "A plot needs"):
        import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for (name, config), colour in zip(models.items(), COLOURS, strict=False):
        costs = [cost(config, side) for side in SIDES]
        macs = [total(parts).macs / 1e9 for parts in costs]
        compared = [sum(p.macs for (_, what), p in parts.items() if "products" in what) / 1e9 for parts in costs]
        growth = compared[-1] / compared[len(SIDES) // 2 - 1]
        left.plot(SIDES, macs, color=colour, marker=".", label=name)
        label = f"its attention products: x {growth:.0f} at twice the side"
        left.plot(SIDES, compared, color=colour, marker=".", linestyle=":", label=label)
        shares = [100 * part / whole for part, whole in zip(compared, macs, strict=True)]
        right.plot(SIDES, shares, color=colour, marker=".", label=name)
    ticks = [224, 448, 896, 1792]
    left.set(xscale="log", yscale="log", ylabel="GMACs for one image", title="Cost of an image")
    right.set(ylim=(0, 100), ylabel="share of all multiply-accumulates (%)", title="Share of the attention products")
    for axis in (left, right):
        axis.set(xlabel="side of a square image (pixels)", xticks=ticks, xticklabels=ticks)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8.5, loc="upper left")
    with pyplot.rc_context({"svg.hashsalt": "cost"}):  # the same drawing is the same file
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
