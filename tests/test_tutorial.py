"""The tutorial's model: our preset is its listing, weight for weight, but for the listing's bug."""

import torch
from torch import nn

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.conversion.rename import load
from modeling_vit_custom.conversion.rename import row
from modeling_vit_custom.conversion.rename import split
from tests.golden.make_presets import Tutorial
from tests.support import ROOT
from tests.support import fill
from tests.support import picture

LAYER, OURS = "encoder.layers.{n}.", "vit.stages.0.layers.{n}."
TABLE = [
    row("patch_embedding.{p}", "vit.embeddings.patch_embeddings.{p}"),
    row("cls_token", "vit.embeddings.prefix_tokens"),
    row("pos_embedding", "vit.embeddings.position_embeddings"),
    row(LAYER + "self_attn.in_proj_weight", tuple(OURS + f"attention.{name}_proj.weight" for name in "qkv"), split(3)),
    row(LAYER + "self_attn.in_proj_bias", tuple(OURS + f"attention.{name}_proj.bias" for name in "qkv"), split(3)),
    row(LAYER + "self_attn.out_proj.{p}", OURS + "attention.o_proj.{p}"),
    row(LAYER + "norm1.{p}", OURS + "norm1.{p}"),
    row(LAYER + "linear1.{p}", OURS + "mlp.fc1.{p}"),
    row(LAYER + "linear2.{p}", OURS + "mlp.fc2.{p}"),
    row(LAYER + "norm2.{p}", OURS + "norm2.{p}"),
    row("mlp_head.{p}", "classifier.{p}"),
]


def small_tutorial(batch_first: bool) -> nn.Module:
    """The listing at full width, cut to two layers: the rest repeats them."""
    tutorial = Tutorial(batch_first)
    tutorial.encoder.layers = tutorial.encoder.layers[:2]
    # Training mode without dropout: in evaluation mode torch.nn may take its fused path.
    for module in tutorial.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return fill(tutorial).double().train()


def ours_from(tutorial: nn.Module) -> nn.Module:
    config = ViTCustomConfig.from_pretrained(ROOT / "configs/models/tutorial_vit.json", depths=[2])
    return load(ViTCustomForImageClassification, config, tutorial.state_dict(), TABLE)[0]


def test_the_preset_is_the_listing_with_batch_first():
    tutorial = small_tutorial(batch_first=True)
    images = picture(2, 3, 224, 224, dtype=torch.float64)
    expected, logits = tutorial(images), ours_from(tutorial)(images).logits
    assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_an_image_does_not_depend_on_its_batch_mates_as_it_does_in_the_listing_as_printed():
    tutorial = small_tutorial(batch_first=False)
    ours, images = ours_from(tutorial), picture(2, 3, 224, 224, dtype=torch.float64)
    for encode, depends in ((lambda x: ours.vit(x).last_hidden_state, False), (tutorial.encode, True)):
        together, alone = encode(images)[0], encode(images[:1])[0]
        difference = (together - alone).abs().max() / alone.abs().max()
        assert difference > 0.1 if depends else difference < 1e-12


def test_the_listing_as_printed_gives_every_image_the_same_logits_and_ours_does_not():
    """Its class token meets nothing but the other images' class tokens, which are all the same."""
    tutorial = small_tutorial(batch_first=False)
    images = picture(2, 3, 224, 224, dtype=torch.float64)
    for model, blind in ((lambda x: ours_from(tutorial)(x).logits, False), (tutorial, True)):
        first, second = model(images)
        difference = (first - second).abs().max() / first.abs().max()
        assert difference < 1e-12 if blind else difference > 0.1


def test_dropout_is_where_the_listing_has_it():
    """On both residual branches and the attention's probabilities; none on the embeddings, none inside the MLP."""
    config = ViTCustomConfig.from_pretrained(ROOT / "configs/models/tutorial_vit.json")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert config.embeddings_dropout_prob == 0
    with torch.device("meta"):
        model = ViTCustomForImageClassification(config)
    active = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p]
    layers = [f"vit.stages.0.layers.{layer}" for layer in range(12)]
    assert active == [f"{layer}.branch{branch}.dropout" for layer in layers for branch in (1, 2)]
