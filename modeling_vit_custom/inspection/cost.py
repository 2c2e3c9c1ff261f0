"""What a model costs, from its configuration alone: parameters, multiply-accumulates, activation memory.

Nothing is built, so the largest model costs neither memory nor time. `counters.py` counts the same on models that run.
"""

from collections.abc import Callable
from collections.abc import Sequence

from ..configuration_checks import pair
from ..configuration_vit_custom import StageConfig
from ..configuration_vit_custom import ViTCustomConfig
from .cost_layer import Cost
from .cost_layer import Grid
from .cost_layer import Run
from .cost_layer import activation
from .cost_layer import geometry_bytes
from .cost_layer import layer_parts
from .cost_layer import linear
from .cost_layer import num_tokens

RECOMPUTED = ("backward", "one layer run again")  # what checkpointing brings back of the largest layer
Costs = dict[tuple[str, str], Cost]  # of each part of each place: ("stage 1", "feed-forward")


def total(costs: Costs) -> Cost:
    return sum(costs.values(), Cost())


def cost(config: ViTCustomConfig, image_size: int | Sequence[int] | None = None, run: Run | None = None) -> Costs:
    """The costs of `ViTCustomForImageClassification(config)` at any image size, that of the configuration if unset.

    Raises:
        ValueError: the image is smaller than a patch.
    """
    run, image = run or Run(), pair(image_size or config.image_size)
    grid = image_grid(config, image)
    pixels = run.batch_size * config.num_channels * image[0] * image[1] * run.size
    costs = {("embeddings", part): value for part, value in embeddings(config, run, grid, pixels).items()}
    recomputed, before = 0, 0
    for number, stage in enumerate(config.stages, 1):
        where = f"stage {number}"
        if stage.downsample != "none":
            costs[where, "downsampling"], grid = downsampling(config, run, stage, grid, pixels)
        stream = num_tokens(config, run, grid) * stage.hidden_size * run.size
        shared, masks = geometry_bytes(config, run, stage, grid)
        places = config.layer_position_embeddings * (stage.depth - 1) * stage.hidden_size
        if places:
            vectors = config.num_positioned_prefix_tokens + learned_places(config)
            costs[where, "positions between layers"] = Cost(places * vectors)
            masks += places * num_tokens(config, run, grid) // run.batch_size * run.size  # drawn once, and kept
        for layer in range(stage.depth):
            # The stage's input stays alive all along.
            held = pixels + shared + masks + (before or stream * (layer > 0)) + (stream if places and layer else 0)
            parts = layer_parts(config, run, stage, layer, grid, held)
            if run.checkpointing:
                recomputed = max(recomputed, shared + sum(part.kept for part in parts.values()) - stream)
                parts = {name: Cost(part.parameters, part.macs, 0, part.peak) for name, part in parts.items()}
                parts["norms and residuals"] += Cost(kept=stream)
            for name, part in parts.items():
                costs[where, name] = costs.get((where, name), Cost()) + part
        if not run.checkpointing:
            costs[where, "attention products"] += Cost(kept=shared)
        before = stream
    costs |= {("head", name): part for name, part in head(config, run, grid).items()}
    return costs | ({RECOMPUTED: Cost(kept=recomputed)} if run.checkpointing else {})


def memory(config: ViTCustomConfig, image_size: int | Sequence[int] | None, run: Run, training: bool) -> dict[str, int]:
    """Bytes that a forward pass needs at its peak; or a step of training, with a gradient and AdamW's two moments for
    each weight, all in the type of the run."""
    costs = total(cost(config, image_size, run))
    weights = costs.parameters * run.size
    if not training:
        return {"weights": weights, "activations at their peak": costs.peak}
    state = {"weights": weights, "gradients": weights, "AdamW's two moments": 2 * weights}
    return state | {"activations kept for the backward pass": costs.kept}


def largest(fits: Callable[[int], bool]) -> int:
    """The number that fits while the next one does not, found by doubling and halving; 0 if not even 1 fits."""
    below, above = 0, 1
    while fits(above):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def image_grid(config: ViTCustomConfig, image: tuple[int, int]) -> Grid:
    patch, stride = pair(config.patch_size), pair(config.patch_stride or config.patch_size)
    rows, columns = ((side - size) // step + 1 for side, size, step in zip(image, patch, stride, strict=True))
    if min(rows, columns) < 1:
        raise ValueError(
            f"An image of {image[0]} x {image[1]} pixels is smaller than one patch of {patch[0]} x {patch[1]}: "
            "give a larger `image_size`."
        )
    return rows, columns


def learned_places(config: ViTCustomConfig) -> int:
    """How many patches the table of learned positions is for."""
    rows, columns = config.position_grid or config.grid
    return rows * columns


def embeddings(config: ViTCustomConfig, run: Run, grid: Grid, pixels: int) -> dict[str, Cost]:
    """The convolution keeps the pixels, a LayerNorm the tokens."""
    width, patch = config.hidden_sizes[0], pair(config.patch_size)
    patches, tokens = run.batch_size * grid[0] * grid[1], num_tokens(config, run, grid)
    convolution = linear(patches, config.num_channels * patch[0] * patch[1], width, config.patch_bias)
    learned, places = config.position_embedding == "learned", learned_places(config)
    vectors = len(config.prefix_tokens) + learned * (config.num_positioned_prefix_tokens + places)
    normed = {"none": 0, "patches": patches, "tokens": tokens}[config.embeddings_norm]
    dropped = tokens * width * (config.embeddings_dropout_prob > 0)
    # The convolution's output stays alive to the end, and beside it the tokens, their positions and the sum.
    joined = tokens if config.prefix_tokens or config.embeddings_norm == "patches" else 0  # else a view of it
    before, positions = pixels + (patches + joined) * width * run.size, tokens // run.batch_size * width * run.size
    peak = before + positions + tokens * width * run.size
    if learned and tuple(config.position_grid or config.grid) != grid and run.size < run.precise:  # in float32
        peak = max(peak, before + (places + grid[0] * grid[1]) * width * run.precise)
    kept = (normed * (width + 2) + dropped) * run.size
    return {
        "patch embedding": convolution + Cost(kept=pixels),
        "tokens and positions": Cost((vectors + 2 * (normed > 0)) * width, 0, kept, peak),
    }


def downsampling(config: ViTCustomConfig, run: Run, stage: StageConfig, grid: Grid, pixels: int) -> tuple[Cost, Grid]:
    """Merging keeps four tokens as one before and after their norm, a convolution keeps its input."""
    old, new, half = stage.input_size, stage.hidden_size, ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    prefix, patches = run.batch_size * len(config.prefix_tokens), run.batch_size * half[0] * half[1]
    stream = num_tokens(config, run, grid) * old * run.size
    if stage.downsample == "merge":
        merged = patches * 4 * old * run.size
        map_ = linear(patches, 4 * old, new, bias=False)
        return map_ + Cost(8 * old, 0, 2 * merged + 2 * patches * run.size, pixels + stream + 2 * merged), half
    image = patches * new * run.size
    convolution = Cost(10 * new, 9 * patches * new, stream, pixels + 2 * stream + 2 * image)
    if prefix:  # several tokens of several images do not lie evenly, so that the linear map needs a copy
        copied = run.batch_size > 1 and len(config.prefix_tokens) > 1
        convolution += linear(prefix, old, new) + Cost(kept=copied * prefix * old * run.size)
    return convolution, half


def head(config: ViTCustomConfig, run: Run, grid: Grid) -> dict[str, Cost]:
    """A token that is taken out for the classifier keeps all of them."""
    batch, width, pooled, labels = run.batch_size, config.hidden_size, config.pooled_size, config.num_labels or 0
    tokens, vectors = num_tokens(config, run, grid), 1 + config.distillation_head
    norm_all, norm_pooled = config.final_norm == "all", config.final_norm == "pooled"
    classifiers = vectors * (labels > 0)
    taken = batch * pooled * (config.pooling != "cls") + tokens * width * (config.pooling == "cls" or vectors > 1)
    normed = tokens * (width + 2) * norm_all + vectors * 2 * batch * norm_pooled
    normed += taken * (norm_pooled or classifiers > 0)
    classifier = linear(batch, pooled, labels)
    numbers = pooled * norm_pooled
    if config.head_hidden_size is not None and labels:
        classifier = linear(batch, pooled, config.head_hidden_size) + linear(batch, config.head_hidden_size, labels)
        numbers += activation(config.head_hidden_act)[0] * config.head_hidden_size
    parts = {"final norm and pooling": Cost(2 * width * (norm_all or norm_pooled), 0, normed * run.size)}
    if classifiers:
        kept = batch * numbers * run.size
        classifier += Cost(kept=kept)
        parts["classifier"] = sum([classifier] * classifiers, Cost())
    return parts
