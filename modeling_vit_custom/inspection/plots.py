"""The figures of the comparison. Colours are Okabe's and Ito's, which all eyes tell apart, and every line has a marker
of its own. Error bars are the range over seeds, or over rounds of timing."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from statistics import median
from typing import Any

import matplotlib

from .comparing import relative
from .pixel_baselines import NAMES

matplotlib.use("Agg")
from matplotlib import pyplot

LABELS = {
    "vit": "plain ViT",
    "deit": "ViT, DeiT's recipe",
    "deit_distilled": "the same, distilled from the CNN",
    "pit": "PiT",
    "swin": "Swin",
    "resnet": "CNN (ResNet)",
    "resnet_deit": "CNN, DeiT's recipe",
}
REAL = {"ViT-S": "vit", "Swin-T": "swin", "PiT-S": "pit", "ResNet-50": "resnet"}
STYLES: dict[str, dict[str, Any]] = {
    "vit": dict(color="#0072B2", marker="o"),
    "deit": dict(color="#56B4E9", marker="s"),
    "deit_distilled": dict(color="#009E73", marker="D"),
    "pit": dict(color="#CC79A7", marker="v"),
    "swin": dict(color="#E69F00", marker="^"),
    "resnet": dict(color="#D55E00", marker="P"),
    "resnet_deit": dict(color="#000000", marker="X"),
}
GREY: dict[str, dict[str, Any]] = {
    "svm": dict(color="#666666", linestyle="--"),
    "knn": dict(color="#666666", linestyle=":"),
}


def panels(count: int, height: float = 4.0) -> tuple[Any, Sequence[Any]]:
    figure, axes = pyplot.subplots(1, count, figsize=(9.6, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    return figure, axes[0]


def line(axis: Any, places: Sequence[float], values: Sequence[Sequence[float]], middle: Callable = mean, **style: Any):
    """A mean a place, with the range of the values there."""
    means = [middle(one) for one in values]
    below = [centre - min(one) for centre, one in zip(means, values, strict=True)]
    above = [max(one) - centre for centre, one in zip(means, values, strict=True)]
    axis.errorbar(places, means, [below, above], capsize=3, **{"linewidth": 1.6, "markersize": 5, **style})


def legend(axis: Any, **settings: Any):
    axis.legend(**{"frameon": False, "fontsize": 8.5, **settings})


def save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def at_ticks(axis: Any, ticks: Sequence[float], name: str, scale: str = "log"):
    axis.set(xscale=scale, xlabel=name, xticks=ticks)
    axis.set_xticks([], minor=True)
    axis.set_xticklabels([f"{tick:,}" for tick in ticks])


def draw_efficiency(found: Mapping[str, Any], path: Path) -> Path:
    figure, (axis,) = panels(1, 4.6)
    sizes = found["sizes"]
    for name, by_size in found["accuracy"].items():
        values = [[100 * one for one in by_size[str(size)]] for size in sizes]
        line(axis, sizes, values, label=LABELS[name], **STYLES[name])
    for name, by_size in found["baselines"].items():
        values = [[100 * one for one in by_size[str(size)]] for size in sizes]
        line(axis, sizes, values, label=NAMES[name], **GREY[name])
    at_ticks(axis, sizes, "training images")
    axis.set(ylabel="accuracy on held-out images (%)", title="Equal parameters, equal compute, few images")
    legend(axis, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, path)


def draw_cost(found: Mapping[str, Any], path: Path) -> Path:
    figure, (left, right) = panels(2)
    ticks = found["timed_sides"]
    for name, model in REAL.items():
        gmacs = [one["all"] / 1e9 for one in found["macs"][name]]
        left.plot(found["sides"], gmacs, label=name, **{**STYLES[model], "markersize": 3})
        line(right, found["timed_sides"], found["seconds"][name], middle=median, label=name, **STYLES[model])
    left.set(yscale="log", ylabel="multiply-accumulates (billions)", title="Counted")
    right.set(yscale="log", ylabel="seconds, one image, one thread", title="Measured")
    for axis in (left, right):
        at_ticks(axis, ticks, "side of a square image (pixels)")
        legend(axis)
    return save(figure, path)


def draw_robustness(found: Mapping[str, Any], path: Path) -> Path:
    figure, axes = panels(len(found["strengths"]), 3.6)
    for axis, (corruption, strengths) in zip(axes, found["strengths"].items(), strict=True):
        for name, accuracy in found["accuracy"].items():
            shares = [relative(accuracy, corruption, index) for index in range(len(strengths))]
            left = [[100 * share for share in ones] for ones in ([1.0], *shares)]
            style: dict[str, Any] = {**STYLES[name], "markersize": 4}
            line(axis, [0, *strengths], left, label=LABELS[name], **style)
        axis.set(title=corruption, xlabel="strength", ylim=(0, 108))
    axes[0].set(ylabel="accuracy left of the clean one (%)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5
    )
    return save(figure, path)


def draw_locality(found: Mapping[str, Any], path: Path) -> Path:
    figure, (left, right) = panels(2)
    for when, style in (("initial", dict(color="#999999", marker="o")), ("trained", STYLES["vit"])):
        for shift, layers in enumerate(found["distance"][when]):
            offset = 0.08 * (shift - (len(found["distance"][when]) - 1) / 2) + (0.2 if when == "trained" else -0.2)
            places = [layer + 1 + offset for layer, heads in enumerate(layers) for _ in heads]
            values = [value for heads in layers for value in heads]
            label = f"a head of the ViT, {'trained' if when == 'trained' else 'untrained'}" if shift == 0 else None
            left.plot(places, values, linestyle="", markersize=4, alpha=0.7, label=label, **style)
    left.axhline(found["distance"]["uniform"], color="#666666", linestyle="--", label="looking everywhere alike")
    count = len(found["distance"]["trained"][0])
    at_ticks(left, range(1, count + 1), "layer", "linear")
    left.set(
        ylim=(0, 1.3 * found["distance"]["uniform"]),
        ylabel="mean attention distance (pixels)",
        title="How far attention looks",
    )
    names = []
    for name, radii in found["radius"].items():
        share = [index / max(1, len(radii["trained"]) - 1) for index in range(len(radii["trained"]))]
        line(right, share, list(radii["trained"].values()), label=LABELS[name], **STYLES[name])
        line(right, share, list(radii["initial"].values()), linestyle=":", alpha=0.5, **STYLES[name])
        names.append(name)
    right.set(
        ylim=(0, None), xlabel="depth (0: first layer or stem, 1: last)", ylabel="radius of the gradient (pixels)"
    )
    right.set(title="What the middle depends on (dotted: untrained)")
    for axis in (left, right):
        legend(axis, loc="lower right")
    return save(figure, path)


def draw_depth(found: Mapping[str, Any], path: Path) -> Path:
    figure, (left, right) = panels(2)
    for name, by_depth in found["accuracy"].items():
        values = [[100 * one for one in ones] for ones in by_depth.values()]
        line(left, [int(depth) for depth in by_depth], values, label=LABELS[name], **STYLES[name])
        macs = [found["macs"][name][depth] / 1e6 for depth in by_depth]
        line(right, macs, values, label=LABELS[name], **STYLES[name])
    ticks = sorted({int(depth) for by_depth in found["accuracy"].values() for depth in by_depth})
    at_ticks(left, ticks, "layers of attention, or convolutions after the stem")
    right.set(xlabel="million multiply-accumulates an image")
    for axis in (left, right):
        axis.set(ylabel="accuracy on held-out images (%)")
        legend(axis)
    return save(figure, path)


DRAW = {
    "efficiency": draw_efficiency,
    "cost": draw_cost,
    "robustness": draw_robustness,
    "locality": draw_locality,
    "depth": draw_depth,
}
