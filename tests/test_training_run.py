"""Whole runs by scripts/train.py on data of one's own: streams, other classes, and settings that do not go together."""

import io
import json
import re

import pytest
from datasets import Dataset
from PIL import Image

from scripts.train import main as train
from tests.recipes import write_recipe
from tests.support import ROOT

SHORT = dict(max_steps=2, save_strategy="no", eval_strategy="no", gradient_accumulation_steps=1, mix=None, ema=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image folder of three classes."""
    folder = tmp_path_factory.mktemp("own")
    for split, count in (("train", 6), ("test", 3)):
        for name in "abc":
            place = folder / "pictures" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 12), (20 * number, ord(name), 3)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return str(write_recipe(folder, **SHORT, per_device_train_batch_size=6))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_is_trained_on_read_at_once_or_as_a_stream(recipe, folder, tmp_path, streaming):
    words = ["--dataset", str(folder / "pictures"), "--streaming", str(streaming).lower()]
    run = train([recipe, *words, "--output_dir", str(tmp_path / "run")])
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["num_test_images"] == 9
    assert figures["num_train_images"] == (None if streaming else 18)
    assert json.loads((run / "checkpoint/config.json").read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_a_preset_may_be_pasted_whole_and_the_classes_are_the_datas(recipe, folder, tmp_path, capsys):
    preset = json.loads((ROOT / "configs/models/vit_tiny_patch16_224.json").read_text())
    small = dict(image_size=16, patch_size=8, hidden_sizes=[16], depths=[1], num_attention_heads=[2])
    words = ["--dataset", str(folder / "pictures"), "--config_overrides", json.dumps(preset | small)]
    run = train([recipe, *words, "--output_dir", str(tmp_path / "run")])
    assert json.loads((run / "checkpoint/config.json").read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert "The data have 3 classes, which count, not `num_labels: 1000`." in capsys.readouterr().out
    assert (run / "mistakes.csv").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "{mixup_alpha: a}"], "sets `mix` to {'mixup_alpha': 'a'}, which cannot be meant"),
        (["--ema", "{decay: x}"], "sets `ema` to {'decay': 'x'}, which cannot be meant"),
        (["--per_device_eval_batch_size", "0"], "has `per_device_eval_batch_size: 0`: write a number from 1 on"),
        (["--split_seed", "-3"], "has `split_seed: -3`: write a number from 0 on"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_before_training(recipe, folder, tmp_path, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train([recipe, "--dataset", str(folder / "pictures"), *words, "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_that_pipeline_sees_otherwise_are_counted_and_said(recipe, tmp_path, capsys, streaming):
    for split, sheer in (("train", "01"), ("test", "2")):
        for name in "ab":
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for number in "01234":
                picture = Image.new("RGBA", (12, 12), (9, 200, 3, 40 if number in sheer else 255))
                picture.save(place / f"{number}.png")
    Image.new("I;16", (12, 12), 9000).save(tmp_path / "data/test/a/4.png")
    words = ["--dataset", str(tmp_path / "data"), "--streaming", str(streaming).lower()]
    run = train([recipe, *words, "--output_dir", str(tmp_path / "run"), "--num_examples", "2"])
    found = json.loads((run / "metrics.json").read_text())["pictures_pipeline_sees_otherwise"]
    assert {kind: row["count"] for kind, row in found.items()} == {
        "transparent": 2 if streaming else 6,
        "deeper than 8 bits": 1,
    }
    said = capsys.readouterr().out
    assert f"{2 if streaming else 6} of {10 if streaming else 20} pictures are transparent: transformers'" in said
    for row in found.values():
        assert "\n    ".join(row["convert"]) in said


def test_a_stream_leaves_out_corrupt_images_whatever_their_column_is_called(recipe, tmp_path, capsys):
    good = io.BytesIO()
    Image.new("RGB", (9, 9), (3, 90, 200)).save(good, "PNG")
    for split in ("train", "test"):
        pictures = [{"bytes": good.getvalue(), "path": None}] * 12
        if split == "train":
            pictures[4] = {"bytes": good.getvalue()[:40], "path": None}
        rows = Dataset.from_dict({"picture": pictures, "label": [0, 1] * 6})
        (tmp_path / "data").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / f"data/{split}.parquet")
    words = ["--dataset", str(tmp_path / "data"), "--streaming", "--image_column", "picture", "--label_column", "label"]
    words += ["--dataset_settings.class_names", "[no, yes]", "--corrupt_images", "skip", "--max_steps", "4"]
    from datasets import Features
    from datasets import Image as Pictures
    from datasets import Value

    for split in ("train", "test"):  # with the type that says that these are images
        rows = Dataset.from_parquet(str(tmp_path / f"data/{split}.parquet"), cache_dir=str(tmp_path / "cache"))
        rows = rows.cast(Features({"picture": Pictures(decode=False), "label": Value("int64")}))
        rows.to_parquet(tmp_path / f"data/{split}.parquet")
    run = train([recipe, *words, "--output_dir", str(tmp_path / "run"), "--shuffle_buffer", "0"])
    assert (run / "metrics.json").is_file()
    assert "left out 1 corrupt images" in capsys.readouterr().out


def test_a_checkpoint_goes_on_with_other_classes(recipe, folder, tmp_path, capsys):
    first = train([recipe, "--output_dir", str(tmp_path / "first")])
    words = ["--dataset", str(folder / "pictures"), "--init_from", str(first / "checkpoint")]
    run = train([recipe, *words, "--output_dir", str(tmp_path / "second")])
    assert len(json.loads((run / "checkpoint/config.json").read_text())["id2label"]) == 3
    assert "first/checkpoint none keep their rows; new: a, b, c; left out: 0, 1, 2" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="result of a run that ended, so there is nothing to resume"):
        train([recipe, "--output_dir", str(tmp_path / "first"), "--resume_from_checkpoint"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--ema.decay 0.9 --load_best_model_at_end --eval_strategy epoch --save_strategy epoch".split(),
            "the result is the last average",
        ),
        (["--model_type", "resnet", "--config_overrides", "{}", "--lora.r", "4"], "the new head would not be trained"),
        (["--repeated_augmentation", "3", "--streaming"], "a stream gives each image once"),
        (["--config_overrides.depht", "3"], "unknown key `depht`: did you mean `depths`"),
        (["--mix.mixup_alpha", "0.1", "--label_smoothing_factor", "0.1"], "which Trainer leaves out"),
        (["--task", "image-segmentation", "--repeated_augmentation", "2"], "needs mask, which"),
    ],
)
def test_what_would_be_without_effect_is_refused(recipe, tmp_path, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        train([recipe, *words, "--output_dir", str(tmp_path / "run")])
