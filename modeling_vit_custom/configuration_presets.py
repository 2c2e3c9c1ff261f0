# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Published models by their names. A preset is a configuration without weights; the installed package has them all."""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .near_names import near_miss

HERE = Path(__file__).parent
# Of an installed package, and of a checkout.
FOLDERS = HERE / "presets", HERE.parent / "configs" / "models"


def preset_files() -> dict[str, Path]:
    """{name: file}, in the order of the names.

    Raises:
        FileNotFoundError: this code came with a checkpoint, which has no presets.
    """
    for folder in FOLDERS:
        if files := {path.stem: path for path in folder.rglob("*.json")}:
            return dict(sorted(files.items()))
    raise FileNotFoundError("A checkpoint's code has no presets: install the package modeling-vit-custom.")


def list_presets(pattern: str = "*") -> list[str]:
    """The names of the presets that fit a pattern, such as `"swin*"`, in order."""
    return [name for name in preset_files() if fnmatchcase(name, pattern)]


def find_preset(name: str) -> Path:
    """
    Raises:
        ValueError: there is no such preset.
        FileNotFoundError: as in `preset_files`.
    """
    files = preset_files()
    if name not in files:
        near = near_miss(name, files, most=3)
        raise ValueError(
            f"There is no preset {name!r}: "
            + (f"did you mean {near!r}?" if near else "`list_presets()` has the names.")
        )
    return files[name]


def read_preset(name: str, wanted: str) -> dict[str, Any]:
    """The fields of a preset, which is for the `model_type` that is wanted.

    Raises:
        ValueError: there is no such preset, or it is one of another configuration.
        FileNotFoundError: as in `preset_files`.
    """
    fields = json.loads(find_preset(name).read_text(encoding="utf-8"))
    found = fields["model_type"]
    if found != wanted:
        raise ValueError(f"The preset {name!r} has the model type {found}, and this class {wanted}.")
    return fields


class ConfigPresets:
    """A configuration that can be had by the name of a preset."""

    @classmethod
    def from_preset(cls, name: str, **changes: Any):
        """A published model's configuration.

        Args:
            name: one of `list_presets()`.
            changes: other values of fields, such as `num_labels=5`.

        Raises:
            ValueError: there is no such preset, it is one of another configuration, or a value is impossible.
        """
        return cls.from_dict(read_preset(name, cls.model_type), **changes)  # type: ignore[attr-defined]


class ModelPresets:
    """A model that can be made by the name of a preset."""

    @classmethod
    def from_preset(cls, name: str, **changes: Any):
        """A published model with new weights, drawn as its `_init_weights` says. Arguments and errors are those of
        `ViTCustomConfig.from_preset`; `from_pretrained` loads trained weights."""
        return cls(cls.config_class.from_preset(name, **changes))  # type: ignore[attr-defined, call-arg]
