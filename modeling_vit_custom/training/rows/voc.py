"""Pascal VOC: an XML file for each picture, with corners of boxes; lists of splits in ImageSets/.

VOC counts pixels from 1 and a box holds both its corners: left = xmin - 1, width = xmax - xmin + 1. Many tools count
from 0 and leave the far corner out: so are the corners taken, of the whole data set, where one of them is 0.
"""

from pathlib import Path
from unicodedata import normalize
from xml.etree import ElementTree

from ..layouts import split_of
from .scene import File
from .scene import Scene
from .scene import Scenes
from .scene import is_picture
from .scene import same_size
from .scene import size_of
from .scene import split_in

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# "The PASCAL Visual Object Classes Challenge", in the order of the palette of its masks.
CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def voc_files(files: list[File]) -> list[File]:
    return [one for one in files if one.ending == ".xml" and b"<annotation" in one.path.read_bytes()[:2000]]


def lists_of(files: list[File], kind: str) -> dict[str, str]:
    """A picture's stem -> its split, by ImageSets/<kind>/<split>.txt; trainval.txt where there is no train.txt."""
    lists = {one.stem: one for one in files if one.parts[-3:-1] == ("ImageSets", kind) and one.ending == ".txt"}
    chosen = {name: split for name in lists if (split := split_of(name))}
    if "train" not in chosen.values() and "trainval" in lists:
        chosen = {name: split for name, split in chosen.items() if split not in ("val", "validation")}
        chosen["trainval"] = "train"
    found: dict[str, str] = {}
    for name, split in chosen.items():
        for line in lists[name].path.read_text(encoding="utf-8").splitlines():
            stem = normalize("NFC", line.strip())
            if stem and found.setdefault(stem, split) != split:
                raise ValueError(f"{lists[name].path} names {stem}, and {found[stem]} does too: leave one.")
    return found


def parse(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError(f"{path} declares entities, which no annotation needs: remove its DOCTYPE.")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no whole XML ({error}): write it again.") from error


def corners_of(item: ElementTree.Element, path: Path) -> tuple[str, list[float]]:
    name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
    try:
        values = [float(box.findtext(key) or "") for key in CORNERS] if box is not None else []
    except ValueError:
        values = []
    if not name or not values:
        raise ValueError(f"{path} has an object without a name or without {', '.join(CORNERS)}: write them.")
    return name, values


def read_voc(files: list[File], dataset: str, names: list[str] | None) -> Scenes:
    """
    Raises:
        ValueError, FileNotFoundError: one sentence that names the file and the fix.
    """
    pictures: dict[str, list[File]] = {}
    for one in files:
        if is_picture(one) and one.parts[-2:-1] not in (("SegmentationClass",), ("SegmentationObject",)):
            pictures.setdefault(one.stem, []).append(one)
    lists, made = lists_of(files, "Main"), Scenes([], [], [])
    read, difficult, unlisted = [], 0, 0
    for one in voc_files(files):
        if lists and one.stem not in lists:
            unlisted += 1
            continue
        root = parse(one.path)
        told = root.findtext("filename") or ""
        found = pictures.get(normalize("NFC", Path(told).stem)) or pictures.get(one.stem) or []
        if len(found) > 1:
            found = [p for p in found if split_in(p.parts) == split_in(one.parts)] or found
        if len(found) != 1:
            raise FileNotFoundError(
                f"{one.path} is of {told or one.stem}, and {len(found)} pictures are called so: keep exactly one."
            )
        size, element = size_of(found[0].path), root.find("size")
        if element is not None and int(element.findtext("width") or 0):
            sides = int(element.findtext("width") or 0), int(element.findtext("height") or 0)
            same_size(str(one.path), sides, found[0].path, size)
        objects = [corners_of(item, one.path) for item in root.iter("object")]
        difficult += sum((item.findtext("difficult") or "0").strip() == "1" for item in root.iter("object"))
        split = one.split or lists.get(one.stem) or split_in(one.parts)
        read.append((Scene(found[0].path, split, size), objects, one.path))
    if lacking := set(lists).difference(path.stem for *_, path in read):
        raise FileNotFoundError(f"`dataset: {dataset}`: ImageSets/Main names {min(lacking)}, which has no XML: add it.")
    from_zero = any(corners[0] == 0 or corners[1] == 0 for _, objects, _ in read for _, corners in objects)
    made.names = names or sorted({name for _, objects, _ in read for name, _ in objects})
    for scene, objects, path in read:
        for name, (left, top, right, bottom) in objects:
            if name not in made.names:
                raise ValueError(f"{path} has an object {name}, which `class_names` has not: add it.")
            if from_zero:
                scene.boxes.append([left, top, right - left, bottom - top])
            else:
                scene.boxes.append([left - 1, top - 1, right - left + 1, bottom - top + 1])
            scene.categories.append(made.names.index(name))
        made.scenes.append(scene)
    how = "from 0, as one corner is 0, and leave the far one out" if from_zero else "from 1, both inside, as VOC has it"
    made.said.append(f"Pascal VOC, {len(read)} XML files; corners count {how}; classes in the order of the alphabet")
    if difficult:
        made.said.append(f"{difficult} objects marked difficult are kept, and count as others do")
    if unlisted:
        made.said.append(f"{unlisted} XML files that no list of ImageSets/Main names are left out")
    return made
