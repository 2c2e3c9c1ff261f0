"""What a verb takes, as fields of its dataclass `Options`, and the file that the launcher reads in place of importing.

python -m modeling_vit_custom.commands.options
"""

import inspect
import json
import shlex
import types
from dataclasses import MISSING
from dataclasses import Field
from dataclasses import field
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any
from typing import get_args
from typing import get_origin
from typing import get_type_hints

FILE = Path(__file__).with_suffix(".json")
VERBS = ("train", "evaluate", "predict", "convert", "describe", "push", "pull", "check")


def argument(help: str, default: Any = MISSING, **told: Any) -> Any:
    """A field that is named by its place; with a default it may be left out."""
    return described_field(default, help=help, positional=True, **told)


def option(default: Any, help: str, **told: Any) -> Any:
    """A field that is `--named`; `names` in place of its own, `choices`, `metavar`, `nargs`, `exclusive` of others by a
    word."""
    return described_field(default, help=help, **told)


def described_field(default: Any, **told: Any) -> Any:
    return field(default_factory=list, metadata=told) if default == [] else field(default=default, metadata=told)


def described(verb: str) -> dict[str, Any]:
    """A verb's summary, description and options, as JSON has them."""
    module = import_module(f"{__package__}.{verb}")
    hints, text = get_type_hints(module.Options), inspect.getdoc(module) or ""
    options = [about(one, hints[one.name]) for one in fields(module.Options) if "help" in one.metadata]
    summary = text.split("\n")[0]
    return dict(summary=summary, description=text, keys=getattr(module, "KEYS", None), options=options)


def about(one: Field, hint: Any) -> dict[str, Any]:
    """The words of `ArgumentParser.add_argument`."""
    told = dict(one.metadata)
    members = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (member for member in members if member is not types.NoneType)
    many = get_origin(kind) is list
    kind = get_args(kind)[0] if many else kind
    required = one.default is MISSING and one.default_factory is MISSING
    default = None if required else one.default_factory() if one.default_factory is not MISSING else one.default
    names = [one.name] if told.get("positional") else told.get("names", [name_of(one)])
    made = {key: told[key] for key in ("choices", "metavar", "exclusive", "nargs", "action") if key in told}
    text = told["help"]
    if kind is bool:
        made |= dict(action="store_true")
    else:
        made |= dict(kind=kind.__name__, default=default)
        if many and "nargs" not in made:
            made |= dict(nargs="+" if required else "*") if told.get("positional") else dict(action="append")
        elif told.get("positional") and not required:
            made |= dict(nargs="?")
        if default not in (None, []):
            text = f"{text} (default: {default})"
    if not told.get("positional"):
        made |= dict(dest=one.name)
    return dict(names=names, help=text.replace("%", "%%"), **made)


def command_of(verb: str, options: Any) -> str:
    """As one types it to have these options."""
    placed, named = [], []
    for one in fields(options):
        value = getattr(options, one.name)
        if "help" not in one.metadata or value in (None, False, []) or value == one.default:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words = [str(word) for word in values]
        if one.metadata.get("positional"):
            placed += words
            continue
        name = name_of(one)
        repeats = isinstance(value, list) and "nargs" not in one.metadata
        named += [part for word in words for part in (name, word)] if repeats else [name, *words]
    return shlex.join(["vit-custom", verb, *placed, *named, *getattr(options, "settings", [])])


def name_of(one: Field) -> str:
    return one.metadata.get("names", [f"--{one.name.replace('_', '-')}"])[0]


def text() -> str:
    return json.dumps({verb: described(verb) for verb in VERBS}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
