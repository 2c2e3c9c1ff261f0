"""Parity with the code bases that the models come from, which are not installed: each is written here once more, small,
after its paper and with its names, and its file is read as ours and given back bit for bit."""

import math

import numpy
import pytest
import torch
from scipy.ndimage import zoom
from torch import nn
from torch.nn import functional

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion.original_sources import SOURCES
from modeling_vit_custom.conversion.reading import read_checkpoint
from modeling_vit_custom.conversion.rename import choose
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.conversion.rename import load
from modeling_vit_custom.conversion.sources import Checkpoint
from modeling_vit_custom.conversion.trace import trace_ours
from tests.support import PRESETS
from tests.support import fill
from tests.support import formula
from tests.support import picture

BOUNDS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
DTYPES = pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
WIDTH, HEADS, LABELS = 48, 4, 7
NAMED = {source.name: source for source in SOURCES}


def preset(**changes) -> ViTCustomConfig:
    """What no shape says: four heads."""
    return ViTCustomConfig(**dict(hidden_sizes=[WIDTH], depths=[3], num_attention_heads=[HEADS]) | changes)


def given(tensors, known=None):
    return Checkpoint({}, tensors, preset=known)


def convert(name, tensors, known=None):
    """(the source, ours) after a look whether the source knows its file, and no other source does."""
    checkpoint, source = given(tensors, known), NAMED[name]
    assert next(other for other in SOURCES if other.recognises(checkpoint)) is source
    config, head = source.read_config(checkpoint), source.has_head(checkpoint)
    table = source.tables(config, head)
    make = ViTCustomForImageClassification if head else ViTCustomModel
    spelling = choose(table, tensors)
    ours, aside = load(make, config, tensors, table[spelling])
    back = into_theirs(ours.state_dict(), table[spelling], aside)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[key]) and tensor.dtype == tensors[key].dtype for key, tensor in back.items())
    assert source.write_config(config, head) == {}
    return ours


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_equal_models(theirs, ours, size, dtype, bound):
    """`theirs`: pixels -> (layers, last tokens or None, logits or None), as that code computes them."""
    ours = ours.to(dtype)
    inputs = [picture(2, 3, *size, dtype=dtype).requires_grad_() for _ in range(2)]
    (layers, tokens, *logits), found = theirs(inputs[0]), trace_ours(ours, inputs[1])
    names = [f"stages.{s}.layers.{n}" for s, depth in enumerate(ours.config.depths) for n in range(depth)]
    assert len(names) == len(layers)
    pairs = [(found[name], layer) for name, layer in zip(names, layers, strict=True)]
    if tokens is not None:
        pairs.append((found["last_hidden_state"], tokens))
    if logits:
        heads = ("cls_logits", "distillation_logits")[: len(logits) - 1]
        pairs += [(found[name], value) for name, value in zip(heads, logits[1:], strict=True)]
        pairs.append((found["logits"], logits[0]))
    for mine, expected in pairs:
        assert mine.shape == expected.shape
        assert relative(mine, expected) <= bound
    for tensor in pairs[-1]:
        (tensor * formula("scalar", tensor.shape)).sum().backward()
    assert relative(inputs[1].grad, inputs[0].grad) <= bound


# -- DeiT, DINOv2, Segmenter: one plain block -------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, bias=0.0):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5 + bias).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class SwiGLUFFN(nn.Module):
    """The gate first, then what it multiplies ("GLU Variants Improve Transformer")."""

    def __init__(self, width, inner):
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, x):
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    """
    Args:
        scales: "" for none, "gamma" for DeiT-III's parameters, "ls" for DINOv2's modules.
    """

    def __init__(self, width, heads, eps, scales="", mlp=Mlp, inner=4 * WIDTH):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=eps), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=eps), mlp(width, inner)
        if scales == "gamma":
            self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(width)) for _ in range(2))
        if scales == "ls":
            self.ls1, self.ls2 = LayerScale(width), LayerScale(width)
        self.scales = scales

    def forward(self, x):
        scale1, scale2 = {
            "": lambda: (1, 1),
            "gamma": lambda: (self.gamma_1, self.gamma_2),
            "ls": lambda: (self.ls1.gamma, self.ls2.gamma),
        }[self.scales]()
        x = x + scale1 * self.attn(self.norm1(x))
        return x + scale2 * self.mlp(self.norm2(x))


class Stem(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels):
        return self.proj(pixels)


class Vit(nn.Module):
    """What the three share; 3 layers, patches of 8, a square grid of 4."""

    def __init__(self, eps=1e-6, prefix=1, side=4, **block):
        super().__init__()
        self.patch_embed = Stem(WIDTH, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + side**2, WIDTH))
        self.blocks = nn.ModuleList([Block(WIDTH, HEADS, eps, **block) for _ in range(3)])
        self.norm = nn.LayerNorm(WIDTH, eps=eps)

    def patches(self, pixels):
        image = self.patch_embed(pixels)
        return image.flatten(2).transpose(1, 2), image.shape[2:]

    def run(self, x):
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return layers, self.norm(x)


class Deit(Vit):
    """ "Training data-efficient image transformers", section 4; both heads' average at inference (`deit/models.py`)."""

    def __init__(self, distilled=False):
        super().__init__(prefix=1 + distilled)
        self.head = nn.Linear(WIDTH, LABELS)
        self.distilled = distilled
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.head_dist = nn.Linear(WIDTH, LABELS)

    def forward(self, pixels):
        x, _ = self.patches(pixels)
        tokens = [self.cls_token, self.dist_token] if self.distilled else [self.cls_token]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in tokens), x], dim=1) + self.pos_embed
        layers, x = self.run(x)
        if not self.distilled:
            return layers, x, self.head(x[:, 0])
        heads = self.head(x[:, 0]), self.head_dist(x[:, 1])
        return layers, x, sum(heads) / 2, *heads


class Deit3(Vit):
    """ "DeiT III", section 3: LayerScale; positions before the class token is put in front (`deit/models_v2.py`)."""

    def __init__(self):
        super().__init__(prefix=0, scales="gamma")
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, pixels):
        x, _ = self.patches(pixels)
        layers, x = self.run(torch.cat((self.cls_token.expand(len(x), -1, -1), x + self.pos_embed), dim=1))
        return layers, x, self.head(x[:, 0])


class Dinov2(Vit):
    """ "DINOv2" and "Vision Transformers Need Registers" (`dinov2/models/vision_transformer.py`): registers come after
    the positions; a table at another size is told a scale (with an offset), or with registers a size (antialiased)."""

    def __init__(self, registers=0, gated=False):
        super().__init__(scales="ls", **(dict(mlp=SwiGLUFFN, inner=64) if gated else {}))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, WIDTH)) if registers else None

    def positions(self, grid):
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if tuple(grid) == (side, side):
            return self.pos_embed
        table = self.pos_embed.float()
        image = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        target = dict(scale_factor=tuple((n + 0.1) / side for n in grid))
        if self.register_tokens is not None:
            target = dict(size=tuple(grid), antialias=True)
        image = functional.interpolate(image, mode="bicubic", **target)
        assert image.shape[2:] == grid
        table = torch.cat((table[:, :1], image.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
        return table.to(self.pos_embed.dtype)

    def forward(self, pixels):
        x, grid = self.patches(pixels)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.positions(grid)
        if self.register_tokens is not None:
            x = torch.cat((x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]), dim=1)
        return self.run(x)


class Segmenter(nn.Module):
    """The encoder of "Segmenter" (`segm/model/vit.py`): torch's eps; positions resampled bilinearly."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Vit(eps=1e-5), nn.Linear(WIDTH, 5)
        self.encoder.head = nn.Linear(WIDTH, 10)  # that of ImageNet, never used

    def forward(self, pixels):
        model = self.encoder
        x, grid = model.patches(pixels)
        side = math.isqrt(model.pos_embed.shape[1] - 1)
        image = model.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        image = functional.interpolate(image, size=tuple(grid), mode="bilinear")
        positions = torch.cat((model.pos_embed[:, :1], image.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
        return model.run(torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1) + positions)


@DTYPES
@pytest.mark.parametrize("make", [Deit, lambda: Deit(distilled=True), Deit3], ids=["deit", "distilled", "deit3"])
def test_deit(make, dtype, bound):
    """Their code takes the size that it was built for."""
    theirs = fill(make())
    ours = convert("original-deit", theirs.state_dict(), preset())
    assert_equal_models(theirs.to(dtype), ours, (32, 32), dtype, bound)


@DTYPES
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 56)], ids=str)
@pytest.mark.parametrize(("registers", "gated"), [(0, False), (4, False), (0, True), (4, True)], ids=str)
def test_dinov2(registers, gated, size, dtype, bound):
    theirs = fill(Dinov2(registers, gated))
    ours = convert("original-dinov2", theirs.state_dict(), preset())
    assert_equal_models(theirs.to(dtype), ours, size, dtype, bound)


@DTYPES
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 56)], ids=str)
def test_segmenter(size, dtype, bound):
    theirs = fill(Segmenter())
    ours = convert("original-segmenter", theirs.state_dict(), preset())
    assert_equal_models(theirs.to(dtype), ours, size, dtype, bound)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_dinov2_of_a_training_has_its_blocks_in_chunks(chunks, prefix):
    """`blocks.CHUNK.N`, N counting on across chunks, and heads beside the backbone."""
    theirs = Dinov2(registers=2)
    theirs.blocks.extend(Block(WIDTH, HEADS, 1e-6, scales="ls") for _ in range(9))
    tensors = fill(theirs).state_dict()
    chunked = {}
    for name, tensor in tensors.items():
        kind, number, *rest = [*name.split("."), ""]
        if kind == "blocks":
            name = ".".join((kind, str(int(number) * chunks // 12), number, *rest[:-1]))
        chunked[prefix + name] = tensor
    if prefix:
        chunked["dino_head.mlp.0.weight"] = torch.ones(2, 2)
    plain, other = (convert("original-dinov2", t, preset(depths=[12])) for t in (tensors, chunked))
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())


# -- Swin -------------------------------------------------------------------------------------------------------------


class WindowAttention(Attention):
    def __init__(self, width, heads, window):
        super().__init__(width, heads)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None] + window - 1
        self.register_buffer("relative_position_index", offset[0] * (2 * window - 1) + offset[1])

    def forward(self, x, mask):
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask.repeat(len(x) // len(mask), 1, 1)[:, None]
        return super().forward(x, bias)


class SwinBlock(nn.Module):
    """ "Swin Transformer", section 3.2; the mask is made for one size (`models/swin_transformer.py`)."""

    def __init__(self, width, heads, window, shift, grid):
        super().__init__()
        self.grid, self.window, self.shift = grid, window, shift
        if min(grid) <= window:
            self.window, self.shift = min(grid), 0
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention(width, heads, self.window), Mlp(width, 4 * width)
        mask = None
        if self.shift:
            labels = torch.zeros(1, *grid, 1)
            cuts = slice(0, -window), slice(-window, -self.shift), slice(-self.shift, None)
            for number, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
                labels[:, rows, columns] = number
            labels = self.windows(labels).squeeze(-1)
            mask = (labels[:, None] - labels[:, :, None]).ne(0) * -100.0
        self.register_buffer("attn_mask", mask)

    def windows(self, image):
        batch, rows, columns, width = image.shape
        w = self.window
        image = image.view(batch, rows // w, w, columns // w, w, width)
        return image.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, width)

    def image(self, windows):
        (rows, columns), w = self.grid, self.window
        image = windows.view(-1, rows // w, columns // w, w, w, windows.shape[-1])
        return image.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, windows.shape[-1])

    def forward(self, x):
        image = self.norm1(x).unflatten(1, self.grid).roll((-self.shift, -self.shift), dims=(1, 2))
        image = self.image(self.attn(self.windows(image), self.attn_mask))
        x = x + image.roll((self.shift, self.shift), dims=(1, 2)).flatten(1, 2)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(4 * width)

    def forward(self, x, grid):
        x = x.unflatten(1, grid)
        corners = x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]
        return self.reduction(self.norm(torch.cat(corners, -1).flatten(1, 2)))


class SwinStage(nn.Module):
    def __init__(self, width, depth, heads, window, grid, last):
        super().__init__()
        self.grid = grid
        shifts = [0 if n % 2 == 0 else window // 2 for n in range(depth)]
        self.blocks = nn.ModuleList([SwinBlock(width, heads, window, shift, grid) for shift in shifts])
        self.downsample = None if last else PatchMerging(width)


class SwinStem(Stem):
    def __init__(self, width, patch):
        super().__init__(width, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels):
        return self.norm(super().forward(pixels).flatten(2).transpose(1, 2))


class Swin(nn.Module):
    def __init__(self, size, window=7, width=8, depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), absolute=False):
        super().__init__()
        self.patch_embed = SwinStem(width, 4)
        grids = [(size[0] // 4 // 2**s, size[1] // 4 // 2**s) for s in range(4)]
        self.absolute_pos_embed = None
        if absolute:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, math.prod(grids[0]), width))
        self.layers = nn.ModuleList(
            [SwinStage(width * 2**s, depths[s], heads[s], window, grids[s], s == 3) for s in range(4)]
        )
        self.norm, self.head = nn.LayerNorm(8 * width), nn.Linear(8 * width, LABELS)

    def forward(self, pixels):
        x, layers = self.patch_embed(pixels), []
        if self.absolute_pos_embed is not None:
            x = x + self.absolute_pos_embed
        for stage in self.layers:
            for block in stage.blocks:
                x = block(x)
                layers.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x, stage.grid)
        x = self.norm(x)
        return layers, x, self.head(x.mean(dim=1))


@DTYPES
@pytest.mark.parametrize("absolute", [False, True], ids=["no positions", "absolute positions"])
def test_swin(absolute, dtype, bound):
    theirs = fill(Swin((224, 224), absolute=absolute))
    tensors = theirs.state_dict()
    assert {"layers.0.blocks.1.attn_mask", "layers.3.blocks.0.attn.relative_position_index"} <= tensors.keys()
    ours = convert("original-swin", tensors)
    assert (ours.config.image_size, ours.config.num_attention_heads) == (224, [1, 2, 4, 8])
    assert_equal_models(theirs.to(dtype), ours, (224, 224), dtype, bound)


@DTYPES
@pytest.mark.parametrize("size", [(448, 448), (224, 448)], ids=str)
def test_swin_at_the_sizes_that_its_code_can_be_built_for(size, dtype, bound):
    """Where a side of the last grid is one window, neither side is shifted."""
    ours = convert("original-swin", fill(Swin((224, 224))).state_dict())
    assert_equal_models(fill(Swin(size)).to(dtype), ours, size, dtype, bound)


# -- PiT --------------------------------------------------------------------------------------------------------------


class PitStem(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.conv = nn.Conv2d(3, width, patch, stride=patch // 2)


class PitPool(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups=width)
        self.fc = nn.Linear(width, 2 * width)


class PitStage(nn.Module):
    def __init__(self, width, depth, heads):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, heads, 1e-6, inner=4 * width) for _ in range(depth)])


class Pit(nn.Module):
    """ "Rethinking Spatial Dimensions of Vision Transformers", section 3 (`pit/pit.py`): tokens beside the image."""

    def __init__(self, size, patch=16, distilled=False, width=16, depths=(2, 6, 4), heads=(2, 4, 8)):
        super().__init__()
        grid = [(side - patch) // (patch // 2) + 1 for side in size]
        self.patch_embed = PitStem(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, *grid))
        self.cls_token = nn.Parameter(torch.zeros(1, 1 + distilled, width))
        self.transformers = nn.ModuleList([PitStage(width * 2**s, depths[s], heads[s]) for s in range(3)])
        self.pools = nn.ModuleList([PitPool(width * 2**s) for s in range(2)])
        self.norm, self.head = nn.LayerNorm(4 * width, eps=1e-6), nn.Linear(4 * width, LABELS)
        if distilled:
            self.head_dist = nn.Linear(4 * width, LABELS)

    def forward(self, pixels):
        image = self.patch_embed.conv(pixels) + self.pos_embed
        tokens, layers = self.cls_token.expand(len(image), -1, -1), []
        for number, stage in enumerate(self.transformers):
            if number:
                pool = self.pools[number - 1]
                image, tokens = pool.conv(image), pool.fc(tokens)
            x = torch.cat((tokens, image.flatten(2).transpose(1, 2)), dim=1)
            for block in stage.blocks:
                x = block(x)
                layers.append(x)
            tokens, patches = x[:, : tokens.shape[1]], x[:, tokens.shape[1] :]
            image = patches.transpose(1, 2).unflatten(2, image.shape[2:])
        tokens = self.norm(tokens)
        if tokens.shape[1] == 1:
            return layers, None, self.head(tokens[:, 0])
        heads = self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])
        return layers, None, sum(heads) / 2, *heads


PIT = dict(hidden_sizes=[16, 32, 64], depths=[2, 6, 4], num_attention_heads=[2, 4, 8], downsample="conv")


@DTYPES
@pytest.mark.parametrize("patch", [16, 14])
@pytest.mark.parametrize("distilled", [False, True], ids=["plain", "distilled"])
def test_pit(distilled, patch, dtype, bound):
    """Its code takes the size that it was built for."""
    theirs = fill(Pit((112, 112), patch, distilled))
    ours = convert("original-pit", theirs.state_dict(), preset(**PIT, patch_size=patch, patch_stride=patch // 2))
    assert ours.config.image_size == 112
    assert_equal_models(theirs.to(dtype), ours, (112, 112), dtype, bound)


def test_pit_on_a_grid_that_is_not_square():
    theirs = fill(Pit((112, 80)))
    ours = convert("original-pit", theirs.state_dict(), preset(**PIT, patch_stride=8))
    assert_equal_models(theirs.double(), ours, (112, 80), torch.float64, 1e-9)


# -- Google -----------------------------------------------------------------------------------------------------------


def google_arrays(parts, prefix, cls=True, hidden=None, learned="Transformer/posembed_input/pos_embedding"):
    """The arrays of a ViT as flax names and lays them out: 3 layers, patches of 8, a grid of 4."""
    first, attention, second, mlp = parts
    head = (WIDTH, HEADS, WIDTH // HEADS)
    shapes = {"embedding/kernel": (8, 8, 3, WIDTH), "embedding/bias": (WIDTH,)}
    if cls:
        shapes["cls"] = (1, 1, WIDTH)
    if learned:
        shapes[learned] = (1, 16 + (cls and "Transformer" in learned), WIDTH)
    for n in range(3):
        block = f"Transformer/encoderblock_{n}/"
        for name in ("query", "key", "value"):
            shapes |= {f"{block}{attention}/{name}/kernel": head, f"{block}{attention}/{name}/bias": head[1:]}
        shapes |= {f"{block}{attention}/out/kernel": (*head[1:], WIDTH), f"{block}{attention}/out/bias": (WIDTH,)}
        shapes |= {f"{block}{mlp}/Dense_0/kernel": (WIDTH, 96), f"{block}{mlp}/Dense_0/bias": (96,)}
        shapes |= {f"{block}{mlp}/Dense_1/kernel": (96, WIDTH), f"{block}{mlp}/Dense_1/bias": (WIDTH,)}
        for norm in (first, second):
            shapes |= {f"{block}{norm}/scale": (WIDTH,), f"{block}{norm}/bias": (WIDTH,)}
    shapes |= {"Transformer/encoder_norm/scale": (WIDTH,), "Transformer/encoder_norm/bias": (WIDTH,)}
    if hidden:
        shapes |= {"pre_logits/kernel": (WIDTH, hidden), "pre_logits/bias": (hidden,)}
    shapes |= {"head/kernel": (hidden or WIDTH, LABELS), "head/bias": (LABELS,)}
    arrays = {}
    for name, shape in shapes.items():
        inputs = math.prod(shape[:-1]) if "out/" in name or "embedding/kernel" in name else shape[0]
        spread = 1 / inputs**0.5 / 0.3 if "kernel" in name else 1  # attention far from uniform
        arrays[prefix + name] = (formula(name, torch.Size((1, *shape)))[0] * spread + name.endswith("scale")).float()
    return arrays


def flax_vit(arrays, parts, positions):
    """ "An Image is Worth 16x16 Words", section 3, in flax's terms (`models_vit.py`, big_vision's `vit.py`).

    Args:
        positions: tokens' grid -> the table, and whether the class token has its share of it.
    """
    first, attention, second, mlp = parts

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], arrays[f"{name}/scale"], arrays[f"{name}/bias"], eps=1e-6)

    def dense(x, name):
        return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def attend(x, name):
        q, k, v = (
            torch.einsum("bnd,dhk->bhnk", x, arrays[f"{name}/{part}/kernel"]) + arrays[f"{name}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        x = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return torch.einsum("bhnk,hkd->bnd", x, arrays[f"{name}/out/kernel"]) + arrays[f"{name}/out/bias"]

    def tanh_gelu(x):
        return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def forward(pixels):
        kernel = arrays["embedding/kernel"].permute(3, 2, 0, 1)
        image = functional.conv2d(pixels, kernel, arrays["embedding/bias"], stride=kernel.shape[2:])
        x, (table, with_cls) = image.flatten(2).transpose(1, 2), positions(image.shape[2:])
        x = x if with_cls else x + table
        if "cls" in arrays:
            x = torch.cat((arrays["cls"].expand(len(x), -1, -1), x), dim=1)
        x = x + table if with_cls else x
        layers = []
        for n in range(3):
            block = f"Transformer/encoderblock_{n}/"
            x = x + attend(norm(x, block + first), block + attention)
            x = x + dense(tanh_gelu(dense(norm(x, block + second), f"{block}{mlp}/Dense_0")), f"{block}{mlp}/Dense_1")
            layers.append(x)
        x = norm(x, "Transformer/encoder_norm")
        pooled = x[:, 0] if "cls" in arrays else x.mean(dim=1)
        if "pre_logits/kernel" in arrays:
            pooled = torch.tanh(dense(pooled, "pre_logits"))
        return layers, x, dense(pooled, "head")

    return forward


OLD_PARTS = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEW_PARTS = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def read_npz(arrays, path):
    numpy.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return dict(read_checkpoint(path).tensors)


def named(arrays, prefix, dtype):
    return {name.removeprefix(prefix): array.to(dtype) for name, array in arrays.items()}


def jax_resample(table, grid):
    """As both codes load a table at another size (`interpolate_posembed`, `resample_posemb`)."""
    image = table.reshape(4, 4, -1).numpy()
    return torch.from_numpy(zoom(image, (grid[0] / 4, grid[1] / 4, 1), order=1)).reshape(1, grid[0] * grid[1], -1)


@DTYPES
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (24, 56)], ids=str)
@pytest.mark.parametrize(("prefix", "hidden"), [("", None), ("opt/target/", 24)], ids=str)
def test_vision_transformer_npz(prefix, hidden, size, dtype, bound, tmp_path):
    tensors = read_npz(google_arrays(OLD_PARTS, prefix, hidden=hidden), tmp_path / "ViT.npz")
    ours = convert("google-npz", tensors)
    assert ours.config.num_attention_heads == [HEADS]
    arrays = named(tensors, prefix, dtype)
    table = arrays["Transformer/posembed_input/pos_embedding"]

    def positions(grid):
        patches = table[:, 1:] if tuple(grid) == (4, 4) else jax_resample(table[:, 1:], grid)
        return torch.cat((table[:, :1], patches), dim=1), True

    assert_equal_models(flax_vit(arrays, OLD_PARTS, positions), ours, size, dtype, bound)


@DTYPES
@pytest.mark.parametrize("size", [(32, 32), (24, 56)], ids=str)
@pytest.mark.parametrize("cls", [True, False], ids=["class token", "mean"])
def test_big_vision_npz_with_learned_positions(cls, size, dtype, bound, tmp_path):
    tensors = read_npz(google_arrays(NEW_PARTS, "params/", cls=cls, learned="pos_embedding"), tmp_path / "bv.npz")
    ours, arrays = convert("google-npz", tensors), named(tensors, "params/", dtype)

    def positions(grid):
        table = arrays["pos_embedding"]
        return (table if tuple(grid) == (4, 4) else jax_resample(table, grid)), False

    assert_equal_models(flax_vit(arrays, NEW_PARTS, positions), ours, size, dtype, bound)


def test_flexivits_files_are_big_visions_and_its_preset_says_how_it_resamples(tmp_path):
    tensors = read_npz(google_arrays(NEW_PARTS, "params/", learned="pos_embedding"), tmp_path / "flexi.npz")
    found = {}
    for recipe in ("bilinear_antialias", "bicubic"):
        config = NAMED["google-npz"].read_config(given(tensors, preset(position_interpolation=recipe)))
        found[recipe] = config.position_interpolation
    assert found == {"bilinear_antialias": "bilinear_antialias", "bicubic": "bilinear_corners"}


def posemb_sincos_2d(grid, width, dtype):
    """big_vision's formula: fixed wavelengths, of the column and then of the row."""
    y, x = numpy.mgrid[: grid[0], : grid[1]]
    omega = 1.0 / 10_000.0 ** (numpy.arange(width // 4) / (width // 4 - 1))
    y, x = y.flatten()[:, None] * omega, x.flatten()[:, None] * omega
    table = numpy.concatenate([numpy.sin(x), numpy.cos(x), numpy.sin(y), numpy.cos(y)], axis=1)
    return torch.from_numpy(table)[None].to(dtype)


@pytest.mark.parametrize("size", [(224, 224), (48, 48), (24, 56)], ids=str)
def test_big_visions_small_baseline(size, tmp_path):
    """ "Better plain ViT baselines": no class token, sines and cosines, a hidden layer in the head.

    Ours keeps its sines in float32, as JAX does, so that float64 cannot tell more."""
    tensors = read_npz(google_arrays(NEW_PARTS, "params/", cls=False, hidden=24, learned=None), tmp_path / "s16.npz")
    ours, arrays = convert("google-npz", tensors), named(tensors, "params/", torch.float64)
    theirs = flax_vit(arrays, NEW_PARTS, lambda grid: (posemb_sincos_2d(grid, WIDTH, torch.float64), False))
    assert_equal_models(theirs, ours, size, torch.float64, 1e-5)
    exact = flax_vit(
        arrays, NEW_PARTS, lambda grid: (ours.vit.embeddings.positions(tuple(grid), torch.device("cpu")), False)
    )
    assert_equal_models(exact, ours, size, torch.float64, 1e-9)


# -- What files cannot say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tensors", "sentence"),
    [
        ("original-deit", lambda: Deit().state_dict(), "how many attention heads share a width of 48, .*--preset"),
        ("original-dinov2", lambda: Dinov2().state_dict(), "how many attention heads share a width of 48, .*--preset"),
        ("original-pit", lambda: Pit((64, 64)).state_dict(), "share widths of 16, 32, 64, .*--preset"),
        (
            "original-deit",
            lambda: Deit().state_dict() | {"pos_embed": torch.zeros(1, 33, WIDTH)},
            "33 positions of this file are no square grid beside 1 prefix tokens: .*--preset",
        ),
    ],
    ids=["deit", "dinov2", "pit", "oblong"],
)
def test_what_shapes_do_not_say_needs_a_preset(name, tensors, sentence):
    with pytest.raises(ValueError, match=sentence):
        NAMED[name].read_config(given(tensors()))


def test_a_preset_says_the_grid_that_is_not_square():
    tensors = fill(Deit()).state_dict() | {"pos_embed": torch.ones(1, 33, WIDTH)}
    config = NAMED["original-deit"].read_config(given(tensors, preset(image_size=[64, 32], patch_size=8)))
    assert (config.position_grid, config.image_size, config.num_prefix_positions) == ([8, 4], [64, 32], 1)


def test_a_preset_of_another_size_gets_the_two_sided_report():
    tensors, source = fill(Deit()).state_dict(), NAMED["original-deit"]
    del tensors["blocks.1.norm1.weight"]
    tensors["blocks.9.extra"] = torch.ones(1)
    config = source.read_config(given(tensors, preset()))
    report = r"(?s)in the source, not in the model: blocks.9.extra.*missing from the source: blocks.1.norm1.weight"
    with pytest.raises(ValueError, match=report):
        load(ViTCustomForImageClassification, config, tensors, source.tables(config, head=True)["original"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hidden_act="relu"), "original-deit cannot hold this model: it cannot express `hidden_act` 'relu'"),
        (dict(position_interpolation="bicubic_antialias"), "`position_interpolation` 'bicubic_antialias'"),
        (dict(layer_norm_eps=1e-12), "`layer_norm_eps` 1e-12"),
        (dict(prefix_tokens=["cls", "register"]), "original-deit cannot hold this model, whose settings it has no"),
    ],
    ids=str,
)
def test_what_the_original_code_would_compute_otherwise_does_not_go_back(changes, message):
    with pytest.raises(ValueError, match=message):
        NAMED["original-deit"].write_config(preset(**changes), head=False)


# The presets that are a published file's model, and the source of that file.
PUBLISHED = {"deit": "original-deit", "swin": "original-swin", "pit": "original-pit"}
FULL = [(path, source) for path in PRESETS for start, source in PUBLISHED.items() if path.stem.startswith(start)]
FULL += [(path, "original-dinov2") for path in PRESETS if path.stem.endswith("dinov2")]
FULL += [(path, "google-npz") for path in PRESETS if path.stem.endswith("big_vision")]


@pytest.mark.parametrize(("path", "name"), FULL, ids=lambda value: getattr(value, "stem", ""))
def test_full_size_presets_are_known_from_their_shapes_alone(path, name):
    config, source = ViTCustomConfig.from_pretrained(path), NAMED[name]
    head = config.num_labels > 0
    with torch.device("meta"):
        model = (ViTCustomForImageClassification if head else ViTCustomModel)(config)
    spelling, table = list(source.tables(config, head).items())[-1 if name == "google-npz" else 0]
    tensors = into_theirs(model.state_dict(), table)
    read = source.read_config(given(tensors))
    for key in ("hidden_sizes", "depths", "num_attention_heads", "grid", "prefix_tokens", "pooling"):
        assert getattr(read, key) == getattr(config, key)
    load(type(model), read, tensors, source.tables(read, head)[spelling])


def test_image_processors_of_published_files():
    deit = NAMED["original-deit"].picture(ViTCustomConfig(image_size=384))
    assert (deit["size"], deit["crop_size"], deit["resample"]) == (
        {"shortest_edge": 438},
        dict(height=384, width=384),
        3,
    )
    assert NAMED["original-dinov2"].picture(ViTCustomConfig(image_size=518))["crop_size"]["height"] == 224
    squashed = NAMED["google-npz"].picture(ViTCustomConfig(image_size=224))
    assert (squashed["size"], squashed["do_center_crop"]) == (dict(height=224, width=224), False)
    assert squashed["image_mean"] == [0.5] * 3
    assert NAMED["original-segmenter"].picture(ViTCustomConfig()) is None
