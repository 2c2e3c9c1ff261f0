"""Fetch the Debian packages that hold the data sets, without root and without changing the system.

    python scripts/get_data.py [NAME...]

NAME is a data set; all of them if left out. What is there or installed is left alone. Needs Debian or its kin (apt-get
and dpkg-deb); elsewhere the sentence that it prints says which package to unpack where.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen

NAMES = ("fashion_mnist", "scenes", "emoji_captions", "tuxpaint_captions", "clipart")


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


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    unknown = [name for name in arguments.names if name not in NEEDED]
    if unknown:
        raise ValueError(f"There is no package for `{unknown[0]}`: choose of {', '.join(NEEDED)}.")
    wanted = dict.fromkeys(package for name in arguments.names or NEEDED for package in NEEDED[name])
    for package in wanted:
        about = PACKAGES[package]
        print(f"{package}: {about.megabytes} MB to download, licence {about.licence}", flush=True)
        done = fetch(package, arguments.data_dir)
        files = [path for path in folder_of(package, arguments.data_dir).rglob("*") if path.is_file()]
        size = f", {sum(path.stat().st_size for path in files) / 1e6:.0f} MB in {len(files)} files" if files else ""
        print(f"  {done}{size}", flush=True)


if __name__ == "__main__":
    main()
