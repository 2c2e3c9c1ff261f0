"""Another window, other channels at loading: the tensors are the original's and timm's, and a line says so."""

import warnings

import pytest
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from timm.models._manipulate import adapt_input_conv
from transformers import AutoModel
from transformers import AutoModelForImageClassification

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomForPreTraining
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.modeling_adapting import change_channels
from modeling_vit_custom.modeling_adapting import resample_table
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

TABLE, KERNEL = "relative_position_bias_table", "patch_embeddings.weight"
TEXT = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
loads = pytest.mark.parametrize("load", [ViTCustomForImageClassification, AutoModelForImageClassification])


@pytest.fixture(params=["swin", "swin_timm"])
def swin(request, tmp_path):
    model = fill(ViTCustomForImageClassification(tiny(**VARIANTS[request.param])))
    model.save_pretrained(tmp_path)
    return model


def assert_same(again, loaded, image: torch.Tensor):
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in loaded.state_dict().items())
    torch.testing.assert_close(again(image).logits, loaded(image).logits)


def original(table: torch.Tensor, side: int) -> torch.Tensor:
    return resize_rel_pos_bias_table_simple(table, (side, side), ((2 * side - 1) ** 2, table.shape[1])).contiguous()


def timms(table: torch.Tensor, side: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's indexing
        return resize_rel_pos_bias_table(table, (side, side), ((2 * side - 1) ** 2, table.shape[1]))


@pytest.mark.parametrize("sides", [(4, 8), (7, 12), (7, 8), (12, 7), (8, 4), (4, 2), (3, 3)], ids=str)
def test_a_resampled_table_is_the_originals_or_timms(sides):
    table = picture((2 * sides[0] - 1) ** 2, 3)
    assert torch.equal(resample_table(table, sides[1], like_timm=False), original(table, sides[1]))
    if sides[0] != sides[1]:
        torch.testing.assert_close(resample_table(table, sides[1], like_timm=True), timms(table, sides[1]))


@loads
@pytest.mark.parametrize("side", [2, 8])
def test_another_window_at_loading_resamples_the_tables_of_all_stages(load, side, swin, tmp_path, caplog):
    loaded, old = load.from_pretrained(tmp_path, window_size=side, image_size=128), swin.config.window_size
    recipe = timms if swin.config.window_clamp == "per_axis" else original
    assert caplog.text.count(f"`window_size` {old} -> {side}: the tables of relative positions are resampled.") == 1
    for name, value in swin.state_dict().items():
        expected = recipe(value, side) if TABLE in name else value
        torch.testing.assert_close(loaded.state_dict()[name], expected, rtol=0, atol=1e-6 if TABLE in name else 0)
    assert (loaded.config.window_size, loaded.config.image_size) == (side, 128)
    loaded.save_pretrained(tmp_path / "again")
    again = load.from_pretrained(tmp_path / "again")
    assert_same(again, loaded, picture(1, 3, 128, 128))


@loads
def test_equal_sizes_change_nothing_and_say_nothing(load, swin, tmp_path, caplog):
    sizes = {name: getattr(swin.config, name) for name in ("window_size", "num_channels", "patch_size")}
    loaded = load.from_pretrained(tmp_path, **sizes)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in swin.state_dict().items())
    assert "->" not in caplog.text


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 7])
def test_the_kernel_of_other_channels_is_timms(count):
    kernel = picture(6, 3, 4, 4)
    assert torch.equal(change_channels(kernel, count), adapt_input_conv(count, kernel.clone()))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_kernel_of_one_channel_sees_in_equal_channels_what_it_saw_in_one(count):
    kernel, grey = picture(6, 1, 4, 4), picture(2, 1, 8, 8)
    found = torch.nn.functional.conv2d(grey.expand(-1, count, -1, -1), change_channels(kernel, count))
    torch.testing.assert_close(found, torch.nn.functional.conv2d(grey, kernel))


@pytest.mark.parametrize("like_timm", [True, False])
def test_a_window_of_one_token_gives_all_offsets_its_value(like_timm):
    table = picture(1, 4)
    assert torch.equal(resample_table(table, 3, like_timm), table.expand(25, 4))


def test_an_image_of_equal_channels_gives_what_one_channel_gave(tmp_path):
    model = fill(ViTCustomModel(tiny(num_channels=3)))
    model.save_pretrained(tmp_path)
    grey = picture(1, 1, 32, 32)
    for count in (1, 6):
        loaded = ViTCustomModel.from_pretrained(tmp_path, num_channels=count)
        seen = loaded(grey.expand(-1, count, -1, -1)).pooler_output
        torch.testing.assert_close(seen, model(grey.expand(-1, 3, -1, -1)).pooler_output)


@loads
def test_other_channels_at_loading_adapt_the_kernel_beside_another_patch_size(load, tmp_path, caplog):
    model = fill(ViTCustomForImageClassification(tiny()))
    model.save_pretrained(tmp_path)
    loaded = load.from_pretrained(tmp_path, num_channels=4, patch_size=16)
    patches_only = ViTCustomForImageClassification.from_pretrained(tmp_path, patch_size=16)
    for name, value in patches_only.state_dict().items():
        expected = adapt_input_conv(4, value.clone()) if KERNEL in name else value
        torch.testing.assert_close(loaded.state_dict()[name], expected)
    assert "`num_channels` 3 -> 4: the patches' kernel is summed over channels, or repeated and scaled." in caplog.text
    assert loaded(picture(1, 4, 32, 32)).logits.shape == (1, 5)
    loaded.save_pretrained(tmp_path / "again")
    again = load.from_pretrained(tmp_path / "again")
    assert_same(again, loaded, picture(1, 4, 32, 32))


def test_a_configuration_of_other_sizes_is_followed_whatever_it_was_read_from(tmp_path):
    fill(ViTCustomModel(tiny())).save_pretrained(tmp_path)
    by_name = ViTCustomModel.from_pretrained(tmp_path, num_channels=1)
    config = ViTCustomConfig.from_pretrained(tmp_path)
    for given in (config, tiny()):
        given.num_channels = 1
        loaded = ViTCustomModel.from_pretrained(tmp_path, config=given)
        assert torch.equal(loaded.embeddings.patch_embeddings.weight, by_name.embeddings.patch_embeddings.weight)


def test_the_image_tower_of_a_dual_encoder_follows_too(tmp_path):
    towers = dict(vision_config=tiny().to_dict(), text_config=TEXT, projection_dim=8)
    model = fill(ViTCustomDualEncoder(ViTCustomDualEncoderConfig(**towers)))
    model.save_pretrained(tmp_path)
    kernel = adapt_input_conv(4, model.vision_model.embeddings.patch_embeddings.weight.detach().clone())
    for load in (ViTCustomDualEncoder, AutoModel):
        for sizes in (dict(num_channels=4), dict(vision_config=dict(num_channels=4))):
            loaded = load.from_pretrained(tmp_path, **sizes)
            assert torch.equal(loaded.vision_model.embeddings.patch_embeddings.weight, kernel)
            assert loaded.config.vision_config.num_channels == 4


@pytest.mark.parametrize(
    ("member", "old", "sizes", "message"),
    [
        ("vit", dict(num_channels=4), dict(num_channels=3), "^`num_channels` cannot go from 4 to 3: .* by hand.$"),
        ("vit", dict(num_channels=6), dict(num_channels=1), "^`num_channels` cannot go from 6 to 1"),
        ("mean", {}, dict(window_size=2), "^`window_size` cannot go from None to 2: only windows have"),
        ("swin", {}, dict(window_size=None), "^`window_size` cannot go from 3 to None: only windows have"),
        ("swin", {}, dict(window_size=0), "^`window_size` must be positive"),
        ("vit", {}, dict(num_channels="4"), "^`num_channels` must be an integer, got '4': write 4 without quotes"),
    ],
    ids=str,
)
def test_what_no_recipe_adapts_is_refused_in_a_sentence(member, old, sizes, message, tmp_path, caplog):
    changes = dict(position_embedding="none") if member == "mean" else {}
    ViTCustomModel(tiny(**VARIANTS[member] | old | changes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        ViTCustomModel.from_pretrained(tmp_path, **sizes)
    assert "->" not in caplog.text


@pytest.mark.parametrize("head", [ViTCustomForMaskedImageModeling, ViTCustomForPreTraining])
def test_a_head_that_draws_pixels_keeps_its_channels_and_takes_an_encoder_of_others(head, tmp_path):
    head(tiny()).save_pretrained(tmp_path / "old")
    with pytest.raises(ValueError, match=r"in 3 channels, so they keep .* another `num_channels` .ViTCustomModel"):
        head.from_pretrained(tmp_path / "old", num_channels=4)
    ViTCustomModel.from_pretrained(tmp_path / "old", num_channels=4).save_pretrained(tmp_path / "encoder")
    assert head.from_pretrained(tmp_path / "encoder").config.num_channels == 4


def test_a_frozen_kernel_stays_frozen_and_offloaded_weights_are_refused():
    model = ViTCustomModel(tiny())
    model.requires_grad_(False)
    model.resize_patch_embeddings(16)
    assert not model.embeddings.patch_embeddings.weight.requires_grad
    with pytest.raises(ValueError, match=r"^Offloaded weights cannot follow another `patch_size`"):
        model.to("meta").resize_patch_embeddings(8)
