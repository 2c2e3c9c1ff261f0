"""SimMIM and MAE: parity with transformers' heads, both ways; what the losses count; what the encoder is shown."""

import copy
import filecmp
import functools
import inspect

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomForPreTraining
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_stages import grid_at
from modeling_vit_custom.conversion import heads_masked
from modeling_vit_custom.conversion.equal_configs import differing
from modeling_vit_custom.conversion.rename import into_ours
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.modeling_pixels import hidden_pixels
from modeling_vit_custom.modeling_pixels import total_stride
from tests.conversion_support import BOUNDS
from tests.conversion_support import DECODER
from tests.conversion_support import MLP
from tests.conversion_support import SWIN
from tests.conversion_support import relative
from tests.support import VARIANTS
from tests.support import fill
from tests.support import formula
from tests.support import picture
from tests.support import tiny
from tests.test_modeling_vit_custom import everything_held

SMALL_DECODER = dict(decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2)
# The members that can leave patches out of their layers, with every kind of prefix tokens.
GLOBAL = {name: v for name, v in VARIANTS.items() if name not in ("swin", "swin_timm", "pit", "dinov3", "yolos")}
GLOBAL["detection"] = dict(prefix_tokens=["cls", "detection", "detection"])
OVERLAP = dict(patch_size=8, patch_stride=4)
# A stage of PiT's stem alone: nothing reconstructs the last pixels that its patches see.
SIMMIM = VARIANTS | {"overlap": OVERLAP, "gaps": dict(patch_size=4, patch_stride=8)}
HEADS = [*(("simmim", name) for name in SIMMIM), *(("mae", name) for name in GLOBAL)]
every_head = pytest.mark.parametrize(("head", "name"), HEADS)
every_simmim = pytest.mark.parametrize("name", SIMMIM)
every_mae = pytest.mark.parametrize("name", GLOBAL)
every_dtype = pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
ODD = (37, 45)


def make(head, name="vit", dtype=torch.float32, **changes):
    if head == "simmim":
        return fill(ViTCustomForMaskedImageModeling(tiny(**SIMMIM[name] | changes))).to(dtype)
    return fill(ViTCustomForPreTraining(tiny(**SMALL_DECODER | GLOBAL[name] | changes))).to(dtype)


def images(model, batch=2, size=(32, 32), dtype=torch.float32):
    return picture(batch, model.config.num_channels, *size, dtype=dtype)


def masks(config, batch=2, size=(32, 32)):
    """(B, h * w): a rectangle of neighbours and a few single patches are hidden, another number in each image."""
    rows, columns = grid_at(config, *size, stage=0)
    hidden = formula("mask", torch.Size((1, batch, rows, columns)))[0] > 1.3
    for index in range(batch):
        hidden[index, : max(rows // 2, 1) + index % 2, max(columns // 3, 1) :] = True
    return hidden.flatten(1).long()


def noises(config, batch=2, size=(32, 32)):
    rows, columns = grid_at(config, *size)
    return formula("noise", torch.Size((1, batch, rows * columns)))[0].float()


def batch_for(model, batch=2, size=(32, 32), dtype=torch.float32):
    inputs = dict(pixel_values=images(model, batch, size, dtype))
    if isinstance(model, ViTCustomForPreTraining):
        return inputs | dict(noise=noises(model.config, batch, size))
    return inputs | dict(bool_masked_pos=masks(model.config, batch, size))


def original_positions(rows, columns, width):
    """MAE's released pos_embed.py, in numpy: (1, 1 + h * w, D), the class token's zeros first."""

    def one_axis(size, places):
        omega = 1.0 / 10000 ** (np.arange(size // 2, dtype=np.float64) / (size / 2.0))
        out = np.einsum("m,d->md", places.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    across, down = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    table = np.concatenate([one_axis(width // 2, across), one_axis(width // 2, down)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros([1, width]), table])).float()[None]


# transformers' models: (settings, sizes that it can be fed)
THEIRS = {
    "ViTForMaskedImageModeling": (MLP | dict(encoder_stride=8), [(32, 32), (56, 56)]),
    "DeiTForMaskedImageModeling": (MLP | dict(encoder_stride=8, hidden_act="relu"), [(32, 32), (56, 56)]),
    "SwinForMaskedImageModeling": (SWIN | dict(encoder_stride=16), [(64, 64), (96, 96)]),
    "ViTMAEForPreTraining": (
        MLP | DECODER | dict(decoder_intermediate_size=24, norm_pix_loss=True, hidden_act="relu", qkv_bias=False),
        [(32, 32), (48, 48), (32, 56)],
    ),
}
every_source = pytest.mark.parametrize("architecture", THEIRS)


@functools.cache
def theirs(architecture, dtype=torch.float32, **changes):
    """Theirs with large weights, and its positions filled as the original's."""
    config = getattr(transformers, architecture.split("For")[0] + "Config")
    model = fill(getattr(transformers, architecture)(config(**THEIRS[architecture][0] | changes)))
    if architecture == "ViTMAEForPreTraining":
        model.vit.embeddings.position_embeddings.data = original_positions(4, 4, MLP["hidden_size"])
        model.decoder.decoder_pos_embed.data = original_positions(4, 4, DECODER["decoder_hidden_size"])
    return model.to(dtype)


def as_ours(model):
    return heads_masked.masked_from_transformers(model)


def table_of(model):
    return heads_masked.as_ours(type(model).__name__, model.config, model.state_dict())[2]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare_gradients(model, ours, table, losses, pixels, bound):
    """Of all parameters, under our names; and of the pixels."""
    expected = gradients(model, losses[0])
    frozen = {name: p.detach() for name, p in model.named_parameters() if name not in expected}
    expected, _ = into_ours(expected | frozen, table)
    found = gradients(ours, losses[1])
    assert found.keys() == expected.keys()
    if frozen:  # MAE's: ours learns the encoder's positions
        assert frozen.keys() == {"vit.embeddings.position_embeddings", heads_masked.POSITIONS}
        del found["vit.embeddings.position_embeddings"]
    largest = max(gradient.abs().max() for gradient in found.values())
    for name, gradient in found.items():
        assert (gradient - expected[name]).abs().max() <= bound * largest, name
    assert relative(pixels[1].grad, pixels[0].grad) <= bound


def draws_its_own_patches(architecture):
    """In transformers 5.5 DeiT's took the distillation token for a patch, and left out the last."""
    return "sequence_output[:, 1:-1]" not in inspect.getsource(getattr(transformers, architecture))


SIMMIM_SIZES = [(n, s) for n, v in THEIRS.items() for s in v[1] if "MAE" not in n and draws_its_own_patches(n)]


@every_dtype
@pytest.mark.parametrize(("architecture", "size"), SIMMIM_SIZES)
def test_simmim_is_transformers_reconstruction_loss_and_gradients(architecture, size, dtype, bound):
    model = copy.deepcopy(theirs(architecture, dtype))  # Swin of old versions keeps a shift of 0 from a smaller image
    ours, table = as_ours(model), table_of(model)
    model.config.image_size = size[0]  # where theirs reads the size of its loss's mask
    mask = masks(ours.config, 2, size)
    pixels = [picture(2, 3, *size, dtype=dtype).requires_grad_() for _ in range(2)]
    expected = model(pixels[0], bool_masked_pos=mask.bool(), interpolate_pos_encoding=True)
    found = ours(pixels[1], bool_masked_pos=mask)
    assert relative(found.reconstruction, expected.reconstruction) <= bound
    count = mask.sum() * model.config.patch_size**2
    assert ours.count_items(pixels[1], mask) == count
    exact = expected.loss * (count + 1e-5) / count  # theirs adds 1e-5 of a pixel to their number
    torch.testing.assert_close(found.loss, exact, rtol=bound, atol=0)
    compare_gradients(model, ours, table, (exact, found.loss), pixels, bound)
    expected = model(pixels[0], interpolate_pos_encoding=True).reconstruction
    assert relative(ours(pixels[1]).reconstruction, expected) <= bound


def test_where_merging_rounded_a_grid_up_simmim_is_transformers_cut_to_the_image():
    model = theirs("SwinForMaskedImageModeling", torch.float64)
    ours = as_ours(model)
    x = picture(2, 3, 72, 72, dtype=torch.float64)
    expected = model(x).reconstruction
    assert expected.shape == (2, 3, 80, 80)
    assert relative(ours(x).reconstruction, expected[:, :, :72, :72]) <= 1e-9


@every_dtype
@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("size", THEIRS["ViTMAEForPreTraining"][1])
def test_mae_is_transformers_logits_loss_and_gradients(size, norm_pix_loss, dtype, bound):
    model = copy.deepcopy(theirs("ViTMAEForPreTraining", dtype, norm_pix_loss=norm_pix_loss))
    ours, table = as_ours(model), table_of(model)
    assert ours.config.norm_pix_loss == norm_pix_loss
    # At another size theirs resamples the decoder's table as one line, across the ends of its rows; the original makes
    # a table for each size, and that is resampled to itself.
    positions = original_positions(*grid_at(ours.config, *size), ours.config.decoder_hidden_size)
    model.decoder.decoder_pos_embed.data = positions.to(dtype)
    noise = noises(ours.config, 2, size)
    pixels = [picture(2, 3, *size, dtype=dtype).requires_grad_() for _ in range(2)]
    expected = model(pixels[0], noise=noise, interpolate_pos_encoding=size != (32, 32))
    found = ours(pixels[1], noise=noise)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.ids_restore, expected.ids_restore)
    assert relative(found.logits, expected.logits) <= bound
    torch.testing.assert_close(found.loss, expected.loss, rtol=bound, atol=0)
    assert ours.count_items(pixels[1]) == found.mask.sum()
    compare_gradients(model, ours, table, (expected.loss, found.loss), pixels, bound)


@pytest.mark.parametrize(("rows", "columns", "width"), [(14, 14, 512), (3, 7, 16), (1, 1, 4)])
def test_the_decoders_positions_are_the_released_ones_to_the_last_bit(rows, columns, width):
    table = heads_masked.sincos_positions(rows, columns, width, torch.device("cpu"), like_mae=True)
    assert torch.equal(table, original_positions(rows, columns, width)[:, 1:])


# --- conversion ---


@every_source
def test_both_spellings_are_read_and_the_way_back_is_bit_equal(architecture, tmp_path):
    model = theirs(architecture)
    model.save_pretrained(tmp_path)
    on_disk, in_memory = load_file(tmp_path / "model.safetensors"), model.state_dict()
    converted = []
    for tensors in (on_disk, in_memory):
        ours, aside, table = heads_masked.as_ours(architecture, model.config, tensors)
        again = into_theirs(ours.state_dict(), table, aside)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], tensors[name]) for name in tensors)
        converted.append(ours.state_dict())
    assert converted[0].keys() == converted[1].keys()
    assert all(torch.equal(converted[0][name], converted[1][name]) for name in converted[0])


def test_the_three_spellings_of_maes_decoder_are_one_model():
    model = theirs("ViTMAEForPreTraining")
    ours, aside, _ = heads_masked.as_ours("ViTMAEForPreTraining", model.config, model.state_dict())
    tables, seen = heads_masked.mae(ours.config), set()
    for table in tables.values():
        spelled = into_theirs(ours.state_dict(), table, aside)
        seen.add(frozenset(spelled))
        again = heads_masked.as_ours("ViTMAEForPreTraining", model.config, spelled)[0].state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in ours.state_dict().items())
    assert len(seen) == 3
    names = [name for names in seen for name in names]
    for name in (  # facebook's files, those of transformers since 5.9, and its memory since then
        "decoder.decoder_layers.0.attention.attention.query.weight",
        "decoder.decoder_encoder.layer.0.intermediate.dense.bias",
        "decoder.decoder_layers.0.mlp.fc1.weight",
    ):
        assert names.count(name) == 1


@every_source
def test_a_configuration_goes_there_and_back(architecture):
    config = theirs(architecture).config
    ours = heads_masked.read_config(architecture, config)
    again = type(config)(**heads_masked.write_config(architecture, ours))
    assert differing(ours, heads_masked.read_config(architecture, again), head=False) == {}
    different = {key for key, value in again.to_dict().items() if config.to_dict()[key] != value}
    assert different <= {"architectures", "dtype"}


def test_the_papers_decoder_is_written_out_for_theirs():
    written = heads_masked.write_config("ViTMAEForPreTraining", ViTCustomConfig())
    default = transformers.ViTMAEConfig().to_dict()
    names = [name for name in default if name.startswith("decoder_")]
    assert {name: written[name] for name in names} == {name: default[name] for name in names}


def test_what_cannot_be_ours_is_refused_with_the_fix():
    with pytest.raises(ValueError, match="set its `encoder_stride` to that"):
        as_ours(theirs("SwinForMaskedImageModeling", encoder_stride=32))
    fresh = transformers.ViTMAEForPreTraining(theirs("ViTMAEForPreTraining").config)
    with pytest.raises(ValueError, match="fill it before training, or load the encoder alone"):
        as_ours(fresh)  # whose table holds zeros
    config = transformers.ViTMAEConfig(hidden_dropout_prob=0.1)
    with pytest.raises(ValueError, match="set `hidden_dropout_prob` and `attention_probs_dropout_prob`"):
        heads_masked.read_config("ViTMAEForPreTraining", config)


# --- what SimMIM counts ---


def seen_by(config, mask, size):
    """The rule, pixel by pixel: (seen by a hidden patch, by a visible one)."""
    rows, columns = grid_at(config, *size, stage=0)
    height, width = heads_masked.pair(config.patch_size)
    down, across = heads_masked.pair(config.patch_stride or config.patch_size)
    seen = torch.zeros(2, len(mask), *size, dtype=torch.bool)
    for image, hidden in enumerate(mask.view(len(mask), rows, columns).tolist()):
        for row in range(rows):
            for column in range(columns):
                top, left = row * down, column * across
                seen[1 - hidden[row][column], image, top : top + height, left : left + width] = True
    return seen


@pytest.mark.parametrize("size", [(32, 32), ODD, (64, 24)])
@every_simmim
def test_the_loss_is_the_mean_over_pixels_that_hidden_patches_alone_see(name, size):
    model = make("simmim", name, torch.float64)
    mask = masks(model.config, 2, size)
    by_hidden, by_visible = seen_by(model.config, mask, size)
    counted = by_hidden & ~by_visible
    for axis, (n, step) in enumerate(zip(grid_at(model.config, *size), total_stride(model.config), strict=True)):
        counted = counted.index_fill(axis + 1, torch.arange(min(n * step, size[axis]), size[axis]), 0)
    assert 0 < counted.sum() < counted.numel()
    assert torch.equal(hidden_pixels(model.config, mask, size)[:, 0], counted)
    x = images(model, 2, size, torch.float64)
    output = model(x, bool_masked_pos=mask)
    errors = (output.reconstruction - x).abs().transpose(1, 3).transpose(1, 2)  # (B, H, W, C)
    torch.testing.assert_close(output.loss, errors[counted].mean(), rtol=1e-12, atol=0)
    assert model.count_items(pixel_values=x, bool_masked_pos=mask) == counted.sum()


@pytest.mark.parametrize("size", [(32, 32), ODD])
@every_simmim
def test_no_pixel_that_the_loss_counts_changes_the_reconstruction_and_others_do(name, size):
    model = make("simmim", name)
    mask = masks(model.config, 2, size)
    x = images(model, 2, size)
    counted = hidden_pixels(model.config, mask, size)
    before = model(x, bool_masked_pos=mask).reconstruction
    assert torch.equal(model(torch.where(counted, 7.0, x), bool_masked_pos=mask).reconstruction, before)
    visible = seen_by(model.config, mask, size)[1][:, None]
    assert not torch.equal(model(torch.where(visible, 7.0, x), bool_masked_pos=mask).reconstruction, before)
    moved = (model(torch.where(visible, x + 1, x)).reconstruction - model(x).reconstruction).abs()
    reached = [
        min(n * step, side) for n, step, side in zip(grid_at(model.config, *size), model.block, size, strict=True)
    ]
    assert moved[:, :, : reached[0], : reached[1]].min() > 0  # every pixel is drawn, as far as tokens reach
    assert not before[:, :, reached[0] :].any()
    assert not before[:, :, :, reached[1] :].any()


@every_simmim
def test_without_a_mask_it_is_the_encoder_and_a_pixel_shuffle_without_a_loss(name):
    model = make("simmim", name)
    x = images(model)
    patches = model.vit.patch_map(model.vit(x).last_hidden_state, x)
    output = model(x)
    assert output.loss is None
    height, width = model.block
    blocks = model.pixel_head(patches)
    for row in range(patches.shape[2]):  # pixel by pixel of the first image's first token of each row
        block = blocks[0, :, row, 0].view(-1, height, width)
        drawn = output.reconstruction[0, :, row * height : (row + 1) * height, :width]
        assert torch.equal(drawn, block[:, : drawn.shape[1], : drawn.shape[2]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masks_of_any_dtype_are_one_mask(dtype):
    model = make("simmim")
    inputs = batch_for(model)
    expected = model(**inputs).loss
    inputs["bool_masked_pos"] = inputs["bool_masked_pos"].to(dtype)
    assert torch.equal(model(**inputs).loss, expected)


# --- what MAE's encoder is shown ---


@every_mae
def test_hidden_patches_change_no_prediction_and_visible_ones_do(name):
    model = make("mae", name)
    inputs = batch_for(model, size=ODD)
    first = model(**inputs)
    patch = heads_masked.pair(model.config.patch_size)
    rows, columns = grid_at(model.config, *ODD)
    hidden = first.mask.view(2, 1, rows, columns).repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3).bool()
    hidden = nn.functional.pad(hidden, (0, ODD[1] - hidden.shape[3], 0, ODD[0] - hidden.shape[2]))
    x = inputs["pixel_values"]
    changed = model(torch.where(hidden, x.flip(0) * 3, x), noise=inputs["noise"])
    assert torch.equal(changed.logits, first.logits)
    assert changed.loss != first.loss
    assert not torch.equal(model(torch.where(hidden, x, x.flip(0) * 3), noise=inputs["noise"]).logits, first.logits)


@every_mae
def test_the_order_in_which_patches_are_drawn_does_not_matter(name):
    model = make("mae", name, torch.float64)
    inputs = batch_for(model, dtype=torch.float64)
    first = model(**inputs)
    lowest = -1 - inputs["noise"].abs()
    other = model(inputs["pixel_values"], noise=torch.where(first.mask.bool(), inputs["noise"].abs(), lowest))
    assert torch.equal(other.mask, first.mask)
    assert not torch.equal(other.ids_restore, first.ids_restore)
    torch.testing.assert_close(other.logits, first.logits, rtol=0, atol=1e-10)


@every_mae
def test_every_layer_of_the_encoder_computes_visible_tokens_only(name):
    model = make("mae", name)
    tokens = []
    for layer in (layer for stage in model.vit.stages for layer in stage.layers):
        layer.register_forward_hook(lambda module, inputs, output: tokens.append(output.shape[1]))
    output = model(**batch_for(model), output_hidden_states=True)
    num_patches = output.mask.shape[1]
    expected = len(model.config.prefix_tokens) + num_patches // 4
    assert tokens == [expected] * model.config.num_hidden_layers
    assert {states.shape[1] for states in output.hidden_states} == {expected}
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1  # the encoder's alone
    assert output.mask.sum(1).tolist() == [num_patches - num_patches // 4] * 2


def meta_transformers():
    with torch.device("meta"):
        return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig())


@pytest.fixture
def full_size():
    """MAE B/16 without memory for its weights."""
    with torch.device("meta"):
        return ViTCustomForPreTraining(ViTCustomConfig(layer_norm_eps=1e-12, norm_pix_loss=False))


def test_mae_base_has_transformers_parameters_without_the_decoders_fixed_table(full_size):
    model = meta_transformers()
    count = sum(p.numel() for p in full_size.parameters())
    assert sum(p.numel() for p in model.parameters()) == 111_907_840
    assert count == 111_907_840 - 197 * 512  # 196 positions and the class token's, of the decoder's width
    # Both of theirs are frozen; ours learns the encoder's, or computes them too.
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count - 197 * 768
    with torch.device("meta"):
        fixed = ViTCustomForPreTraining(ViTCustomConfig(position_embedding="sincos"))
    assert sum(p.numel() for p in fixed.parameters()) == count - 197 * 768


def test_mae_base_costs_what_a_quarter_of_the_tokens_cost(full_size):
    x = torch.empty(1, 3, 224, 224, device="meta")
    with FlopCounterMode(display=False) as counter:
        full_size(x)
    with FlopCounterMode(display=False) as their_counter:
        meta_transformers()(x)
    macs, expected = counter.get_total_flops() // 2, their_counter.get_total_flops() // 2
    assert round(expected / 1e9, 4) == 9.7811
    assert macs == expected - 512 * 768  # theirs predicts pixels for the class token, and drops them
    with FlopCounterMode(display=False) as whole:
        full_size.vit(x)
    of_visible, of_all = (
        sum(counted.get_flop_counts()[f"{name}.stages.0"].values())
        for counted, name in ((counter, "ViTCustomForPreTraining.vit"), (whole, "ViTCustomModel"))
    )
    assert 0.9 * 50 / 197 < of_visible / of_all < 50 / 197  # and attention's part is smaller still


def test_predictions_of_masked_patches_differ_at_initialisation():
    """In transformers' model built from a configuration all are the same: its decoder's positions are zero."""
    set_seed(0)
    model = ViTCustomForPreTraining(tiny(**SMALL_DECODER)).eval()
    output = model(**batch_for(model))
    for logits, mask in zip(output.logits, output.mask.bool(), strict=True):
        distances = torch.cdist(logits[mask], logits[mask])
        assert distances[~torch.eye(len(distances), dtype=torch.bool)].min() > 1e-3


def test_new_masks_are_drawn_on_each_call_and_given_noise_is_kept():
    model = make("mae")
    x = images(model, size=(64, 64))
    set_seed(0)
    first, second = model(x), model(x)
    assert not torch.equal(first.mask, second.mask)
    noise = noises(model.config, size=(64, 64))
    assert torch.equal(model(x, noise=noise).mask, model(x, noise=noise).mask)


# --- both ---


@every_head
def test_every_parameter_gets_a_gradient(head, name):
    model = make(head, name).train()
    model(**batch_for(model)).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@every_head
def test_forward_writes_nothing(head, name):
    model = make(head, name)
    before = everything_held(model)
    for size in ((32, 32), (64, 40)):
        model(**batch_for(model, size=size))
    after = everything_held(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key


@every_head
def test_one_batch_and_its_parts_have_the_same_gradient(head, name):
    """Whatever the parts: each says how many items the whole step has."""
    model = make(head, name, torch.float64)
    batch = batch_for(model, 3, dtype=torch.float64)
    whole = gradients(model, model(**batch).loss)
    parts = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 1), slice(1, 3))]
    count = sum(model.count_items(**part) for part in parts)
    assert count == model.count_items(**batch)
    losses = [model(**part, num_items_in_batch=count).loss for part in parts]
    split = gradients(model, sum(losses))
    torch.testing.assert_close(sum(losses), model(**batch).loss, rtol=1e-12, atol=0)
    for key, gradient in whole.items():
        torch.testing.assert_close(split[key], gradient, rtol=1e-9, atol=1e-12)


def test_the_mean_of_parts_with_unequally_many_hidden_pixels_is_another_loss():
    model = make("simmim")
    batch = batch_for(model, 2)
    batch["pixel_values"][1] *= 3  # so that the two losses differ
    parts = [{key: value[index : index + 1] for key, value in batch.items()} for index in range(2)]
    assert model.count_items(**parts[0]) != model.count_items(**parts[1])
    mean = sum(model(**part).loss for part in parts) / 2
    assert abs(mean / model(**batch).loss - 1) > 1e-3
    assert not model.accepts_loss_kwargs


@every_head
def test_gradient_checkpointing_changes_no_gradient(head, name):
    model = make(head, name).train()
    batch = batch_for(model)
    expected = gradients(model, model(**batch).loss)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    for key, gradient in gradients(model, model(**batch).loss).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-5, atol=1e-7)


@every_head
def test_bfloat16_runs_and_its_loss_is_computed_in_float32(head, name):
    model = make(head, name)
    batch = batch_for(model)
    expected = model(**batch).loss
    found = model.to(torch.bfloat16)(**batch).loss
    assert found.dtype == torch.float32
    assert 0.8 < found / expected < 1.25
    found.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_head
def test_saving_a_loaded_model_writes_the_same_files(head, name, tmp_path):
    model = make(head, name)
    model.save_pretrained(tmp_path / "first")
    loaded = type(model).from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    files = sorted(path.name for path in (tmp_path / "first").iterdir() if path.is_file())
    assert "model.safetensors" in files
    assert filecmp.cmpfiles(tmp_path / "first", tmp_path / "second", files, shallow=False)[0] == files
    batch = batch_for(model)
    assert torch.equal(loaded(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("head", ["simmim", "mae"])
def test_a_head_starts_from_an_encoder_and_the_encoder_loads_back(head, tmp_path):
    encoder = fill(ViTCustomModel(tiny(**SMALL_DECODER)))
    encoder.save_pretrained(tmp_path / "encoder")
    model = type(make(head)).from_pretrained(tmp_path / "encoder")
    assert all(torch.equal(p, model.vit.get_parameter(name)) for name, p in encoder.named_parameters())
    model.save_pretrained(tmp_path / "model")
    again = ViTCustomModel.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("head", ["simmim", "mae"])
def test_the_mask_token_is_drawn_and_the_answer_can_be_a_tuple(head):
    set_seed(0)
    model = type(make(head))(tiny(**SMALL_DECODER | dict(hidden_sizes=[256], decoder_hidden_size=256)))
    token = model.mask_token if head == "simmim" else model.pixel_decoder.mask_token
    assert 0.8 * 0.02 < token.std() < 1.2 * 0.02
    batch = batch_for(model)
    loss, first, *_ = model(**batch, return_dict=False)
    output = model(**batch)
    assert torch.equal(loss, output.loss)
    assert torch.equal(first, output.reconstruction if head == "simmim" else output.logits)


@pytest.mark.parametrize("head", ["simmim", "mae"])
def test_one_export_takes_any_batch_size(head):
    model = make(head)
    inputs = batch_for(model, 3)
    shapes = {name: {0: torch.export.Dim("batch", min=2, max=8)} for name in inputs}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    batch = batch_for(model, 2)
    torch.testing.assert_close(exported(**batch).loss, model(**batch).loss)


# --- bad input ---


@pytest.mark.parametrize("name", ["swin", "swin_timm", "pit", "dinov3", "yolos", "overlap", "gaps"])
def test_encoders_that_need_all_patches_are_refused_when_built(name):
    with pytest.raises(ValueError, match=r"choose another backbone, or SimMIM|leave `patch_stride` out"):
        ViTCustomForPreTraining(tiny(**SIMMIM[name]))


def test_patches_of_one_value_are_refused_where_they_are_normed():
    config = dict(image_size=4, patch_size=1, num_channels=1, **SMALL_DECODER)
    with pytest.raises(ValueError, match="set `norm_pix_loss` to false"):
        ViTCustomForPreTraining(tiny(**config))
    model = fill(ViTCustomForPreTraining(tiny(**config, norm_pix_loss=False)))
    assert model(picture(2, 1, 4, 4)).loss.isfinite()


@pytest.mark.parametrize(("mask_ratio", "size"), [(0.99, 32), (0.0, 32), (1.0, 32), (0.75, 8)])
def test_ratios_that_leave_nothing_visible_or_hide_nothing_are_refused_by_the_images_grid(mask_ratio, size):
    model = make("mae", mask_ratio=mask_ratio)
    for call in (model, model.count_items):
        with pytest.raises(ValueError, match="patches visible: change it so that some are and some are not"):
            call(pixel_values=images(model, size=(size, size)))


def test_a_ratio_that_is_too_large_for_a_small_image_is_right_for_a_large_one():
    model = make("mae", mask_ratio=0.97)
    assert model(images(model, size=(64, 64))).mask.sum().item() == 2 * 63


@pytest.mark.parametrize("shape", [(2, 15), (1, 16), (16,), (2, 4, 4)])
def test_noise_and_masks_of_another_shape_are_refused(shape):
    x = picture(2, 3, 32, 32)
    with pytest.raises(ValueError, match="draw one number for each patch of each image"):
        make("mae")(x, noise=torch.rand(shape))
    with pytest.raises(ValueError, match="make one entry for each patch of each image"):
        make("simmim")(x, bool_masked_pos=torch.ones(shape))


def test_masks_that_hide_nothing_or_all_of_an_image_are_refused():
    model = make("simmim")
    x = images(model)
    mask = torch.zeros(2, 16)
    with pytest.raises(ValueError, match=r"hides no pixel.*set more of its entries to 1"):
        model(x, bool_masked_pos=mask)
    mask[1, 3] = 1
    loss = model(x, bool_masked_pos=mask).loss  # of one image alone
    assert torch.equal(model(x[:1], bool_masked_pos=mask[:1], num_items_in_batch=64).loss, torch.tensor(0.0))
    torch.testing.assert_close(model(x[1:], bool_masked_pos=mask[1:]).loss, loss)
    mask[0] = 1
    with pytest.raises(ValueError, match="hides the whole of an image: leave some"):
        model(x, bool_masked_pos=mask)
    pit = make("simmim", "overlap")
    with pytest.raises(ValueError, match="where patches overlap, neighbours together"):
        pit(x, bool_masked_pos=torch.arange(49).expand(2, -1) == 24)


@pytest.mark.parametrize("head", ["simmim", "mae"])
def test_other_bad_input_is_a_sentence_too(head, tmp_path):
    model = make(head)
    for shape in ((3, 32, 32), (2, 1, 32, 32)):
        with pytest.raises(ValueError, match="`pixel_values` must be"):
            model(picture(*shape))
    with pytest.raises(ValueError, match="resize the images"):
        model(picture(2, 3, 5, 32))
    with pytest.raises(ValueError, match="takes no padded images"):
        model(images(model), pixel_mask=torch.zeros(2, 32, 32))
    with pytest.raises(ValueError, match="they keep their size: load its encoder"):
        model.resize_patch_embeddings(4)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="they keep their size: load its encoder"):
        type(model).from_pretrained(tmp_path, patch_size=4)
