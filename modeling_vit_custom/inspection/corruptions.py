"""Pictures made worse in steps, to see what a model is sensitive to.

B batch, C channels, H W pixels. Strengths are shares, of the range of values or of the picture's side, so that they
mean the same at every size.
"""

from collections.abc import Callable

import torch
from torchvision.transforms.v2 import functional

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.3),  # standard deviation, of the range of values
    "shift": (1 / 14, 2 / 14, 3 / 14),  # of the side, to the right, left, bottom or top
    "blur": (0.02, 0.04, 0.06),  # standard deviation, of the side
    "occlusion": (1 / 4, 3 / 8, 1 / 2),  # side of a grey square, of the side
}


def noise(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W): Gaussian, of each value by itself."""
    drawn = torch.randn(images.shape, generator=generator) * 255 * strength
    return (images + drawn).round().clamp(0, 255).byte()


def shift(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W): each to one of four sides; what comes in is black."""
    down, across = (round(strength * side) for side in images.shape[2:])
    moves = torch.tensor([[across, 0], [-across, 0], [0, down], [0, -down]])
    chosen = moves[torch.randint(4, (len(images),), generator=generator)].tolist()
    return torch.stack([move(image, *pixels) for image, pixels in zip(images, chosen, strict=True)])


def move(image: torch.Tensor, across: int, down: int) -> torch.Tensor:
    """(C, H, W) -> (C, H, W)"""
    return functional.affine(image, angle=0.0, translate=[across, down], scale=1.0, shear=[0.0, 0.0])


def blur(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W)"""
    sigma = strength * max(images.shape[2:])
    reach = min(round(3 * sigma) + 1, min(images.shape[2:]) - 1)  # the edge is mirrored, so it must be inside
    return functional.gaussian_blur(images, kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2)


def occlusion(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W): a square anywhere inside."""
    side = [max(1, round(strength * full)) for full in images.shape[2:]]
    free = [full - part + 1 for full, part in zip(images.shape[2:], side, strict=True)]
    places = [torch.randint(room, (len(images),), generator=generator).tolist() for room in free]
    grey = torch.full((images.shape[1], 1, 1), 127, dtype=torch.uint8)
    return torch.stack(
        [functional.erase(image, row, column, *side, grey) for image, row, column in zip(images, *places, strict=True)]
    )


CORRUPTIONS: dict[str, Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]] = {
    "noise": noise,
    "shift": shift,
    "blur": blur,
    "occlusion": occlusion,
}


def corrupt(name: str, images: torch.Tensor, strength: float, seed: int = 0) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H, W), bytes: equal seeds give equal pictures.

    Raises:
        ValueError: there is no such corruption, or pixels are no bytes.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"There is no corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}.")
    if images.dtype != torch.uint8:
        raise ValueError(f"Pixels of type {images.dtype} have no known range: give bytes, torch.uint8.")
    return CORRUPTIONS[name](images, strength, torch.Generator().manual_seed(seed))
