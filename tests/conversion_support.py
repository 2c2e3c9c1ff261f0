"""What the tests of conversions share: the models of transformers, small, with every switch that their kind has."""

import json
from pathlib import Path

import torch
import transformers

from tests.support import fill
from tests.support import formula
from tests.support import picture

# float64: the bound of the project. float32: relative to the largest value.
BOUNDS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
PLAIN = dict(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
MLP = PLAIN | dict(intermediate_size=80)
LABELS = dict(id2label=dict(enumerate("abcdefg")))
# Grids of 16, 8 and 4 with windows of 4: shifted, padded at other sizes, and one that is a single window.
SWIN = dict(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2, 2], num_heads=[2, 4, 4], window_size=4)
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=49408)
DECODER = dict(decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_num_attention_heads=2)
CLIP = dict(vision_config=MLP, text_config=TEXT)
REGISTERS = "Dinov2WithRegisters"
# name: (class, configuration class, settings)
CASES = {
    "vit": ("ViTForImageClassification", "ViTConfig", MLP | LABELS),
    "vit no bias relu": (
        "ViTForImageClassification",
        "ViTConfig",
        MLP | LABELS | dict(qkv_bias=False, hidden_act="relu"),
    ),
    "vit bare": ("ViTModel", "ViTConfig", MLP | dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)),
    "vit four channels": ("ViTModel", "ViTConfig", MLP | dict(num_channels=4, image_size=24)),
    "deit": ("DeiTForImageClassification", "DeiTConfig", MLP | LABELS),
    "deit with teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", MLP | LABELS | dict(qkv_bias=False)),
    "deit bare": ("DeiTModel", "DeiTConfig", MLP),
    "swin": ("SwinForImageClassification", "SwinConfig", SWIN | LABELS),
    "swin absolute": (
        "SwinForImageClassification",
        "SwinConfig",
        SWIN | LABELS | dict(use_absolute_embeddings=True, qkv_bias=False, mlp_ratio=2.5),
    ),
    "swin bare": ("SwinModel", "SwinConfig", SWIN | dict(window_size=3, depths=[1, 3, 2], layer_norm_eps=1e-3)),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", PLAIN | LABELS | dict(mlp_ratio=2)),
    "dinov2 swiglu": ("Dinov2ForImageClassification", "Dinov2Config", PLAIN | LABELS | dict(use_swiglu_ffn=True)),
    "dinov2 bare": ("Dinov2Model", "Dinov2Config", PLAIN | dict(qkv_bias=False, use_mask_token=False)),
    "dinov2 registers": (f"{REGISTERS}ForImageClassification", f"{REGISTERS}Config", PLAIN | LABELS),
    "dinov2 registers swiglu": (
        f"{REGISTERS}Model",
        f"{REGISTERS}Config",
        PLAIN | dict(use_swiglu_ffn=True, num_register_tokens=2),
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", MLP | dict(num_register_tokens=4)),
    "dinov3 gated": ("DINOv3ViTModel", "DINOv3ViTConfig", MLP | dict(use_gated_mlp=True, hidden_act="silu")),
    "dinov3 biases": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        MLP | dict(query_bias=False, key_bias=True, value_bias=False, rope_theta=10.0, num_register_tokens=1),
    ),
    "clip vision": ("CLIPVisionModel", "CLIPVisionConfig", MLP),
    "clip projection": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", MLP | dict(hidden_act="gelu")),
    "clip": ("CLIPModel", "CLIPConfig", CLIP),
    "clip classifier": ("CLIPForImageClassification", "CLIPConfig", CLIP | LABELS),
    "mae": ("ViTMAEModel", "ViTMAEConfig", MLP | DECODER),
    "mae with decoder": ("ViTMAEForPreTraining", "ViTMAEConfig", MLP | DECODER),
}


def transformers_model(name: str, **changes) -> transformers.PreTrainedModel:
    make, config, settings = CASES[name]
    model = fill(getattr(transformers, make)(getattr(transformers, config)(**settings | changes)))
    with torch.no_grad():  # LayerScale from its formula too: both signs, none near zero
        for key, parameter in model.named_parameters():
            if key.endswith("lambda1"):
                parameter.copy_(formula(key, parameter.shape).sign() * (0.5 + formula(key, parameter.shape).abs()))
    return model


def saved(name: str, folder: Path, **changes) -> Path:
    """The model as its own save_pretrained writes it: on-disk names, safetensors."""
    transformers_model(name, **changes).save_pretrained(folder)
    return folder


def pixels(height: int, width: int, dtype: torch.dtype, channels: int = 3) -> torch.Tensor:
    return picture(2, channels, height, width, dtype=dtype).requires_grad_()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def scalar(output: torch.Tensor) -> torch.Tensor:
    return (output * formula("scalar", output.shape)).sum()


def read(path: Path) -> dict:
    return json.loads(path.read_text())
