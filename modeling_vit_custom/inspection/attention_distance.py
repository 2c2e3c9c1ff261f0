"""How far attention looks: "An Image is Worth 16x16 Words", 4.5 and appendix D.7.

B batch, K heads, h w grid, P prefix tokens, N tokens (P + h * w).
"""

from collections.abc import Sequence

import torch

from ..configuration_checks import pair
from ..modeling_embeddings import patch_grid
from ..modeling_vit_custom import ViTCustomPreTrainedModel

Grid = tuple[int, int]


def patch_distances(grid: Grid, stride: tuple[int, int]) -> torch.Tensor:
    """-> (h * w, h * w): pixels between the centres of any two patches, row by row."""
    rows, columns = (torch.arange(count) * step for count, step in zip(grid, stride, strict=True))
    centres = torch.cartesian_prod(rows, columns).double()
    return torch.cdist(centres, centres)


def mean_attention_distance(attention: torch.Tensor, grid: Grid, stride: tuple[int, int]) -> torch.Tensor:
    """(B, K, N, N) -> (K): the distance in pixels from a patch to the patches it attends to, weighted by its attention,
    as a mean over patches and images. Prefix tokens have no place: they are left out on both sides."""
    prefix = attention.shape[-1] - grid[0] * grid[1]
    weights = attention[..., prefix:, prefix:].double()
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights * patch_distances(grid, stride)).sum(-1).mean((0, 2))


@torch.no_grad()
def attention_distances(model: ViTCustomPreTrainedModel, pixel_values: torch.Tensor) -> list[list[float]]:
    """(B, C, H, W) -> a list for each layer of a number for each head, in pixels.

    Raises:
        ValueError: the grid changes on the way or attention stays in windows; or the model does not give its attention.
    """
    config = model.config
    if config.downsample != "none" or config.window_size is not None:
        raise ValueError("Attention distance is of models whose layers see one whole grid: give a plain ViT.")
    if config._attn_implementation != "eager":
        raise ValueError("Only eager attention gives its weights: load with attn_implementation='eager'.")
    stride = pair(config.patch_stride or config.patch_size)
    grid = patch_grid(config, pixel_values)
    attentions: Sequence[torch.Tensor] = model(pixel_values, output_attentions=True).attentions
    return [mean_attention_distance(attention, grid, stride).tolist() for attention in attentions]


def uniform_distance(grid: Grid, stride: tuple[int, int]) -> float:
    """What attention that looks everywhere alike has: in pixels."""
    return patch_distances(grid, stride).mean().item()
