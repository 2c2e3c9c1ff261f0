"""Say what pictures show: classes, masks, boxes, fitting texts; and where the model looked.

    vit-custom predict runs/pictures photo.jpg more/*.png
    vit-custom predict runs/pictures my/folder --output answers --format csv
    vit-custom predict runs/captions photo.jpg --labels 'a cat' 'a dog'
    vit-custom predict runs/pictures photo.jpg --attention

Pictures are files, folders and patterns, of every kind that training reads. A table, JSON or CSV is printed; `--output`
names a folder for predictions.json, predictions.csv and the pictures with their answers. Without pictures those in the
run's `examples/` are taken. A picture that cannot be read is named at the end and stops nothing.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoProcessor
from transformers.utils import logging

from ..training.evaluation import load_checkpoint
from ..training.folders import list_files
from ..training.images import CorruptImage
from ..training.images import decode_rgb
from ..training.naming import inside_run
from ..training.picture_formats import picture_endings
from ..training.starting import folder_of
from .answers import Answers
from .answers import Record
from .answers import answers_of
from .looking import write_attention
from .options import argument
from .options import option

FORMATS = ("table", "json", "csv")


@dataclass
class Options:
    checkpoint: str = argument("a run, a folder with a config.json, or a name on the Hub")
    images: list[str] = argument("files, folders and patterns; else the run's examples", default=[])
    top_k: int = option(5, "classes told of each picture")
    threshold: float = option(0.5, "score from which on a box is told")
    labels: list[str] = option([], "texts to choose from, for a model of images and texts", nargs="+")
    template: str = option("{}", "sentence around each of them: 'a photo of a {}.'")
    format: str = option("table", "of what is printed", choices=list(FORMATS))
    output: Path | None = option(None, "a folder for predictions.json, predictions.csv and pictures")
    attention: bool = option(False, "also pictures and tensors of where it looked, into --output or `predictions`")
    batch_size: int = option(16, "pictures at once")


def main(options: Options) -> list[dict[str, Any]]:
    """-> of each picture its file and its answers, as the JSON has them."""
    paths = pictures_of(options)
    logging.disable_progress_bar()  # of reading weights
    name = inside_run(options.checkpoint)
    folder = str(folder_of(name, name))
    task, model = load_checkpoint(folder)
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    answers = answers_of(task, model, AutoProcessor.from_pretrained(folder), options)
    output = options.output or (Path("predictions") if answers.draws or options.attention else None)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    broken: list[str] = []
    names = names_of(paths)
    for some in batches(tqdm(paths, unit="picture", disable=None), answers, options.batch_size, broken):
        for path, image, records in answered(some, answers):
            found.append(dict(file=str(path), answers=records))
            if output is not None:
                write_picture(output / names[path], answers, image, records)
                if options.attention:
                    told = f"{records[0]['label']} {records[0]['score']:.2f}" if records else "picture"
                    write_attention(output / names[path], model, answers.images, answers.pixels(image), told)
    if output is not None:
        for format in FORMATS[1:]:
            (output / f"predictions.{format}").write_text(written(found, format, answers.columns), encoding="utf-8")
    print(written(found, options.format, answers.columns), end="")
    if output is not None:
        print(f"Pictures and files: {output}", file=sys.stderr)
    if broken:
        print(f"{len(broken)} of {len(paths)} pictures could not be read:", *broken, sep="\n  ", file=sys.stderr)
    if not found:
        raise ValueError("No picture could be read: check the files above.")
    return found


def pictures_of(options: Options) -> list[Path]:
    """The files, each once, in the order that they were named.

    Raises:
        FileNotFoundError: nothing has this name, or there is no picture.
    """
    if not options.images:
        folder = Path(options.checkpoint).expanduser()
        places = [place / "examples" for place in (folder, folder.parent) if (place / "examples").is_dir()]
        if not places:
            raise FileNotFoundError(f"{options.checkpoint} has no examples/: name pictures, folders or patterns.")
        options.images = [str(places[0])]
    endings, found = picture_endings(), dict[Path, None]()
    for text in options.images:
        path = Path(text).expanduser()
        if path.is_file():  # whatever it is called
            found[path] = None
            continue
        inside = [one for one, _ in list_files(text).files if one.suffix.lower() in endings]
        if not inside:
            raise FileNotFoundError(f"{text} holds no picture: name files, folders or patterns with pictures.")
        found |= dict.fromkeys(inside if path.is_absolute() else (Path(os.path.relpath(one)) for one in inside))
    return list(found)


def names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """Names of what is written for each picture: its own, with a number where two are alike."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names[path] = name
    return names


def batches(
    paths: Any, answers: Answers, size: int, broken: list[str]
) -> Iterator[list[tuple[Path, Image.Image, torch.Tensor]]]:
    """Pictures that become tensors of one size, at most `size` of them; what cannot be read is added to `broken`."""
    some: list[tuple[Path, Image.Image, torch.Tensor]] = []
    for path in paths:
        try:
            image = decode_rgb(str(path), "")
        except CorruptImage as error:
            broken.append(str(error))
            continue
        pixels = answers.pixels(image)
        if some and (len(some) == size or pixels.shape != some[0][2].shape):
            yield some
            some = []
        some.append((path, image, pixels))
    if some:
        yield some


@torch.no_grad()
def answered(
    some: list[tuple[Path, Image.Image, torch.Tensor]], answers: Answers
) -> Iterator[tuple[Path, Image.Image, list[Record]]]:
    paths, images, pixels = zip(*some, strict=True)
    model = answers.model
    outputs = model(**answers.inputs(torch.stack(pixels).to(model.device, model.dtype)))
    yield from zip(paths, images, answers.records(outputs, images), strict=True)


def write_picture(path: Path, answers: Answers, image: Image.Image, records: list[Record]):
    """The answer drawn, and each mask as a file of its own, whose name takes its place in the record."""
    answers.draw(image, records).save(path.with_name(f"{path.name}.png"))
    for one in records:
        mask = one.pop("mask", None)
        if mask is not None:
            place = path.with_name(f"{path.name}.mask-{one['index']}.png")
            mask.save(place)
            one["mask"] = place.name


def written(found: list[dict[str, Any]], format: str, columns: Sequence[str]) -> str:
    if format == "json":
        return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        sides = ("xmin", "ymin", "xmax", "ymax") if "box" in columns else ()
        writer.writerow(("file", "label", "score", *sides))
        for one in found:
            for record in one["answers"]:
                corners = [record["box"][side] for side in sides]
                writer.writerow((one["file"], record["label"], f"{record['score']:.6f}", *corners))
        return text.getvalue()
    width = max([4, *(len(one["file"]) for one in found)]) + 2
    lines = []
    for one in found:
        for number, record in enumerate(one["answers"] or [dict(label="(nothing)", score=float("nan"))]):
            box = " ".join(str(side) for side in record.get("box", {}).values())
            name = one["file"] if number == 0 else ""
            lines.append(f"{name:<{width}}{record['score']:>8.4f}  {record['label']}{f'  at {box}' if box else ''}")
    return "".join(f"{line}\n" for line in lines)
