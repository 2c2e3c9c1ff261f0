"""Writes presets.json: parameters and multiply-accumulates of every preset, counted on independent implementations.

python -m tests.golden.make_presets
"""

import json
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import transformers
from torch import nn

from modeling_vit_custom.inspection import count_macs
from modeling_vit_custom.inspection import count_parameters


class Tutorial(nn.Module):
    """The tutorial's listing, with the `batch_first=True` that it lacks, out of torch.nn alone."""

    def __init__(self, batch_first: bool = True):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, 768, kernel_size=16, stride=16)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 768))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 14 * 14 + 1, 768))
        layer = nn.TransformerEncoderLayer(768, 8, 2048, dropout=0.1, activation="relu", batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.mlp_head = nn.Linear(768, 10)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1) + self.pos_embedding
        return self.encoder(tokens)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.mlp_head(self.encode(pixel_values)[:, 0])


def big_vision() -> nn.Module:
    """big_vision's `vit_s16_i1k.py` out of timm's parts: fixed positions, the mean of the patches, a tanh layer."""
    model = timm.create_model(
        "vit_small_patch16_224", class_token=False, global_pool="avg", fc_norm=False, pos_embed="none"
    )
    model.head = nn.Sequential(nn.Linear(384, 384), nn.Tanh(), nn.Linear(384, 1000))
    return model


def clip(width: int, layers: int, patch: int, image: int) -> nn.Module:
    sizes = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    sizes |= dict(num_attention_heads=width // 64, patch_size=patch, image_size=image)
    return eager(transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**sizes))


def dinov2(width: int, layers: int, **changes) -> nn.Module:
    """DINOv2 with registers as its authors store it: timm's port folds the class token's position into the token.

    transformers' model has a mask token too, which belongs to the pre-training.
    """
    sizes = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64)
    sizes |= dict(patch_size=14, image_size=518, num_register_tokens=4)
    config = transformers.Dinov2WithRegistersConfig(**sizes, **changes)
    model = eager(transformers.Dinov2WithRegistersModel, config)
    del model.embeddings.mask_token
    return model


def eager(make: Callable, config: transformers.PretrainedConfig) -> nn.Module:
    config._attn_implementation = "eager"  # all its products are counted on every device
    return make(config)


# What timm does not have under the preset's name: the maker, the image's side, the model.
OTHERS: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {
    "tutorial_vit": ("torch", 224, Tutorial),
    "vit_small_patch16_224_big_vision": ("timm", 224, big_vision),
    "vit_base_patch16_224_mae": ("timm", 224, lambda: timm.create_model("vit_base_patch16_224", num_classes=0)),
    "vit_large_patch16_224_mae": ("timm", 224, lambda: timm.create_model("vit_large_patch16_224", num_classes=0)),
    "vit_huge_patch14_224_mae": ("timm", 224, lambda: timm.create_model("vit_huge_patch14_224", num_classes=0)),
    "vit_base_patch32_clip_quickgelu_224": ("transformers", 224, lambda: clip(768, 12, 32, 224)),
    "vit_base_patch16_clip_quickgelu_224": ("transformers", 224, lambda: clip(768, 12, 16, 224)),
    "vit_large_patch14_clip_quickgelu_224": ("transformers", 224, lambda: clip(1024, 24, 14, 224)),
    "vit_large_patch14_clip_quickgelu_336": ("transformers", 336, lambda: clip(1024, 24, 14, 336)),
    "vit_small_patch14_reg4_dinov2": ("transformers", 518, lambda: dinov2(384, 12)),
    "vit_base_patch14_reg4_dinov2": ("transformers", 518, lambda: dinov2(768, 12)),
    "vit_large_patch14_reg4_dinov2": ("transformers", 518, lambda: dinov2(1024, 24)),
    "vit_giant_patch14_reg4_dinov2": ("transformers", 518, lambda: dinov2(1536, 40, use_swiglu_ffn=True)),
}


def from_timm(name: str) -> tuple[str, int, Callable[[], nn.Module]]:
    changes = {"num_classes": 0} if "dinov3" in name else {}  # published without a classifier
    return "timm", timm.get_pretrained_cfg(name).input_size[-1], lambda: timm.create_model(name, **changes)


def main():
    here = Path(__file__).parent
    rows = {}
    for preset in sorted(Path(here, "..", "..", "configs", "models").glob("*.json")):
        library, side, make = OTHERS.get(preset.stem) or from_timm(preset.stem)
        with torch.device("meta"):
            model = make().requires_grad_(False)
        version = {"timm": timm, "torch": torch, "transformers": transformers}[library].__version__
        # In training mode torch.nn's layers run their plain path: their fused inference path is not counted.
        macs = count_macs(model.train(), 1, 3, side, side)
        rows[preset.stem] = {"maker": f"{library} {version}", "parameters": count_parameters(model), "macs": macs}
    Path(here, "presets.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
