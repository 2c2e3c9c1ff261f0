"""Scenes composed from real cut-outs (Tux Paint's stamps) on photographs, with exact masks and boxes."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import DatasetDict
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value
from PIL import Image as PILImage

from ..common import extra
from .building import held_out
from .building import kept
from .building import picture_bytes
from .building import subject
from .cutouts import Stamp
from .cutouts import read_stamps
from .packages import DATA_DIR
from .packages import find

IGNORED = 255  # in a mask: of an object that others hide by more than half
CLASSES = {  # folders of the stamps
    "bird": ["animals/birds/"],
    "mammal": ["animals/mammals/", "animals/marsupials/"],
    "food": ["food/fruit/", "food/vegetables/", "food/nuts/"],
    "flower": ["plants/flowers/"],
    "vehicle": ["vehicles/", "military/vehicles/"],
    "road sign": ["town/roadsigns/"],
}
# Stamps of these folders that are drawn, or show a part alone.
LEFT_OUT = ["/cartoon/", "/toys/", "/plastic/", "/echidna", "/hedgehog", "/7spoke", "/wheel_"]
# Photographs that show nothing of the classes.
PHOTOGRAPHS = [
    *(f"examples/data/{n}" for n in ("aero1.jpg", "board.jpg", "building.jpg", "leuvenA.jpg", "left.jpg", "stuff.jpg")),
    *(f"examples/data/{n}" for n in ("rubberwhale1.png", "aloeL.jpg", "ela_original.jpg")),
    *(f"examples/{n}" for n in ("hfs/data/001.jpg", "hfs/data/002.jpg", "text/scenetext04.jpg")),
    *(f"examples/text/scenetext_segmented_word0{n}.jpg" for n in (4, 5)),
    *(f"opencv4/html/{n}" for n in ("fusion_mertens.jpg", "fusion.png", "retina_TreeHdr_retina.jpg")),
    "opencv4/html/studentsSample_input.jpg",
]
FEATURES = Features(
    {
        "image_id": Value("int64"),
        "image": Image(),
        "width": Value("int32"),
        "height": Value("int32"),
        "mask": Image(),  # 0 background, class + 1, IGNORED
        "objects": {  # boxes as COCO has them: left, top, width, height in pixels, of the visible part
            "bbox": List(List(Value("float32"), length=4)),
            "category": List(ClassLabel(names=list(CLASSES))),
            "area": List(Value("int64")),
        },
        # Where the parts come from: nothing is in both splits.
        "background": Value("string"),
        "cutouts": List(Value("string")),
    }
)


@dataclass(frozen=True)
class Cutout:
    name: str
    category: int
    picture: PILImage.Image


def load_scenes(
    seed: int = 0,
    data_dir: Path = DATA_DIR,
    num_train: int = 2000,
    num_test: int = 400,
    size: int = 128,
    square: bool = True,
    max_objects: int = 4,
) -> DatasetDict:
    """`size` is the longer side; unless `square`, the other is between half of it and all of it.

    A quarter of the cut-outs of each class and of the photographs, drawn by `seed`, is for testing alone. A scene
    depends on the seed, its number and the settings of its size, not on how many there are.
    """
    data_dir = Path(data_dir)
    settings: dict[str, Any] = dict(size=size, square=square, max_objects=max_objects)
    build = partial(build_scenes, seed, data_dir, dict(train=num_train, test=num_test), **settings)
    counts = dict(seed=seed, num_train=num_train, num_test=num_test)
    return kept(data_dir, "scenes", settings | counts, build)


def build_scenes(seed: int, data_dir: Path, counts: dict[str, int], size: int, square: bool, max_objects: int):
    rng = np.random.default_rng(seed)
    stamps = [(stamp, category) for stamp in read_stamps(data_dir) if (category := category_of(stamp)) is not None]
    cutouts = [Cutout(stamp.name, category, stamp.picture()) for stamp, category in stamps]
    testing = np.zeros(len(cutouts), dtype=bool)
    for category in range(len(CLASSES)):
        rows = [row for row, cutout in enumerate(cutouts) if cutout.category == category]
        testing[rows] = held_out([subject(Path(cutouts[row].name).name) for row in rows], 0.25, rng)
    photographs = read_photographs(data_dir)
    testing_photographs = held_out(list(photographs), 0.25, rng)
    splits = {}
    for index, (split, count) in enumerate(counts.items()):
        own = [cutout for cutout, test in zip(cutouts, testing, strict=True) if test == bool(index)]
        behind = {n: p for (n, p), test in zip(photographs.items(), testing_photographs, strict=True) if test == index}
        scenes = []
        for number in range(count):
            drawn = np.random.default_rng([seed, index, number])
            width, height = size, size
            if not square:
                shorter = int(drawn.integers(size // 2, size + 1))
                width, height = (size, shorter) if drawn.random() < 0.5 else (shorter, size)
            scenes.append({"image_id": number, **compose(drawn, own, behind, width, height, max_objects)})
        splits[split] = Dataset.from_list(scenes, features=FEATURES)
    return DatasetDict(splits)


def category_of(stamp: Stamp) -> int | None:
    if any(part in stamp.name for part in LEFT_OUT):
        return None
    fitting = [index for index, folders in enumerate(CLASSES.values()) if stamp.name.startswith(tuple(folders))]
    return fitting[0] if fitting else None


def read_photographs(data_dir: Path) -> dict[str, PILImage.Image]:
    """Of opencv-doc and scikit-learn, at most 800 pixels wide and high."""
    root = find("opencv-doc", "usr/share/doc/opencv-doc", data_dir)
    files = {name: root / name for name in PHOTOGRAPHS}
    with extra("study", "The scenes need"):
        import sklearn.datasets

    files["china.jpg"] = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    photographs = {}
    for name, file in files.items():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: delete its package's folder and run `make data`.")
        photographs[name] = PILImage.open(file).convert("RGB")
        photographs[name].thumbnail((800, 800), PILImage.Resampling.LANCZOS)
    return photographs


def compose(
    rng: np.random.Generator,
    cutouts: list[Cutout],
    photographs: dict[str, PILImage.Image],
    width: int,
    height: int,
    max_objects: int,
) -> dict[str, Any]:
    """A part of a photograph, on it none to `max_objects` cut-outs, classes equally often; later ones hide earlier."""
    background = list(photographs)[rng.integers(len(photographs))]
    scene = part_of(photographs[background], width, height, rng)
    owner = np.full((height, width), -1)  # of each pixel: the cut-out seen there
    placed: list[Cutout] = []
    whole = []
    classes = sorted({cutout.category for cutout in cutouts})
    for number in range(int(rng.integers(max_objects + 1))):
        category = classes[rng.integers(len(classes))]
        of_class = [cutout for cutout in cutouts if cutout.category == category]
        cutout = of_class[rng.integers(len(of_class))]
        picture = cutout.picture
        scale = min(width, height) * rng.uniform(0.3, 0.7) / max(picture.size)
        w, h = (max(4, round(side * scale)) for side in picture.size)
        picture = picture.resize((w, h), PILImage.Resampling.LANCZOS)
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        scene.paste(picture, (x, y), picture)
        opaque = np.asarray(picture.getchannel("A")) > 127
        owner[y : y + h, x : x + w][opaque] = number
        placed.append(cutout)
        whole.append(int(opaque.sum()))
    mask = np.zeros((height, width), dtype=np.uint8)
    objects: dict[str, list] = {"bbox": [], "category": [], "area": []}
    for number, cutout in enumerate(placed):
        seen = owner == number
        area = int(seen.sum())
        if 2 * area < whole[number] or not area:
            mask[seen] = IGNORED
            continue
        mask[seen] = cutout.category + 1
        rows, columns = seen.any(axis=1).nonzero()[0], seen.any(axis=0).nonzero()[0]
        left, top = int(columns[0]), int(rows[0])
        objects["bbox"].append([left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top])
        objects["category"].append(cutout.category)
        objects["area"].append(area)
    return {
        "image": picture_bytes(np.asarray(scene)),
        "width": width,
        "height": height,
        "mask": picture_bytes(mask),
        "objects": objects,
        "background": background,
        "cutouts": [cutout.name for cutout in placed],
    }


def part_of(photograph: PILImage.Image, width: int, height: int, rng: np.random.Generator) -> PILImage.Image:
    """A random part, at least half as large as can be, of the wanted shape."""
    scale = min(photograph.width / width, photograph.height / height) * rng.uniform(0.5, 1)
    w, h = int(width * scale), int(height * scale)
    x, y = int(rng.integers(photograph.width - w + 1)), int(rng.integers(photograph.height - h + 1))
    return photograph.resize((width, height), PILImage.Resampling.BICUBIC, box=(x, y, x + w, y + h))
