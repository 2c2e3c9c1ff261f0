"""The cells of the matrix: every head on every backbone, and eight real pictures with exact targets for all of them.

A picture is a crop of one of scikit-learn's two photographs with handwritten digits of its digits set pasted on it, so
that classes, boxes, masks and captions are known to the pixel. Nothing is downloaded.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.datasets import load_sample_images
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerFast
from transformers import set_seed

import modeling_vit_custom
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom.configuration_stages import grid_at
from tests.support import VARIANTS
from tests.support import tiny

NUM_DIGITS, NUM_PICTURES = 10, 8
SIZES = {"native": (32, 32), "larger": (48, 48), "not square": (40, 24)}
# What one picture shows to a mask of units of this many pixels: every second one, as on a chessboard.
UNIT = 8


class Pictures(NamedTuple):
    pixel_values: torch.Tensor  # (B, 3, H, W), from -1 to 1
    digits: torch.Tensor  # (B): the first digit of each, all different
    masks: torch.Tensor  # (B, H, W): 0 where the photograph shows, else the digit + 1
    objects: list[dict[str, torch.Tensor]]  # as transformers' detectors take them
    captions: list[str]


CORNERS = {"top left": (0, 0), "bottom right": (1, 1), "bottom left": (1, 0), "top right": (0, 1)}
NAMES = "zero one two three four five six seven eight nine".split()


@functools.cache
def pictures(height: int, width: int) -> Pictures:
    """Pictures 0 to 3 show one digit, 4 to 7 two in opposite corners."""
    photographs, digits = load_sample_images().images, load_digits()
    drawings = [digits.images[np.flatnonzero(digits.target == digit)[0]] for digit in range(NUM_DIGITS)]
    drawings = [drawing.repeat(height // 16, axis=0).repeat(width // 16, axis=1) for drawing in drawings]
    images, masks, objects, captions = [], [], [], []
    for index in range(NUM_PICTURES):
        start = 40 + 16 * index
        crop = photographs[index % 2][start : start + 4 * height, 2 * start : 2 * start + 4 * width]
        image = crop.reshape(height, 4, width, 4, 3).mean(axis=(1, 3)) / 127.5 - 1
        mask, found, words = np.zeros((height, width), dtype=np.int64), [], []
        for digit, corner in [(index, index % 4), ((index + 5) % NUM_DIGITS, index % 4 ^ 1)][: 1 + index // 4]:
            name, (down, across) = list(CORNERS.items())[corner]
            ink = np.zeros((height, width))
            rows, columns = drawings[digit].shape
            ink[down * (height - rows) :, across * (width - columns) :][:rows, :columns] = drawings[digit]
            inside = ink > 4  # of 16
            image = np.where(inside[:, :, None], ink[:, :, None] / 8 - 1, image)
            mask[inside] = digit + 1
            found.append((digit, inside))
            words.append(f"{NAMES[digit]} {name}")
        images.append(image)
        masks.append(mask)
        objects.append(as_objects(found))
        captions.append(f"{' and '.join(words)} on a {('temple', 'flower')[index % 2]}")
    return Pictures(
        torch.tensor(np.stack(images), dtype=torch.float32).permute(0, 3, 1, 2).contiguous(),
        torch.arange(NUM_PICTURES),
        torch.tensor(np.stack(masks)),
        objects,
        captions,
    )


def as_objects(found: list[tuple[int, np.ndarray]]) -> dict[str, torch.Tensor]:
    """(class, pixels) of each object -> classes, and boxes by centre and size relative to the picture's."""
    boxes = []
    for _, inside in found:
        sides = []
        for axis in (1, 0):
            places = np.flatnonzero(inside.any(axis=1 - axis))
            sides.append((places[0] / inside.shape[axis], (places[-1] + 1) / inside.shape[axis]))
        boxes.append([*((low + high) / 2 for low, high in sides), *(high - low for low, high in sides)])
    return {"class_labels": torch.tensor([digit for digit, _ in found]), "boxes": torch.tensor(boxes).float()}


def classes(config, shown: Pictures) -> dict[str, Any]:
    return {"labels": shown.digits}


def chessboard(config, shown: Pictures) -> dict[str, Any]:
    """Half of each picture is hidden."""
    height, width = shown.pixel_values.shape[2:]
    rows, columns = grid_at(config, height, width, stage=0)
    row, column = torch.arange(rows) * height // rows // UNIT, torch.arange(columns) * width // columns // UNIT
    hidden = (row[:, None] + column).flatten() + torch.arange(NUM_PICTURES)[:, None]
    return {"bool_masked_pos": hidden % 2 == 0}


def noise(config, shown: Pictures) -> dict[str, Any]:
    rows, columns = grid_at(config, *shown.pixel_values.shape[2:], stage=0)
    return {"noise": torch.rand(NUM_PICTURES, rows * columns, generator=torch.Generator().manual_seed(0))}


def pixel_classes(config, shown: Pictures) -> dict[str, Any]:
    return {"labels": shown.masks}


def objects(config, shown: Pictures) -> dict[str, Any]:
    return {"labels": shown.objects}


def words(config, shown: Pictures) -> dict[str, Any]:
    """Captions by the tokenizer of `make_tokenizer`, padded to the longest."""
    encoded = make_tokenizer()(shown.captions, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


WORDS = [*NAMES, *"top bottom left right on a and temple flower this is photo of .".split()]
# CLIP's towers mean the highest token by an end of 2.
SPECIAL = dict(unk_token="<unk>", eos_token="<end>", pad_token="<pad>")


@functools.cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and one at the end, whose vector is the caption's."""
    tokens = {word: index for index, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(WordLevel(tokens, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()
    end = SPECIAL["eos_token"]
    tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokens[end])])
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, model_input_names=names, **SPECIAL)


class Head(NamedTuple):
    class_name: str
    auto_class: str
    settings: dict[str, Any]
    given: Callable[[Any, Pictures], dict[str, Any]]  # what the forward takes beside pixels
    learning_rate: float
    num_steps: int
    width: int = 64  # of the last stage
    finer: int = 1  # patches are this much smaller
    refused: dict[str, str] = {}  # {backbone that it does not combine with: what the error says}


NO_MAE = "MAE leaves patches out, .* choose another backbone, or SimMIM"
DECODER = dict(decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=4)
NUM_QUERIES = 4
HEADS = {
    "classification": Head(
        "ViTCustomForImageClassification",
        "AutoModelForImageClassification",
        dict(num_labels=NUM_DIGITS),
        classes,
        learning_rate=6e-3,
        num_steps=40,
    ),
    "masked images": Head(
        "ViTCustomForMaskedImageModeling",
        "AutoModelForMaskedImageModeling",
        {},
        chessboard,
        width=96,
        learning_rate=1e-2,
        num_steps=140,
    ),
    "pre-training": Head(
        "ViTCustomForPreTraining",
        "AutoModelForPreTraining",
        DECODER | dict(decoder_hidden_size=128, mask_ratio=0.5),
        noise,
        width=96,
        learning_rate=6e-3,
        num_steps=120,
        refused={"swin": NO_MAE, "pit": NO_MAE},
    ),
    "segmentation": Head(
        "ViTCustomForSemanticSegmentation",
        "AutoModelForSemanticSegmentation",
        # More classes than there are, as few pictures show all of a data set's: the decoder's last norm is over the
        # classes and bounds how sure it can be of one, at eleven so much that the loss stays above 5 %.
        DECODER | dict(num_labels=40),
        pixel_classes,
        learning_rate=8e-3,
        num_steps=80,
        finer=2,  # the digits' strokes are 2 pixels wide
    ),
    "segmentation, linear": Head(
        "ViTCustomForSemanticSegmentation",
        "AutoModelForSemanticSegmentation",
        dict(num_labels=NUM_DIGITS + 1, segmentation_decoder="linear"),
        pixel_classes,
        learning_rate=1e-2,
        num_steps=80,
        finer=2,
    ),
    "detection": Head(
        "ViTCustomForObjectDetection",
        "AutoModelForObjectDetection",
        DECODER | dict(num_labels=NUM_DIGITS, num_queries=NUM_QUERIES, decoder_num_hidden_layers=2),
        objects,
        learning_rate=3e-3,
        num_steps=80,
    ),
    "detection tokens": Head(
        "ViTCustomForObjectDetection",
        "AutoModelForObjectDetection",
        dict(num_labels=NUM_DIGITS, layer_position_embeddings=True),
        objects,
        learning_rate=4e-3,
        num_steps=70,
        refused={"swin": "no place for prefix tokens: empty `prefix_tokens`"},
    ),
    "image-text": Head(
        "ViTCustomDualEncoder",
        "AutoModelForZeroShotImageClassification",
        dict(projection_dim=32),
        words,
        learning_rate=4e-3,
        num_steps=40,
    ),
}
# Members of the family, tiny: every part of each, two layers of attention or two stages.
MEMBERS = {
    "vit": {},
    "deit": VARIANTS["deit"] | dict(depths=[1]),
    "swin": VARIANTS["swin"] | dict(patch_size=4, num_attention_heads=[2, 4], depths=[2, 1]),
    "pit": VARIANTS["pit"] | dict(num_attention_heads=[2, 4], depths=[1, 1]),
}
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
ALL = [(head, member) for head in HEADS for member in MEMBERS]
CELLS = [(head, member) for head, member in ALL if member not in HEADS[head].refused]
# Where a cell takes seconds, every run takes each head on a ViT, and one on a Swin.
SOME_NOW = [
    pytest.param(*cell, marks=() if cell[1] == "vit" or cell == ("segmentation", "swin") else pytest.mark.full_size)
    for cell in CELLS
]


def make_config(head: str, member: str, **changes):
    settings = dict(patch_size=8, initializer_range=0.05) | MEMBERS[member] | HEADS[head].settings
    num_stages = len(settings.get("depths", [2]))
    settings["hidden_sizes"] = [HEADS[head].width // 2**stage for stage in reversed(range(num_stages))]
    for name in settings.keys() & {"patch_size", "patch_stride"}:
        settings[name] //= HEADS[head].finer
    if head == "detection tokens":
        settings["prefix_tokens"] = [*settings.get("prefix_tokens", ["cls"]), *["detection"] * NUM_QUERIES]
        settings["layer_position_embeddings"] = member != "pit"  # they are for a grid that stays
    if head != "image-text":
        return tiny(**settings | changes)
    projection_dim = settings.pop("projection_dim")
    tokenizer = make_tokenizer()
    text = TEXT | dict(vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length)
    text |= {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    towers = dict(vision_config=tiny(**settings).to_dict(), text_config=text | {"bos_token_id": None})
    return ViTCustomDualEncoderConfig(projection_dim=projection_dim, **towers, **changes)


def make(head: str, member: str, **changes) -> PreTrainedModel:
    set_seed(0)
    return getattr(modeling_vit_custom, HEADS[head].class_name)(make_config(head, member, **changes))


def inputs(head: str, config, size: tuple[int, int]) -> dict[str, Any]:
    """All that the forward takes, targets too."""
    shown = pictures(*size)
    return {"pixel_values": shown.pixel_values} | HEADS[head].given(config, shown)


def overfit(head: str, member: str, size: tuple[int, int]) -> tuple[PreTrainedModel, float]:
    """A model that was shown the eight pictures again and again, and its loss as a share of that at the start.

    Less momentum than usual and a long warm-up: it takes half as many steps.
    """
    model = make(head, member).train()
    given = inputs(head, model.config, size)
    rate, steps = HEADS[head].learning_rate, HEADS[head].num_steps
    optimizer = AdamW(model.parameters(), lr=rate, betas=(0.8, 0.95), weight_decay=0, fused=True)
    schedule = OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.6, cycle_momentum=False)
    losses = []
    for _ in range(steps):
        losses.append(model(**given).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        schedule.step()
    return model.eval(), model(**given).loss.item() / losses[0].item()


def without_targets(given: dict[str, Any]) -> dict[str, Any]:
    """What the forward takes from somebody who has pictures only, or pictures and captions."""
    kept = {name: value for name, value in given.items() if name != "labels"}
    return kept | ({"return_loss": False} if "input_ids" in kept else {})


def tensors(outputs: Any, name: str = "") -> dict[str, torch.Tensor]:
    """{where: tensor} of any nesting of dictionaries and sequences."""
    if isinstance(outputs, torch.Tensor) or outputs is None:
        return {} if outputs is None else {name: outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    return {where: tensor for key, value in items for where, tensor in tensors(value, f"{name}.{key}").items()}
