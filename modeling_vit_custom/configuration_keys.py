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
"""The keys of config.json: those that nobody knows, slips of those that somebody does, and another library's."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers import GenerationConfig
from transformers import PretrainedConfig
from transformers.utils import logging

from .near_names import near_miss

logger = logging.get_logger(__name__)

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
    towers = {part.get("model_type") for part in settings.values() if isinstance(part, dict)}  # transformers takes one
    if kind in {None, *own} or towers & own:
        return
    fix = (
        "convert the checkpoint first, by `vit-custom convert SOURCE OUTPUT` or "
        "`modeling_vit_custom.conversion.convert(source, output)`, and load OUTPUT"
    )
    if str(kind).startswith("vit_custom"):
        fix = f"load it with its own class, {(settings.get('architectures') or [kind])[0]}"
    raise ValueError(f"This configuration is of a {kind!r}, not of a {config_class.model_type!r}: {fix}.")
