"""Where a model looked at a picture: a picture of it, and the maps as tensors."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from ..inspection import attention_maps
from ..inspection import draw_attention
from ..inspection import rollout
from ..training.task import as_pictures


def seen_by(images: Any, pixels: torch.Tensor) -> Image.Image:
    """(C, H, W), normalised by an image processor -> the picture as the model saw it, resized and cropped."""
    return as_pictures(images, pixels[None].float().cpu())[0]


def write_attention(path: Path, model: Any, images: Any, pixels: torch.Tensor, answer: str):
    """`<path>.attention.png`: the last layer's and all layers' together; `<path>.attention.safetensors`: `layer_0` ...
    (K, h, w), and `rollout` (h, w).
    """
    pixel_values = pixels[None].to(model.device, model.dtype)
    maps, rolled = attention_maps(model, pixel_values), rollout(model, pixel_values)[0]
    shown = seen_by(images, pixels)
    drawn = draw_attention(shown, maps[-1][0].cpu(), rolled.cpu(), f"attention of layer {len(maps) - 1}", answer)
    drawn.save(path.with_name(f"{path.name}.attention.png"))
    tensors = {f"layer_{number}": layer[0].cpu().contiguous() for number, layer in enumerate(maps)}
    save_file(tensors | {"rollout": rolled.cpu().contiguous()}, path.with_name(f"{path.name}.attention.safetensors"))
