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
"""What a checkpoint folder holds, and whether it fits: Auto classes, shipped code, keys of config.json, tensors."""

import json
import os
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig
from transformers import PretrainedConfig
from transformers.utils import cached_file
from transformers.utils import logging

from .configuration_checks import near_miss
from .configuration_checks import plain

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
    "checkpoint_files.py",
    "configuration_checks.py",
    "configuration_heads.py",
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

# Keys that some version of transformers passes to a configuration or writes into config.json, beyond the fields and
# properties of the installed PretrainedConfig: never called unknown, never taken for a misspelling.
TRANSFORMERS_KEYS = frozenset(
    """add_cross_attention adapters architectures attn_implementation auto_map backend base_model_ep_plan
    base_model_fsdp_plan base_model_pp_plan base_model_tp_plan chunk_size_feed_forward compression_config
    cross_attention_hidden_size custom_pipelines distributed_config dtype experts_implementation finetuning_task
    fsdp_config gradient_checkpointing is_decoder is_encoder_decoder kernel_config loss_type model_type name_or_path
    neuron num_labels out_features out_indices output_attentions output_hidden_states output_past output_scores
    per_layer_config prefix problem_type pruned_heads quantization_config return_dict return_unused_kwargs
    sep_token_id task_specific_params tensor_parallel tf_legacy_loss tie_encoder_decoder tie_last_hidden_states
    tie_word_embeddings tokenizer_class torch_dtype torchscript transformers_version trust_remote_code use_bfloat16
    use_cache use_kernels use_return_dict xla_device""".split()
)
LEFT_TO_TRANSFORMERS = ("dtype", "torch_dtype", "quantization_config", "distributed_config")  # it writes or omits them
NOT_OF_THE_DISK = (AttributeError, LookupError, RuntimeError, TypeError, ValueError, StrictDataclassError)
# Read-only views of a pyramid's lists, and the field that sets each.
VIEWS = {"hidden_size": "hidden_sizes", "num_hidden_layers": "depths"}


def unknown_keys(keys: Iterable[str], config_class: type) -> dict[str, str | None]:
    """The keys that nobody knows, and the field of `config_class` that each is a slip of, if it is of one."""
    names = {f.name for f in fields(config_class) if f.name[0] != "_"}
    known = TRANSFORMERS_KEYS.union(names, vars(PretrainedConfig), GenerationConfig().to_dict()) - VIEWS.keys()
    words = [*names, *VIEWS, "num_labels", "out_features", "out_indices"]
    near = {key: near_miss(key, words) for key in keys if not key.startswith("_") and key not in known}
    return {key: VIEWS.get(str(word), word) for key, word in near.items()}


def refuse_slips(keys: Iterable[str], config_class: type) -> list[str]:
    """The keys that nobody knows.

    Raises:
        ValueError: a key is close to a field of `config_class`, where a setting would be lost in silence.
    """
    unknown = unknown_keys(keys, config_class)
    for key, field in unknown.items():
        if field is not None:
            raise ValueError(f"Unknown configuration key `{key}`: did you mean `{field}`?")
    return list(unknown)


def warn_of_unknown_keys(keys: Iterable[str], config_class: type):
    """Say of each unknown key, once, that it stays and does nothing; raise as `refuse_slips` does."""
    for key in refuse_slips(keys, config_class):
        logger.warning_once(
            f"The configuration has a key that neither {config_class.__name__} nor transformers knows, `{key}`: "
            "it is kept and written back, and changes nothing."
        )


def refuse_foreign(settings: dict[str, Any], config_class: Any):
    """
    Raises:
        ValueError: the config.json is another model's: of transformers, of timm (`architecture`), or of our other kind.
    """
    kind = settings.get("model_type") or settings.get("architecture")
    own = {getattr(base, "model_type", "") for base in config_class.__mro__}
    if kind in {None, *own}:
        return
    fix = (
        "convert the checkpoint first, by `python scripts/convert.py SOURCE OUTPUT` or "
        "`modeling_vit_custom.conversion.convert(source, output)`, and load OUTPUT"
    )
    if str(kind).startswith("vit_custom"):
        fix = f"load it with its own class, {(settings.get('architectures') or [kind])[0]}"
    raise ValueError(f"This configuration is of a {kind!r}, not of a {config_class.model_type!r}: {fix}.")


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
            f"`python scripts/convert.py {path} OUTPUT`."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        inner = [str(folder) for folder in sorted(path.iterdir()) if (folder / "config.json").is_file()]
        fix = f"give {' or '.join(inner)}" if inner else "give a folder that save_pretrained wrote"
        raise FileNotFoundError(f"{path} has no config.json and is no checkpoint: {fix}.")


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
