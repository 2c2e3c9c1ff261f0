"""Data sets that are not built in: folders of images, Parquet and Arrow files, tar shards, names on the Hub; read whole
or streamed. What is ambiguous is asked for, never guessed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import DatasetDict
from datasets import Image
from tqdm.auto import tqdm

from .columns import Splits
from .columns import captions_of
from .columns import first
from .columns import image_of
from .columns import names_in_file
from .columns import rename
from .columns import with_labels
from .equal_files import tell_equal
from .images import SKIP
from .images import CorruptImage
from .images import decode_rgb
from .reading import read
from .rows import as_needed
from .rows import image_and_mask
from .splits import check_group_column
from .splits import cut
from .splits import refuse_shared_groups
from .tables import Asked
from .targets import SINGLE
from .targets import Columns
from .targets import check_columns
from .targets import with_targets

SETTINGS = ("config", "revision", "data_files", "held_out", "class_names", "class_level", "image_dir")
ROW = "row_number"  # a column of the map-style sets: the place in the file, which no later choice of rows changes


def load_source(
    dataset: str,
    *,
    settings: dict[str, Any],
    streaming: bool = False,
    split_seed: int = 0,
    test_share: float = 0.2,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    corrupt: str = "fail",
    needs_label: bool = True,
    whole: bool | None = False,
    as_stream: bool = False,
    problem_type: str = SINGLE,
    label_columns: Sequence[str] = (),
    label_separator: str | None = None,
    caption_column: str | None = None,
    needs_caption: bool = False,
    task: str | None = None,
) -> Splits:
    """-> splits `train` and `test` with `image`, `label` where there are classes or numbers, `caption` where they are
    needed, and every other column.

    A map-style split decodes its images when rows are read, as RGB pictures; a stream holds undecoded ones, which
    NumberedStream decodes.

    Args:
        dataset: a folder `train/<class>/<file>` with `test`, `validation`, `eval` or the like beside it, or
            `<class>/<file>`; .parquet, .arrow or .tar files, a folder or pattern of them; .csv, .tsv, .jsonl or
            .parquet tables with a column of paths, alone or in a folder of pictures; a folder of `save_to_disk`; or a
            name on the Hub, `owner/name`. With `task`, boxes and masks too: docs/data_layouts.md.
        settings: `config` and `revision` of a Hub name; `data_files`, a split's name -> files, for other layouts;
            `held_out`, which split to evaluate on where there are several; `class_names` of labels that have none;
            `class_level`, 2 where classes are the folders inside the first ones; `image_dir`, where a table's pictures
            are.
        test_share: held out where nothing is: by class and `split_seed`, or in a stream by a hash of the image's bytes.
        group_column: rows that have the same value there stay on one side; `stem`: names up to the last `_`, `-`,
            space or dot, as of patient12_3.png.
        corrupt: "fail" when such an image is met, or "skip": found by decoding all before training, in a stream in
            flight.
        as_stream: no stream, but what a stream holds out where nothing is: for an evaluation of what learned from one.
        problem_type, label_columns, label_separator: as in `with_targets`: several classes an image, or numbers.
        caption_column: texts, or lists of texts; without it `caption`, captions.txt, or photo.txt beside photo.jpg.
        task: object-detection and image-segmentation read boxes and masks; None: neither.
        whole: nothing is held out: `train`, `test` and `all` are the rows of all splits; None: if there is one split.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: one sentence that names the fix.
        CorruptImage: every image is corrupt.
    """
    for key in settings:
        if key not in SETTINGS:
            raise ValueError(f"`dataset_settings` has an unknown key `{key}`: choose from {', '.join(SETTINGS)}.")
    if corrupt not in ("fail", "skip"):
        raise ValueError(f"`corrupt_images: {corrupt}` is none: choose fail or skip.")
    columns = Columns(label_column, tuple(label_columns), label_separator, settings.get("class_names"))
    check_columns(columns, problem_type)
    by_folder = needs_label and not columns.all and problem_type == SINGLE
    asked = Asked(image_column, columns.all, caption_column, needs_caption)
    splits = read(dataset, settings, streaming, by_folder, whole, asked, task)
    whole = "all" in splits
    image_column, mask_column = image_and_mask(splits, task or "", image_column)
    images = {name: image_of(rows, image_column, dataset) for name, rows in splits.items()}
    # At once: whatever renames, maps or filters a stream would decode its images, and write them anew.
    splits = type(splits)({n: rows.cast_column(images[n], Image(decode=False)) for n, rows in splits.items()})
    splits = type(splits)({name: rename(rows, images[name], "image") for name, rows in splits.items()})
    if mask_column is not None:
        splits = type(splits)({name: rename(rows, mask_column, "mask") for name, rows in splits.items()})
    splits = as_needed(splits, task or "", settings.get("class_names"), dataset)
    is_cut = "test" not in splits and not whole
    if not whole:
        check_group_column(splits["train"], group_column, dataset)
    if is_cut and not 0 < test_share < 1:
        raise ValueError(f"`dataset: {dataset}` has no held-out split: set `test_share` between 0 and 1.")
    if is_cut and streaming:  # before labels are mapped: datasets 4.4 does not filter what it has mapped
        splits = cut(splits["train"], split_seed, test_share, dataset, group_column)
    elif streaming and group_column is not None and not whole:
        raise ValueError(
            f"`dataset: {dataset}` has a held-out split, and a stream cannot be searched for groups on both sides: "
            "leave `group_column` out, or set `streaming: false`."
        )
    if needs_caption:
        splits = captions_of(splits, caption_column, dataset)
    if problem_type == SINGLE:
        names = settings.get("class_names") or names_in_file(first(splits), label_column, dataset)
        splits = with_labels(splits, label_column, names, dataset, needs_label)
    else:
        splits = with_targets(splits, problem_type, columns, dataset)
    if streaming:
        return splits
    splits = DatasetDict({name: numbered(rows, f"{name} of {dataset}", corrupt) for name, rows in splits.items()})
    if whole:
        splits = DatasetDict(dict.fromkeys(("train", "test", "all"), splits["all"]))
    elif is_cut:
        splits = cut(splits["train"], split_seed, test_share, dataset, group_column, as_stream)
    elif group_column is not None:
        refuse_shared_groups(splits, group_column, dataset)
    if not whole:
        tell_equal(splits["train"], splits["test"], dataset)
    return DatasetDict({name: rows.with_transform(Decodes(f"{name} of {dataset}")) for name, rows in splits.items()})


def numbered(rows: Dataset, what: str, corrupt: str) -> Dataset:
    """With each row's place, and without its corrupt images if those are to be skipped."""
    rows = rows.remove_columns(ROW) if ROW in rows.column_names else rows
    rows = rows.add_column(ROW, np.arange(len(rows)))
    if corrupt == "fail":
        return rows
    whole, broken = [], []
    for row in tqdm(rows.select_columns(["image", ROW]), desc=f"Decoding {what}", unit="image"):
        try:
            decode_rgb(row["image"], f"row {row[ROW]} of {what}")
            whole.append(row[ROW])
        except CorruptImage as error:
            broken.append(str(error))
    if broken:
        print(left_out(broken, len(rows), what))
    if not whole:
        raise CorruptImage(f"Every image of {what} is corrupt, {broken[0]} among them: check the files.")
    return rows.select(whole)


def left_out(broken: list[str], count: int, what: str) -> str:
    more = f" And {len(broken) - 3} more." if len(broken) > 3 else ""
    return f"Left out {len(broken)} corrupt of {count} images of {what}: {' '.join(broken[:3])}{more}"


class Decodes:
    """Undecoded columns of some rows -> the same, with `image` as RGB pictures."""

    def __init__(self, what: str):
        self.what = what

    def __call__(self, columns: dict[str, list]) -> dict[str, list]:
        if "image" not in columns:
            return columns
        places = columns.get(ROW) or [None] * len(columns["image"])
        images = []
        for value, place in zip(columns["image"], places, strict=True):
            try:
                images.append(decode_rgb(value, self.what if place is None else f"row {place} of {self.what}"))
            except CorruptImage as error:
                raise CorruptImage(f"{error} {SKIP}") from error
        return {**columns, "image": images}
