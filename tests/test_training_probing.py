"""Probes see what is in the features and nothing else, and a training never notices them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from transformers import CLIPImageProcessor
from transformers import Trainer
from transformers import TrainerCallback
from transformers import TrainingArguments
from transformers import VisionTextDualEncoderProcessor
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers import ViTImageProcessor
from transformers import ViTModel

from modeling_vit_custom import ViTCustomDualEncoder
from modeling_vit_custom import ViTCustomDualEncoderConfig
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForMaskedImageModeling
from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.training import ImageCollator
from modeling_vit_custom.training import Numbered
from modeling_vit_custom.training import metrics
from modeling_vit_custom.training import probing
from modeling_vit_custom.training.tokenizers import word_tokenizer
from tests.support import fill
from tests.support import tiny

# scikit-learn 1.6 calls a newer scipy by its old options.
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp` and `iprint`:DeprecationWarning")
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
TRANSFORMERS = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
QUIET = dict(report_to="none", disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False)


def rows_of(count: int, seed: int = 0) -> list[dict]:
    """Noise on one of three colours; the colour is the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        pixels = rng.integers(0, 120, (32, 32, 3))
        pixels[..., index % 3] += 100
        rows.append({"image": Image.fromarray(pixels.astype(np.uint8)), "label": index % 3})
    return rows


def clusters(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, centres = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(4, 12))
    labels = np.arange(count) % 4
    return (centres[labels] + noise * rng.normal(size=(count, 12))).astype(np.float32), labels


def features_by_hand(model, rows, call):
    pixels = PROCESSOR([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return call(model.eval(), pixels)


# Each a model, and its features as its own documentation names them.
MODELS = {
    "encoder": (lambda: ViTCustomModel(tiny()), lambda m, x: m(x).pooler_output),
    "classifier": (lambda: ViTCustomForImageClassification(tiny()), lambda m, x: m.vit(x).pooler_output),
    "masked": (lambda: ViTCustomForMaskedImageModeling(tiny()), lambda m, x: m.vit(x).pooler_output),
    "transformers' encoder": (lambda: ViTModel(ViTConfig(**TRANSFORMERS)), lambda m, x: m(x).pooler_output),
    "transformers' classifier": (
        lambda: ViTForImageClassification(ViTConfig(**TRANSFORMERS)),
        lambda m, x: m.vit(x).last_hidden_state.mean(1),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_features_are_what_the_encoder_gives(name):
    make, call = MODELS[name]
    model, rows = fill(make()), rows_of(7)
    found, labels = probing.features(model, PROCESSOR, rows, batch_size=3, progress=False)
    assert (found.dtype, found.shape) == (np.float32, (7, 32))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_allclose(found, features_by_hand(model, rows, call).numpy(), rtol=1e-5, atol=1e-5)


def test_a_model_of_maps_gives_their_mean_and_one_without_tokens_a_sentence():
    class Maps(torch.nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.weight, self.outputs, self.base_model = torch.nn.Parameter(torch.ones(1)), outputs, self.answer

        def answer(self, pixel_values, return_dict):
            return self.outputs

    maps = torch.randn(2, 5, 3, 4)
    assert torch.equal(probing.pooled(Maps({"last_hidden_state": maps}), maps), maps.flatten(2).mean(2))
    assert torch.equal(probing.pooled(Maps({"pooler_output": maps[:, :, :1, :1]}), maps), maps[:, :, 0, 0])
    with pytest.raises(ValueError, match="Maps has no `pooler_output` and no `last_hidden_state`"):
        probing.pooled(Maps({"logits": maps}), maps)


def test_the_vote_is_that_of_its_formula():
    """Caron et al. 2021, by hand; at a high temperature the most frequent of the neighbours, at a low one the next."""
    (train, labels), (test, truth) = clusters(60, 3.0, 0), clusters(40, 3.0, 1)
    similarity = (
        torch.nn.functional.normalize(torch.tensor(test), dim=1)
        @ torch.nn.functional.normalize(torch.tensor(train), dim=1).T
    )
    values, indices = similarity.topk(20)
    for temperature in (0.07, 1e-4, 1e4):
        votes = torch.zeros(40, 4, dtype=torch.float64)
        weights = ((values.double() - values.double().max(1, keepdim=True).values) / temperature).exp()
        votes.scatter_add_(1, torch.tensor(labels)[indices], weights)
        expected = (votes.argmax(1).numpy() == truth).mean()
        found = probing.knn(train, labels, test, truth, temperature=temperature)
        assert found == {"knn_accuracy": pytest.approx(expected)}
    nearest = (labels[similarity.argmax(1)] == truth).mean()
    assert probing.knn(train, labels, test, truth, temperature=1e-4)["knn_accuracy"] == pytest.approx(nearest)
    assert probing.knn(7 * train, labels, test, truth) == probing.knn(
        train, labels, test, truth
    )  # only directions count
    with pytest.raises(ValueError, match="60 training images for 61 neighbours"):
        probing.knn(train, labels, test, truth, k=61)


def test_a_linear_probe_finds_a_direction_whatever_its_scale_and_the_best_penalty_is_not_chosen_on_the_test_set():
    (train, labels), (test, truth) = clusters(200, 1.0, 0), clusters(200, 1.0, 1)
    found = probing.linear_probe(train, labels, test, truth)
    mean, deviation = train.mean(0), train.std(0)
    judge = LogisticRegression(C=found["linear_probe_c"], max_iter=2000)
    judge.fit(((train - mean) / deviation).astype(np.float64), labels)
    assert found["linear_probe_accuracy"] == pytest.approx(judge.score((test - mean) / deviation, truth), abs=0.01)
    assert found["linear_probe_accuracy"] > 0.9
    scaled = probing.linear_probe(
        train * np.logspace(-3, 3, 12, dtype=np.float32), labels, test * np.logspace(-3, 3, 12), truth
    )
    assert scaled["linear_probe_accuracy"] == pytest.approx(found["linear_probe_accuracy"], abs=0.01)
    blind = probing.linear_probe(train, labels, test, np.roll(truth, 1))
    assert blind["linear_probe_c"] == found["linear_probe_c"]
    assert blind["linear_probe_accuracy"] < 0.1


def test_colours_are_found_in_an_untrained_encoder():
    model = fill(ViTCustomModel(tiny(pooling="mean")))
    sets = [
        v
        for seed, n in ((0, 90), (1, 30))
        for v in probing.features(model, PROCESSOR, rows_of(n, seed), progress=False)
    ]
    assert probing.knn(*sets)["knn_accuracy"] > 0.8
    assert probing.linear_probe(*sets)["linear_probe_accuracy"] > 0.8


def dual_encoder():
    tokenizer = word_tokenizer(["a photo of a red thing", "green", "blue", "drawing"], 16)
    text = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    text |= dict(vocab_size=len(tokenizer), max_position_embeddings=16, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    vision = dict(image_size=32, patch_size=8, hidden_sizes=[32], depths=[1], num_attention_heads=[4])
    config = ViTCustomDualEncoderConfig(projection_dim=16, vision_config=vision, text_config=text)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return fill(ViTCustomDualEncoder(config)), VisionTextDualEncoderProcessor(images, tokenizer)


def test_zero_shot_logits_are_the_dual_encoders_own_for_one_caption_a_class():
    model, processor = dual_encoder()
    rows, names = rows_of(5), ["red", "green", "blue"]
    logits, labels = probing.zero_shot(model, processor, rows, names, progress=False)
    captions = [f"a photo of a {name}." for name in names]
    inputs = processor.tokenizer(captions, padding=True, return_token_type_ids=False, return_tensors="pt")
    pixels = processor.image_processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(**inputs, pixel_values=pixels, return_loss=False).logits_per_image
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)
    found = metrics.classification(logits, labels, names)
    assert found["accuracy"] == (expected.argmax(1).numpy() == labels).mean()
    doubled = probing.zero_shot(model, processor, rows, names, ["a photo of a {}."] * 2, progress=False)[0]
    np.testing.assert_allclose(doubled, logits, rtol=1e-4, atol=1e-4)
    mixed = probing.zero_shot(model, processor, rows, names, ["a photo of a {}.", "drawing {}"], progress=False)[0]
    assert np.abs(mixed - logits).max() > 1e-3
    with pytest.raises(ValueError, match="ViTCustomModel reads no texts"):
        probing.zero_shot(fill(ViTCustomModel(tiny())), PROCESSOR, rows, names)


def test_modes_and_random_numbers_are_as_before():
    model = ViTCustomForImageClassification(tiny(hidden_dropout_prob=0.5, drop_path_rate=0.5)).train()
    model.classifier.eval()
    modes = {name: module.training for name, module in model.named_modules()}

    def state():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    class Draws(list):
        def __getitem__(self, index):
            torch.rand(1), random.random(), np.random.rand()
            return super().__getitem__(index)

    before = state()
    first = probing.features(model, PROCESSOR, Draws(rows_of(4)), progress=False)[0]
    assert state() == before
    assert {name: module.training for name, module in model.named_modules()} == modes
    again = probing.features(model, PROCESSOR, rows_of(4), batch_size=1, progress=False)[0]
    np.testing.assert_allclose(first, again, atol=1e-5)
    with probing.frozen(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    with pytest.raises(ValueError, match="choose a data set with classes"):
        probing.features(model, PROCESSOR, [{"image": None}])
    assert {name: module.training for name, module in model.named_modules()} == modes


def probe(**settings) -> probing.ProbeCallback:
    return probing.ProbeCallback(rows_of(24), rows_of(9, seed=1), PROCESSOR, **settings)


class Reads(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def trained(folder, with_probe=None, log=False, kind=Trainer, **settings):
    torch.manual_seed(0)
    model = ViTCustomForImageClassification(tiny(num_labels=3, hidden_dropout_prob=0.2))
    arguments = TrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=4, eval_strategy="epoch", **QUIET | settings
    )
    rows, reads = Numbered(rows_of(8)), Reads()
    collate = ImageCollator(PROCESSOR, 3)
    trainer = kind(model, arguments, collate, rows, rows, callbacks=[reads])
    if with_probe is not None:
        with_probe.log = trainer.log if log else None
        trainer.add_callback(with_probe)
    trainer.train()
    return trainer, reads


@pytest.mark.parametrize("every", ["evaluate", "epoch"])
def test_a_training_with_probes_ends_with_the_same_weights_bit_for_bit(every, tmp_path):
    plain, _ = trained(tmp_path)
    probed, _ = trained(tmp_path, probe(every=every))
    for one, other in zip(plain.model.parameters(), probed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    told = [entry for entry in probed.state.log_history if "eval_knn_accuracy" in entry]
    assert [entry["step"] for entry in told] == [2, 4]
    assert [entry["epoch"] for entry in told] == [1, 2]
    assert all(("eval_loss" in entry) == (every == "evaluate") for entry in told)
    untold = [
        {key: value for key, value in entry.items() if key in ("loss", "eval_loss", "step")}
        for entry in probed.state.log_history
    ]
    expected = [
        {key: value for key, value in entry.items() if key in ("loss", "eval_loss", "step")}
        for entry in plain.state.log_history
    ]
    assert [entry for entry in untold if "eval_loss" in entry] == [e for e in expected if "eval_loss" in e]


def test_a_probe_reaches_the_result_the_choice_of_the_best_and_every_reporter(tmp_path):
    settings = dict(metric_for_best_model="eval_knn_accuracy", save_strategy="best")
    trainer, reads = trained(tmp_path, probe(kinds=("knn", "linear")), log=True, **settings)
    sets = [
        part
        for rows in (rows_of(24), rows_of(9, seed=1))
        for part in probing.features(trainer.model, PROCESSOR, rows, progress=False)
    ]
    expected = probing.knn(*sets) | probing.linear_probe(*sets)
    logged = [entry for entry in reads.logs if "eval_knn_accuracy" in entry]
    assert len(logged) == 2
    for name, value in expected.items():
        assert logged[-1][f"eval_{name}"] == value
        assert trainer.evaluate()[f"eval_{name}"] == value
    assert trainer.state.best_metric == max(entry["eval_knn_accuracy"] for entry in logged)


def test_what_cannot_be_probed_is_said_before_the_training(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`every='step'` is no moment to probe at: choose one of evaluate, epoch"):
        probe(every="step")
    with pytest.raises(ValueError, match="'linaer' is no probe: choose of knn, linear"):
        probe(kinds=("knn", "linaer"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "True")
    with pytest.raises(ValueError, match="train without FSDP and DeepSpeed"):
        probe().on_train_begin(None, None, None)
