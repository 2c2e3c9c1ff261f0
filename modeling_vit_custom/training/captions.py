"""Pictures and words: Noto's emoji with their names, Tux Paint's stamps with a sentence each."""

import re
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value
from PIL import Image as PILImage
from PIL import ImageDraw
from PIL import ImageFont
from PIL import features as pillow_features

from .building import held_out
from .building import kept
from .building import picture_bytes
from .building import square_on_white
from .building import subject
from .cutouts import read_stamps
from .packages import DATA_DIR
from .packages import find

TEXT = Value("string")
EMOJI_FEATURES = Features(
    {
        "image": Image(),
        "caption": TEXT,
        "keywords": List(TEXT),
        "group": TEXT,
        "subgroup": TEXT,
        "emoji": TEXT,
        "concept": TEXT,
    }
)
STAMP_FEATURES = Features({"image": Image(), "caption": TEXT, "category": TEXT, "stamp": TEXT})
SELECTOR = "\ufe0f"  # asks for the colourful form; the annotations leave it out
WHO = re.compile(r"\b(man|woman|person|men|women|people|boy|girl|mrs?)(\u2019?s)?\b|:.*|[^\w ]", flags=re.IGNORECASE)


def load_emoji_captions(
    seed: int = 0, data_dir: Path = DATA_DIR, size: int = 64, test_share: float = 0.2
) -> DatasetDict:
    """Noto's emoji on white: name, CLDR's keywords, Unicode's group and subgroup.

    Without flags and skin tones. A man's, a woman's and a person's drawing of the same thing are one concept; a concept
    is in one split alone.
    """
    data_dir = Path(data_dir)
    settings: dict[str, Any] = dict(seed=seed, size=size, test_share=test_share)
    return kept(data_dir, "emoji_captions", settings, partial(build_emoji, data_dir, **settings))


def build_emoji(data_dir: Path, seed: int, size: int, test_share: float) -> DatasetDict:
    if not pillow_features.check("raqm"):
        raise RuntimeError("This Pillow draws a joined emoji as its parts: install one with raqm, as its wheels are.")
    font = ImageFont.truetype(
        find("fonts-noto-color-emoji", "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", data_dir), 109
    )  # the one size that its bitmaps have
    rows = read_emoji(find("unicode-data", "usr/share/unicode/emoji/emoji-test.txt", data_dir))
    keywords: dict[str, list[str]] = {}
    for folder in ("annotations", "annotationsDerived"):
        path = f"usr/share/unicode/cldr/common/{folder}/en.xml"
        keywords |= read_keywords(find("unicode-cldr-core", path, data_dir))
    for row in rows:
        canvas = PILImage.new("RGBA", (136, 136))  # an emoji has 136 x 128 pixels
        ImageDraw.Draw(canvas).text((0, 4), row["emoji"], font=font, embedded_color=True)
        row["image"] = picture_bytes(np.asarray(square_on_white(canvas, size)))
        row["keywords"] = keywords.get(row["emoji"].replace(SELECTOR, ""), [])
    return split(rows, [row["concept"] for row in rows], test_share, seed, EMOJI_FEATURES)


def read_emoji(path: Path) -> list[dict[str, Any]]:
    """Unicode's emoji-test.txt -> emoji, caption, group, subgroup and concept of each without flags and skin tones."""
    rows, group, subgroup = [], "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.removeprefix("# group:").strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.removeprefix("# subgroup:").strip()
        found = re.match(r"([0-9A-F ]+?) *; fully-qualified *# \S+ E[\d.]+ (.*)", line)
        if found and group != "Flags" and "skin tone" not in found[2]:
            emoji = "".join(chr(int(code, 16)) for code in found[1].split())
            row = {"emoji": emoji, "caption": found[2].strip(), "group": group, "subgroup": subgroup}
            rows.append({**row, "concept": concept_of(row["caption"])})
    return rows


def concept_of(caption: str) -> str:
    """`woman running`, `man running` -> `running`; `family: man, boy` -> `family`; a name of nothing else stays."""
    return " ".join(WHO.sub(" ", caption).lower().split()) or "person"


def read_keywords(path: Path) -> dict[str, list[str]]:
    """CLDR's annotations: emoji -> keywords."""
    return {
        str(node.get("cp")): [word.strip() for word in (node.text or "").split("|")]
        for node in ElementTree.parse(path).getroot().iter("annotation")
        if node.get("type") != "tts"
    }


def load_tuxpaint_captions(
    seed: int = 0, data_dir: Path = DATA_DIR, size: int = 128, test_share: float = 0.2
) -> DatasetDict:
    """Tux Paint's stamps on white with a sentence each; letters, numbers and other symbols left out.

    Stamps of one folder whose names begin alike are in one split alone.
    """
    data_dir = Path(data_dir)
    settings: dict[str, Any] = dict(seed=seed, size=size, test_share=test_share)
    return kept(data_dir, "tuxpaint_captions", settings, partial(build_stamps, data_dir, **settings))


def build_stamps(data_dir: Path, seed: int, size: int, test_share: float) -> DatasetDict:
    rows, groups = [], []
    for stamp in read_stamps(data_dir):
        if not stamp.name.startswith("symbols/"):
            pixels = np.asarray(square_on_white(stamp.picture(), size))
            category = stamp.name.split("/")[0]
            rows.append(dict(image=picture_bytes(pixels), caption=stamp.caption, category=category, stamp=stamp.name))
            groups.append(f"{Path(stamp.name).parent}/{subject(Path(stamp.name).name)}")
    return split(rows, groups, test_share, seed, STAMP_FEATURES)


def split(rows: list[dict], groups: list[str], test_share: float, seed: int, features: Features) -> DatasetDict:
    testing = held_out(groups, test_share, np.random.default_rng(seed))
    parts = {name: [rows[i] for i in (testing == test).nonzero()[0]] for name, test in (("train", 0), ("test", 1))}
    return DatasetDict({name: Dataset.from_list(part, features=features) for name, part in parts.items()})
