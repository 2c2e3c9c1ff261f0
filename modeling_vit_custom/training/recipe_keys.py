"""Every key of a recipe with its default and a sentence, as recipe_keys.txt holds them for `vit-custom train --help`.

python -m modeling_vit_custom.training.recipe_keys
"""

import json
import re
import textwrap
from dataclasses import MISSING
from dataclasses import Field
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedConfig
from transformers import TrainingArguments

from ..configuration_vit_custom import ViTCustomConfig
from .recipe import DataArguments
from .recipe import ModelArguments
from .recipe import plain

FILE = Path(__file__).with_suffix(".txt")
GROUPS = {"Data": DataArguments, "Model": ModelArguments, "transformers' TrainingArguments": TrainingArguments}


def recipe_keys() -> str:
    """A line for each key: its name from the third column on, and nothing else there."""
    lines = [f"Keys of a recipe, each an option too (with transformers {version('transformers')}):"]
    for title, kind in GROUPS.items():
        lines += ["", f"{title}:", *(line for one in fields(kind) if one.init for line in about(one))]
    inherited = {one.name for one in fields(PreTrainedConfig)}
    own = [one for one in fields(ViTCustomConfig) if one.init and one.name not in inherited and one.name[0] != "_"]
    lines += ["", "Fields of the configuration, as parts of config_overrides:"]
    return "\n".join([*lines, *(line for one in own for line in about(one, "config_overrides."))]) + "\n"


def about(one: Field, place: str = "") -> list[str]:
    default = one.default_factory() if one.default_factory is not MISSING else plain(one.default)
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", str(one.metadata.get("help", "")).replace("%%", "%"))[0]
    end = "required" if one.default is MISSING and one.default_factory is MISSING else f"default: {json.dumps(default)}"
    text = f"{place}{one.name}  {first} ({end})" if first else f"{place}{one.name}  ({end})"
    return textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent=" " * 6)


if __name__ == "__main__":
    FILE.write_text(recipe_keys(), encoding="utf-8")
