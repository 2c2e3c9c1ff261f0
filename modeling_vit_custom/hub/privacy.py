"""What a run has beside its checkpoint, without what shows or names a person's files, unless that is asked for."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from .file_rules import files_of
from .origins import names_files
from .origins import public
from .remote import HubProblem

EXAMPLES = "examples/"
OF_A_RUN = ("metrics.json", "history.csv", "history.png", "predictions.png")
NAME_FILES = ("history.csv", "mistakes.csv", "recipe.yaml")
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif")  # that may hold EXIF or XMP


def stage_run(run: Path, folder: Path):
    """Copy what is of use to others."""
    for name in OF_A_RUN:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    numbered = [
        path for path in sorted((run / EXAMPLES).glob("*")) if re.fullmatch(r"\d+\.png|labels\.json", path.name)
    ]
    for path in numbered:
        (folder / EXAMPLES).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / EXAMPLES / path.name)


def keep_private(run: Path, folder: Path, with_pictures: bool) -> list[str]:
    """Take out of the staged `folder` what is not for others -> a line for each reason.

    Raises:
        HubProblem: a picture holds EXIF, and is no PNG, which can be written again without loss.
    """
    metrics = folder / "metrics.json"
    told: dict[str, Any] = {}
    if metrics.is_file():
        told = public(json.loads(metrics.read_text(encoding="utf-8")))
        metrics.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    left_out: dict[str, list[str]] = {}
    if not with_pictures:
        shown = [EXAMPLES] if told.get("dataset_source") == "built-in" else ["predictions.png", EXAMPLES]
        left_out["pictures of the data; --with-pictures ships them"] = [name for name in shown if (run / name).exists()]
        for name in shown:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True)
    history = folder / "history.csv"
    if history.is_file() and names_files(history.read_text(encoding="utf-8")):
        history.unlink()
    named = [name for name in NAME_FILES if (run / name).is_file() and not (folder / name).exists()]
    left_out["may name files and folders of this machine"] = named
    for name, path in files_of(folder).items():
        if path.suffix.lower() in FORMATS:
            strip(path, name)
    return [f"{' and '.join(names)}: {reason}" for reason, names in left_out.items() if names]


def strip(path: Path, name: str):
    """A PNG keeps its pixels and nothing else that its file holds: no place, time or camera."""
    try:
        with Image.open(path) as image:
            image.load()
            holds = bool(image.getexif()) or any(key.lower().endswith(("exif", "xmp")) for key in map(str, image.info))
            pixels: Any = image.convert("RGBA") if image.mode != "RGBA" and image.has_transparency_data else image
            pixels = pixels.convert("RGB") if pixels.mode == "P" else pixels
            bare = Image.frombytes(pixels.mode, pixels.size, pixels.tobytes())
    except (OSError, ValueError) as error:
        raise HubProblem(f"{name} cannot be read as a picture ({error}): take it out, or save it as PNG.") from error
    if image.format == "PNG":
        bare.save(path, format="PNG")
    elif holds:
        raise HubProblem(f"{name} holds EXIF or XMP, so maybe where it was taken: save it as PNG, or without them.")
