"""Augmentation: what a row becomes depends on seed, epoch, index and copy alone; and bytes, normalised on the device,
are the image processor's own pixels."""

import random

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from datasets import Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import BatchSampler
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import CLIPImageProcessor
from transformers import DINOv3ViTImageProcessor
from transformers import ViTImageProcessor

from modeling_vit_custom.training.augmentation import Augmented
from modeling_vit_custom.training.augmentation import Cover
from modeling_vit_custom.training.augmentation import Normalise
from modeling_vit_custom.training.augmentation import Prepared
from modeling_vit_custom.training.augmentation import RepeatedAugmentationSampler
from modeling_vit_custom.training.augmentation import WithSteps
from modeling_vit_custom.training.augmentation import make_transform
from modeling_vit_custom.training.augmentation import seed_of
from modeling_vit_custom.training.augmentation import seeded
from modeling_vit_custom.training.images import to_rgb

MEAN = (124, 116, 104)
SIZE = (24, 32)
EVERYTHING = dict(policy="rand_augment", crop="resized", flip=0.5, color_jitter=0.4, erasing=0.5)
POLICIES = ("rand_augment", "trivial_augment", "three_augment", "none")


def image(height: int = 40, width: int = 56, channels: tuple[int, ...] = (3,), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


ROWS = [{"image": image(seed=seed), "label": seed % 3} for seed in range(8)]


def augmented(seed: int = 0, epoch: int = 0, **settings) -> Augmented:
    rows = Augmented(ROWS, make_transform(SIZE, settings or EVERYTHING, MEAN), seed)
    rows.set_epoch(epoch)
    return rows


def states() -> list:
    python, array = random.getstate(), np.random.get_state()
    return [python, array[1].tolist(), array[2:], torch.get_rng_state().tolist()]


def stacked(rows: list) -> torch.Tensor:
    return torch.stack([row["image"] for row in rows])


def keep(rows: list) -> list:
    return rows


# ---------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("crop", ["resized", "padded", "none"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_every_policy_gives_bytes_of_the_models_size(policy, crop, interpolation):
    settings = dict(policy=policy, crop=crop, interpolation=interpolation, flip=0.5, color_jitter=0.3, erasing=1.0)
    for row in augmented(**settings):
        assert row["image"].dtype == torch.uint8
        assert row["image"].shape == (3, *SIZE)
        assert type(row["image"]) is torch.Tensor


def test_what_is_not_named_is_off():
    transform = make_transform(SIZE, {}, MEAN)
    resized = v2.Resize(SIZE, v2.InterpolationMode.BICUBIC)(ROWS[0]["image"])
    assert torch.equal(transform(ROWS[0]["image"]), v2.PILToTensor()(resized))


def test_three_augment_is_grey_or_solarized_or_blurred_each_as_often():
    source = v2.PILToTensor()(image(*SIZE))
    seen = {"grey": 0, "solarized": 0, "blurred": 0}
    transform = make_transform(SIZE, dict(policy="three_augment"), MEAN)
    for seed in range(300):
        with seeded(seed):
            made = transform(image(*SIZE))
        if torch.equal(made[0], made[1]) and torch.equal(made[1], made[2]):
            seen["grey"] += 1
        elif torch.equal(made, torch.where(source < 128, source, 255 - source)):
            seen["solarized"] += 1
        else:
            assert made.float().std() <= source.float().std()
            seen["blurred"] += 1
    assert all(70 <= count <= 130 for count in seen.values()), seen


def test_three_augment_blurs_what_is_smaller_than_its_kernel():
    transform = make_transform((4, 5), dict(policy="three_augment"), MEAN)
    assert all(transform(image()).shape == (3, 4, 5) for _ in range(20))


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (33, 97), (32, 32)])
def test_a_cover_is_torchvisions_resizing_of_the_shorter_side(shape):
    ours, theirs = Cover((32, 32), v2.InterpolationMode.BICUBIC), v2.Resize(32, v2.InterpolationMode.BICUBIC)
    assert ours(image(*shape)).tobytes() == theirs(image(*shape)).tobytes()


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (10, 99), (99, 10)])
def test_a_cover_of_another_shape_leaves_no_side_too_short_and_one_fits(shape):
    width, height = Cover(SIZE, v2.InterpolationMode.BICUBIC)(image(*shape)).size
    assert (height == SIZE[0] and width >= SIZE[1]) or (width == SIZE[1] and height >= SIZE[0])


def test_a_padded_crop_is_a_window_of_the_mirrored_picture():
    picture = image(*SIZE)
    whole = v2.functional.pad(v2.PILToTensor()(picture), [3] * 4, padding_mode="reflect")
    windows = whole.unfold(1, SIZE[0], 1).unfold(2, SIZE[1], 1).flatten(1, 2).movedim(1, 0)
    transform = make_transform(SIZE, dict(crop="padded", padding=3), MEAN)
    found = {int((windows == transform(picture)).all((1, 2, 3)).nonzero()) for _ in range(60)}
    assert len(windows) == 49
    assert len(found) > 20


def test_what_is_erased_is_zero_after_normalisation_but_for_rounding():
    processor = ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    fill = [255 * value for value in processor.image_mean]
    plain = make_transform(SIZE, {}, fill)(ROWS[0]["image"])
    erased = make_transform(SIZE, dict(erasing=1.0), fill)(ROWS[0]["image"])
    changed = (plain != erased).any(0)
    assert 0.01 < changed.float().mean() < 0.4
    pixels = Normalise.of(processor)({"pixel_values": erased[None]})["pixel_values"][0]
    assert pixels[:, changed].abs().max() <= 0.5 / 255 / 0.224 + 1e-6


def test_erasing_and_flipping_have_their_probabilities():
    plain = make_transform(SIZE, {}, MEAN)(ROWS[0]["image"])
    for name, share in (("flip", 0.25), ("erasing", 0.25)):
        transform = make_transform(SIZE, {name: share}, MEAN)
        with seeded(1):
            count = sum(not torch.equal(transform(ROWS[0]["image"]), plain) for _ in range(400))
        assert 70 <= count <= 130, name
    assert torch.equal(make_transform(SIZE, dict(flip=1.0), MEAN)(ROWS[0]["image"]).flip(2), plain)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(flp=0.5), "no setting `flp`: did you mean `flip`"),
        (dict(policy="randaugment"), "did you mean `rand_augment`"),
        (dict(crop="resize"), "did you mean `resized`"),
        (dict(interpolation="lanczos"), "choose from nearest, bilinear, bicubic"),
        (dict(magnitude=9), "only with `policy: rand_augment`"),
        (dict(policy="trivial_augment", num_ops=3), "only with `policy: rand_augment`"),
        (dict(scale=[0.5, 1]), "only with `crop: resized`"),
        (dict(crop="resized", padding=4), "only with `crop: padded`"),
        (dict(policy="rand_augment", magnitude=31), "from 0 to 30"),
        (dict(policy="rand_augment", num_ops=0), "from 1"),
        (dict(crop="resized", scale=[1, 0.5]), "the smaller first"),
        (dict(crop="resized", scale=[0.5, 1.5]), "at most 1"),
        (dict(crop="resized", ratio="34"), "two ratios"),
        (dict(crop="padded", padding=24), "lower it"),
        (dict(flip=1.5), "a probability"),
        (dict(flip=True), "a probability"),
        (dict(erasing="0.5"), "a probability"),
        (dict(color_jitter=-1), "a strength"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_transform(SIZE, settings, MEAN)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------- rows


def test_a_row_is_the_same_in_every_batch_worker_and_order():
    rows = augmented(epoch=2)
    alone = stacked([rows[index] for index in range(24)])
    assert torch.equal(stacked(rows.__getitems__(list(range(24)))), alone)
    assert torch.equal(stacked(rows.__getitems__(list(range(23, -1, -1)))).flip(0), alone)
    for size, workers in ((5, 0), (3, 2)):
        loader = DataLoader(rows, batch_size=size, sampler=range(24), num_workers=workers, collate_fn=keep)
        found = [row for batch in loader for row in batch]
        assert torch.equal(stacked(found), alone)
        assert [(row["copy"], row["index"], row["label"]) for row in found] == [
            (index // 8, index % 8, index % 8 % 3) for index in range(24)
        ]


def test_seed_epoch_index_and_copy_each_change_what_is_drawn():
    same = Augmented([ROWS[0]] * 8, make_transform(SIZE, EVERYTHING, MEAN))
    pictures = [
        row["image"].numpy().tobytes()
        for rows in (same, Augmented([ROWS[0]] * 8, same.transform, seed=1))
        for epoch in range(3)
        if rows.set_epoch(epoch) is None
        for row in rows.__getitems__(list(range(24)))
    ]
    assert len(set(pictures)) >= len(pictures) - 2  # a small crop of another may be equal, hardly ever


@pytest.mark.parametrize("policy", POLICIES)
def test_the_global_generators_do_not_notice(policy):
    rows, before = augmented(policy=policy, crop="resized", erasing=0.5, color_jitter=0.3), states()
    rows.__getitems__([0, 9, 3])
    assert states() == before


def test_the_global_generators_do_not_notice_a_failure():
    def fail(picture):
        raise OSError(f"{torch.rand(1)} {random.random()} {np.random.rand()}")

    before = states()
    with pytest.raises(OSError, match="tensor"):
        Augmented(ROWS, fail)[0]
    assert states() == before


def test_a_transform_may_draw_from_any_generator():
    def draw(picture):
        numbers = [random.random(), np.random.rand(), torch.rand(1).item()]
        return (torch.tensor(numbers)[:, None, None] * 255).byte()

    rows = Augmented(ROWS, draw, seed=4)
    first = [rows[1]["image"].tolist(), rows[9]["image"].tolist()]
    torch.rand(3), random.random(), np.random.rand()
    assert [rows[1]["image"].tolist(), rows[9]["image"].tolist()] == first
    assert all(a != b for a, b in zip(*first, strict=True))


def test_seeds_are_these_on_every_machine_and_distinct():
    assert [seed_of(0, 0, 0, 0), seed_of(1, 2, 3, 4), seed_of(2**40)] == [4237079836, 3420032413, 1156586168]
    seeds = {seed_of(a, b, c, d) for a in range(3) for b in range(5) for c in range(200) for d in range(3)}
    assert len(seeds) >= 8998


def test_iteration_ends_after_the_rows_and_the_last_is_found_from_behind():
    rows = augmented()
    assert len(list(rows)) == len(rows) == 8
    assert torch.equal(rows[-1]["image"], rows[7]["image"])
    assert rows[-1]["copy"] == 0


def test_pictures_of_any_mode_become_rgb_by_the_given_function():
    grey = [{"image": image(channels=())}]
    assert Augmented(grey, make_transform(SIZE, {}, MEAN))[0]["image"].shape == (3, *SIZE)
    red = Augmented(grey, make_transform(SIZE, {}, MEAN), to_rgb=lambda picture: Image.new("RGB", (9, 9), "red"))
    assert red[0]["image"].flatten(1).unique(dim=1).tolist() == [[255], [0], [0]]


# ---------------------------------------------------------------------------------------------------------- evaluation

PROCESSORS = {
    "squash": ViTImageProcessor(size={"height": 24, "width": 32}),
    "up": ViTImageProcessor(size={"height": 80, "width": 72}, resample=3),
    "crop": ViTImageProcessor(
        size={"shortest_edge": 36},
        do_center_crop=True,
        crop_size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    ),
    "clip": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "small_crop": ViTImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 48, "width": 48}),
    "unnormalised": ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False),
    "unrescaled": ViTImageProcessor(size={"height": 24, "width": 24}, do_rescale=False, image_mean=[3.0] * 3),
    "to_two": ViTImageProcessor(size={"height": 24, "width": 24}, rescale_factor=1 / 127.5),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("source", ["list", "datasets"])
def test_prepared_then_normalised_is_the_processor_bit_for_bit(name, source):
    shapes = [((40, 56), (3,)), ((56, 40), ()), ((32, 32), (3,)), ((40, 56), ()), ((97, 33), (3,)), ((40, 56), (4,))]
    pictures = [image(*shape, channels, seed) for seed, (shape, channels) in enumerate(shapes)]
    expected = PROCESSORS[name]([to_rgb(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
    rows = [{"image": picture} for picture in pictures]
    if source == "datasets":
        rows = Dataset.from_list(rows, features=Features(image=ImageFeature()))
    prepared, normalise = Prepared(rows, PROCESSORS[name]), Normalise.of(PROCESSORS[name])
    for found in ([prepared[index] for index in range(6)], prepared.__getitems__(list(range(6)))):
        pixels = stacked(found)
        assert pixels.dtype == torch.uint8
        assert [row["index"] for row in found] == list(range(6))
        assert not any("copy" in row for row in found)
        for values in (pixels, pixels.float()):
            before = values.clone()
            made = normalise({"pixel_values": values, "labels": 3})
            assert torch.equal(values, before)
            assert made["pixel_values"].dtype == torch.float32
            assert torch.equal(made["pixel_values"], expected)
            assert made["labels"] == 3


def test_a_processor_that_resizes_last_is_refused():
    with pytest.raises(ValueError, match="without Prepared and Normalise"):
        Prepared(ROWS, DINOv3ViTImageProcessor(size={"height": 24, "width": 24}))


@pytest.mark.parametrize("training", [True, False])
def test_pixels_are_not_normalised_twice(training):
    normalise = Normalise([0.5] * 3, [0.5] * 3)
    once = normalise({"pixel_values": torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)}, training)
    with pytest.raises(ValueError, match="normalised before"):
        normalise(once, training)


def test_a_collator_with_steps_tells_them_what_is_for_training():
    told = []

    def step(inputs, training):
        told.append(training)
        return inputs | {"pixel_values": inputs["pixel_values"] + 1}

    collate = WithSteps(lambda rows: {"pixel_values": stacked(rows)}, step, step)
    prepared = Prepared(ROWS, PROCESSORS["squash"])
    batch = collate([prepared[0], prepared[1]])
    assert torch.equal(batch["pixel_values"], stacked([prepared[0], prepared[1]]) + 2)
    collate([augmented()[0]])
    assert told == [False, False, True, True]


# ------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(("num_rows", "repeats"), [(12, 3), (10, 3), (7, 1), (2, 5), (1, 1)])
def test_an_epoch_has_num_rows_draws_each_chosen_row_in_different_copies(num_rows, repeats):
    sampler = RepeatedAugmentationSampler(num_rows, repeats, seed=5)
    seen = set()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert drawn == list(sampler)
        assert len(drawn) == len(sampler) == num_rows
        for start in range(0, num_rows, repeats):
            copies, rows = zip(*(divmod(index, num_rows) for index in drawn[start : start + repeats]), strict=True)
            assert len(set(rows)) == 1
            assert copies == tuple(range(len(copies)))
        chosen = [index for index in drawn if index < num_rows]
        assert len(set(chosen)) == len(chosen) == -(-num_rows // repeats)
        seen |= set(chosen)
    assert seen == set(range(num_rows))


def test_the_order_is_of_seed_and_epoch():
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        sampler = RepeatedAugmentationSampler(30, 3, seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert len(set(orders)) == 4


def test_with_processes_every_draw_is_dealt_out_once_and_copies_stay_together():
    sampler = RepeatedAugmentationSampler(24, 3)
    shards = [BatchSamplerShard(BatchSampler(sampler, 6, False), 2, process) for process in range(2)]
    dealt = [index for shard in shards for batch in shard for index in batch]
    assert sorted(dealt) == sorted(sampler)
    for shard in shards:
        for batch in shard:
            assert len({index % 24 for index in batch}) == 2


def test_sizes_that_cannot_be_are_refused():
    for settings in (dict(num_rows=0), dict(num_rows=3, repeats=0)):
        with pytest.raises(ValueError, match="at least 1"):
            RepeatedAugmentationSampler(**settings)
