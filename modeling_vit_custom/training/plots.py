"""Figures as plots: what a classifier confuses, how far its confidence is right, and what a run logged.

matplotlib is an extra: importing this file without it is an ImportError that names the command.

L labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..common import extra
from .pictures import HIDDEN
from .pictures import INK
from .pictures import PAPER
from .pictures import WRONG

with extra("plots", "A plot needs"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

MOST_LINES, MOST_MARKED = 10, 60  # lines of metrics in one panel, and points of a line that are marked
MOST_NAMES, MOST_COUNTS = 50, 20  # classes whose names, and whose counts, can be read beside a confusion matrix


def draw_confusion(confusion: Any, names: Sequence[str]) -> Image.Image:
    """Counts (L, L), a row for each true class -> each cell in the shade of its share of the row, with its count."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12, 3.5 + 0.35 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=100)
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= MOST_COUNTS:
        for row, column in zip(*counts.nonzero(), strict=True):
            color = PAPER if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    return picture_of(figure)


def draw_history(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """Rows of figures by `step` -> a panel each for losses, metrics, learning rate and the norm of the gradients."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("step", "epoch")))
    single = [name for name in ("learning_rate", "grad_norm") if name in names]
    losses = [name for name in names if name.endswith("loss")]
    metrics = [name for name in names if name not in (*single, *losses)]
    panels: dict[str, list[str]] = {"loss": losses, "metrics": metrics[:MOST_LINES]}
    panels |= {name: [name] for name in single}
    panels = {title: lines for title, lines in panels.items() if lines}
    figure = Figure(figsize=(9, 0.4 + 2.2 * max(1, len(panels))), layout="constrained", dpi=100)
    for axes, (title, lines) in zip(
        figure.subplots(max(1, len(panels)), sharex=True, squeeze=False)[:, 0], panels.items(), strict=False
    ):
        for name in lines:
            points = [(row["step"], row[name]) for row in rows if name in row]
            marker = "o" if len(points) < MOST_MARKED else None
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=name)
        axes.set(ylabel=title.replace("_", " "))
        axes.grid(alpha=0.3)
        if lines != [title]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.axes[-1].set(xlabel="step")
    figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return picture_of(figure)


def draw_reliability(bins: dict[str, list], error: float) -> Image.Image:
    """Bins of confidence with `count`, mean `confidence` and `accuracy` -> accuracy by confidence, which are equal on
    the diagonal, above the share of images in each bin (Guo et al. 2017, figure 4)."""
    number = len(bins["count"])
    places = (np.arange(number) + 0.5) / number
    figure = Figure(figsize=(4.5, 5.5), layout="constrained", dpi=100)
    above, under = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    filled = [index for index in range(number) if bins["count"][index]]
    accuracy, confidence = ([bins[name][index] for index in filled] for name in ("accuracy", "confidence"))
    above.bar(places[filled], accuracy, width=1 / number, color="cornflowerblue", edgecolor=INK, label="accuracy")
    above.plot(confidence, accuracy, "o", color=WRONG, markersize=4, label="mean confidence")
    above.plot((0, 1), (0, 1), "--", color=HIDDEN, label="calibrated")
    above.set(ylabel="accuracy", ylim=(0, 1.03), title=f"expected calibration error {error:.4f}")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    under.bar(
        places, np.array(bins["count"]) / max(sum(bins["count"]), 1), width=1 / number, color=HIDDEN, edgecolor=INK
    )
    under.set(xlabel="confidence", ylabel="share of images", xlim=(0, 1), ylim=(0, 1))
    return picture_of(figure)


def picture_of(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
