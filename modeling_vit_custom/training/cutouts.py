"""Tux Paint's stamps: cut-out pictures with alpha, a sentence each."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .building import visible
from .packages import find


@dataclass(frozen=True)
class Stamp:
    file: Path
    name: str  # path below the stamps' folder, without its ending
    caption: str

    def picture(self) -> Image.Image:
        return visible(Image.open(self.file))


def read_stamps(data_dir: Path, min_side: int = 64) -> list[Stamp]:
    """Stamps whose longer side has `min_side` pixels or more, by name, without those that have no words."""
    root, stamps = find("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", data_dir), []
    for file in sorted(root.rglob("*.png")):
        text = file.with_suffix(".txt")
        if not text.is_file():
            continue
        with Image.open(file) as picture:  # reads the header alone
            if max(picture.size) < min_side:
                continue
        # The first line is English; the others are translations.
        caption = text.read_text(encoding="utf-8", errors="replace").split("\n")[0].strip()
        if caption:
            stamps.append(Stamp(file, file.relative_to(root).with_suffix("").as_posix(), caption))
    return stamps
