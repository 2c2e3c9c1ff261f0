"""Laws of segmentation: parity with the original Segmenter, its loss, images of several sizes, the way of a picture
from the processor through the model to a map of classes at its own size."""

import copy
import json
from functools import cache
from math import prod

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional
from transformers import AutoImageProcessor
from transformers import AutoModelForSemanticSegmentation
from transformers import set_seed
from transformers.modeling_outputs import SemanticSegmenterOutput

from modeling_vit_custom import ViTCustomForSemanticSegmentation
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_stages import grid_at
from modeling_vit_custom.conversion.equal_configs import differing
from modeling_vit_custom.conversion.heads_segmentation import image_processor
from modeling_vit_custom.conversion.heads_segmentation import read
from modeling_vit_custom.conversion.heads_segmentation import read_variant
from modeling_vit_custom.conversion.heads_segmentation import segmenter_from_original
from modeling_vit_custom.conversion.heads_segmentation import tables
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.inspection.counters import count_macs
from modeling_vit_custom.inspection.counters import count_parameters
from modeling_vit_custom.modeling_segmentation import whole_side
from tests.forking import stranger
from tests.support import VARIANTS
from tests.support import fill
from tests.support import formula
from tests.support import picture
from tests.support import tiny
from tests.test_modeling_vit_custom import everything_held

IGNORED = 255
DECODERS = ("mask_transformer", "linear")
every_variant = pytest.mark.parametrize("name", VARIANTS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
# Every backbone, and on one each of the plain, windowed and pooled ones both decoders.
PAIRS = [(name, DECODERS[0]) for name in VARIANTS] + [(name, DECODERS[1]) for name in ("vit", "swin", "pit")]
every_pair = pytest.mark.parametrize(("name", "decoder"), PAIRS)


def make(name="vit", decoder="mask_transformer", dtype=torch.float32, **changes):
    settings = VARIANTS[name] | dict(segmentation_decoder=decoder) | changes
    return fill(ViTCustomForSemanticSegmentation(tiny(**settings))).to(dtype)


def images(model, batch=3, height=32, width=32, **kwargs):
    return picture(batch, model.config.num_channels, height, width, **kwargs)


def classes(*shape, num_labels=5):
    """A class for each pixel, some ignored; the two halves of a batch hold unequal numbers of those."""
    labels = torch.arange(prod(shape)).view(shape) * 7 % num_labels
    return labels.masked_fill(
        torch.arange(prod(shape)).view(shape) % 11 < torch.arange(shape[0])[:, None, None], IGNORED
    )


# -- parity: the original, from its paper and its names ---------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))


class MaskTransformer(nn.Module):
    def __init__(self, num_classes, width, num_layers):
        super().__init__()
        self.num_classes = num_classes
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, width))
        self.proj_dec = nn.Linear(width, width)
        self.proj_patch, self.proj_classes = (nn.Parameter(torch.empty(width, width)) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(num_layers))
        self.decoder_norm, self.mask_norm = nn.LayerNorm(width), nn.LayerNorm(num_classes)

    def forward(self, x):
        x = torch.cat([self.proj_dec(x), self.cls_emb.expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches, kinds = x[:, : -self.num_classes] @ self.proj_patch, x[:, -self.num_classes :] @ self.proj_classes
        patches, kinds = patches / patches.norm(dim=-1, keepdim=True), kinds / kinds.norm(dim=-1, keepdim=True)
        return self.mask_norm(patches @ kinds.mT)


class Linear(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(x)


class Segmenter(nn.Module):
    """timm's ViT with torch's own eps, whose positions are resampled bilinearly; images are padded to whole patches."""

    def __init__(self, decoder, distilled, width=128, num_classes=6):
        super().__init__()
        name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
        sizes = dict(img_size=(32, 48), patch_size=8, embed_dim=width, depth=1, num_heads=4, num_classes=10)
        self.encoder = timm.create_model(name, **sizes, norm_layer=nn.LayerNorm)
        self.decoder = Linear(num_classes, width) if decoder == "linear" else MaskTransformer(num_classes, width, 3)
        self.prefix = 1 + distilled

    def forward(self, pixels):
        height, width = pixels.shape[2:]
        pixels = functional.pad(pixels, (0, -width % 8, 0, -height % 8))
        vit, grid = self.encoder, [side // 8 for side in pixels.shape[2:]]
        prefix, positions = vit.pos_embed[:, : self.prefix], vit.pos_embed[:, self.prefix :]
        positions = functional.interpolate(positions.mT.unflatten(2, (4, 6)), size=grid, mode="bilinear").flatten(2).mT
        tokens = [vit.cls_token, vit.dist_token] if self.prefix == 2 else [vit.cls_token]
        tokens = [token.expand(len(pixels), -1, -1) for token in tokens]
        x = torch.cat([*tokens, vit.patch_embed.proj(pixels).flatten(2).mT], 1) + torch.cat([prefix, positions], 1)
        masks = self.decoder(vit.norm(vit.blocks(x))[:, self.prefix :]).mT.unflatten(2, grid)
        return functional.interpolate(masks, size=pixels.shape[2:], mode="bilinear")[:, :, :height, :width]


def variant(decoder, distilled=False, **changes):
    """variant.yml of the original, of the model above unless `changes` says otherwise."""
    mask = dict(name="mask_transformer", n_layers=3, dropout=0.1, drop_path_rate=0.0)
    net = dict(
        image_size=[32, 48],
        patch_size=8,
        d_model=128,
        n_heads=4,
        n_layers=1,
        normalization="vit",
        distilled=distilled,
        backbone="vit_tiny_patch16_384",
        dropout=0.0,
        drop_path_rate=0.1,
        n_cls=6,
        decoder=dict(name="linear") if decoder == "linear" else mask,
    )
    return dict(net_kwargs=net | changes, dataset_kwargs=dict(dataset="ade20k"))


@cache
def original(decoder, distilled):
    return fill(Segmenter(decoder, distilled)).double()


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("size", [(32, 48), (48, 48), (37, 70), (5, 24)], ids=str)
@pytest.mark.parametrize("distilled", [False, True])
@every_decoder
def test_the_originals_tensors_give_the_originals_logits_loss_and_gradients(decoder, distilled, size):
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        theirs = copy.deepcopy(original(decoder, distilled)).to(dtype)
        ours, aside = segmenter_from_original(theirs.state_dict(), read_variant(variant(decoder, distilled)))
        inputs, labels = [picture(2, 3, *size, dtype=dtype).requires_grad_() for _ in range(2)], classes(2, *size)
        answer, logits = ours(inputs[0], labels=labels), theirs(inputs[1])
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        answer.loss.backward()
        loss.backward()
        assert relative(answer.logits, logits) <= bound
        assert relative(answer.loss, loss) <= bound
        assert relative(inputs[0].grad, inputs[1].grad) <= 10 * bound
        if dtype == torch.float64:
            gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
            for name, gradient in into_theirs(gradients, tables(ours.config)["original"]).items():
                expected = theirs.get_parameter(name).grad
                torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12, msg=name)
        assert {name.split(".")[1] for name in aside} == {"head", "head_dist"} if distilled else {"head"}


@pytest.mark.parametrize("distilled", [False, True])
@every_decoder
def test_the_originals_tensors_come_back_bit_for_bit_and_nothing_is_dropped(decoder, distilled):
    tensors = original(decoder, distilled).state_dict()
    ours, aside = segmenter_from_original(tensors, read_variant(variant(decoder, distilled)))
    back = into_theirs(ours.state_dict(), tables(ours.config)["original"], aside)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in back.items())
    tensors["decoder.scale"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"in the source, not in the model: decoder\.scale"):
        segmenter_from_original(tensors, ours.config)
    del tensors["decoder.scale"], tensors["encoder.cls_token"]
    with pytest.raises(ValueError, match=r"missing from the source: encoder\.cls_token"):
        segmenter_from_original(tensors, ours.config)


@pytest.mark.parametrize("distilled", [False, True])
@every_decoder
def test_shapes_say_what_variant_yml_says_but_what_acts_in_training(decoder, distilled):
    config = read_variant(variant(decoder, distilled))
    found = read(original(decoder, distilled).state_dict(), config)
    assert differing(config, found, head=False) == {}
    for name in ("num_labels", "segmentation_decoder", "decoder_num_hidden_layers"):
        assert getattr(config, name) == getattr(found, name)


@pytest.mark.parametrize("decoder", [dict(name="deeplab_dec"), dict(name="mask_transformer", drop_path_rate=0.1)])
def test_a_decoder_that_ours_is_not_is_refused(decoder):
    settings = variant("linear")
    settings["net_kwargs"]["decoder"] = decoder
    with pytest.raises(ValueError, match="a mask_transformer without drop path"):
        read_variant(settings)


# name: (decoder, width, layers, heads, patch size, image size, distilled, parameters of the original's code)
PUBLISHED = {
    "Seg-T-Mask/16": ("mask_transformer", 192, 12, 3, 16, 512, False, 6_906_388),
    "Seg-S-Mask/16": ("mask_transformer", 384, 12, 6, 16, 512, False, 26_418_964),
    "Seg-B-Mask/16": ("mask_transformer", 768, 12, 12, 16, 512, False, 103_266_580),
    "Seg-B/8": ("linear", 768, 12, 12, 8, 512, False, 89_235_838),
    "Seg-L-Mask/16": ("mask_transformer", 1024, 24, 16, 16, 640, False, 334_259_476),
    "Seg-B/16 of DeiT": ("linear", 768, 12, 12, 16, 512, True, 88_089_446),
    "Seg-B-Mask/16 of DeiT": ("mask_transformer", 768, 12, 12, 16, 512, True, 104_037_116),
}
MACS = {"Seg-T-Mask/16": 12.64, "Seg-S-Mask/16": 38.40, "Seg-B-Mask/16": 129.29, "Seg-B/16 of DeiT": 107.27}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_segmenters_have_their_numbers_of_parameters_and_macs(name):
    decoder, width, layers, heads, patch, size, distilled, parameters = PUBLISHED[name]
    sizes = dict(d_model=width, n_layers=layers, n_heads=heads, patch_size=patch, image_size=[size, size], n_cls=150)
    settings = variant(decoder, distilled, **sizes)
    settings["net_kwargs"]["decoder"]["n_layers"] = 2
    with torch.device("meta"):
        model = ViTCustomForSemanticSegmentation(read_variant(settings))
    unused = (1 + distilled) * 1000 * (width + 1)  # the encoder's classifiers of ImageNet
    assert count_parameters(model) == parameters - unused
    if name in MACS:
        assert round(count_macs(model, 1, 3, size, size) / 1e9, 2) == MACS[name]


# -- logits at the input's size ---------------------------------------------------------------------------------------


@every_pair
def test_logits_have_the_images_size_and_see_every_pixel(name, decoder):
    model = make(name, decoder, torch.float64)
    for height, width in ((32, 32), (37, 45), (3, 64)):
        inputs = images(model, 1, height, width, dtype=torch.float64).requires_grad_()
        logits = model(inputs).logits
        assert logits.shape == (1, 5, height, width)
        logits.square().sum().backward()
        assert inputs.grad.flatten().count_nonzero() == inputs.numel()


@every_variant
def test_padding_with_zeros_to_the_next_whole_patch_changes_nothing(name):
    model = make(name, dtype=torch.float64)
    inputs = images(model, 2, 27, 21, dtype=torch.float64)
    height, width = whole_side(model.config, 27, 0), whole_side(model.config, 21, 1)
    padded = functional.pad(inputs, (0, width - 21, 0, height - 27))
    torch.testing.assert_close(model(inputs).logits, model(padded).logits[:, :, :27, :21], rtol=0, atol=1e-12)


@every_variant
def test_a_whole_side_is_the_least_that_patches_fill_and_merging_halves(name):
    config = tiny(**VARIANTS[name])

    def whole(side):
        rows, before = grid_at(config, side, side, 0)[0], grid_at(config, side - 1, side - 1, 0)[0]
        halved = config.downsample != "merge" or rows % 2 ** (len(config.depths) - 1) == 0
        return rows > max(before, 0) and halved

    for side in range(1, 70):
        assert whole_side(config, side, 0) == next(length for length in range(side, 200) if whole(length))


def test_a_token_is_drawn_where_it_looked():
    """Only the patch at row 1, column 2 is bright: so is the middle of its logits."""
    model = make(decoder="linear", depths=[1], position_embedding="none", prefix_tokens=[], pooling="mean")
    with torch.no_grad():
        for parameter in (
            model.vit.stages[0].layers[0].attention.o_proj.weight,
            model.vit.embeddings.patch_embeddings.bias,
        ):
            parameter.zero_()
    dark, bright = torch.zeros(1, 3, 27, 29), torch.zeros(1, 3, 27, 29)
    bright[:, :, 8:16, 16:24] = 1
    difference = (model(bright).logits - model(dark).logits)[0].abs().sum(0)
    weight = difference / difference.sum()
    assert abs((weight.sum(1) * torch.arange(27)).sum().item() - 11.5) < 0.01
    assert abs((weight.sum(0) * torch.arange(29)).sum().item() - 19.5) < 0.01


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_cross_entropy_without_the_ignored_pixels():
    model, labels = make(), classes(3, 32, 32)
    output = model(images(model), labels=labels)
    assert isinstance(output, SemanticSegmenterOutput)
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits, labels, ignore_index=IGNORED))
    other = make(semantic_loss_ignore_index=-1)
    kept = labels.where(labels != IGNORED, -1)
    torch.testing.assert_close(other(images(model), labels=kept.int()).loss, output.loss)
    torch.testing.assert_close(model(images(model), labels.byte(), return_dict=False)[0], output.loss)


@pytest.mark.parametrize("splits", [[2, 2, 2, 2], [1, 7], [5, 3]], ids=str)
def test_the_gradient_is_the_same_for_every_split_of_a_batch(splits):
    gradients = []
    for parts in ([8], splits):
        model = make(dtype=torch.float64)
        inputs, labels = images(model, 8, 16, 16, dtype=torch.float64), classes(8, 16, 16)
        count = model.count_items(pixel_values=inputs, labels=labels)
        assert count == (labels != IGNORED).sum()
        for x, y in zip(inputs.split(parts), labels.split(parts), strict=True):
            model(x, labels=y, num_items_in_batch=count).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0), torch.tensor(7)], ids=str)
def test_where_every_pixel_is_ignored_the_loss_and_its_gradients_are_zero(num_items):
    model = make()
    loss = model(images(model), labels=torch.full((3, 32, 32), IGNORED), num_items_in_batch=num_items).loss
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_loss_is_in_float32_at_least(dtype):
    model = make(dtype=dtype)
    assert model(images(model), labels=classes(3, 32, 32)).loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((2, 32, 32), 5), "Label 5 is out of range: `num_labels` is 5"),
        (torch.full((2, 32, 32), -100), r"Label -100 is out of range.*or 255, ignored: `semantic_loss_ignore_index`"),
        (torch.zeros(2, 32, 32), "one integer a pixel"),
        (torch.zeros(2, 16, 32, dtype=torch.long), r"here \(2, 32, 32\), got torch.int64 of shape \(2, 16, 32\)"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.long), "one integer a pixel"),
        (torch.zeros(1, 32, 32, dtype=torch.long), "one integer a pixel"),
    ],
)
def test_labels_that_cannot_be_meant_get_a_sentence(labels, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        model(images(model, 2), labels=labels)


@pytest.mark.parametrize("num_labels", [0, 1])
def test_one_class_cannot_be_chosen(num_labels):
    with pytest.raises(ValueError, match="set it to at least 2"):
        make(num_labels=num_labels)


def test_pixels_of_another_shape_get_the_encoders_sentence():
    with pytest.raises(ValueError, match="`pixel_values` must be"):
        make()(torch.zeros(3, 32, 32))


# -- images of several sizes in a batch -------------------------------------------------------------------------------

SIZES = [(32, 32), (24, 45), (32, 32), (13, 50)]


def padded_batch(model, dtype=torch.float64):
    """(pixel_values, pixel_mask, labels), padded with what must not be looked at, and each image and its labels."""
    pairs = [(images(model, 1, *size, dtype=dtype) + n, classes(1, *size)) for n, size in enumerate(SIZES)]
    height, width = (max(size[axis] for size in SIZES) for axis in (0, 1))

    def pad(tensors, value):
        shape = (0, width), (0, height)
        return torch.cat(
            [
                functional.pad(t, (0, shape[0][1] - t.shape[-1], 0, shape[1][1] - t.shape[-2]), value=value)
                for t in tensors
            ]
        )

    pixel_values, labels = pad([x for x, _ in pairs], 9.0), pad([y for _, y in pairs], IGNORED)
    mask = pad([torch.ones(1, *size, dtype=torch.long) for size in SIZES], 0)
    return dict(pixel_values=pixel_values, pixel_mask=mask, labels=labels), pairs


@every_pair
def test_an_image_is_segmented_alone_as_beside_larger_ones(name, decoder):
    model = make(name, decoder, torch.float64)
    batch, pairs = padded_batch(model)
    together = model(**batch)
    assert together.logits.shape == (4, 5, 32, 50)
    assert not together.logits[batch["pixel_mask"][:, None].expand_as(together.logits) == 0].any()
    alone = [model(x, labels=y) for x, y in pairs]
    for logits, single, size in zip(together.logits, alone, SIZES, strict=True):
        torch.testing.assert_close(logits[:, : size[0], : size[1]], single.logits[0], rtol=0, atol=1e-11)
    counts = [(y != IGNORED).sum() for _, y in pairs]
    expected = sum(single.loss * count for single, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together.loss, expected)
    assert model.count_items(**batch) == sum(counts)


def test_a_mask_of_one_size_is_cut_off_and_one_without_padding_is_none():
    model = make(dtype=torch.float64)
    inputs = images(model, 2, 32, 40, dtype=torch.float64)
    plain = model(inputs[:, :, :24, :32], output_hidden_states=True)
    mask = torch.zeros(2, 32, 40)
    mask[:, :24, :32] = 1
    masked = model(inputs, pixel_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(masked.logits[:, :, :24, :32], plain.logits, rtol=0, atol=1e-12)
    assert masked.logits.shape == (2, 5, 32, 40)
    assert torch.equal(masked.hidden_states[-1], plain.hidden_states[-1])
    assert torch.equal(model(inputs, pixel_mask=torch.ones(2, 32, 40)).logits, model(inputs).logits)


def test_several_sizes_have_no_common_hidden_states_and_no_classes_in_their_padding():
    model = make(dtype=torch.float64)
    batch, _ = padded_batch(model)
    for wanted in ("output_hidden_states", "output_attentions"):
        with pytest.raises(ValueError, match="one size at a time"):
            model(**batch, **{wanted: True})
    batch["labels"][3, 31, 49] = 0
    with pytest.raises(ValueError, match="pad the labels with 255"):
        model(**batch)
    batch["pixel_mask"] = batch["pixel_mask"][:, :8]
    with pytest.raises(ValueError, match="`pixel_mask` must be"):
        model(**batch)


# -- the house's laws -------------------------------------------------------------------------------------------------


@every_pair
def test_forward_writes_nothing_and_depends_on_no_other_call(name, decoder):
    model = make(name, decoder)
    before, first = everything_held(model), model(images(model, 2, 40, 24)).logits
    model(images(model, 3, 8, 16), labels=classes(3, 8, 16))
    assert torch.equal(model(images(model, 2, 40, 24)).logits, first)
    after = everything_held(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key
    assert list(model.named_buffers()) == []


@every_pair
def test_every_parameter_gets_a_gradient(name, decoder):
    model = make(name, decoder).train()
    model(images(model), labels=classes(3, 32, 32)).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@every_pair
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(name, decoder, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = make(name, decoder, torch.float64).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        inputs = images(model, dtype=torch.float64).requires_grad_()
        model(inputs, labels=classes(3, 32, 32)).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-12)


def test_hidden_states_and_attentions_are_the_encoders_alone():
    model = make(decoder_num_attention_heads=2)
    output = model(images(model, 2, 30, 32), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in output.hidden_states] == [(2, 17, 32)] * 3
    assert [probabilities.shape for probabilities in output.attentions] == [(2, 4, 17, 17)] * 2


@pytest.fixture
def compiler():
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


@every_decoder
def test_compiles_without_graph_breaks_with_and_without_labels(decoder, compiler):
    model = make(decoder=decoder)
    compiled = compiler(model, fullgraph=True, backend="eager", dynamic=False)
    inputs, labels = images(model, 2, 30, 45), classes(2, 30, 45)
    torch.testing.assert_close(compiled(inputs, labels=labels).loss, model(inputs, labels=labels).loss)
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs).logits, model(inputs).logits)


@every_decoder
@torch.no_grad()
def test_exports(decoder):
    model = make(decoder=decoder)
    inputs = images(model, 2, 32, 48)
    program = torch.export.export(model, (), {"pixel_values": inputs}).module()
    torch.testing.assert_close(program(pixel_values=inputs).logits, model(inputs).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_decoder
def test_half_precision_by_dtype_and_under_autocast(decoder, dtype):
    model = make(decoder=decoder)
    reference = model(images(model)).logits
    with torch.autocast("cpu", dtype):
        output = model(images(model), labels=classes(3, 32, 32))
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    for logits in (output.logits, model.to(dtype)(images(model)).logits):
        assert (logits.float() - reference).norm() < 0.15 * reference.norm()


def test_initial_values_are_the_documented_ones():
    set_seed(0)
    model = ViTCustomForSemanticSegmentation(tiny(hidden_sizes=[64], initializer_range=0.03, num_labels=40))
    for key, parameter in model.mask_decoder.named_parameters():
        if parameter.ndim == 1:
            assert parameter.unique().tolist() == [1.0 if "norm" in key and key.endswith("weight") else 0.0], key
        else:
            expected = 1 / 8 if key in ("patch_projection.weight", "class_projection.weight") else 0.03
            assert 0.9 * expected < parameter.std() < 1.1 * expected, key


@every_decoder
@pytest.mark.parametrize("name", ["vit", "everything", "swin", "pit"])
def test_what_is_saved_loads_equal_and_an_encoders_checkpoint_becomes_a_segmenter(name, decoder, tmp_path):
    model = make(name, decoder)
    model.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "whole")
    assert type(loaded) is ViTCustomForSemanticSegmentation
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(loaded(images(model)).logits, model(images(model)).logits)
    encoder = fill(ViTCustomModel(tiny(**VARIANTS[name])))
    encoder.save_pretrained(tmp_path / "encoder")
    grown, info = ViTCustomForSemanticSegmentation.from_pretrained(
        tmp_path / "encoder", segmentation_decoder=decoder, num_labels=7, output_loading_info=True
    )
    assert all(key.startswith("mask_decoder.") for key in info["missing_keys"])
    assert {key: value.tolist() for key, value in grown.vit.state_dict().items()} == {
        key: value.tolist() for key, value in encoder.state_dict().items()
    }
    assert grown(images(model)).logits.shape == (3, 7, 32, 32)


def test_a_later_change_of_the_attention_reaches_the_decoder():
    model = make()
    model.set_attn_implementation("eager")
    attention = model.mask_decoder.layers[0].attention
    assert attention.config._attn_implementation == "eager"
    model.config.decoder_dropout_prob = 0.5
    assert attention.config.window_size is None
    assert attention.config.layer_norm_eps == model.config.layer_norm_eps


# -- pictures ---------------------------------------------------------------------------------------------------------


def save_with_processor(folder, **changes):
    model = make(id2label=dict(enumerate(["sky", "roof", "wall", "leaf", "petal"])), image_size=64, **changes)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor(model.config)))
    return model


def blocks(height, width, seed=0):
    """A map of classes with edges everywhere, some pixels of it ignored."""
    noise = formula(f"blocks {seed}", torch.Size((height, width)))
    return ((noise + 1) * 7).long().remainder(5).masked_fill(noise > 0.4, IGNORED).to(torch.uint8).numpy()


def test_the_processor_loads_from_the_checkpoints_folder_and_resizes_maps_as_pictures(tmp_path):
    save_with_processor(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pictures = [Image.fromarray(np.full((*size, 3), 200, np.uint8)) for size in ((37, 45), (90, 21))]
    maps = [blocks(37, 45), blocks(90, 21)]
    batch = processor(pictures, maps, return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    torch.testing.assert_close(batch["pixel_values"], torch.full((2, 3, 64, 64), 200 / 255 * 2 - 1))
    assert batch["labels"].shape == (2, 64, 64)
    for made, given in zip(batch["labels"], maps, strict=True):  # no class between two others is ever made
        rows, columns = ((torch.arange(64) + 0.5) * side / 64 for side in given.shape)
        assert torch.equal(made, torch.from_numpy(given).long()[rows.long()][:, columns.long()])
    assert (batch["labels"] == IGNORED).any()


@pytest.mark.parametrize("size", [(37, 45), (21, 43), (64, 64), (32, 17)], ids=str)
def test_a_perfect_model_gives_the_map_back_at_the_pictures_size(size, tmp_path):
    """Up to the size at which enlarging it to the model's size and back keeps each pixel: 1 / sqrt(2) of that."""
    save_with_processor(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    given = np.where(blocks(*size) == IGNORED, 0, blocks(*size))
    labels = processor(Image.new("RGB", size[::-1]), given, return_tensors="pt")["labels"]
    logits = functional.one_hot(labels, 5).movedim(3, 1).float()
    (found,) = processor.post_process_semantic_segmentation(SemanticSegmenterOutput(logits=logits), target_sizes=[size])
    assert torch.equal(found, torch.from_numpy(given).long())


PIPELINE = """
import sys, json
sys.modules["modeling_vit_custom"] = None
import numpy, torch, transformers
from PIL import Image
picture = Image.open(sys.argv[1])
segment = transformers.pipeline("image-segmentation", model=sys.argv[0], trust_remote_code=True, device="cpu")
found = segment(picture)
inputs = segment.image_processor(picture, return_tensors="pt")
with torch.no_grad():
    logits = segment.model(**inputs).logits
(classes,) = segment.image_processor.post_process_semantic_segmentation(
    transformers.modeling_outputs.SemanticSegmenterOutput(logits=logits), target_sizes=[picture.size[::-1]])
print(json.dumps({
    "module": type(segment.model).__module__,
    "sizes": [mask["mask"].size for mask in found],
    "areas": {mask["label"]: int((numpy.array(mask["mask"]) == 255).sum()) for mask in found},
    "classes": {segment.model.config.id2label[k]: int((classes == k).sum()) for k in classes.unique().tolist()},
}))
"""


def test_the_pipeline_of_a_stranger_gives_masks_of_the_pictures_size(tmp_path):
    save_with_processor(tmp_path / "checkpoint", final_norm="none")  # a model that sees several classes here
    photo = Image.fromarray(load_sample_images().images[1]).resize((75, 50))
    photo.save(tmp_path / "photo.png")
    done = stranger().call(PIPELINE, [tmp_path / "checkpoint", tmp_path / "photo.png"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["module"].startswith("transformers_modules.")
    assert set(map(tuple, found["sizes"])) == {(75, 50)}
    assert found["areas"] == found["classes"]
    assert len(found["areas"]) >= 2
    assert sum(found["areas"].values()) == 75 * 50


@every_decoder
def test_eight_pieces_of_photographs_are_learned(decoder):
    """A piece is an eighth of a photograph's upper half; the class of each quarter of it is how bright it is."""
    set_seed(0)
    photos = torch.stack([torch.from_numpy(photo[:256, :512].copy()) for photo in load_sample_images().images])
    pieces = photos.float().unflatten(1, (2, 128)).unflatten(3, (2, 256)).permute(0, 1, 3, 5, 2, 4).flatten(0, 2)
    inputs = functional.interpolate(pieces, (32, 32), mode="area") / 127.5 - 1
    bright = functional.avg_pool2d(inputs.mean(1), 16)
    labels = torch.bucketize(bright, bright.flatten().quantile(torch.tensor([1 / 3, 2 / 3])))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert labels.shape == (8, 32, 32)
    assert labels.unique().tolist() == [0, 1, 2]
    model = ViTCustomForSemanticSegmentation(tiny(num_labels=3, segmentation_decoder=decoder)).train()
    # A mask transformer's logits are as large as this norm's gain, which starts at 1: with it the loss cannot be small.
    gain = [parameter for name, parameter in model.named_parameters() if "mask_norm" in name]
    others = [parameter for name, parameter in model.named_parameters() if "mask_norm" not in name]
    optimizer = torch.optim.AdamW([dict(params=others), dict(params=gain, lr=0.03)], lr=0.003, weight_decay=0.0)
    losses = []
    for _ in range(200):
        losses.append(model(inputs, labels=labels).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert min(losses[-10:]) < 0.05 * losses[0]


def learned(decoder: str | None, num_labels: int, seed: int, **changes) -> tuple[float, float]:
    """After 80 steps on two images of 16 patches, foreground or not: the loss, and the encoder's gradient."""
    set_seed(seed)
    settings = dict(image_size=16, patch_size=4, num_labels=num_labels, segmentation_decoder=decoder)
    model = ViTCustomForSemanticSegmentation(tiny(**settings | changes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 0], [1, 0, 1, 0]]).repeat(2, 1, 1)
    labels[1] = 1 - labels[1]
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for _ in range(80):
        loss = model(picture(2, 3, 16, 16), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), torch.cat(
        [p.grad.flatten() for p in model.vit.parameters() if p.grad is not None]
    ).norm().item()


@pytest.mark.parametrize(("num_labels", "seed"), [(2, 0), (2, 1), (3, 2)])
def test_few_classes_are_learned_by_the_default_as_by_the_linear_decoder(num_labels, seed):
    loss, gradient = learned("mask_transformer", num_labels, seed)
    linear_loss, linear_gradient = learned("linear", num_labels, seed)
    assert loss < max(linear_loss, 0.1)
    assert gradient > 0.01 * linear_gradient


@pytest.mark.parametrize("load", [ViTCustomForSemanticSegmentation, AutoModelForSemanticSegmentation])
def test_a_folder_without_the_field_is_the_originals_and_other_classes_are_anew(load, tmp_path):
    model = fill(ViTCustomForSemanticSegmentation(tiny(num_labels=2, mask_norm="layer_norm")))
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings.pop("mask_norm") == "layer_norm"
    (tmp_path / "config.json").write_text(json.dumps(settings))
    pixel_values = picture(1, 3, 32, 32)
    for same in ({}, dict(num_labels=2), dict(id2label={0: "no", 1: "yes"})):
        assert torch.equal(load.from_pretrained(tmp_path, **same)(pixel_values).logits, model(pixel_values).logits)
    other = load.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert other.config.mask_norm == "scale"
    assert tiny(num_labels=2).mask_norm is None
