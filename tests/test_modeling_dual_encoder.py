"""CLIP and SigLIP: parity with transformers' CLIP, both ways; what processes see of each other; pipelines."""

import copy
import functools
import json
import math
import types
from datetime import timedelta

import numpy as np
import pytest
import torch
import transformers
from packaging import version
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import set_seed
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.checkpoint_files import DUAL_ENCODER_AUTO_MAP
from modeling_vit_custom.configuration_dual_encoder import MAX_LOGIT_SCALE
from modeling_vit_custom.conversion import heads_dual
from modeling_vit_custom.conversion.rename import into_ours
from modeling_vit_custom.conversion.rename import into_theirs
from modeling_vit_custom.modeling_contrastive import CappedScale
from modeling_vit_custom.modeling_contrastive import contrastive_loss
from modeling_vit_custom.modeling_contrastive import pool_text
from modeling_vit_custom.modeling_contrastive import similarity
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.conversion_support import BOUNDS
from tests.conversion_support import MLP
from tests.conversion_support import relative
from tests.forking import in_two_processes
from tests.forking import stranger
from tests.matrix import pictures
from tests.support import VARIANTS
from tests.support import fill
from tests.support import formula
from tests.support import often
from tests.support import picture
from tests.support import tiny

VERSION = version.parse(transformers.__version__)
VOCAB, POSITIONS, PAD, START, END = 60, 14, 0, 58, 59
WIDTHS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
IDS = dict(vocab_size=VOCAB, pad_token_id=PAD, bos_token_id=START, eos_token_id=END)
PLAIN = WIDTHS | IDS | dict(max_position_embeddings=POSITIONS)
TEXTS = {
    "clip": lambda: transformers.CLIPTextConfig(**PLAIN),
    "bert": lambda: transformers.BertConfig(**PLAIN),
    "roberta": lambda: transformers.RobertaConfig(
        **PLAIN | dict(pad_token_id=1, max_position_embeddings=POSITIONS + 2)
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCAB, max_position_embeddings=POSITIONS, dim=32, n_layers=2, n_heads=4, hidden_dim=48
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, bos_token_id=START, eos_token_id=END
    ),
}
# name: (text tower, its pooling, the loss)
TOWERS = {
    "clip": ("clip", "pooler_output", "softmax"),
    "siglip": ("clip", "pooler_output", "sigmoid"),
    "bert": ("bert", "pooler_output", "softmax"),
    "bert cls": ("bert", "cls", "sigmoid"),
    "roberta mean": ("roberta", "mean", "softmax"),
    "distilbert mean": ("distilbert", "mean", "sigmoid"),
    "gpt2": ("gpt2", "last", "softmax"),
}
every_tower = pytest.mark.parametrize("name", TOWERS)
every_dtype = pytest.mark.parametrize(("dtype", "bound"), BOUNDS, ids=str)
THEIRS = dict(vision_config=MLP, text_config=PLAIN, projection_dim=24)


def configured(name="clip", vision="clip", **changes) -> ViTCustomDualEncoderConfig:
    text, pooling, loss = TOWERS[name]
    settings = dict(vision_config=tiny(**VARIANTS[vision]), text_config=TEXTS[text](), projection_dim=24)
    return ViTCustomDualEncoderConfig(**settings | dict(text_pooling=pooling, contrastive_loss=loss) | changes)


def dual(name="clip", vision="clip", dtype=torch.float32, **changes) -> ViTCustomDualEncoder:
    return fill(ViTCustomDualEncoder(configured(name, vision, **changes))).to(dtype)


def captions(*lengths: int) -> dict[str, torch.Tensor]:
    """Captions of these lengths, all different, padded on the right to the longest."""
    input_ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = (torch.arange(length) * (7 + 2 * row) + row) % 50 + 3
        input_ids[row, [0, length - 1]] = torch.tensor([START, END])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}


def batch(*lengths: int, dtype=torch.float32, size=(32, 32), channels=3) -> dict[str, torch.Tensor]:
    return captions(*lengths) | {"pixel_values": picture(len(lengths), channels, *size, dtype=dtype)}


def part(inputs: dict[str, torch.Tensor], *rows: int) -> dict[str, torch.Tensor]:
    return {name: tensor[list(rows)] for name, tensor in inputs.items()}


# Parity with transformers.


@functools.cache
def clip_models(dtype):
    """(theirs, ours), all weights from a formula, norms and biases too."""
    theirs = fill(transformers.CLIPModel(transformers.CLIPConfig(**THEIRS))).to(dtype)
    return theirs, heads_dual.dual_from_transformers(theirs)


@every_dtype
@pytest.mark.parametrize("size", [(32, 32), (48, 48), (32, 56), (40, 24)], ids=str)
def test_clip_is_transformers_clip_at_any_size(dtype, bound, size):
    answers, pixels = [], []
    for model in clip_models(dtype):
        model.zero_grad()
        inputs = batch(9, 5, 7, 3, dtype=dtype, size=size)
        pixels.append(inputs["pixel_values"].requires_grad_())
        own = isinstance(model, transformers.CLIPModel)
        answers.append(model(**inputs, return_loss=True, **{"interpolate_pos_encoding": True} if own else {}))
        answers[-1].loss.backward()
    theirs, ours = answers
    assert list(theirs) == list(ours)
    for name in ("loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        assert relative(ours[name], theirs[name]) <= bound, name
    assert relative(pixels[1].grad, pixels[0].grad) <= bound


def test_features_are_transformers_projected_and_not_normalised():
    inputs = batch(9, 5, 7, 3, dtype=torch.float64)
    pixels = inputs.pop("pixel_values")
    theirs, ours = (
        (model.get_image_features(pixels), model.get_text_features(**inputs)) for model in clip_models(pixels.dtype)
    )
    for expected, features in zip(theirs, ours, strict=True):
        assert relative(features.pooler_output, expected.pooler_output) <= 1e-9
        assert relative(features.last_hidden_state, expected.last_hidden_state) <= 1e-9


def test_gradients_of_every_parameter_are_transformers():
    theirs, ours = clip_models(torch.float64)
    for model in (theirs, ours):
        model.zero_grad()
        model(**batch(9, 5, 7, 3, dtype=torch.float64), return_loss=True).loss.backward()
    expected, _ = into_ours(
        {name: parameter.grad for name, parameter in theirs.named_parameters()}, heads_dual.table(ours.config)
    )
    own = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert own.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():  # that of the key's bias is zero but for rounding
        assert (own[name] - gradient).abs().max() <= 1e-9 * largest, name


def test_a_whole_clip_becomes_ours_and_itself_again_bit_for_bit():
    theirs, ours = clip_models(torch.float32)
    back = heads_dual.dual_to_transformers(ours)
    assert back.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert back.state_dict()[name].dtype == tensor.dtype
    assert heads_dual.read_config(back.config).to_dict() == heads_dual.read_config(theirs.config).to_dict()
    shared = {tensor.data_ptr() for tensor in theirs.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in (*ours.state_dict().values(), *back.state_dict().values())}


def test_clips_files_of_old_hold_positions_that_are_kept_aside():
    theirs = clip_models(torch.float32)[0]
    old = {f"{tower}_model.embeddings.position_ids": torch.arange(9)[None] for tower in ("vision", "text")}
    again, aside = heads_dual.as_ours(theirs.config, theirs.state_dict() | old)
    assert aside.keys() == old.keys()
    named = into_theirs(again.state_dict(), heads_dual.table(again.config), aside)
    assert named.keys() == theirs.state_dict().keys() | old.keys()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(contrastive_loss="sigmoid"), "`contrastive_loss` is 'softmax', this one's is 'sigmoid'"),
        (dict(text_pooling="mean"), "`text_pooling` is 'pooler_output', this one's is 'mean'"),
        (dict(text_config=TEXTS["bert"]()), "`text_config.model_type` is 'clip_text_model', this one's is 'bert'"),
        (dict(vision_config=tiny(**VARIANTS["swin"])), "transformers-clip cannot hold this model"),
    ],
    ids=["loss", "pooling", "text tower", "image tower"],
)
def test_what_clip_cannot_hold_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        heads_dual.write_config(configured(**changes))


def test_tensors_that_are_no_clips_are_listed():
    theirs = clip_models(torch.float32)[0]
    tensors = dict(theirs.state_dict(), odd=torch.zeros(1))
    tensors.pop("text_projection.weight")
    with pytest.raises(ValueError, match=r"missing from the source: text_projection\.weight") as error:
        heads_dual.as_ours(theirs.config, tensors)
    assert "in the source, not in the model: odd" in str(error.value)


@pytest.mark.parametrize("count", [1, 5])
def test_the_sigmoid_loss_is_transformers_siglips(count):
    """Their forward, with towers that give what they are told."""
    image, text = (formula(name, torch.Size((count, 24))).double() for name in ("image", "text"))
    scale, bias = torch.tensor([1.3]).double(), torch.tensor([-2.1]).double()

    def giving(tensor):
        return lambda *args, **kwargs: BaseModelOutputWithPooling(pooler_output=tensor.clone())

    settings = types.SimpleNamespace(return_dict=True, output_attentions=False, output_hidden_states=False)
    stub = types.SimpleNamespace(logit_scale=scale, logit_bias=bias, config=settings)
    stub.vision_model = stub.get_image_features = giving(image)
    stub.text_model = stub.get_text_features = giving(text)
    theirs = transformers.SiglipModel.forward(stub, input_ids=None, pixel_values=None, return_loss=True)
    embeds = nn.functional.normalize(image), nn.functional.normalize(text)
    loss = contrastive_loss(*embeds, scale, bias, together=False, num_items_in_batch=None)
    assert relative(loss, theirs.loss) <= 1e-12
    assert theirs.loss > 0.1


# What holds for every pair of towers.


def everything_held(model):
    return {name: {key: value for key, value in vars(m).items() if key[0] != "_"} for name, m in model.named_modules()}


@every_tower
def test_every_parameter_learns_and_the_forward_stores_nothing(name):
    model = dual(name).train()
    inputs = batch(9, 5, 7, 3)
    before, held = copy.deepcopy(model.state_dict()), everything_held(model)
    given = {key: tensor.clone() for key, tensor in inputs.items()}
    model(**inputs).loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
    assert everything_held(model) == held
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, given[key]) for key, tensor in inputs.items())


@pytest.mark.parametrize("vision", VARIANTS)
def test_every_member_is_an_image_tower(vision):
    model = dual(vision=vision, dtype=torch.float64)
    config = model.config.vision_config
    size = (40, 48)
    inputs = batch(9, 5, 7, 3, dtype=torch.float64, size=size, channels=config.num_channels)
    answer = model(**inputs)
    features = fill_like(ViTCustomModel(config), model.vision_model)(inputs["pixel_values"]).pooler_output
    projected = model.visual_projection(features)
    assert torch.equal(answer.image_embeds, nn.functional.normalize(projected))
    assert torch.equal(model.get_image_features(inputs["pixel_values"]).pooler_output, projected)
    answer.loss.backward()
    unused = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert not unused


def fill_like(model, other):
    model.load_state_dict(other.state_dict())
    return model.to(next(other.parameters()).dtype).eval()


@every_tower
def test_a_pair_is_told_apart_by_cosines_alone(name):
    """The logits from the parts that the model offers, by hand."""
    model = dual(name, dtype=torch.float64)
    inputs = batch(9, 5, 7, 3, dtype=torch.float64)
    answer = model(**inputs)
    images = model.get_image_features(inputs.pop("pixel_values")).pooler_output
    texts = model.get_text_features(**inputs).pooler_output
    cosines = torch.stack([nn.functional.cosine_similarity(text, images) for text in texts])
    expected = cosines * model.logit_scale.exp() + (0 if model.logit_bias is None else model.logit_bias)
    assert relative(answer.logits_per_text, expected) <= 1e-12
    assert torch.equal(answer.logits_per_image, answer.logits_per_text.t())


@every_tower
def test_a_caption_is_the_same_alone_and_beside_a_longer_one(name):
    model = dual(name, dtype=torch.float64)
    together, alone = captions(9, 5), captions(5)
    alone["input_ids"] = together["input_ids"][1:, :5]
    features = model.get_text_features(**together).pooler_output
    assert relative(model.get_text_features(**alone).pooler_output[0], features[1]) <= 1e-12
    unmasked = model.get_text_features(alone["input_ids"]).pooler_output
    assert torch.equal(unmasked, model.get_text_features(**alone).pooler_output)


def test_padding_on_either_side_is_no_token():
    hidden = torch.arange(12.0).reshape(2, 6, 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    outputs = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)
    expected = {"cls": [[2.0], [6.0]], "last": [[4.0], [11.0]], "mean": [[3.0], [8.5]]}
    for pooling, values in expected.items():
        assert pool_text(outputs, mask, pooling).tolist() == values


@every_tower
def test_a_tower_takes_what_any_tokenizer_gives(name):
    """Token types of zero are what a model without them has."""
    model, inputs = dual(name), captions(9, 5, 7)
    plain = model.get_text_features(**inputs).pooler_output
    given = model.get_text_features(**inputs, token_type_ids=torch.zeros_like(inputs["input_ids"])).pooler_output
    assert torch.equal(plain, given)


def test_tuples_hidden_states_and_attentions_come_from_both_towers():
    model, inputs = dual(), batch(9, 5)
    model.set_attn_implementation({"text_config": "eager"})  # transformers' text model has no attentions under sdpa
    assert model.vision_model.config._attn_implementation == "sdpa"
    answer = model(**inputs, output_hidden_states=True, output_attentions=True)
    for tower in (answer.vision_model_output, answer.text_model_output):
        assert (len(tower.hidden_states), len(tower.attentions)) == (3, 2)
    as_tuple = model(**inputs, return_dict=False)
    for value, key in zip(as_tuple, ("loss", "logits_per_image", "logits_per_text"), strict=False):
        torch.testing.assert_close(value, answer[key])
    features = model.get_image_features(inputs["pixel_values"], return_dict=False)
    torch.testing.assert_close(features[1], answer.vision_model_output.pooler_output)


@every_tower
def test_gradient_checkpointing_changes_no_gradient(name):
    model, inputs = dual(name).train(), batch(9, 5, 7)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for rate in ("attn_dropout", "attention_dropout", "dropout_prob"):  # GPT-2 and DistilBERT keep numbers too
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    gradients = []
    for turn in range(2):
        model.zero_grad()
        if turn:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
            assert {getattr(layer, "gradient_checkpointing", True) for layer in model.vision_model.stages} == {True}
        model(**inputs).loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.skipif(version.parse("5.6") > VERSION, reason="its own text models cannot be compiled by torch 2.6")
@pytest.mark.parametrize("name", often(TOWERS, ("siglip", "bert cls", "gpt2")))
def test_compiles_whole(name):
    model, inputs = dual(name), batch(9, 5, 7)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected, answer = model(**inputs), compiled(**inputs)
    torch.testing.assert_close(answer.logits_per_image, expected.logits_per_image)
    gradients = []
    for loss in (expected.loss, answer.loss):
        model.zero_grad()
        loss.backward()
        gradients.append(model.logit_scale.grad)
    torch.testing.assert_close(*gradients)


@every_tower
def test_exports(name):
    model, inputs = dual(name), batch(9, 5, 7)
    with torch.no_grad():
        exported = torch.export.export(model, (), dict(inputs), strict=False).module()
        torch.testing.assert_close(exported(**inputs).logits_per_image, model(**inputs).logits_per_image)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_overfits_eight_pictures_with_captions(name):
    shown = pictures(32, 32)
    words = sorted({word for caption in shown.captions for word in caption.split()})
    assert len(words) <= START - 3
    rows = [[START, *(words.index(word) + 3 for word in caption.split()), END] for caption in shown.captions]
    longest = max(map(len, rows))
    input_ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    inputs = dict(input_ids=input_ids, attention_mask=(input_ids != PAD).long(), pixel_values=shown.pixel_values)
    set_seed(0)
    model = ViTCustomDualEncoder(configured(name)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = model(**inputs).loss.item()
    for _ in range(200):
        loss = model(**inputs).loss
        if loss < 0.02 * first:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02 * first
    assert torch.equal(model.eval()(**inputs).logits_per_image.argmax(dim=1), torch.arange(8))


# The loss.


def test_a_loss_comes_by_default_where_captions_belong_to_images():
    model = dual()
    assert model(**batch(9, 5)).loss is not None
    assert model(**batch(9, 5), return_loss=False).loss is None
    one_image = batch(9, 5, 7) | {"pixel_values": picture(1, 3, 32, 32)}
    assert model(**one_image).loss is None
    assert model(**one_image).logits_per_image.shape == (1, 3)
    assert transformers.utils.generic.can_return_loss(ViTCustomDualEncoder)
    with pytest.raises(ValueError, match="each image needs its one caption: got 1 images and 3 captions"):
        model.train()(**one_image)
    assert model(**one_image, return_loss=False).loss is None


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_share_of_a_larger_step_is_weighed_by_its_pairs(name):
    model, inputs = dual(name, dtype=torch.float64), batch(9, 5, 7, dtype=torch.float64)
    items = model.count_items(**inputs)
    assert items == 3
    share = model(**inputs, num_items_in_batch=torch.tensor(12)).loss
    assert relative(share * 4, model(**inputs).loss) <= 1e-12


def test_the_temperature_never_exceeds_a_hundred_and_can_always_come_down():
    up, down = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()  # a step goes against its gradient
    for value, expected in ((2.0, [-1.0, 1.0]), (MAX_LOGIT_SCALE + 0.5, [0.0, 1.0])):
        found = []
        for gradient in (up, down):
            scale = torch.tensor([value], dtype=torch.float64, requires_grad=True)
            capped = CappedScale.apply(scale, False)
            assert capped.item() == min(value, MAX_LOGIT_SCALE)
            capped.backward(gradient)
            found.append(scale.grad.item())
        assert found == expected
    model, inputs = dual(), batch(9, 5)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
        assert model(**inputs).logits_per_image.abs().max() <= 100 * (1 + 1e-6)


def test_the_temperature_learns_as_where_it_is_clipped_after_each_step():
    """Pulled up for ten steps, then down for ten: what the logits are scaled by, each time."""
    clipped, capped = (nn.Parameter(torch.tensor([MAX_LOGIT_SCALE - 0.3])) for _ in range(2))
    for pull in [-1.0] * 10 + [1.0] * 10:
        for parameter in (clipped, capped):
            parameter.grad = None
        (clipped * pull).sum().backward()
        (CappedScale.apply(capped, False) * pull).sum().backward()
        with torch.no_grad():
            for parameter in (clipped, capped):
                parameter -= 0.1 * parameter.grad
            clipped.clamp_(max=MAX_LOGIT_SCALE)
        assert capped.item() <= MAX_LOGIT_SCALE + 0.1
    assert abs(capped.item() - clipped.item()) <= 0.1 + 1e-6
    assert capped.item() < MAX_LOGIT_SCALE - 0.5


# Several processes.

# name: (loss, the temperature's logarithm, the bias, whether each process's images fit their own captions, not others')
PROCESSES = {
    "softmax": ("clip", 2.6592, None, False, False),
    "sigmoid": ("siglip", 2.3, -10.0, False, False),
    "softmax, pulled down from above": ("clip", MAX_LOGIT_SCALE + 0.3, None, False, False),
    "sigmoid, pulled up from above": ("siglip", MAX_LOGIT_SCALE + 0.3, -105.0, True, True),
    "sigmoid, torn above, down in all": ("siglip", MAX_LOGIT_SCALE + 0.3, -98.0, True, False),
    "sigmoid, torn above, up in all": ("siglip", MAX_LOGIT_SCALE + 0.3, -100.0, True, False),
}
LENGTHS = (9, 5, 7, 3, 8, 6)


def scaled(name: str) -> ViTCustomDualEncoder:
    tower, scale, bias, *fit = PROCESSES[name]
    model, inputs = dual(tower, dtype=torch.float64).train(), batch(*LENGTHS, dtype=torch.float64)
    with torch.no_grad():
        model.logit_scale.fill_(scale)
        if bias is not None:
            model.logit_bias.fill_(bias)
        if any(fit):
            images = model.vision_model(inputs.pop("pixel_values")).pooler_output
            order = [n if fit[n // 3] else 3 * (n // 3) + (n + 1) % 3 for n in range(len(LENGTHS))]
            texts = model.get_text_features(**inputs).pooler_output[order]
            model.visual_projection.weight.copy_(torch.linalg.lstsq(images, texts).solution.t())
    return model


def work(folder: str):
    """A process of two: its gradients of each case, what it says to unequal batches, an evaluation that one runs."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(minutes=5))  # who waits alone is not left to it
    rank = distributed.get_rank()
    found, whole = {}, batch(*LENGTHS, dtype=torch.float64)
    own = part(whole, *range(3 * rank, 3 * rank + 3))
    for name in PROCESSES:
        for items in (None, torch.tensor(len(LENGTHS) / 2)):  # the mean; a share, doubled as Trainer does for two
            model = DistributedDataParallel(scaled(name))
            answer = model(**own, num_items_in_batch=items)
            answer.loss.backward()
            label = f"{name}/{items is None}"
            found |= {f"{label}/{key}": p.grad for key, p in model.module.named_parameters()}
            found[f"{label}/loss"] = answer.loss.detach()
            found[f"{label}/logits"] = answer.logits_per_image.detach().contiguous()
    save_file(found, f"{folder}/{rank}.safetensors")
    try:
        model(**part(whole, *range(3 - rank)))
    except ValueError as error:
        with open(f"{folder}/{rank}.txt", "w") as file:
            file.write(str(error))
    if rank == 0:
        evaluated = model.module.eval()(**own)
        torch.save(evaluated.loss.detach(), f"{folder}/evaluated.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    done = in_two_processes("tests.test_modeling_dual_encoder", "work", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "share"])
def test_two_processes_learn_what_one_learns_from_the_whole_batch(two_processes, name, mean):
    whole, model = batch(*LENGTHS, dtype=torch.float64), scaled(name)
    answer = model(**whole)
    answer.loss.backward()
    found = [load_file(two_processes / f"{rank}.safetensors") for rank in range(2)]
    largest = max(parameter.grad.abs().max() for parameter in model.parameters())
    for key, parameter in model.named_parameters():
        assert torch.equal(found[0][f"{name}/{mean}/{key}"], found[1][f"{name}/{mean}/{key}"])
        difference = (found[0][f"{name}/{mean}/{key}"] - parameter.grad).abs().max()
        assert difference <= 1e-12 * largest, key
    losses = torch.stack([row[f"{name}/{mean}/loss"] for row in found])
    assert relative(losses.mean(), answer.loss) <= 1e-12
    assert losses[0] != losses[1]
    for rank in range(2):  # each process's own pairs
        rows = slice(3 * rank, 3 * rank + 3)
        assert relative(found[rank][f"{name}/{mean}/logits"], answer.logits_per_image[rows, rows]) <= 1e-12


@pytest.mark.parametrize(("direction", "stopped"), [("down", False), ("up", True)])
def test_the_processes_are_torn_where_they_should_be(direction, stopped):
    """Else the test above could not tell a judgement over all processes from each one's own."""
    model, signs = scaled(f"sigmoid, torn above, {direction} in all"), []
    answer = model(**batch(*LENGTHS, dtype=torch.float64))
    answer.loss.backward()
    assert (model.logit_scale.grad == 0) == stopped
    for rank in range(2):
        scale = torch.tensor([MAX_LOGIT_SCALE], dtype=torch.float64, requires_grad=True)
        rows = torch.arange(3 * rank, 3 * rank + 3)
        embeds = answer.text_embeds[rows].detach(), answer.image_embeds.detach()
        logits = similarity(*embeds, scale, model.logit_bias.detach())
        matches = rows[:, None] == torch.arange(len(LENGTHS))
        nn.functional.softplus(torch.where(matches, -logits, logits)).sum().backward()
        signs.append(scale.grad.sign().item())
    assert signs == [-1, 1]


def test_processes_with_unequal_batches_are_told(two_processes):
    for rank in range(2):
        assert r"batches of [3, 2] pairs" in (two_processes / f"{rank}.txt").read_text()


def test_one_process_may_evaluate_by_itself(two_processes):
    model = scaled("sigmoid, torn above, up in all").eval()
    expected = model(**part(batch(*LENGTHS, dtype=torch.float64), 0, 1, 2)).loss
    assert relative(torch.load(two_processes / "evaluated.pt"), expected) <= 1e-12


# The configuration.


@every_tower
def test_a_configuration_is_the_same_from_its_file(name, tmp_path):
    config = configured(name, "swin", logit_scale_init_value=1, projection_dim=12)
    config.save_pretrained(tmp_path)
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(again) is ViTCustomDualEncoderConfig
    assert again.to_diff_dict() == config.to_diff_dict()
    assert type(again.vision_config) is type(config.vision_config)
    assert type(again.text_config) is type(config.text_config)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == DUAL_ENCODER_AUTO_MAP
    assert "auto_map" not in saved["vision_config"]
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_a_configuration_holds_no_path_of_the_machine_it_was_made_on(tmp_path):
    ViTCustomModel(tiny()).save_pretrained(tmp_path / "vision")
    transformers.CLIPTextModel(TEXTS["clip"]()).save_pretrained(tmp_path / "text")
    model = ViTCustomDualEncoder.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text", projection_dim=8)
    model.save_pretrained(tmp_path / "both")
    text = (tmp_path / "both" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert "_name_or_path" not in text


def test_the_defaults_are_clips():
    config = ViTCustomDualEncoderConfig()
    clip = transformers.CLIPConfig()
    assert config.text_config.to_dict() == transformers.CLIPTextConfig().to_dict()
    for name in ("projection_dim", "logit_scale_init_value"):
        assert getattr(config, name) == getattr(clip, name)
    model = dual()
    set_seed(0)
    model.apply(lambda module: setattr(module, "_is_hf_initialized", False))
    model.init_weights()
    assert model.logit_scale.item() == pytest.approx(2.6592)
    assert model.text_projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)


def test_a_model_whose_configuration_is_taken_answers_as_before():
    """transformers forgets the attention back-end of what becomes a part; without, CLIP's text sees what is to come."""
    text = fill(transformers.CLIPTextModel(TEXTS["clip"]()))
    vision = fill(ViTCustomModel(tiny()))
    expected = text(**captions(9, 5)).pooler_output
    config = ViTCustomDualEncoderConfig(vision_config=vision.config, text_config=text.config)
    assert torch.equal(text(**captions(9, 5)).pooler_output, expected)
    assert vision.config._attn_implementation == "sdpa"
    model = ViTCustomDualEncoder(config)
    model.vision_model.config.image_size = 40
    assert config.vision_config.image_size == 40  # what is saved is what is used
    assert vision.config.image_size == 32


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(text_pooling="eos"), "`text_pooling` must be one of pooler_output, cls, mean, last; got 'eos'"),
        (dict(contrastive_loss="clip"), "`contrastive_loss` must be one of softmax, sigmoid; got 'clip'"),
        (dict(projection_dim=0), "`projection_dim` must be positive, got 0"),
        (dict(logit_scale_init_value=100), "`logit_scale_init_value` is a logarithm of at most log.100. = 4.6052, got"),
        (dict(logit_scale_init_value=math.nan), "`logit_scale_init_value` is a logarithm of at most log"),
        (dict(logit_bias_init_value=math.inf), "`logit_bias_init_value` must be finite, got inf"),
        (dict(vision_config=transformers.CLIPVisionConfig()), "`vision_config` is not a ViTCustomConfig: convert"),
        (dict(vision_config={"model_type": "vit"}), "`vision_config` is not a ViTCustomConfig: convert"),
        (dict(text_config=transformers.T5Config()), "`text_config` is an encoder with a decoder, T5Config"),
        (dict(text_config=transformers.CLIPConfig()), "`text_config` has no `hidden_size`: CLIPConfig does not"),
        (dict(text_config={"model_type": "clap_trap"}), "clap_trap"),
        (dict(vision_config={"patch_sise": 8}), "did you mean `patch_size`"),
        (dict(text_poolin="cls"), "Unknown configuration key `text_poolin`: did you mean `text_pooling`"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_with_the_fix(settings, sentence):
    with pytest.raises(Exception, match=sentence):  # StrictDataclassError or ValueError
        ViTCustomDualEncoderConfig(**settings)


# Bad input.


def without(inputs, *names):
    return {name: tensor for name, tensor in inputs.items() if name not in names}


@pytest.mark.parametrize(
    ("tower", "changes", "sentence"),
    [
        ("clip", lambda b: without(b, "input_ids"), "Give `input_ids` and `pixel_values`, both"),
        ("clip", lambda b: without(b, "pixel_values"), "Give `input_ids` and `pixel_values`, both"),
        (
            "clip",
            lambda b: b | captions(15, 3),
            "Captions of 15 tokens are longer than the 14 positions .* max_length=14",
        ),
        ("roberta mean", lambda b: b | captions(15, 3), "Captions of 15 tokens are longer than the 14 positions"),
        ("gpt2", lambda b: b | captions(15, 3), "Captions of 15 tokens are longer than the 14 positions"),
        ("clip", lambda b: b | {"input_ids": b["input_ids"] + 5}, "Token 64 is not among the 60 that the text tower"),
        (
            "bert",
            lambda b: b | {"attention_mask": b["attention_mask"] * torch.tensor([[1], [0]])},
            "Caption 1 of the batch has no tokens",
        ),
        (
            "clip",
            lambda b: b | {"pixel_mask": torch.eye(32)[None].expand(2, -1, -1)},
            "This model takes no padded images, and `pixel_mask` has zeros: `pixel_mask` is for detection",
        ),
    ],
    ids=["no captions", "no images", "long", "long roberta", "long gpt2", "unknown token", "empty", "pixel mask"],
)
def test_bad_input_is_refused_with_the_fix(tower, changes, sentence):
    model = dual(tower)
    inputs = batch(9, 5)
    with pytest.raises(ValueError, match=sentence):
        model(**changes(inputs))
    if "POSITIONS" in sentence:
        model(**inputs | captions(14, 3))


@every_tower
def test_the_longest_caption_that_is_not_refused_is_read(name):
    assert dual(name).get_text_features(**captions(POSITIONS, 3)).pooler_output.isfinite().all()


def test_a_mask_that_hides_nothing_is_no_mask():
    model, inputs = dual(), batch(9, 5)
    mask = torch.ones(2, 32, 32)
    assert torch.equal(model(**inputs, pixel_mask=mask).logits_per_text, model(**inputs).logits_per_text)


def test_a_text_tower_without_what_the_pooling_needs_is_refused():
    with pytest.raises(ValueError, match="This text model has no `pooler_output`: set `text_pooling` to 'last'"):
        dual("gpt2", text_pooling="pooler_output")(**batch(9, 5))
    with pytest.raises(ValueError, match="the first token, which in GPT2Model sees no other: set it to 'last'"):
        dual("gpt2", text_pooling="cls")


# Loading.


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folders with a classifier of ours and with text models of transformers', which have weights of a formula."""
    folder = tmp_path_factory.mktemp("towers")
    fill(ViTCustomForImageClassification(tiny(**VARIANTS["swin"]))).save_pretrained(folder / "vision")
    for name, make in TEXTS.items():
        fill(transformers.AutoModel.from_config(make())).save_pretrained(folder / name)
    return folder


def held(folder) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors, for which its file is not needed any more."""
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


@every_tower
def test_a_new_model_has_the_weights_of_both_towers(name, towers, tmp_path):
    text, pooling, loss = TOWERS[name]
    settings = dict(text_pooling=pooling, contrastive_loss=loss, projection_dim=24)
    model = ViTCustomDualEncoder.from_vision_text_pretrained(towers / "vision", towers / text, **settings)
    assert model.config.text_pooling == pooling
    assert model.config.vision_config is model.vision_model.config  # what is saved is what is used
    assert model.config.text_config is model.text_model.config
    vision = ViTCustomModel.from_pretrained(towers / "vision").state_dict()
    assert all(torch.equal(tensor, vision[key]) for key, tensor in model.vision_model.state_dict().items())
    theirs = transformers.AutoModel.from_pretrained(towers / text)
    theirs = getattr(theirs, "text_model", theirs).state_dict()  # transformers 5.5 wraps CLIP's
    assert theirs.keys() - model.text_model.state_dict().keys() <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in model.text_model.state_dict().items())
    assert model.visual_projection.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)
    assert model.logit_scale.item() == pytest.approx(2.6592)
    answer = model(**batch(9, 5))
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    again, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is ViTCustomDualEncoder
    assert not any(info.values())
    assert torch.equal(again(**batch(9, 5)).logits_per_text, answer.logits_per_text)


def test_a_text_tower_is_not_begun_anew_in_silence(towers, tmp_path):
    model = transformers.BertModel(TEXTS["bert"](), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"lacks pooler\.dense\.bias, pooler\.dense\.weight of BertModel: .* `text_pooling`"
    ):
        ViTCustomDualEncoder.from_vision_text_pretrained(towers / "vision", tmp_path)
    ViTCustomDualEncoder.from_vision_text_pretrained(towers / "vision", tmp_path, text_pooling="mean")
    tensors = held(tmp_path)
    del tensors["embeddings.word_embeddings.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"lacks embeddings\.word_embeddings\.weight of BertModel"):
        ViTCustomDualEncoder.from_vision_text_pretrained(towers / "vision", tmp_path, text_pooling="mean")


@pytest.mark.parametrize(
    "name",
    [
        "text_model.encoder.layers.1.mlp.fc1.weight",
        "vision_model.stages.0.layers.0.mlp.fc1.weight",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
        "logit_bias",
    ],
)
def test_no_tensor_is_begun_anew_at_loading(name, tmp_path):
    dual("siglip").save_pretrained(tmp_path)
    tensors = held(tmp_path)
    tensor = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=f"missing from the checkpoint: {name}"):
        ViTCustomDualEncoder.from_pretrained(tmp_path)
    tensors[name] = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for ignore in (False, True):
        with pytest.raises(RuntimeError, match=f"{name}: .* in the checkpoint, .* in the model"):
            ViTCustomDualEncoder.from_pretrained(tmp_path, ignore_mismatched_sizes=ignore)


def test_the_towers_can_be_resized(tmp_path):
    model, inputs = dual(dtype=torch.float64), batch(9, 5, dtype=torch.float64, size=(48, 40))
    expected = model(**inputs).logits_per_text
    model.resize_position_embeddings((6, 5))
    torch.testing.assert_close(model(**inputs).logits_per_text, expected)
    if version.parse("5.6") <= VERSION:  # before, transformers' text model does not find its own words
        model.resize_token_embeddings(VOCAB + 4)
        assert model.config.text_config.vocab_size == VOCAB + 4
        torch.testing.assert_close(model(**inputs).logits_per_text, expected)
    model.save_pretrained(tmp_path)
    again = ViTCustomDualEncoder.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(again(**inputs).logits_per_text, expected)
    smaller = ViTCustomDualEncoder.from_pretrained(tmp_path, patch_size=4)
    assert smaller.config.vision_config.patch_size == [4, 4]
    assert smaller.vision_model.embeddings.patch_embeddings.weight.shape == (32, 3, 4, 4)
    eager = ViTCustomDualEncoder.from_pretrained(tmp_path, attn_implementation={"text_config": "eager"})
    assert eager.text_model.config._attn_implementation == "eager"
    assert eager.vision_model.config._attn_implementation == "sdpa"


# Trainer, processors, pipelines.

WORDS = "this is a photo of . cat dog red blue square".split()


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    words = Tokenizer(WordLevel({word: n for n, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)])
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=POSITIONS, **names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with all that the pipeline needs."""
    folder = tmp_path_factory.mktemp("zero") / "shot"
    ids = dict(vocab_size=len(WORDS) + 4, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    dual(text_config=transformers.CLIPTextConfig(**PLAIN | ids)).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.VisionTextDualEncoderProcessor(images, tokenizer()).save_pretrained(folder)
    return folder


# What somebody does who has transformers and the folder, and nothing of ours.
SCRIPT = """
import json, sys
sys.modules["modeling_vit_custom"] = None
import torch, transformers
from PIL import Image
from safetensors.torch import load_file

folder, work = sys.argv
picture, labels = Image.open(f"{work}/picture.png"), ["cat", "red dog", "blue square"]
pipeline = transformers.pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True, device="cpu")
said = {row["label"]: row["score"] for row in pipeline(picture, candidate_labels=labels)}
processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
captions = [f"This is a photo of {label}." for label in labels]
inputs = processor(text=captions, images=picture, return_tensors="pt", padding=True)
found = {"processor": type(processor).__name__, "said": [said[label] for label in labels], "bits": {}, "modules": []}
for name in ("AutoModel", "AutoModelForZeroShotImageClassification"):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        found["scores"] = model(**inputs).logits_per_image.softmax(dim=1)[0].tolist()
        answer = model(**load_file(f"{work}/inputs.safetensors"))
    found["bits"][name] = [answer[key].tolist() for key in ("logits_per_image", "text_embeds", "image_embeds", "loss")]
    found["modules"].append(type(model).__module__)
model.save_pretrained(f"{work}/again")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("elsewhere")
    words = captions(9, 5, 7)
    ids = words["input_ids"] % (len(WORDS) + 4)
    ids[torch.arange(3), words["attention_mask"].sum(dim=1) - 1] = 3  # where the text tower looks
    save_file(batch(9, 5, 7) | {"input_ids": ids}, work / "inputs.safetensors")
    rows, columns = np.mgrid[:50, :40]
    image = np.stack([rows * 5, columns * 6, rows * columns % 256], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(work / "picture.png")
    done = stranger().call(SCRIPT, [folder, work])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), work


def test_a_clean_process_computes_the_same_bits(elsewhere, folder):
    found, work = elsewhere
    answer = ViTCustomDualEncoder.from_pretrained(folder)(**load_file(work / "inputs.safetensors"))
    expected = [answer[key].tolist() for key in ("logits_per_image", "text_embeds", "image_embeds", "loss")]
    assert found["bits"] == {"AutoModel": expected, "AutoModelForZeroShotImageClassification": expected}
    assert all(module.startswith("transformers_modules.") for module in found["modules"])


def test_the_pipeline_says_what_the_model_says(elsewhere):
    found, _ = elsewhere
    assert found["processor"] == "VisionTextDualEncoderProcessor"
    assert found["said"] == pytest.approx(found["scores"], rel=1e-6)
    assert max(found["said"]) - min(found["said"]) > 0.01


def test_what_a_clean_process_saves_is_whole(elsewhere, folder):
    again = elsewhere[1] / "again"
    for name in ("config.json", "model.safetensors", *(path.name for path in folder.glob("*.py"))):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("trainer_class", [transformers.Trainer, ViTCustomTrainer])
def test_a_trainer_trains_and_evaluates_it(trainer_class, tmp_path):
    """Without being told of `return_loss`; an evaluation keeps the embeddings alone."""
    inputs = batch(9, 5, 7, 3, 8, 6)
    rows = [{name: tensor[n] for name, tensor in inputs.items()} for n in range(6)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=3,
        gradient_accumulation_steps=2, use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model = dual()
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_class(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert not any(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    expected = [model.eval()(**part(inputs, *three)) for three in ((0, 1, 2), (3, 4, 5))]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        sum(answer.loss.item() for answer in expected) / 2, rel=1e-5
    )
    embeddings = trainer.predict(rows).predictions
    for name, values in zip(("text_embeds", "image_embeds"), embeddings, strict=True):
        assert np.allclose(values, torch.cat([answer[name] for answer in expected]).detach(), atol=1e-6)


def test_a_slip_is_told_by_the_towers_alone_too():
    model, ids = dual(), torch.tensor([[5, 7]])
    with pytest.raises(TypeError, match="takes no `atention_mask`: did you mean `attention_mask`"):
        model.get_text_features(ids, atention_mask=torch.ones_like(ids))
    with pytest.raises(TypeError, match="takes no `output_attention`: did you mean `output_attentions`"):
        model.get_image_features(torch.zeros(1, 3, 32, 32), output_attention=True)


def test_the_scales_gradient_is_torch_funcs_too():
    scale, over = torch.tensor([1.0]), torch.tensor([MAX_LOGIT_SCALE + 1])
    for value, expected in ((scale, [1.0]), (over, [1.0])):
        assert torch.func.grad(lambda s: CappedScale.apply(s, False).sum())(value).tolist() == expected
    assert torch.func.grad(lambda s: -CappedScale.apply(s, False).sum())(over).tolist() == [0.0]


@pytest.mark.parametrize(
    ("end", "ids", "row"),
    [
        (7, [[2, 5, 7], [2, 5, 6]], 1),
        (2, [[1, 8, 9], [1, 9, 5]], 1),  # it takes the highest token, which has to be the last
        (2, [[1, 9, 5, 2], [1, 9, 6, 2]], 0),
        (2, [[1, 9], [8, 9]], None),
        (2, [[1, 8, 9, 0], [1, 9, 0, 0]], None),  # padded as OpenAI's tokenizer pads, and no mask
        (2, [[1, 9, 0, 0], [1, 9, 5, 0]], 1),
    ],
)
def test_a_caption_without_the_token_that_the_tower_looks_at_is_refused(end, ids, row):
    model = dual(text_config=transformers.CLIPTextConfig(**PLAIN | dict(vocab_size=10, eos_token_id=end)))
    if row is None:
        assert model.get_text_features(torch.tensor(ids)).pooler_output.shape[0] == 2
        return
    with pytest.raises(ValueError, match=f"^Caption {row} of the batch has no end token {end}"):
        model.get_text_features(torch.tensor(ids))
