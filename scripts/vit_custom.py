"""The command `vit-custom`: from a folder of pictures to the Hub.

    vit-custom train --data my/pictures --from CHECKPOINT
    vit-custom evaluate runs/pictures
    vit-custom predict runs/pictures photo.jpg
    vit-custom push runs/pictures me/pictures

`vit-custom VERB --help` lists what can be set. TRACEBACK=1 shows where an error is from. In several processes:
`accelerate launch -m vit_custom VERB ...`, or torchrun. Only the standard library is imported: help takes no time.
"""

import argparse
import atexit
import importlib
import importlib.util
import json
import os
import runpy
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# GNU's OpenMP, which PyPI's torch brings, reads it once, when torch is imported. By default a thread that waits spins,
# and so takes the core from the thread it waits for where other programs run too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WORDS = ("dest", "help", "default", "choices", "metavar", "nargs", "action")  # of add_argument
KINDS = {"int": int, "float": float, "Path": Path, "str": str}


def package() -> Path:
    """The package's folder, which is not imported: of a checkout the one beside this file."""
    beside = Path(__file__).resolve().parents[1] / "modeling_vit_custom"
    if (beside / "__init__.py").is_file():
        return beside
    found = importlib.util.find_spec("modeling_vit_custom")
    if found is None or not found.origin:
        raise ImportError("The package modeling_vit_custom is not installed: install it with pip.")
    return Path(found.origin).parent


def verbs() -> dict[str, dict[str, Any]]:
    """What each verb takes, as `python -m modeling_vit_custom.commands.options` writes it from the dataclasses."""
    return json.loads((package() / "commands/options.json").read_text(encoding="utf-8"))


def parser_of(verb: str, name: str | None = None) -> argparse.ArgumentParser:
    told = verbs()[verb]
    epilog = (package() / told["keys"]).read_text(encoding="utf-8").replace("%", "%%") if told["keys"] else None
    parser = argparse.ArgumentParser(
        prog=name or f"vit-custom {verb}",
        description=told["description"],
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for one in told["options"]:
        words = {key: one[key] for key in WORDS if key in one}
        if one.get("kind"):
            words["type"] = KINDS[one["kind"]]
        group = one.get("exclusive")
        if group and group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        groups.get(group, parser).add_argument(*one["names"], **words)
    return parser


def parse(verb: str, argv: list[str] | None = None, name: str | None = None) -> dict[str, Any]:
    """-> the fields of the verb's options; of a verb with keys of recipes `settings` holds the words for those."""
    parser = parser_of(verb, name)
    keys = verbs()[verb]["keys"]
    known = {word.replace("-", "_"): word for one in verbs()[verb]["options"] for word in one["names"]}
    argv = [spelled(word, known) for word in (sys.argv[1:] if argv is None else argv)]
    if not keys:
        return vars(parser.parse_args(argv))
    if not argv:
        parser.error("give a recipe, or --data with pictures")
    words = runpy.run_path(str(package() / "training/recipe_words.py"))
    own, settings = words["divided"](argv, {*known.values(), "--help"})
    found = parser.parse_args(own)
    text = (package() / keys).read_text(encoding="utf-8")
    if f"with transformers {version('transformers')})" in text:  # another version may have other keys
        lines = [line.split()[0] for line in text.splitlines() if line[:3].strip()]
        refuse_unknown(settings, [word[2:] for word in known.values()], lines, words, parser)
    return vars(found) | dict(settings=settings)


def spelled(word: str, known: dict[str, str]) -> str:
    """--dry_run as --dry-run."""
    name, equal, value = word.partition("=")
    return known.get(name.replace("-", "_"), name) + equal + value if word.startswith("--") else word


def refuse_unknown(settings: list[str], own: list[str], lines: list[str], words: dict, parser: Any):
    """What read_recipe refuses too, without importing it."""
    near_miss = runpy.run_path(str(package() / "near_names.py"))["near_miss"]
    dotted = [name for name in lines if "." in name]
    known = [*own, *(name for name in lines if name not in dotted)]
    parts = {"": known, "config_overrides": [name.partition(".")[2] for name in dotted]}
    try:
        for key, _ in words["split_options"](settings):
            name = key.partition(".")[0]
            if name not in known:
                raise ValueError(f"unknown option `--{name}`: {words['advice'](name, known, near_miss, '', parts)}")
    except ValueError as error:
        parser.error(str(error))


def call(verb: str, argv: list[str] | None = None, name: str | None = None) -> Any:
    """Read the options, import the verb, and do it; -> the verb's answer."""
    fields = parse(verb, argv, name)
    sys.path.append(str(package().parent))  # of a checkout that is not installed
    module = importlib.import_module(f"modeling_vit_custom.commands.{verb}")
    return module.main(module.Options(**fields))


def as_script(verb: str, argv: list[str] | None = None):
    """A process of its own: ends with a sentence where there is an error, with the answer where it is a number."""
    listen()
    answer = call(verb, argv, Path(sys.argv[0]).name if argv is None else None)
    sys.exit(answer if isinstance(answer, int) else 0)


def main(argv: list[str] | None = None):
    words = sys.argv[1:] if argv is None else argv
    told = verbs()
    parser = argparse.ArgumentParser(
        prog="vit-custom",
        description=__doc__,
        epilog="verbs:\n" + "\n".join(f"  {key:<10}{one['summary']}" for key, one in told.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=told, metavar="VERB", help="one of those below")
    parser.add_argument("--version", action="version", version=version("modeling-vit-custom"))
    as_script(parser.parse_args(words[:1]).verb, words[1:])


def listen(parse: Callable[[], object] = bool):
    """From here on an error is one sentence; then the options are read."""
    words = runpy.run_path(str(package() / "common/last_words.py"))
    sys.excepthook = words["tell"]
    atexit.register(words["let_go"])
    parse()


if __name__ == "__main__":
    main()
