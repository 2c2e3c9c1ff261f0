"""Names with fields in them: `blocks.{n}.attn.qkv.{p}` stands for the parameters of every layer."""

import re
from collections.abc import Mapping
from functools import cache

# What a field of a name stands for. `{s+1}` on one side and `{s}` on the other count from different ends.
FIELDS = {"n": r"\d+", "s": r"\d+", "p": "weight|bias", "rest": ".+"}
FIELD = re.compile(r"\{(\w+?)([+-]\d+)?\}")


@cache
def pattern(name: str) -> re.Pattern:
    """Matches the names that `name`, with its fields, stands for."""
    expression, end = "", 0
    for found in FIELD.finditer(name):
        expression += re.escape(name[end : found.start()]) + f"(?P<{found[1]}>{FIELDS[found[1]]})"
        end = found.end()
    return re.compile(expression + re.escape(name[end:]))


def match(name: str, found: str) -> dict[str, str] | None:
    """The values of the fields of `name` in the full name `found`; None where it is another name."""
    matched = pattern(name).fullmatch(found)
    if not matched:
        return None
    shifts = {field: int(shift or 0) for field, shift in FIELD.findall(name)}
    return {
        field: str(int(value) - shifts[field]) if shifts[field] else value
        for field, value in matched.groupdict().items()
    }


def fill(name: str, fields: Mapping[str, str]) -> str:
    """`name` with values for its fields."""
    return FIELD.sub(lambda f: str(int(fields[f[1]]) + int(f[2])) if f[2] else fields[f[1]], name)
