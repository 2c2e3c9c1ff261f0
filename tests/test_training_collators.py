"""Rows -> batches: what a batch holds of a row does not depend on its mates; a row that cannot be meant is named."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import SegformerImageProcessor
from transformers import Trainer
from transformers import TrainingArguments
from transformers import VisionTextDualEncoderProcessor
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom.configuration_stages import grid_at
from modeling_vit_custom.training.collators import ImageCollator
from modeling_vit_custom.training.collators import ImageTextCollator
from modeling_vit_custom.training.collators import MaskedImageCollator
from modeling_vit_custom.training.collators import Numbered
from modeling_vit_custom.training.collators import PreTrainingCollator
from modeling_vit_custom.training.collators import SegmentationCollator
from modeling_vit_custom.training.tokenizers import check_end
from modeling_vit_custom.training.tokenizers import word_tokenizer
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.support import VARIANTS
from tests.support import fill
from tests.support import tiny

RNG = np.random.default_rng(0)
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
SIZES = [(40, 24), (24, 40), (32, 32), (24, 40)]  # height, width
CAPTIONS = ["a red fish", "fish", "two small birds on a wire", "a bird"]


def image(height: int = 32, width: int = 32) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


SCENES = [
    {"image": image(*size), "mask": RNG.choice([0, 3, 255], size).astype(np.uint8), "image_id": 70 + number}
    for number, size in enumerate(SIZES)
]
PICTURES = [{"image": image()} for _ in range(8)]


def segmentation(num_labels: int = 5, **settings) -> SegmentationCollator:
    return SegmentationCollator(SegformerImageProcessor(do_reduce_labels=False, **settings), num_labels)


def captions(max_length: int = 8, **settings) -> ImageTextCollator:
    processor = VisionTextDualEncoderProcessor(PROCESSOR, word_tokenizer(CAPTIONS, max_length))
    return ImageTextCollator(processor, **settings)


def test_of_several_sizes_each_image_and_its_classes_stand_at_the_top_left_and_the_rest_is_ignored():
    collate = segmentation(do_resize=False)
    batch = collate(SCENES)
    assert batch["pixel_values"].shape == (4, 3, 40, 40)
    assert batch["labels"].shape == batch["pixel_mask"].shape == (4, 40, 40)
    for place, (row, (height, width)) in enumerate(zip(SCENES, SIZES, strict=True)):
        alone = collate([row])
        assert alone.keys() == {"pixel_values", "labels"}
        here = (place, ..., slice(height), slice(width))
        assert torch.equal(batch["pixel_values"][here], alone["pixel_values"][0])
        assert torch.equal(batch["labels"][here], alone["labels"][0])
        assert torch.equal(alone["labels"][0], torch.from_numpy(row["mask"]).long())
        assert batch["pixel_mask"][place].sum() == height * width == batch["pixel_mask"][here].sum()
        assert (batch["labels"][place][batch["pixel_mask"][place] == 0] == 255).all()


def test_resized_classes_are_those_of_the_nearest_pixel_and_no_others():
    made = segmentation(size={"height": 20, "width": 12})([SCENES[0]])
    assert torch.equal(made["labels"][0], torch.from_numpy(SCENES[0]["mask"]).long()[1::2, 1::2])


def test_a_mask_may_be_a_picture_of_class_ids():
    rows = [{**SCENES[0], "mask": Image.fromarray(SCENES[0]["mask"])}]
    assert torch.equal(segmentation()(rows)["labels"], segmentation()(SCENES[:1])["labels"])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((24, 40), np.uint8), "mask of 40 x 24 pixels for an image of 24 x 40: resize the mask"),
        (np.full((40, 24), 5), r"a pixel of class 5, but classes are 0 to 4 \(or 255, ignored\): set `num_labels`"),
        (np.full((40, 24), -1), "a pixel of class -1"),
        (np.zeros((40, 24, 3), np.uint8), r"a mask of shape \(40, 24, 3\) and type uint8: give one integer a pixel"),
        (np.zeros((40, 24)), "type float64: give one integer a pixel"),
    ],
)
def test_a_mask_that_cannot_be_meant_names_its_row(mask, message):
    with pytest.raises(ValueError, match=rf"Row 1 of the batch \(image_id 70\) has .*{message}"):
        segmentation()([SCENES[1], {**SCENES[0], "mask": mask}])


class Broken:
    """A processor whose third image has a pixel that is no number."""

    def __call__(self, images, segmentation_maps=None, **kwargs):
        pixels = torch.zeros(len(images), 3, 32, 32)
        pixels[2:, 0, 0, 0] = torch.nan
        return {"pixel_values": pixels, "labels": torch.zeros(len(images), 32, 32)}


@pytest.mark.parametrize(
    "collate",
    [
        ImageCollator(Broken(), 5),
        SegmentationCollator(Broken(), 5),
        MaskedImageCollator(Broken(), tiny(), 8),
        PreTrainingCollator(Broken(), tiny()),
    ],
    ids=lambda collate: type(collate).__name__,
)
def test_pixels_that_are_not_finite_name_their_row(collate):
    rows = [{"image": image(), "label": 0, "mask": np.zeros((32, 32), np.uint8), "index": 40 + n} for n in range(3)]
    with pytest.raises(ValueError, match=r"Row 2 of the batch \(index 42\) has pixels that are not finite"):
        collate(rows)


DRAWN = {
    "bool_masked_pos": lambda seed: MaskedImageCollator(PROCESSOR, tiny(), 8, seed=seed),
    "noise": lambda seed: PreTrainingCollator(PROCESSOR, tiny(), seed=seed),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_hidden_depends_on_seed_row_and_epoch_and_not_on_the_batch(name):
    rows, collate = Numbered(PICTURES), DRAWN[name](0)
    whole = collate([rows[index] for index in range(8)])[name]
    assert len({tuple(row) for row in whole.tolist()}) == 8
    for order in ([3], [5, 1], [7, 6, 5, 4, 3, 2, 1, 0]):
        assert torch.equal(collate([rows[index] for index in order])[name], whole[order])
    assert not torch.equal(DRAWN[name](1)([rows[0]])[name], whole[:1])
    rows.set_epoch(1)
    other = collate([rows[index] for index in range(8)])[name]
    assert (other != whole).any(dim=1).all()
    assert torch.equal(collate([{**PICTURES[2], "index": 2}])[name], whole[2:3])  # outside of training: epoch 0


@pytest.mark.parametrize(
    "rows", [PICTURES, Dataset.from_list([{"label": n} for n in range(8)])], ids=["list", "datasets"]
)
def test_rows_read_at_once_are_those_read_one_by_one(rows):
    numbered = Numbered(rows)
    assert numbered.__getitems__([5, 0, 2]) == [numbered[5], numbered[0], numbered[2]]
    assert numbered[5] == {"index": 5, "epoch": 0, **rows[5]}
    assert len(numbered) == 8


@pytest.mark.parametrize("name", DRAWN)
def test_rows_without_a_number_are_refused(name):
    with pytest.raises(ValueError, match=r"Row 0 of the batch has no `index`.*Numbered\(rows\)"):
        DRAWN[name](0)(PICTURES)


@pytest.mark.parametrize(
    ("variant", "square", "ratio", "size", "hidden"),
    [
        ("vit", 8, 0.6, (32, 32), 10),  # 4 x 4 squares of a patch each
        ("vit", 16, 0.5, (32, 32), 8),  # 2 x 2 squares of 2 x 2 patches
        ("swin", 8, 0.3, (32, 32), 80),  # 4 x 4 squares of 4 x 4 patches
        ("pit", 16, 0.25, (32, 32), None),  # 7 x 7 patches that overlap, 2 x 2 squares
        ("vit", 16, 0.2, (40, 24), None),  # 5 x 3 patches, 3 x 2 squares
    ],
)
def test_squares_are_hidden_whole_and_as_many_as_the_ratio_says(variant, square, ratio, size, hidden):
    config = tiny(**VARIANTS[variant])
    processor = ViTImageProcessor(size={"height": size[0], "width": size[1]})
    batch = MaskedImageCollator(processor, config, square, ratio)([Numbered(PICTURES)[index] for index in range(8)])
    model = fill(ViTCustomForMaskedImageModeling(config))
    grid = grid_at(config, *size, stage=0)
    masks = batch["bool_masked_pos"].unflatten(1, grid)
    assert model(**batch).loss > 0
    assert set(masks.flatten().tolist()) == {0, 1}
    if hidden is not None:
        assert (masks.sum((1, 2)) == hidden).all()
    side = square // (config.patch_stride or config.patch_size)
    for row in range(grid[0]):
        for column in range(grid[1]):
            assert torch.equal(masks[:, row, column], masks[:, row // side * side, column // side * side])


@pytest.mark.parametrize(
    ("square", "ratio", "message"),
    [
        (12, 0.5, r"`mask_patch_size` 12 must be a multiple of the patches' \(8, 8\) pixels"),
        (0, 0.5, "`mask_patch_size` 0 must be"),
        (8, 0, "`mask_ratio` 0 hides 0 of the 16 squares of 8 pixels in an image of 32 x 32: change it"),
        (8, 1, "`mask_ratio` 1 hides 16 of the 16"),
        (32, 0.5, "`mask_ratio` 0.5 hides 1 of the 1 squares of 32 pixels.*make `mask_patch_size` smaller"),
    ],
)
def test_masks_that_leave_nothing_are_refused(square, ratio, message):
    with pytest.raises(ValueError, match=message):
        MaskedImageCollator(PROCESSOR, tiny(), square, ratio)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_epoch_hides_other_patches_and_workers_that_outlive_it_know(num_workers, tmp_path):
    model, seen = fill(ViTCustomForMaskedImageModeling(tiny())), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["bool_masked_pos"]), with_kwargs=True)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=3,
        learning_rate=0.0,
        train_sampling_strategy="sequential",
        dataloader_num_workers=num_workers,
        dataloader_persistent_workers=num_workers > 0,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    collate = MaskedImageCollator(PROCESSOR, tiny(), 8)
    trainer: Trainer = ViTCustomTrainer(model, arguments, data_collator=collate, train_dataset=Numbered(PICTURES[:4]))
    trainer.train()
    expected = [collate([{**row, "index": i, "epoch": e} for i, row in enumerate(PICTURES[:4])]) for e in range(3)]
    assert len(seen) == 3
    for masks, batch in zip(seen, expected, strict=True):
        assert torch.equal(masks, batch["bool_masked_pos"])


def test_captions_are_as_long_as_the_longest_and_padding_is_marked():
    rows = [{**picture, "caption": caption} for picture, caption in zip(PICTURES, CAPTIONS, strict=False)]
    batch = captions()(rows)
    assert batch.keys() == {"pixel_values", "input_ids", "attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [5, 3, 8, 4]
    for place, row in enumerate(rows):
        alone = captions()([row])["input_ids"][0]
        assert torch.equal(batch["input_ids"][place, : len(alone)], alone)
        assert not batch["attention_mask"][place, len(alone) :].any()


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("two small birds on a wire", "has a caption of 8 tokens, but the text tower takes 7: cut captions off"),
        ("  ", "has an empty caption: leave the row out"),
    ],
)
def test_a_caption_that_cannot_be_read_names_its_row(caption, message):
    rows = [{"image": image(), "caption": text, "id": f"photo{n}"} for n, text in enumerate(["a fish", caption])]
    with pytest.raises(ValueError, match=rf"Row 1 of the batch \(id photo1\) {message}"):
        captions(max_length=7)(rows)


def test_captions_may_be_cut_off_and_still_end():
    (row,) = [{"image": image(), "caption": CAPTIONS[2]}]
    cut, whole = (captions(length, truncation=True)([row])["input_ids"][0] for length in (5, 8))
    assert torch.equal(cut, torch.cat((whole[:4], whole[-1:])))


def test_a_caption_that_is_cut_off_keeps_its_end():
    collate = captions(max_length=4, truncation=True)
    collate.tokenizer.backend_tokenizer.post_processor = None  # ends stand in the captions
    texts = ["a red fish [EOS]", "two small birds on a wire [EOS]", "two small birds on a wire"]
    ids = collate([{**PICTURES[0], "caption": text} for text in texts])["input_ids"]
    assert (ids == collate.tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1, 0]
    assert ids[1, -1] == collate.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("pooling", "end", "refused"),
    [("pooler_output", 49407, True), ("pooler_output", 2, True), ("pooler_output", 3, False), ("mean", 9, False)],
)
def test_a_text_tower_that_looks_at_another_end_is_refused_before_training(pooling, end, refused):
    config = ViTCustomDualEncoderConfig(text_config=dict(vocab_size=50000, eos_token_id=end), text_pooling=pooling)
    with pytest.raises(ValueError, match=rf"is {end}.*, the tokenizer's is 3") if refused else nullcontext():
        check_end(word_tokenizer(CAPTIONS), config)


def test_a_rows_own_number_is_its_place_whatever_columns_it_has():
    rows = Numbered([{"image": 0, "index": "seven", "epoch": "x"}, {"image": 1, "index": 7, "epoch": 9}])
    assert [rows[place]["index"] for place in range(2)] == [0, 1]
    assert [(row["index"], row["epoch"]) for row in rows.__getitems__([1, 0])] == [(1, 0), (0, 0)]
