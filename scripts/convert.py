"""A door to `vit-custom convert`."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from vit_custom import as_script
from vit_custom import call


def main(argv: list[str] | None = None) -> Any:
    return call("convert", argv)


if __name__ == "__main__":
    as_script("convert")
