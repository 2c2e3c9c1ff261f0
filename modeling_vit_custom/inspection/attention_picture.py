"""Where a model looked, drawn on the picture that it saw.

K heads, h w grid, H W pixels.
"""

import torch
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from torch import nn

WIDE, NARROW = 280, 138  # pixels of a panel, and at most of one of a head
MOST = 8  # heads in a row
LINE, GAP = 16, 4
PAPER, INK = "white", "black"
# From dark to light, so that also a print without colours shows it: anchors of the scale "inferno".
SCALE = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
VEIL = 0.35  # of the picture in a panel: its shapes stay visible below the colours


def draw_attention(
    image: Image.Image, attention: torch.Tensor, rolled: torch.Tensor, title: str = "attention", answer: str = "picture"
) -> Image.Image:
    """The picture; the mean of the heads; the rollout; and each head below. The lightest place of a panel is its
    maximum: panels show where, not how much.

    Args:
        image: as the model saw it, after its processor's resizing and cropping.
        attention: (K, h, w), of one layer.
        rolled: (h, w), by `rollout`.
        title: above the mean of the heads.
        answer: above the picture.
    """
    shown = image.convert("RGB")
    panels = [shown, overlaid(shown, attention.mean(0)), overlaid(shown, rolled)]
    rows = [row_of(panels, [answer, title, "rollout over all layers"], WIDE)]
    heads, lines = [overlaid(shown, head) for head in attention], -(-len(attention) // MOST)
    in_row = -(-len(heads) // lines)
    width = min(NARROW, (rows[0].width + GAP) // in_row - GAP)
    for start in range(0, len(heads), in_row):
        some = heads[start : start + in_row]
        rows.append(row_of(some, [f"head {start + number}" for number in range(len(some))], width))
    paper = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP for row in rows) - GAP), PAPER)
    top = 0
    for row in rows:
        paper.paste(row, (0, top))
        top += row.height + GAP
    return paper


def overlaid(image: Image.Image, values: torch.Tensor) -> Image.Image:
    """(h, w) -> a picture of the image's size: values as colours over the picture."""
    size = (image.height, image.width)
    grown = nn.functional.interpolate(values.float().cpu()[None, None], size=size, mode="bicubic", antialias=True)[0, 0]
    grown = grown.clamp(min=0)
    colours = scaled(grown / grown.max().clamp(min=1e-12))
    heat = Image.fromarray(colours.round().byte().numpy())
    return Image.blend(heat, image, VEIL)


def scaled(shares: torch.Tensor) -> torch.Tensor:
    """(H, W), from 0 to 1 -> (H, W, 3), from 0 to 255: between the anchors of the scale."""
    anchors = torch.tensor(SCALE, dtype=torch.float32)
    place = shares * (len(SCALE) - 1)
    lower = place.floor().clamp(max=len(SCALE) - 2).long()
    part = (place - lower)[..., None]
    return anchors[lower] * (1 - part) + anchors[lower + 1] * part


def row_of(panels: list[Image.Image], titles: list[str], width: int) -> Image.Image:
    """Panels of one size in a row, each below its title."""
    height = round(width * panels[0].height / panels[0].width)
    row = Image.new("RGB", (len(panels) * (width + GAP) - GAP, LINE + height), PAPER)
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=11)
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = number * (width + GAP)
        draw.text((left, 1), title, fill=INK, font=font)
        row.paste(panel.resize((width, height), Image.Resampling.BICUBIC), (left, LINE))
    return row
