"""The scripts do their steps: train, and predict as a stranger in another process."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers import AutoModelForImageClassification

from modeling_vit_custom.checkpoint_files import AUTO_MAP
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from modeling_vit_custom.training import load_digits
from scripts import measure
from scripts import train
from tests.recipes import short_quickstart
from tests.support import PRESETS
from tests.support import ROOT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The quickstart, cut to two epochs."""
    work = tmp_path_factory.mktemp("train")
    recipe = short_quickstart(work)
    return recipe, train.main([str(recipe)])


def test_a_trained_folder_is_ready_for_the_hub(trained):
    recipe, folder = trained
    names = {path.name for path in (folder / "checkpoint").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", *SHIPPED_FILES}
    assert json.loads((folder / "checkpoint/config.json").read_text())["auto_map"] == AUTO_MAP
    card = (folder / "checkpoint/README.md").read_text()
    assert "library_name: transformers" in card
    assert "held-out images" in card
    assert f"| command | vit-custom train {recipe.name} |" in card
    assert json.loads((folder / "run.json").read_text()) == {"run": "short"}
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint",
        "examples",
        "history.csv",
        "history.png",
        "metrics.json",
        "mistakes.csv",
        "recipe.yaml",
        "run.json",
    }


def test_the_cards_number_is_the_checkpoints_on_the_held_out_images(trained):
    """Recomputed by hand, without Trainer, collator or metric."""
    _, folder = trained
    model = AutoModelForImageClassification.from_pretrained(folder / "checkpoint").eval()
    processor = AutoImageProcessor.from_pretrained(folder / "checkpoint")
    held_out = load_digits(seed=0)["test"]
    inputs = processor([image.convert("RGB") for image in held_out["image"]], return_tensors="pt")
    with torch.no_grad():
        hits = model(**inputs).logits.argmax(-1) == torch.tensor(held_out["label"])
    card = (folder / "checkpoint/README.md").read_text()
    assert f"| accuracy | {hits.float().mean():.4f} | 0.1" in card  # a tenth for any class alone
    assert "1,437 images" in card
    assert "10 classes" in card


def test_a_stranger_in_another_process_predicts_ten_images_and_draws_them(trained, tmp_path):
    _, folder = trained
    command = [sys.executable, "-P", str(ROOT / "scripts/load_as_stranger.py"), str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    truth = json.loads((folder / "examples/labels.json").read_text())
    rows = [line.split() for line in done.stdout.splitlines() if ".png " in line]
    assert [row[:2] for row in rows] == [[name, label] for name, label in truth.items()]
    assert len(rows) == 10
    assert "AutoModelForImageClassification agrees" in done.stdout
    with Image.open(folder / "predictions.png") as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("L").getcolors()) > 10


def test_a_folder_of_somebody_else_is_refused_before_the_training_starts(trained, tmp_path):
    recipe, _ = trained
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="move it away"):
        train.main([str(recipe), "--output_dir", str(tmp_path / "run")])
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_a_measured_row_holds_the_counts_and_the_differences():
    (tiny,) = (preset for preset in PRESETS if preset.stem == "vit_tiny_patch16_224")
    name, parameters, gmacs, timm, transformers = measure.preset_row(tiny).strip("|\n ").split(" | ")
    assert (name, parameters, gmacs) == ("vit_tiny_patch16_224", "5,717,416", "1.2537")
    assert float(timm) <= 1e-9
    assert float(transformers) <= 1e-9
    measured = (ROOT / "docs/parity.md").read_text()
    assert len([line for line in measured.splitlines() if line.startswith("| vit_tiny_patch16_224 | ")]) == 2
