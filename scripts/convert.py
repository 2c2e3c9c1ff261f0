"""Somebody's checkpoint -> a folder of ours with its proof, and back again.

    python scripts/convert.py google/vit-base-patch16-224 runs/vit --revision 40_HEXADECIMAL_DIGITS
    python scripts/convert.py downloads/deit.pth runs/deit --source original-deit --preset deit_base_patch16_224
    python scripts/convert.py --back runs/vit runs/vit_as_it_was
    python scripts/convert.py --back runs/mine runs/mine_for_timm --to timm
    python scripts/convert.py --verify runs/vit

SOURCE is a folder, a file (.safetensors, .npz; .pth, .bin, .ckpt through torch's weights-only loader) or a Hub id. The
output is what save_pretrained writes, with preprocessor_config.json, parity.json (differences from the source's own
model, layer by layer), source.json and source_only.safetensors (what it takes to go back). Nothing is written over.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from _start import as_script

NAMES = """transformers-vit, -deit, -swin, -dinov2, -dinov2-with-registers, -dinov3, -clip, -vit-mae; timm-vit, -swin,
-pit, -dinov3; original-segmenter, -dinov2, -deit, -swin, -pit; google-npz"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="SOURCE OUTPUT", help="with --verify one folder")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--back", action="store_true", help="SOURCE is a folder of ours, OUTPUT gets another layout")
    way.add_argument("--verify", action="store_true", help="recompute what a converted folder claims")
    parser.add_argument("--revision", help="the commit of a Hub id, 40 hexadecimal digits")
    parser.add_argument("--config", help="the source's config.json, where it is not beside the weights")
    parser.add_argument("--source", help=f"where the checkpoint does not say it: {NAMES}")
    parser.add_argument("--preset", help="a configs/models name or a config.json of ours, for a file of tensors alone")
    parser.add_argument("--prefix", help="with what the names of one model begin, in a file of several: teacher.")
    parser.add_argument("--to", help="with --back: transformers, timm or a source; where it came from if left out")
    arguments = parser.parse_args(argv)
    if len(arguments.folders) != (1 if arguments.verify else 2):
        parser.error("give one folder with --verify, else a source and an output")
    for option, wanted in dict(revision=False, config=False, source=False, preset=False, prefix=False, to=True).items():
        if getattr(arguments, option) and (arguments.verify or arguments.back != wanted):
            parser.error(f"--{option} means nothing here")
    return arguments


if __name__ == "__main__":
    as_script(parse)

from transformers.utils import logging

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.conversion import back
from modeling_vit_custom.conversion import convert
from modeling_vit_custom.conversion import verify
from modeling_vit_custom.near_names import near_miss

PRESETS = Path(__file__).parent.parent / "configs" / "models"


def main(argv: list[str] | None = None) -> Path:
    arguments = parse(argv)
    folders = [*arguments.folders, ""]
    logging.disable_progress_bar()

    if arguments.verify:
        print("".join(f"{sentence}\n" for sentence in verify(folders[0])), end="")
        return Path(folders[0])
    output = Path(folders[1])
    if arguments.back:
        name, lost = back(folders[0], output, arguments.to)
        print(f"{output}: the layout of {name}.")
        print("".join(f"Its configuration cannot say: {sentence}.\n" for sentence in lost), end="")
        return output
    preset = read_preset(arguments.preset) if arguments.preset else None
    convert(folders[0], output, arguments.config, arguments.revision, arguments.source, preset, arguments.prefix)
    proof = json.loads((output / "parity.json").read_text())
    print(f"{output}: {proof['source']['kind']}.")
    for dtype, value in (proof["largest"] or {}).items():
        print(f"Largest difference from the source, {dtype}: {value:.1e} of a layer's largest value.")
    if proof["not compared"]:
        print(f"Not compared with the source's own model: {proof['not compared']}")
    return output


def read_preset(name: str) -> ViTCustomConfig:
    known, path = PRESETS / f"{name}.json", Path(name)
    if not (known.is_file() or path.exists()):
        near = near_miss(name, [preset.stem for preset in PRESETS.glob("*.json")])
        fix = f"did you mean `{near}`?" if near else "name one of configs/models, or a config.json."
        raise ValueError(f"There is no preset {name!r}: {fix}")
    return ViTCustomConfig.from_pretrained(str(known) if known.is_file() else name)


if __name__ == "__main__":
    main()
