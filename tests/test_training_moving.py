"""Augmentation of scenes: masks and boxes stay on what they were on, whatever the picture goes through."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeling_vit_custom.training import data
from modeling_vit_custom.training.moving import LEAST
from modeling_vit_custom.training.moving import AugmentedScenes
from modeling_vit_custom.training.moving import MovingTogether
from scripts import train
from tests.recipes import write_recipe
from tests.test_training_tasks import CONFIGS
from tests.test_training_tasks import eight_pictures

SIZE, FILL, IGNORED = (48, 64), (10, 20, 30), 255
EVERY = {
    "flip": dict(flip=0.5),
    "crop": dict(crop="resized"),
    "small crops": dict(crop="resized", scale=(0.05, 0.3), flip=0.5),
    "scale jitter": dict(scale_jitter=(0.3, 2.0), flip=0.5),
    "colours": dict(color_jitter=0.4),
    "all": dict(crop="resized", flip=0.5, color_jitter=0.4, interpolation="nearest"),
}
settings = pytest.mark.parametrize("settings", EVERY.values(), ids=EVERY)


def scene(seed: int, height: int = 53, width: int = 71, count: int = 4) -> dict:
    """Rectangles whose mask, boxes and colours are one; the larger numbers lie on top, and no two touch."""
    draw = np.random.default_rng(seed)
    mask, boxes = np.zeros((height, width), np.uint8), []
    for number in range(count):  # each in a quarter of its own
        top, left = (number // 2) * height // 2, (number % 2) * width // 2
        high, wide = draw.integers(6, height // 2 - 3), draw.integers(6, width // 2 - 3)
        y, x = top + draw.integers(0, height // 2 - high), left + draw.integers(0, width // 2 - wide)
        mask[y : y + high, x : x + wide] = number + 1
        boxes.append([float(x), float(y), float(wide), float(high)])
    image = Image.fromarray(np.stack([mask * 50] * 3, -1))
    objects = dict(bbox=boxes, category=list(range(count)), id=[f"object {number}" for number in range(count)])
    return dict(image=image, mask=Image.fromarray(mask), objects=objects, width=width, height=height, image_id=seed)


def moved(settings: dict, row: dict, seed: int = 0) -> dict:
    return AugmentedScenes([row], MovingTogether(SIZE, settings, FILL), seed)[0]


@settings
@pytest.mark.parametrize("seed", range(12))
def test_boxes_drawn_as_masks_and_moved_as_masks_stay_the_boxes(settings, seed):
    made = moved(settings, scene(seed), seed)
    mask, objects = np.asarray(made["mask"]), made["objects"]
    assert mask.shape == (made["height"], made["width"]) == made["image"].size[::-1]
    for box, category in zip(objects["bbox"], objects["category"], strict=True):
        rows, columns = np.nonzero(mask == category + 1)
        left, top, wide, high = box
        assert min(wide, high) >= LEAST
        assert left >= 0 <= top
        assert left + wide <= mask.shape[1] + 1e-3
        assert top + high <= mask.shape[0] + 1e-3
        if not len(rows):  # thinner than a pixel of the mask
            assert min(wide, high) < 2
            continue
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(edges, [left, top, left + wide, top + high], atol=1.01)
    gone = {*range(4)} - {*objects["category"]}
    for category in gone:
        rows, columns = np.nonzero(mask == category + 1)
        assert not len(rows) or min(np.ptp(rows), np.ptp(columns)) <= LEAST
    assert objects["id"] == [f"object {category}" for category in objects["category"]]


@settings
def test_a_mask_moves_with_the_colours_of_its_pixels(settings):
    """Nearest pixels: the picture is its mask times 50, and where nothing is known both say so."""
    if "color_jitter" in settings:
        settings = {name: value for name, value in settings.items() if name != "color_jitter"}
    for seed in range(6):
        made = moved(settings | dict(interpolation="nearest"), scene(seed), seed)
        mask, image = np.asarray(made["mask"]).astype(int), np.asarray(made["image"]).astype(int)
        known = mask != IGNORED
        np.testing.assert_array_equal(image[..., 0][known], 50 * mask[known])
        assert (image[~known] == FILL).all()
        assert set(np.unique(mask)) <= {*range(5), IGNORED}


@settings
def test_no_class_is_invented_between_two(settings):
    for seed in range(6):
        assert set(np.unique(np.asarray(moved(settings, scene(seed), seed)["mask"]))) <= {*range(5), IGNORED}


def test_colours_move_nothing_and_a_flip_twice_is_none():
    row = scene(3)
    made = moved(dict(color_jitter=0.5), row)
    assert made["objects"] == row["objects"]
    assert np.array_equal(np.asarray(made["mask"]), np.asarray(row["mask"]))
    assert not np.array_equal(np.asarray(made["image"]), np.asarray(row["image"]))
    twice = moved(dict(flip=1.0), moved(dict(flip=1.0), row) | dict(epoch=0))
    assert np.array_equal(np.asarray(twice["image"]), np.asarray(row["image"]))
    assert twice["objects"] == row["objects"]


def test_without_a_setting_a_row_is_what_it_was():
    row = scene(1)
    made = moved({}, row)
    assert all(made[name] is row[name] for name in ("mask", "objects", "image_id"))
    assert np.array_equal(np.asarray(made["image"]), np.asarray(row["image"]))


@settings
def test_rows_stay_as_they_were_and_no_batch_changes_what_is_drawn(settings):
    rows = [scene(seed) for seed in range(6)]
    before = copy.deepcopy(rows)
    made = AugmentedScenes(rows, MovingTogether(SIZE, settings, FILL), seed=7)
    alone = [made[index] for index in range(6)]
    batches = [made.__getitems__(list(part)) for part in ((5, 0), (1, 2, 3, 4))]
    shuffled = dict(zip((5, 0, 1, 2, 3, 4), [row for batch in batches for row in batch], strict=True))
    loaded = [row for batch in DataLoader(made, 2, num_workers=2, collate_fn=list) for row in batch]
    for index in range(6):
        for other in (shuffled[index], loaded[index]):
            assert other["objects"] == alone[index]["objects"]
            assert np.array_equal(np.asarray(other["image"]), np.asarray(alone[index]["image"]))
    for row, was in zip(rows, before, strict=True):
        assert row["objects"] == was["objects"]
        assert np.array_equal(np.asarray(row["mask"]), np.asarray(was["mask"]))
    made.set_epoch(1)
    assert any(made[index]["objects"] != alone[index]["objects"] for index in range(6)) or "color_jitter" in settings


def test_a_scene_without_objects_is_one_too():
    row = scene(0, count=0)
    for one in EVERY.values():
        assert moved(one, row)["objects"]["bbox"] == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(policy="rand_augment"), "`policy` in augmentation is for pictures alone"),
        (dict(erasing=0.5), "`erasing` in augmentation is for pictures alone"),
        (dict(flipp=0.5), "no setting `flipp`: did you mean `flip`"),
        (dict(crop="padded"), "`crop: padded` in augmentation is none"),
        (dict(flip=2), "`flip: 2` in augmentation must be a probability"),
        (dict(scale=(0.5, 1)), "`scale` has an effect only with `crop: resized`"),
        (dict(scale_jitter=0.5), "`scale_jitter` in augmentation must be two factors"),
        (dict(scale_jitter=(0.5, 2), crop="resized"), "both choose a part"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        MovingTogether(SIZE, settings, FILL)


@pytest.mark.parametrize("task", ["image-segmentation", "object-detection"])
def test_a_run_learns_from_augmented_scenes(task, tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "eight_pictures", eight_pictures)
    given = dict(task=task, dataset="eight_pictures", config_overrides=CONFIGS[task], output_dir=str(tmp_path / "run"))
    given |= dict(mix=None, ema=None, max_steps=3, gradient_accumulation_steps=1, save_strategy="no", use_cpu=True)
    given |= dict(layer_decay=1.0, eval_strategy="no", per_device_train_batch_size=4)
    weights = []
    for augmentation in (dict(crop="resized", flip=0.5, color_jitter=0.2), dict(scale_jitter=[0.5, 1.5]), None):
        path = write_recipe(tmp_path, **given | dict(augmentation=augmentation))
        folder = train.main([str(path), "--overwrite"])
        weights.append(json.loads((folder / "metrics.json").read_text())["weights"]["model.safetensors"])
    assert len(set(weights)) == 3
    assert torch.isfinite(torch.tensor(json.loads((folder / "metrics.json").read_text())["reached"]["loss"]))
