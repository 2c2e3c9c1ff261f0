"""Examples with predictions beside the truth, as pictures: one function for each task, and `below` to stack them; and
what a classifier confuses and how far its confidence is right.

L labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL import ImageColor
from PIL import ImageDraw
from PIL import ImageFont

GAP, LINE = 4, 14  # pixels between panels, and of a line of text
PAPER, INK, HIDDEN = "white", "black", "gray"
RIGHT, WRONG = "green", "firebrick"
MOST_LINES, MOST_MARKED = 10, 60  # lines of metrics in one panel, and points of a line that are marked
MOST_NAMES, MOST_COUNTS = 50, 20  # classes whose names, and whose counts, can be read beside a confusion matrix


def color_of(index: int) -> tuple[int, int, int]:
    """Of a class: ten strong colours, ten pale ones, then again."""
    red, green, blue = (round(255 * value) for value in colormaps["tab20"](2 * index % 20 + index // 10 % 2)[:3])
    return red, green, blue


def draw_segmentation(
    image: Image.Image, truth: Any, prediction: Any, names: Sequence[str], ignore_index: int = 255
) -> Image.Image:
    """Image, true classes and predicted classes (two maps of the image's size), the names of those seen below.

    What is ignored in the truth is white in both maps.

    Raises:
        ValueError: a map of another size than the image.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    for name, values in (("truth", truth), ("prediction", prediction)):
        if values.shape != image.size[::-1]:
            raise ValueError(
                f"The {name} is a map of {values.shape}, but the image has {image.size[::-1]} rows and columns: "
                "give `target_sizes` when post-processing."
            )
    ignored = truth == ignore_index
    panels, seen = [image.convert("RGB")], set()
    for values in (truth, prediction):
        pixels = np.empty((*values.shape, 3), dtype=np.uint8)
        for index in np.unique(values[~ignored]).tolist():
            pixels[values == index] = color_of(index)
            seen.add(index)
        pixels[ignored] = ImageColor.getrgb(PAPER)
        panels.append(Image.fromarray(pixels))
    legend = [(names[index], color_of(index)) for index in sorted(seen)]
    return below([beside(panels, ["image", "truth", "prediction"]), *lines_of(legend, 3 * image.width + 2 * GAP)])


def draw_detection(
    image: Image.Image, objects: dict[str, Any], found: dict[str, Any], names: Sequence[str], threshold: float = 0.5
) -> Image.Image:
    """True boxes (`bbox` [left, top, width, height], `category`: COCO) beside the boxes found.

    `found` is what post_process_object_detection gives for the image: `boxes` [left, top, right, bottom] in pixels,
    `labels`, `scores`; those that score less than `threshold` are left out.
    """
    truth, prediction = image.convert("RGB"), image.convert("RGB")
    for (left, top, width, height), category in zip(objects["bbox"], objects["category"], strict=True):
        draw_box(truth, (left, top, left + width, top + height), names[category], color_of(category))
    columns = (as_list(found[key]) for key in ("boxes", "labels", "scores"))
    for box, label, score in sorted(zip(*columns, strict=True), key=lambda row: row[2]):
        if score >= threshold:
            draw_box(prediction, box, f"{names[label]} {score:.2f}", color_of(label))
    return beside([truth, prediction], ["truth", f"prediction >= {threshold:g}"])


def draw_box(picture: Image.Image, box: Sequence[float], text: str, color: tuple[int, int, int]):
    """The outline lies on the first and last pixels that belong to the box [left, top, right, bottom)."""
    left, top, right, bottom = (round(value) for value in box)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color)
    draw.rectangle((left, top, left + font().getlength(text) + 3, top + LINE - 2), fill=color)
    draw.text((left + 2, top), text, fill=PAPER, font=font())


def draw_masked(image: Image.Image, mask: Any, reconstruction: Image.Image | np.ndarray) -> Image.Image:
    """Image, what the model sees, and its reconstruction where it was masked.

    `mask` (h, w) is 1 for a masked patch; the patches divide the image evenly. `reconstruction` has the image's size.
    """
    image = image.convert("RGB")
    whole = np.asarray(mask, dtype=bool)
    if image.height % whole.shape[0] or image.width % whole.shape[1]:
        raise ValueError(f"A mask of {whole.shape} patches does not divide an image of {image.size[::-1]} pixels.")
    pixels = whole.repeat(image.height // whole.shape[0], 0).repeat(image.width // whole.shape[1], 1)
    if isinstance(reconstruction, np.ndarray):
        reconstruction = Image.fromarray(reconstruction)
    stencil = Image.fromarray(pixels.astype(np.uint8) * 255)
    seen = Image.composite(Image.new("RGB", image.size, HIDDEN), image, stencil)
    filled = Image.composite(reconstruction.convert("RGB"), image, stencil)
    return beside([image, seen, filled], ["image", "seen", "reconstructed"])


def draw_retrieval(image: Image.Image, captions: Sequence[str], correct: str, width: int = 320) -> Image.Image:
    """The image beside the captions found for it, best first; the right one is green and marked, wrong ones are red.

    Where none is right, the right one stands below them in black.
    """
    lines = [(f"{'+' if caption == correct else '-'} {caption}", caption == correct) for caption in captions]
    picture = Image.new("RGB", (image.width + GAP + width, max(image.height, (len(lines) + 1) * LINE)), PAPER)
    picture.paste(image.convert("RGB"), (0, 0))
    draw = ImageDraw.Draw(picture)
    for row, (line, right) in enumerate(lines):
        draw.text((image.width + GAP, row * LINE), line, fill=RIGHT if right else WRONG, font=font())
    if correct not in captions:
        draw.text((image.width + GAP, len(lines) * LINE), f"  right: {correct}", fill=INK, font=font())
    return picture


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


def beside(panels: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Panels of one size in a row, each below its title."""
    width, height = panels[0].size
    picture = Image.new("RGB", (len(panels) * (width + GAP) - GAP, LINE + height), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        draw.text((index * (width + GAP), 0), title, fill=INK, font=font())
        picture.paste(panel, (index * (width + GAP), LINE))
    return picture


def below(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a column, as wide as the widest."""
    heights = [picture.height + GAP for picture in pictures]
    column = Image.new("RGB", (max(picture.width for picture in pictures), sum(heights) - GAP), PAPER)
    for index, picture in enumerate(pictures):
        column.paste(picture, (0, sum(heights[:index])))
    return column


def lines_of(legend: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> list[Image.Image]:
    """A legend as lines of at most `width` pixels: a patch of colour and a name, and so on."""
    lines: list[Image.Image] = []
    x = width
    for name, color in legend:
        needed = LINE + round(font().getlength(name)) + 2 * GAP
        if x + needed > width:
            lines.append(Image.new("RGB", (width, LINE), PAPER))
            x = 0
        draw = ImageDraw.Draw(lines[-1])
        draw.rectangle((x, 2, x + LINE - 5, LINE - 3), fill=color)
        draw.text((x + LINE, 0), name, fill=INK, font=font())
        x += needed
    return lines


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=10)


def as_list(values: Any) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)
