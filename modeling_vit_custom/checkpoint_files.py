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
"""What a checkpoint folder holds, and whether it fits: Auto classes, shipped code, config.json, tensors."""

import json
import os
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import cached_file
from transformers.utils import logging

from .configuration_checks import plain
from .configuration_keys import refuse_foreign
from .configuration_keys import unknown_keys

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_vit_custom.ViTCustomConfig",
    "AutoModel": "modeling_vit_custom.ViTCustomModel",
    "AutoBackbone": "modeling_vit_custom.ViTCustomBackbone",
    "AutoModelForImageClassification": "modeling_vit_custom.ViTCustomForImageClassification",
    "AutoModelForMaskedImageModeling": "modeling_masked.ViTCustomForMaskedImageModeling",
    "AutoModelForPreTraining": "modeling_masked.ViTCustomForPreTraining",
    "AutoModelForSemanticSegmentation": "modeling_segmentation.ViTCustomForSemanticSegmentation",
    "AutoModelForObjectDetection": "modeling_detection.ViTCustomForObjectDetection",
}
DUAL_ENCODER_AUTO_MAP = {
    "AutoConfig": "configuration_dual_encoder.ViTCustomDualEncoderConfig",
    "AutoModel": "modeling_dual_encoder.ViTCustomDualEncoder",
    "AutoModelForZeroShotImageClassification": "modeling_dual_encoder.ViTCustomDualEncoder",
}
SHIPPED_FILES = (
    "near_names.py",
    "configuration_presets.py",
    "checkpoint_files.py",
    "configuration_checks.py",
    "configuration_heads.py",
    "configuration_keys.py",
    "configuration_stages.py",
    "configuration_vit_custom.py",
    "configuration_dual_encoder.py",
    "modeling_arguments.py",
    "modeling_embeddings.py",
    "modeling_geometry.py",
    "modeling_attention.py",
    "modeling_adapting.py",
    "modeling_stages.py",
    "modeling_heads.py",
    "modeling_mixed_sizes.py",
    "modeling_vit_custom.py",
    "modeling_pixels.py",
    "modeling_masked.py",
    "modeling_segmentation.py",
    "modeling_detection_decoder.py",
    "modeling_detection_loss.py",
    "modeling_detection.py",
    "modeling_contrastive.py",
    "modeling_dual_encoder.py",
)

LEFT_TO_TRANSFORMERS = ("dtype", "torch_dtype", "quantization_config", "distributed_config")  # it writes or omits them
NOT_OF_THE_DISK = (AttributeError, LookupError, RuntimeError, TypeError, ValueError, StrictDataclassError)


def refuse_other_paths(name_or_path: str | os.PathLike | None, subfolder: str | None):
    """
    Raises:
        OSError: something is there, and it is no folder of a checkpoint; the sentence says which one is.
    """
    path = Path(name_or_path or "", subfolder or "")
    if not name_or_path or (path.suffix == ".json" and path.is_file()):
        return
    if path.is_file():
        raise NotADirectoryError(
            f"{path} is a file: give its folder if save_pretrained wrote it, or convert it first, by "
            f"`vit-custom convert {path} OUTPUT`."
        )
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        inner = [str(folder) for folder in sorted(path.iterdir()) if (folder / "config.json").is_file()]
        fix = f"give {' or '.join(inner)}" if inner else "give a folder that save_pretrained wrote"
        raise FileNotFoundError(f"{path} has no config.json and is no checkpoint: {fix}.")


class OwnFolders:
    """A configuration that is read where its own kind lies; of other places a sentence says what to do."""

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        refuse_other_paths(pretrained_model_name_or_path, kwargs.get("subfolder"))
        found = super().get_config_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        refuse_foreign(found[0], cls)
        return found


def copy_shipped_files(folder: str | os.PathLike, name_or_path: str | None):
    """Put every shipped file into `folder`: from beside this one, or else from the checkpoint that this code came from.

    transformers keeps one copy of remote code per entry point, holding what that entry imports. What another entry
    needs is in the checkpoint itself, for a Hub repository at the commit that names the folder this file runs from.
    A file that is lost there too is warned of: weights in the middle of a training matter more than it does.
    """
    here, lost = Path(__file__).parent, []
    commit = here.name if re.fullmatch("[0-9a-f]{40}", here.name) else None
    for name in SHIPPED_FILES:
        source, target = here / name, Path(folder, name)
        if not source.is_file():
            if target.is_file():  # transformers has just copied what the saved class imports
                continue
            source = Path(str(name_or_path), name)
        try:
            if commit is not None and not (here / name).is_file():
                source = Path(str(cached_file(str(name_or_path), name, revision=commit)))
            if not target.exists() or not source.samefile(target):
                shutil.copyfile(source, target)
        except OSError as error:
            lost.append(f"{name} ({error})")
    if lost:
        logger.warning(f"{folder} lacks files of code; put them there before you share the folder: {'; '.join(lost)}")


def is_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        return False


@contextmanager
def readable(config) -> Iterator[None]:
    """A configuration, and those in it, without the attributes that config.json cannot hold or that loading would
    refuse: each is named in a warning, and back afterwards."""
    taken = []
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        values = dict(getattr(part, "__dict__", {}))
        slips = unknown_keys(values, type(part)) if hasattr(part, "auto_classes") else {}
        for name, value in values.items():
            why = f"did you mean `{slips[name]}`?" if slips.get(name) else None
            if not is_json(value) and name not in LEFT_TO_TRANSFORMERS and not hasattr(value, "to_diff_dict"):
                taken.append((part, name, value))
                with suppress(Exception):  # whatever a stranger's object does when it is asked
                    vars(part)[name] = plain(value)
                if not is_json(vars(part)[name]):
                    why = f"{type(value).__name__} is no type of JSON: keep it elsewhere."
            if why is not None:
                taken.append((part, name, vars(part).pop(name)))
                logger.warning(f"config.json is saved without the configuration's attribute `{name}`: {why}")
    try:
        yield
    finally:
        for part, name, value in reversed(taken):
            vars(part)[name] = value


def save_with_code(config, save: Callable, save_directory: str | os.PathLike, push_to_hub: bool, **kwargs):
    """Write config.json by `save`, transformers' own, with the full `auto_map`, and every shipped file beside it.

    Trained weights are often saved right after: what is wrong with a configuration is a warning, never an error.
    """
    os.makedirs(save_directory, exist_ok=True)
    config.auto_map = dict(config.auto_classes)
    vars(config).pop("use_cache", None)  # Trainer sets it on every model
    with readable(config):
        try:
            save(save_directory)
        except NOT_OF_THE_DISK as error:
            logger.warning(f"config.json needs repair, there or by arguments of `from_pretrained`: {error}")
            try:
                Path(save_directory, "config.json").write_text(config.to_json_string(), encoding="utf-8")
            except NOT_OF_THE_DISK as failure:
                logger.warning(f"{save_directory} has no config.json, write it by hand: {failure}")
    copy_shipped_files(save_directory, config.name_or_path)
    if push_to_hub:  # transformers alone would push config.json
        config.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)


def check_loading(model, info: dict, ignore_mismatched_sizes: bool):
    """Look at what transformers found when it loaded a checkpoint into `model`.

    Raises:
        RuntimeError: the two-sided list, where the checkpoint does not hold exactly the tensors of the backbone, or has
            others in another shape and `ignore_mismatched_sizes` does not allow it.
    """
    base = {model.base_model_prefix, *(name for name, _ in model.base_model.named_children())}
    base.update(name for name, _ in model.base_model.named_parameters(recurse=False))

    def is_backbone(key: str) -> bool:
        return key.split(".")[0] in base

    missing, unexpected = (sorted(filter(is_backbone, info[side])) for side in ("missing_keys", "unexpected_keys"))
    mismatched = sorted(row for row in info["mismatched_keys"] if is_backbone(row[0]) or not ignore_mismatched_sizes)
    if not (missing or unexpected or mismatched):
        return
    rows = [f"  missing from the checkpoint: {key}" for key in missing]
    rows += [f"  in the checkpoint, not in the model: {key}" for key in unexpected]
    rows += [f"  {key}: {tuple(old)} in the checkpoint, {tuple(new)} in the model" for key, old, new in mismatched]
    fix = "load it with the configuration it was saved with"
    if mismatched and not any(is_backbone(row[0]) for row in mismatched):
        fix += ", or pass `ignore_mismatched_sizes=True` to start these anew"
    raise RuntimeError(f"The checkpoint does not fit {type(model).__name__}; {fix}:\n" + "\n".join(rows))
