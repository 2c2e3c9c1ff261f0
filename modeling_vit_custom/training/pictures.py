"""Examples with predictions beside the truth, as pictures: one function for each task, and `below` to stack them.

L labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageColor
from PIL import ImageDraw
from PIL import ImageFont

GAP, LINE = 4, 14  # pixels between panels, and of a line of text
PAPER, INK, HIDDEN = "white", "black", "gray"
RIGHT, WRONG = "green", "firebrick"
# A strong and a pale one of each of ten colours: Tableau's.
COLORS = """1f77b4 aec7e8 ff7f0e ffbb78 2ca02c 98df8a d62728 ff9896 9467bd c5b0d5
8c564b c49c94 e377c2 f7b6d2 7f7f7f c7c7c7 bcbd22 dbdb8d 17becf 9edae5""".split()


def color_of(index: int) -> tuple[int, int, int]:
    """Of a class: ten strong colours, ten pale ones, then again."""
    red, green, blue = bytes.fromhex(COLORS[2 * index % 20 + index // 10 % 2])
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


def text_lines(lines: Sequence[str], width: int) -> Image.Image:
    """Lines of text on paper, as wide as they need or as told."""
    width = max([width, *(round(font().getlength(line)) + GAP for line in lines)])
    paper = Image.new("RGB", (width, max(1, len(lines)) * LINE), PAPER)
    draw = ImageDraw.Draw(paper)
    for row, line in enumerate(lines):
        draw.text((2, row * LINE), line, fill=INK, font=font())
    return paper


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=10)


def as_list(values: Any) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)
