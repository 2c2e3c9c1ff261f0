"""The fields of heads, the rows of their decoders, and where the tokens of an image stand."""

import copy
import pickle

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

import modeling_vit_custom
from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.configuration_stages import DecoderSettings
from modeling_vit_custom.configuration_stages import grid_at
from modeling_vit_custom.configuration_stages import make_decoder
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

HEADS = ["ImageClassification", "MaskedImageModeling", "PreTraining", "SemanticSegmentation", "ObjectDetection"]
REFUSED = {
    "num_queries": (0, "`num_queries` must be positive"),
    "decoder_hidden_size": (-4, "`decoder_hidden_size` must be positive"),
    "mask_ratio": (1.5, "`mask_ratio` must be from 0 to 1"),
    "eos_coefficient": (-0.1, "`eos_coefficient` must be from 0 to 1"),
    "giou_cost": (-1, "`giou_cost` must not be negative"),
    "segmentation_decoder": ("linaer", "must be one of mask_transformer, linear"),
}


def make_head(kind: str):
    with torch.device("meta"):
        return getattr(modeling_vit_custom, f"ViTCustomFor{kind}")(tiny(decoder_hidden_size=32))


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_in_a_heads_field_is_refused_with_its_name(name):
    value, message = REFUSED[name]
    with pytest.raises(StrictDataclassError, match=message):
        tiny(**{name: value})


def test_costs_that_are_all_zero_cannot_match():
    with pytest.raises(StrictDataclassError, match="all 0"):
        tiny(class_cost=0, bbox_cost=0, giou_cost=0)


def test_a_misspelt_field_of_a_head_is_refused():
    with pytest.raises(ValueError, match="did you mean `num_queries`"):
        ViTCustomConfig(num_querys=5)


def test_fields_of_heads_survive_the_file_and_defaults_are_not_written(tmp_path):
    tiny(num_queries=7, decoder_hidden_size=64, norm_pix_loss=False).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "eos_coefficient" not in text
    loaded = ViTCustomConfig.from_pretrained(tmp_path)
    assert (loaded.num_queries, loaded.decoder_hidden_size, loaded.norm_pix_loss) == (7, 64, False)


def test_a_decoder_is_its_papers_where_nothing_is_said():
    rows = {name: make_decoder(ViTCustomConfig(), name) for name in ("pixels", "masks", "boxes")}
    numbers = {
        name: (row.hidden_size, row.depth, row.num_attention_heads, row.intermediate_size) for name, row in rows.items()
    }
    assert numbers == {"pixels": (512, 8, 16, 2048), "masks": (768, 2, 12, 3072), "boxes": (256, 6, 8, 2048)}


def test_a_decoders_heads_divide_its_width():
    with pytest.raises(ValueError, match="`decoder_num_attention_heads`, got 36 for 8 heads"):
        make_decoder(tiny(decoder_hidden_size=36), "boxes")


def test_a_decoder_follows_what_is_set_later():
    config = tiny(window_size=2, prefix_tokens=[], pooling="mean", position_embedding="none")
    settings = DecoderSettings(config, layer_norm_eps=1.0)
    assert (settings.window_size, settings.layer_norm_eps, settings.hidden_sizes) == (None, 1.0, [32])
    config._attn_implementation = "eager"
    for same in (settings, copy.deepcopy(settings), pickle.loads(pickle.dumps(settings))):
        assert same._attn_implementation == "eager"
    with pytest.raises(AttributeError):
        _ = settings.no_such_field


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (37, 50)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_grid_that_is_told_is_the_grid_that_comes(variant, size):
    model = fill(ViTCustomModel(tiny(**VARIANTS[variant])))
    pixel_values = picture(1, model.config.num_channels, *size)
    with torch.no_grad():
        tokens = model(pixel_values).last_hidden_state
        patches = model.patch_map(tokens, pixel_values)
        first = model.embeddings.patch_embeddings(pixel_values)
    assert first.shape[2:] == grid_at(model.config, *size, stage=0)
    rows, columns = grid_at(model.config, *size)
    assert tokens.shape[1] == len(model.config.prefix_tokens) + rows * columns
    assert patches.shape[2:] == (rows, columns)


@pytest.mark.parametrize("other", HEADS)
@pytest.mark.parametrize("head", HEADS)
def test_no_head_takes_another_heads_weights_for_its_own(head, other):
    """What two heads called alike would pass from a checkpoint of the one to the other, wherever shapes agree."""
    names = [{name for name in make_head(kind).state_dict() if not name.startswith("vit.")} for kind in (head, other)]
    assert head == other or not names[0] & names[1]
