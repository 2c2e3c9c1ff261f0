"""The options of train.py: every key of a recipe, from a file, as importing what defines them takes ten seconds."""

import argparse
import runpy
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "modeling_vit_custom"
KEYS = PACKAGE / "training/recipe_keys.txt"  # by `python -m modeling_vit_custom.training.recipe_keys`


def parse_options(argv: list[str] | None, description: str | None) -> tuple[argparse.Namespace, list[str]]:
    """-> the recipe and whether to overwrite, and what is set in place of the recipe's own"""
    text = KEYS.read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(
        usage="%(prog)s [-h] recipe [--overwrite] [--key value ...]",
        description=description,
        epilog=text.replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, as those in configs/recipes")
    parser.add_argument("--overwrite", action="store_true", help="replace the result of a run that ended")
    arguments, settings = parser.parse_known_args(argv)
    if f"with transformers {version('transformers')})" in text:  # another version may have other keys
        refuse_unknown(settings, [line.split()[0] for line in text.splitlines() if line[:3].strip()], parser)
    return arguments, settings


def refuse_unknown(settings: list[str], lines: list[str], parser: argparse.ArgumentParser):
    """What read_recipe refuses too, without importing it."""
    words = runpy.run_path(str(PACKAGE / "training/recipe_words.py"))
    near_miss = runpy.run_path(str(PACKAGE / "near_names.py"))["near_miss"]
    dotted = [name for name in lines if "." in name]
    known = ["overwrite", *(name for name in lines if name not in dotted)]
    parts = {"": known, "config_overrides": [name.partition(".")[2] for name in dotted]}
    try:
        for key, _ in words["split_options"](settings):
            name = key.partition(".")[0]
            if name not in known:
                advice = words["advice"](name, known, near_miss, "", parts)
                raise ValueError(f"unknown option `--{name}`: {advice}")
    except ValueError as error:
        parser.error(str(error))
