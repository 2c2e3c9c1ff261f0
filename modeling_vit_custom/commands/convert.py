"""Somebody's checkpoint -> a folder of ours with its proof, and back again.

    vit-custom convert google/vit-base-patch16-224 runs/vit --revision 40_HEXADECIMAL_DIGITS
    vit-custom convert downloads/deit.pth runs/deit --source original-deit --preset deit_base_patch16_224
    vit-custom convert --back runs/vit runs/vit_as_it_was
    vit-custom convert --back runs/mine runs/mine_for_timm --to timm
    vit-custom convert --verify runs/vit

SOURCE is a folder, a file (.safetensors, .npz; .pth, .bin, .ckpt through torch's weights-only loader) or a Hub id. The
output is what save_pretrained writes, with preprocessor_config.json, parity.json (differences from the source's own
model, layer by layer), source.json and source_only.safetensors (what it takes to go back). Nothing is written over.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging

from .. import ViTCustomConfig
from ..conversion import SOURCES
from ..conversion import back
from ..conversion import convert
from ..conversion import verify
from .options import argument
from .options import option


@dataclass
class Options:
    folders: list[str] = argument("with --verify one folder", metavar="SOURCE OUTPUT")
    back: bool = option(False, "SOURCE is a folder of ours, OUTPUT gets another layout", exclusive="way")
    verify: bool = option(False, "recompute what a converted folder claims", exclusive="way")
    revision: str | None = option(None, "the commit of a Hub id, 40 hexadecimal digits")
    config: str | None = option(None, "the source's config.json, where it is not beside the weights")
    source: str | None = option(None, f"where the checkpoint does not say it: {', '.join(SOURCES)}")
    preset: str | None = option(None, "a preset or a config.json of ours, for a file of tensors alone")
    prefix: str | None = option(None, "with what the names of one model begin, in a file of several: teacher.")
    to: str | None = option(None, "with --back: transformers, timm or a source; where it came from if left out")


def check(options: Options):
    """
    Raises:
        ValueError: a wrong number of folders, or an option that means nothing in this direction.
    """
    if len(options.folders) != (1 if options.verify else 2):
        raise ValueError("give one folder with --verify, else a source and an output.")
    for name, wanted in dict(revision=False, config=False, source=False, preset=False, prefix=False, to=True).items():
        if getattr(options, name) and (options.verify or options.back != wanted):
            raise ValueError(f"--{name} means nothing here: leave it out.")


def main(options: Options) -> Path:
    check(options)
    folders = [*options.folders, ""]
    logging.disable_progress_bar()

    if options.verify:
        print("".join(f"{sentence}\n" for sentence in verify(folders[0])), end="")
        return Path(folders[0])
    output = Path(folders[1])
    if options.back:
        name, lost = back(folders[0], output, options.to)
        print(f"{output}: the layout of {name}.")
        print("".join(f"Its configuration cannot say: {sentence}.\n" for sentence in lost), end="")
        return output
    preset = read_config(options.preset) if options.preset else None
    convert(folders[0], output, options.config, options.revision, options.source, preset, options.prefix)
    proof = json.loads((output / "parity.json").read_text())
    print(f"{output}: {proof['source']['kind']}.")
    for dtype, value in (proof["largest"] or {}).items():
        print(f"Largest difference from the source, {dtype}: {value:.1e} of a layer's largest value.")
    if proof["not compared"]:
        print(f"Not compared with the source's own model: {proof['not compared']}")
    return output


def read_config(name: str) -> ViTCustomConfig:
    """
    Raises:
        ValueError: no preset has this name, and no configuration stands there.
    """
    return ViTCustomConfig.from_pretrained(name) if Path(name).exists() else ViTCustomConfig.from_preset(name)
