"""Values of recipes: YAML as it is meant, each value of its key's type."""

import math
import re
import types
from collections.abc import Hashable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any
from typing import Literal
from typing import Union
from typing import get_args
from typing import get_origin

import yaml

from ..near_names import near_miss

NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a dictionary",
    list: "a list",
}


class Loader(yaml.SafeLoader):
    """Reads 1e-06 and 3e-3 as numbers (YAML 1.1 and so PyYAML: as text), and no key twice (PyYAML: takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"`{key.value}` stands twice, in lines {lines[name]} and {line}: leave one out")
            lines[name] = line
        return super().construct_mapping(node, deep)

    def construct_power(self, node: yaml.ScalarNode) -> float | str:
        value = self.construct_yaml_float(node)
        return value if math.isfinite(value) else node.value  # a part of a hash, as 12e4567


POWER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
Loader.add_implicit_resolver("!power", POWER, list("-+.0123456789"))
Loader.add_constructor("!power", Loader.construct_power)


def load_yaml(text: str | bytes) -> Any:
    """
    Raises:
        ValueError: it is no YAML, in a sentence without its beginning.
    """
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        text, mark = str(error), getattr(error, "problem_mark", None)
        if mark is not None:
            text = f"{error.problem.removeprefix('but ')} in line {mark.line + 1}, column {mark.column + 1}"  # type: ignore[attr-defined]
        tab = "; indent with spaces, not with tabs" if r"'\t'" in text else ""
        raise ValueError(f"is no YAML: {' '.join(text.split())}{tab}.") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """The keys and values of a recipe's file, unchecked.

    Raises:
        ValueError: a file that is no recipe.
        OSError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a recipe's file, as those in configs/recipes.")
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = near_miss(path.name, there)
        hint = f"did you mean {path.with_name(near)}?" if near else "those of this project are in configs/recipes."
        raise FileNotFoundError(f"There is no recipe {path}: {hint}")
    try:
        settings = load_yaml(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is no recipe: write `key: value` lines, `dataset: sklearn_digits` among them.")
    return settings


def members(kind: Any) -> tuple[Any, ...]:
    """A union's members, or the one type."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def fits(value: Any, kind: Any) -> bool:
    """Of one type, no union. A class that YAML cannot write is not judged."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return any(value is word or (isinstance(word, str) and value == word) for word in get_args(kind))
    if origin in (list, tuple):
        inner = get_args(kind)[:1]
        return isinstance(value, list | tuple) and all(any(fits(one, k) for k in inner or [Any]) for one in value)
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    if origin in (bool, str, dict, types.NoneType):
        return isinstance(value, origin)
    return not (isinstance(origin, type) and issubclass(origin, Enum)) or isinstance(value, origin)


def of_kind(value: Any, kind: Any, key: str, path: str | Path) -> Any:
    """The value as the key's type has it: `3` of "3" or 3.0, `no` of what YAML 1.1 reads as false.

    Raises:
        ValueError: it cannot be meant.
    """
    kinds = members(kind)
    words = [one.value for some in kinds if isinstance(some, type) and issubclass(some, Enum) for one in some]
    if words:
        value = "no" if value is False and "no" in words else value
        if value in words or (value is None and types.NoneType in kinds):
            return value
        near = near_miss(str(value), words)
        some = ", ".join(words[:12]) + (" ..." if len(words) > 12 else ".")
        end = f"did you mean `{near}`?" if near else f"choose one of {some}"
        raise ValueError(f"{path} sets `{key}` to {value!r}: {end}")
    if any(fits(value, one) for one in kinds):
        return value
    if value is None and len(kinds) == 1 and kind in (dict, list, list[str]):
        return [] if get_origin(kind) else kind()  # the line is there and nothing under it
    if value is None:
        raise ValueError(f"{path} leaves `{key}` empty: write a value, or leave the line out.")
    number = value
    if isinstance(value, str) and {int, float} & {*kinds}:
        with suppress(ValueError):
            number = float(value)
    if isinstance(number, float) and (float in kinds or (int in kinds and number.is_integer())):
        return number if float in kinds else int(number)
    names = [NAMES[get_origin(one) or one] for one in kinds if (get_origin(one) or one) in NAMES]
    quoted = ", in quotes" if str in kinds and not isinstance(value, bool | dict | list) else ""
    raise ValueError(f"{path} sets `{key}` to {value!r}: write {' or '.join(names)}{quoted}.")
