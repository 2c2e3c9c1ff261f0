"""Where a model looked: its attention on the grid of its patches, layer by layer and head by head, and as one map from
the pooled vector back to the patches.

B batch, C channels, H W pixels, K heads, h w grid, P prefix tokens, N tokens (P + h * w), G windows in an image, M
tokens in a window.
"""

from typing import Any
from typing import NamedTuple

import torch

from ..common import frozen
from ..modeling_embeddings import patch_grid
from ..modeling_geometry import Windows
from ..modeling_geometry import make_geometries
from ..modeling_mixed_sizes import same_size_parts
from ..modeling_vit_custom import ViTCustomModel

Grid = tuple[int, int]
SHARES = 0.5  # of a layer's input and of its attention: "Quantifying Attention Flow in Transformers", section 3


class LayerAttention(NamedTuple):
    """What one layer paid attention to.

    Args:
        probabilities: (B, K, N, N), or (B * G, K, M, M) within windows.
        windows: how tokens were dealt to windows; None where all tokens see each other.
        grid: (h, w) of the layer.
        previous: the grid of the layer before, if this layer's stage changed it, and how: "merge" or "conv".
        num_prefix_tokens: P.
    """

    probabilities: torch.Tensor
    windows: Windows | None
    grid: Grid
    num_prefix_tokens: int
    previous: tuple[Grid, str] | None

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]

    def places(self) -> torch.Tensor:
        """(G, M): the token at each place of each window; -1 where padding is."""
        assert self.windows is not None
        numbers = torch.arange(1, self.num_tokens + 1, device=self.probabilities.device, dtype=torch.float64)
        return self.windows.split(numbers[None, :, None])[..., 0].long() - 1

    def within(self) -> torch.Tensor:
        """(B, G, K, M, M): of windows, without what goes to padding; each row of a token sums to one."""
        places = self.places()
        kept = self.probabilities.unflatten(0, (-1, len(places))) * (places >= 0)[None, :, None, None]
        return kept / kept.sum(-1, keepdim=True)

    def seen_from(self, weights: torch.Tensor) -> torch.Tensor:
        """(B, K, N), of tokens that look -> (B, K, N): what they look at, weighted so. Sums stay as they are."""
        if self.windows is None:
            return (weights[..., None, :] @ self.probabilities)[..., 0, :]
        places, whole = self.places(), weights.new_zeros((*weights.shape[:2], self.num_tokens + 1))
        padded = torch.cat((weights, torch.zeros_like(weights[..., :1])), dim=-1)  # the last place is padding's
        looking = padded[..., places].transpose(1, 2)  # (B, G, K, M)
        seen = (looking[..., None, :] @ self.within())[..., 0, :].transpose(1, 2).flatten(2)  # (B, K, G * M)
        where = torch.where(places < 0, self.num_tokens, places).flatten()
        return whole.index_add(2, where, seen)[..., :-1]

    def matrix(self) -> torch.Tensor:
        """(B, K, N, N): every token's attention to every token; each row sums to one. Windows are stitched together:
        tokens of two windows do not see each other. N * N numbers for each head: mind the memory."""
        if self.windows is None:
            return self.probabilities
        places, within = self.places(), self.within()
        batch, _, heads = within.shape[:3]
        whole = within.new_zeros((batch, heads, self.num_tokens + 1, self.num_tokens + 1))
        for window, where in enumerate(torch.where(places < 0, self.num_tokens, places)):
            whole[:, :, where[:, None], where] = within[:, window]
        return whole[:, :, :-1, :-1]


def encoder_of(model: Any) -> ViTCustomModel:
    """
    Raises:
        ValueError: the model has no encoder of this package.
    """
    encoder = getattr(model, "vision_model", None) or model.base_model
    if not hasattr(encoder, "stages") or not hasattr(encoder.config, "prefix_tokens"):
        raise ValueError(
            f"{type(model).__name__} is no model of this package: convert it first, by `vit-custom convert`."
        )
    return encoder


def layer_attentions(model: Any, pixel_values: torch.Tensor) -> list[LayerAttention]:
    """(B, C, H, W) -> what each layer of a model's encoder paid attention to, in evaluation and without gradients. Any
    model of this package, whatever its head and its attention back-end; the model stays as it was.
    """
    encoder = encoder_of(model)
    config, grid = encoder.config, patch_grid(encoder.config, pixel_values)
    with frozen(model):
        given = encoder(pixel_values, output_attentions=True, return_dict=True).attentions
    found: list[LayerAttention] = []
    remaining = iter(given)
    for stage in config.stages:
        previous = None
        if stage.downsample != "none":
            previous, grid = (grid, stage.downsample), (-(-grid[0] // 2), -(-grid[1] // 2))
        windows = [geometry.windows for geometry in make_geometries(config, stage, grid, pixel_values)]
        for layer in range(stage.depth):
            probabilities = next(remaining).detach().float()
            entered = previous if layer == 0 else None
            found.append(LayerAttention(probabilities, windows[layer % 2], grid, len(config.prefix_tokens), entered))
    return found


def start_of(pooling: str, layer: LayerAttention, query: int | None) -> torch.Tensor:
    """(B, K, N): the tokens that the answer is made of, as weights that sum to one."""
    heads = layer.probabilities.shape[1]
    batch = layer.probabilities.shape[0] // (1 if layer.windows is None else len(layer.places()))
    weights = layer.probabilities.new_zeros((batch, heads, layer.num_tokens))
    if query is not None:
        if not 0 <= query < layer.num_prefix_tokens:
            raise ValueError(f"There are {layer.num_prefix_tokens} prefix tokens, and no number {query}: leave it out.")
        weights[..., query] = 1
    elif pooling == "cls":
        weights[..., 0] = 1
    else:
        weights[..., layer.num_prefix_tokens :] = 1 / (layer.grid[0] * layer.grid[1])
    return weights


def attention_maps(
    model: Any, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None, query: int | None = None
) -> list[torch.Tensor]:
    """(B, C, H, W) -> of each layer (B, K, h, w): how much each patch is looked at, head by head, by the class token;
    by the mean of all patches where the model pools them.

    A map sums to one, less what goes to prefix tokens. Grids of later stages may be coarser; `enlarge` draws them at
    the size of the picture.

    Args:
        pixel_mask: (B, H, W), 0 where pictures of several sizes are padded: there the maps are 0.
        query: the number of another prefix token, such as a distillation token, whose attention is wanted.

    Raises:
        ValueError: no model of this package, or no such prefix token.
    """
    return in_batch(model, pixel_values, pixel_mask, lambda pixels: maps_of(model, pixels, query))


def maps_of(model: Any, pixel_values: torch.Tensor, query: int | None) -> list[torch.Tensor]:
    """(B, C, H, W) -> (B, K, h, w) of each layer"""
    pooling = encoder_of(model).config.pooling
    layers = layer_attentions(model, pixel_values)
    return [
        layer.seen_from(start_of(pooling, layer, query))[..., layer.num_prefix_tokens :].unflatten(-1, layer.grid)
        for layer in layers
    ]


def rollout(
    model: Any, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None, query: int | None = None
) -> torch.Tensor:
    """(B, C, H, W) -> (B, h, w), on the grid of the patches: how much of the pooled vector comes from each patch, by
    attention rollout ("Quantifying Attention Flow in Transformers", section 3).

    Each layer mixes a token (a half, for the residual) with what it looks at (a half, the mean of the heads); the
    mixtures are multiplied from the last layer to the first. Where a stage merges patches, a share goes to the patches
    below in equal parts: to 2 x 2, or to the 3 x 3 under PiT's convolution. The map sums to one, less what stays with
    prefix tokens.

    Args, Raises: as `attention_maps`.
    """
    (rolled,) = in_batch(model, pixel_values, pixel_mask, lambda pixels: [rolled_out(model, pixels, query)[:, None]])
    return rolled[:, 0]


def rolled_out(model: Any, pixel_values: torch.Tensor, query: int | None) -> torch.Tensor:
    """(B, C, H, W) -> (B, h, w)"""
    layers = layer_attentions(model, pixel_values)
    shares = start_of(encoder_of(model).config.pooling, layers[-1], query)[:, :1]  # (B, 1, N)
    for layer in reversed(layers):
        seen = layer.seen_from(shares.expand(-1, layer.probabilities.shape[1], -1)).mean(1, keepdim=True)
        shares = SHARES * shares + (1 - SHARES) * seen
        if layer.previous is not None:
            shares = before_downsampling(shares, layer)
    first = layers[0]
    grid = first.previous[0] if first.previous else first.grid
    return shares[:, 0, first.num_prefix_tokens :].unflatten(-1, grid)


def before_downsampling(shares: torch.Tensor, layer: LayerAttention) -> torch.Tensor:
    """(B, 1, P + h' * w') -> (B, 1, P + h * w): each patch's share in equal parts to those that it was made of."""
    assert layer.previous is not None
    (rows, columns), kind = layer.previous
    prefix, patches = shares.split((layer.num_prefix_tokens, layer.grid[0] * layer.grid[1]), dim=-1)
    below = patches.new_zeros((len(shares), rows, columns))
    patches = patches.unflatten(-1, layer.grid)[:, 0]
    steps = (0, 1) if kind == "merge" else (-1, 0, 1)
    down, across = (torch.arange(side, device=shares.device) for side in layer.grid)
    cells = [(2 * down + row, 2 * across + column) for row in steps for column in steps]
    inside = [((r >= 0) & (r < rows))[:, None] & ((c >= 0) & (c < columns)) for r, c in cells]
    counts = torch.stack(inside).sum(0)
    for (r, c), there in zip(cells, inside, strict=True):
        add_at(below, r.clamp(0, rows - 1), c.clamp(0, columns - 1), torch.where(there, patches / counts, 0))
    return torch.cat((prefix, below.flatten(1)[:, None]), dim=-1)


def add_at(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor):
    """(B, h, w), (h'), (w'), (B, h', w') -> nothing: added in place, also where two values meet."""
    places = (rows[:, None] * image.shape[2] + columns).flatten()
    image.view(len(image), -1).index_add_(1, places, values.flatten(1))


def in_batch(model: Any, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None, look: Any) -> list[torch.Tensor]:
    """Maps of pictures of several sizes, each computed at its own, on the grids of the whole batch."""
    parts = same_size_parts(pixel_values, pixel_mask)
    if parts[0][0] is None and parts[0][1].shape == pixel_values.shape:
        return look(pixel_values)
    made = [(index, look(pixels)) for index, pixels in parts]
    sizes = [[maps[layer].shape for _, maps in made] for layer in range(len(made[0][1]))]
    whole = []
    for layer, shapes in enumerate(sizes):
        height, width = (max(shape[side] for shape in shapes) for side in (2, 3))
        image = made[0][1][layer].new_zeros((len(pixel_values), shapes[0][1], height, width))
        for index, maps in made:
            rows = slice(None) if index is None else index
            image[rows, :, : maps[layer].shape[2], : maps[layer].shape[3]] = maps[layer]
        whole.append(image)
    return whole


def enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, K, h, w), (H, W) -> (B, K, H, W): every pixel has the value of its patch."""
    return torch.nn.functional.interpolate(maps, size=size, mode="nearest-exact")
