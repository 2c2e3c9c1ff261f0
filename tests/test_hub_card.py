"""A card tells what was measured, of these very files, and its code runs for a stranger."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from huggingface_hub import RepoCard
from transformers import ViTImageProcessor

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from modeling_vit_custom.hub import HubProblem
from modeling_vit_custom.hub import check
from modeling_vit_custom.hub import keeps_its_own_card
from modeling_vit_custom.hub import sha256
from modeling_vit_custom.hub import write_card
from tests.clean_process import push_folder
from tests.clean_process import run
from tests.clean_process import run_text
from tests.matrix import make
from tests.minihub import MiniHub
from tests.minihub import front_matter
from tests.support import ROOT
from tests.support import fill
from tests.support import tiny
from tests.toys import written

TEMPLATE = ROOT / "model_card.md"
MEASURED = dict(
    task="image-classification",
    dataset="some_set",
    dataset_source="hub",
    dataset_id="alice/some_set",
    num_train_images=1234,
    num_test_images=56,
    metric="accuracy",
    reached={"accuracy": 0.98765, "runtime": 3.0},
    baseline={"accuracy": 0.25},
    seed=7,
    seconds=12.3,
    recipe="some.yaml",
    recipe_text="dataset: some_set",
    certificate={"command": "make it", "hardware": "a machine", "versions": "torch 2", "commit": "abc"},
)
PARITY = dict(source=dict(kind="timm-vit"), largest=dict(float32=2e-7), differences={})
SOURCE = {"name": "google/vit-tiny", "revision": "0" * 40}


@pytest.fixture
def folder(tmp_path):
    config = tiny(num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    fill(ViTCustomForImageClassification(config)).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def card_of(folder, **settings) -> str:
    return write_card(folder, TEMPLATE, **settings).read_text()


def test_measured_numbers_stand_in_the_text_and_in_the_metadata(folder):
    written("metrics.json", json.dumps(MEASURED))(folder)
    written("predictions.png", b"x")(folder)
    card = card_of(folder, repo="alice/some-model", revision="v3", license="mit")
    parsed = ModelCard(card).data
    (result,) = parsed.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.9877, "some_set")
    assert (parsed.license, parsed.library_name, parsed.pipeline_tag) == ("mit", "transformers", "image-classification")
    assert (parsed.datasets, parsed.metrics, parsed.model_name) == (["alice/some_set"], ["accuracy"], "some-model")
    assert result.dataset_type == "alice/some_set"
    assert "custom_code" in parsed.tags
    assert parsed.get("base_model") is None
    for text in (
        "| accuracy | 0.9877 | 0.2500 |",
        "2 classes: cat, dog",
        "1,234 images",
        "56 held-out images",
        "| hardware | a machine |",
        "| time | 12 s |",
        "```yaml\ndataset: some_set\n```",
        "(predictions.png)",
        'revision="v3"',
    ):
        assert text in card, text
    assert "energy" not in card  # nobody measured it
    assert "It has seen some_set only" in card
    written("metrics.json", json.dumps(MEASURED | {"dataset_source": "local", "dataset_id": None}))(folder)
    parsed = ModelCard(card_of(folder)).data
    assert parsed.get("datasets") is None
    assert parsed.get("license") is None
    assert parsed.eval_results[0].dataset_type == "local"
    began = {"init_from": "mae", "base_model": "alice/mae", "num_train_images": None}
    written("metrics.json", json.dumps(MEASURED | began))(folder)
    card = card_of(folder)
    assert "It was last trained on some_set, and answers" in card
    assert "Its training began from [alice/mae](https://huggingface.co/alice/mae)." in card
    assert "| began from | mae |" in card
    assert "| data | some_set |" in card  # a stream, which nobody counted
    assert ModelCard(card).data.base_model == "alice/mae"
    written("metrics.json", json.dumps(MEASURED | {"energy_kwh": 0.5}))(folder)
    assert "| energy | 0.500 kWh, measured |" in card_of(folder)


def test_nothing_is_told_that_was_not_measured(folder):
    card = card_of(folder)
    assert "No measured results came with these weights." in card
    parsed = ModelCard(card).data
    assert parsed.eval_results is None
    assert parsed.get("metrics") is None
    assert parsed.get("datasets") is None
    assert "not recorded" in card
    assert not re.search(r"more information needed|\{\{|\{%|None|nan", card, flags=re.IGNORECASE)


def test_a_converted_model_names_its_source_and_its_parity(folder):
    written("parity.json", json.dumps(PARITY))(folder)
    written("source.json", json.dumps(SOURCE))(folder)
    card = card_of(folder)
    assert ModelCard(card).data.base_model == "google/vit-tiny"
    assert f"[google/vit-tiny](https://huggingface.co/google/vit-tiny) at commit `{'0' * 40}`" in card
    assert "Converted from timm-vit: outputs and gradients differ by at most 2.0e-07" in card


def test_the_card_lists_the_sha256_of_every_file_of_code_and_weights(folder):
    card = card_of(folder)
    listed = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE))
    assert listed == {name: sha256(folder / name) for name in (*SHIPPED_FILES, "model.safetensors")}
    assert check(folder, run=False).findings == []


MODELS = {
    "classifier": lambda: ViTCustomForImageClassification(tiny()),
    "encoder": lambda: ViTCustomModel(tiny()),
    "masked": lambda: ViTCustomForMaskedImageModeling(tiny()),
    "image-text": lambda: make(head="image-text", member="vit"),
    "detection": lambda: make(head="detection", member="vit"),
    "segmentation": lambda: make(head="segmentation", member="vit"),
}


def test_the_code_of_every_card_runs_for_a_stranger_and_its_front_matter_is_valid(folder, tmp_path):
    """Pinned to the tag that the card names, from a loopback Hub, in a clean process."""
    jobs, codes = {}, {}
    with MiniHub() as hub:
        for name, made in MODELS.items():
            target = tmp_path / name
            fill(made()).save_pretrained(target)
            card = card_of(target, repo=f"alice/{name}", revision="v1")
            assert front_matter(card)[1:] == ([], [])
            RepoCard(card, ignore_metadata_errors=False)
            jobs[f"push {name}"] = push_folder, dict(folder=target, repo=f"alice/{name}", tag="v1")
            codes[name] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        card = card_of(folder, repo="alice/images", revision="v1")
        jobs["push images"] = push_folder, dict(folder=folder, repo="alice/images", tag="v1")
        codes["images"] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        run(jobs, tmp_path / "author", HF_ENDPOINT=hub.url, HF_TOKEN=hub.token())
        texts = {name: (run_text, dict(text="\n".join(blocks))) for name, blocks in codes.items()}
        answers = run(texts, tmp_path / "stranger", HF_ENDPOINT=hub.url)
    for name, blocks in codes.items():
        assert len(blocks) == 1
        assert 'revision="v1"' in blocks[0]
        assert answers[name]["warnings"] == [], name
    said = answers["images"]["printed"]
    assert "cat" in said
    assert "dog" in said


def test_somebodys_own_card_is_kept_unless_it_has_gaps(folder):
    assert not keeps_its_own_card(folder)
    card_of(folder)
    assert not keeps_its_own_card(folder)
    written("README.md", "---\nlicense: mit\n---\n# Mine\n")(folder)
    assert keeps_its_own_card(folder)
    for text, sentence in {
        "---\nlicense: mit\n---\n# Mine\n\nMore information needed\n": "has a gap, 'More information needed'",
        "---\nlicense: mit\n---\n# Model Card for Model ID\n": "has a gap",
        "# No front matter\n": "it names no license",
        "---\nlicense: [\n---\n": "the front matter of README.md cannot be used",
    }.items():
        written("README.md", text)(folder)
        with pytest.raises(HubProblem, match=sentence):
            keeps_its_own_card(folder)
    shutil.rmtree(folder)
