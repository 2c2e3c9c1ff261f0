"""Which task and layout a place holds, so that `train` need not be told; what could be two tasks is refused."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import ClassLabel
from datasets import Features
from datasets import Image
from datasets import Value

from ..folders import Parts
from ..folders import list_files
from ..layouts import split_of
from ..metadata import METADATA
from ..metadata import features_of as features_of_table
from ..metadata import read_table
from ..tables import NOTHING
from ..tables import find_pictures
from ..tables import names_pictures
from ..tables import open_table
from .columns import CLASS_FIELDS
from .columns import MASK_COLUMNS
from .columns import inner
from .dense import BY_TASK
from .dense import layouts_in
from .masks import IMAGES
from .masks import MASKS
from .scene import DENSE
from .scene import DETECTION
from .scene import SEGMENTATION
from .scene import File
from .scene import is_picture
from .scene import split_in

CLASSIFICATION, CAPTIONS = "image-classification", "zero-shot-image-classification"
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "description", "prompt")
TABLES = (".parquet", ".arrow")
TEXT_TABLES = (".csv", ".tsv", ".jsonl")
LOOKED = (
    "COCO's JSON, metadata.jsonl with objects, Pascal VOC's Annotations/*.xml, YOLO's labels/*.txt; masks/ beside "
    "images/; a table with captions or classes; and a folder for each class"
)


@dataclass(frozen=True)
class Found:
    task: str
    layout: str
    evidence: str  # a part of a sentence: the files that tell
    splits: tuple[str, ...] = ()  # of which the names of folders speak; none: one is held out

    def sentence(self, dataset: str | Path) -> str:
        return f"`dataset: {dataset}` has {self.evidence}: the task is {self.task}; `--task` chooses another."


def find_layout(dataset: str | Path, task: str | None = None) -> Found:
    """A folder, files of a table, or a name on the Hub -> its task. Annotations come first, then masks, then columns of
    a table, and folders of classes last.

    Args:
        task: one that is told, so that only layouts of it count.

    Raises:
        ValueError: nothing is found, or two readings; the sentence says what was looked for, or names both.
        FileNotFoundError: no such place.
    """
    place = Path(dataset).expanduser()
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        saved = datasets.load_from_disk(str(place))
        splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        return one_of(of_columns(next(iter(splits.values())).features), dataset, task, tuple(splits))
    if not place.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(dataset)):
        return on_hub(str(dataset), task)
    files = [File(path, parts) for path, parts in list_files(dataset).files]
    splits = tuple(sorted({split for one in files if is_picture(one) and (split := split_in(one.parts))}))
    for readings in (of_annotations(files, task), of_tables(files), of_folders(files)):
        if fitting := [one for one in readings if task in (None, one.task)]:
            return one_of(fitting, dataset, task, splits)
    raise ValueError(nothing(dataset, files, task))


def one_of(readings: list[Found], dataset: str | Path, task: str | None, splits: tuple[str, ...]) -> Found:
    fitting = [one for one in readings if task in (None, one.task)]
    if not fitting:
        raise ValueError(nothing(dataset, [], task))
    if len({one.task for one in fitting}) > 1:
        both = " and ".join(f"{one.evidence} ({one.task})" for one in fitting)
        raise ValueError(
            f"`dataset: {dataset}` can be read in two ways, by {both}: choose with `--task {fitting[0].task}` or "
            f"`--task {fitting[1].task}`."
        )
    if len(fitting) > 1:
        both = " and ".join(one.evidence for one in fitting)
        raise ValueError(f"`dataset: {dataset}` has {both}, both for {fitting[0].task}: keep one of them.")
    one = fitting[0]
    return Found(one.task, one.layout, one.evidence, splits)


def nothing(dataset: str | Path, files: list[File], task: str | None) -> str:
    endings = sorted({one.ending or one.path.name for one in files})
    there = f"; it holds {', '.join(endings[:8])} files" if endings else ""
    what = f" for `--task {task}`" if task else ""
    return f"`dataset: {dataset}` has nothing to learn from{what}{there}. Looked for were {LOOKED}: add one of them."


def of_annotations(files: list[File], task: str | None) -> list[Found]:
    """Boxes and masks. A layout that could hold either counts as boxes, unless the task that is told says otherwise."""
    layouts = layouts_in(files)
    found = [Found(DETECTION, name, why) for name, why in layouts.items() if name in BY_TASK[DETECTION]]
    for name, why in layouts.items():
        if name in BY_TASK[SEGMENTATION] and (task == SEGMENTATION or name not in BY_TASK[DETECTION]):
            found.append(Found(SEGMENTATION, name, why))
    return found + [one for one in of_tables(files) if one.task in DENSE]


def of_tables(files: list[File]) -> list[Found]:
    """Tables of pictures' names, or with the pictures in them: the first tells for all."""
    named = [one for one in files if one.path.name in METADATA]
    if named:
        table = read_table(named[0].path)
        return of_columns(features_of_table(table), "/".join(named[0].parts)) if table.pictures else []
    if texts := [
        one for one in files if one.ending in TEXT_TABLES or (one.ending == ".parquet" and names_pictures(one.path))
    ]:
        return of_text_table(texts[0], alone=len(files) == 1)
    whole = [one for one in files if one.ending in TABLES]
    if not whole:
        return of_caption_files(files)
    builder = whole[0].ending.removeprefix(".")
    rows = datasets.load_dataset(builder, data_files=[str(whole[0].path)], split="train", streaming=True)
    return of_columns(rows.features, "/".join(whole[0].parts))


def of_text_table(one: File, alone: bool) -> list[Found]:
    """A table with a column of paths. A table beside other files that names no pictures is none of ours."""
    try:
        table = open_table(one.path)
        place = find_pictures(table, NOTHING, None)
    except (ValueError, FileNotFoundError):
        if alone:
            raise
        return []
    others = {name: kind for name, kind in table.features.items() if name != place.column}
    return of_columns(Features(others), "/".join(one.parts))


def of_caption_files(files: list[File]) -> list[Found]:
    """captions.txt, or photo.txt beside photo.jpg."""
    texts = [one for one in files if one.ending == ".txt"]
    listed = [one for one in texts if "caption" in one.path.stem.lower()]
    pictures = {one.path.with_suffix("") for one in files if is_picture(one)}
    beside = [one for one in texts if one.path.with_suffix("") in pictures]
    for one, why in ((listed, "captions in"), (beside, "a text beside each picture, as")):
        if one and (why == "captions in" or len(one) >= len(pictures) / 2):
            return [Found(CAPTIONS, "caption files", f"{why} {'/'.join(one[0].parts)}")]
    return []


def of_columns(features: Features | None, where: str = "its table") -> list[Found]:
    """By the kinds of the columns; boxes and masks come before captions and classes."""
    features = features or Features()
    pictures = [name for name, kind in features.items() if isinstance(kind, Image)]
    objects = inner(features.get("objects"))
    if isinstance(objects, list):
        objects = objects[0]
    dense = []
    if isinstance(objects, dict) and "bbox" in objects:
        fields = [name for name in CLASS_FIELDS if name in objects]
        dense.append(Found(DETECTION, "columns", f"objects of bbox and {', '.join(fields) or 'no class'} in {where}"))
    if masks := [name for name in pictures if name.lower() in MASK_COLUMNS]:
        dense.append(Found(SEGMENTATION, "columns", f"pictures in the column {masks[0]} of {where}"))
    if dense:
        return dense
    plain = {name: kind for name, kind in features.items() if isinstance(kind, Value) and not name.startswith("__")}
    captions = [name for name in plain if name.lower() in CAPTION_COLUMNS and "string" in plain[name].dtype]
    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    classes = classes or [name for name in plain if name.lower() in ("label", "labels", "class", "category", "target")]
    others = [name for name in plain if name not in captions and "file_name" not in name]
    classes = classes or (others if len(others) == 1 and not captions else [])
    found = [Found(CAPTIONS, "columns", f"texts in the column {name} of {where}") for name in captions[:1]]
    return found + [
        Found(CLASSIFICATION, "columns", f"classes in the column {name} of {where}") for name in classes[:1]
    ]


def of_folders(files: list[File]) -> list[Found]:
    """A folder for each class: not images/ and masks/, and not folders of splits alone."""
    folders: set[Parts] = set()
    for one in files:
        if is_picture(one):
            own = tuple(part for part in one.parts[:-1] if not split_of(part))
            if own and own[-1].lower() not in (*IMAGES, *MASKS):
                folders.add(own)
    if len(folders) < 2:
        return []
    some = ", ".join("/".join(own) for own in sorted(folders)[:3])
    return [Found(CLASSIFICATION, "class folders", f"{len(folders)} folders of pictures ({some})")]


def on_hub(dataset: str, task: str | None) -> Found:
    try:
        builder = datasets.load_dataset_builder(dataset)
    except Exception as error:  # of the network, the client or the reader
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConnectionError(
            f"`dataset: {dataset}` is no folder here and could not be read ({said}): check its name and the network, "
            "or choose with `--task`."
        ) from error
    splits = tuple(builder.info.splits or ())
    return one_of(of_columns(builder.info.features, "its columns"), dataset, task, splits)
