"""transformers' ViT -> ours."""

from collections.abc import Mapping

import torch
from transformers import ViTConfig
from transformers import ViTModel
from transformers import ViTPreTrainedModel

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from ..modeling_vit_custom import ViTCustomModel
from .rename import load
from .rename import rename

OURS = "stages.0.layers.{n}."
EMBEDDINGS = {
    "embeddings.cls_token": "embeddings.prefix_tokens",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.{p}": "embeddings.patch_embeddings.{p}",
    "layernorm.{p}": "norm.{p}",
}
# In memory since transformers 5.9, and in files saved with save_original_format=False.
IN_MEMORY = {
    "layers.{n}.layernorm_before.{p}": OURS + "norm1.{p}",
    "layers.{n}.attention.q_proj.{p}": OURS + "attention.q_proj.{p}",
    "layers.{n}.attention.k_proj.{p}": OURS + "attention.k_proj.{p}",
    "layers.{n}.attention.v_proj.{p}": OURS + "attention.v_proj.{p}",
    "layers.{n}.attention.o_proj.{p}": OURS + "attention.o_proj.{p}",
    "layers.{n}.layernorm_after.{p}": OURS + "norm2.{p}",
    "layers.{n}.mlp.fc1.{p}": OURS + "mlp.fc1.{p}",
    "layers.{n}.mlp.fc2.{p}": OURS + "mlp.fc2.{p}",
}
# On disk, as every file on the Hub; in memory before 5.9.
ON_DISK = {
    "encoder.layer.{n}.layernorm_before.{p}": OURS + "norm1.{p}",
    "encoder.layer.{n}.attention.attention.query.{p}": OURS + "attention.q_proj.{p}",
    "encoder.layer.{n}.attention.attention.key.{p}": OURS + "attention.k_proj.{p}",
    "encoder.layer.{n}.attention.attention.value.{p}": OURS + "attention.v_proj.{p}",
    "encoder.layer.{n}.attention.output.dense.{p}": OURS + "attention.o_proj.{p}",
    "encoder.layer.{n}.layernorm_after.{p}": OURS + "norm2.{p}",
    "encoder.layer.{n}.intermediate.dense.{p}": OURS + "mlp.fc1.{p}",
    "encoder.layer.{n}.output.dense.{p}": OURS + "mlp.fc2.{p}",
}
BASE = EMBEDDINGS | IN_MEMORY | ON_DISK
HEAD = {f"vit.{theirs}": f"vit.{ours}" for theirs, ours in BASE.items()} | {"classifier.{p}": "classifier.{p}"}
# The tanh layer behind ViTModel's `pooler_output`: most checkpoints hold a random one; ours is the class token itself.
DROPPED = ("pooler.dense.{p}", "vit.pooler.dense.{p}")


def convert_config(config: ViTConfig) -> ViTCustomConfig:
    return ViTCustomConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        hidden_sizes=[config.hidden_size],
        depths=[config.num_hidden_layers],
        num_attention_heads=[config.num_attention_heads],
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        qkv_bias=config.qkv_bias,
        hidden_dropout_prob=config.hidden_dropout_prob,
        embeddings_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        initializer_range=config.initializer_range,
        position_interpolation="bicubic",
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    )


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Both spellings of transformers' names, of the base model or of the classifier, to ours."""
    return rename(state_dict, BASE | HEAD, DROPPED)


def from_transformers(model: ViTPreTrainedModel) -> ViTCustomModel | ViTCustomForImageClassification:
    """A `ViTModel` or `ViTForImageClassification` as ours, in the same dtype."""
    make = ViTCustomModel if isinstance(model, ViTModel) else ViTCustomForImageClassification
    ours = make(convert_config(model.config)).to(dtype=model.dtype)  # type: ignore[call-arg]
    return load(ours, convert_state_dict(model.state_dict()))
