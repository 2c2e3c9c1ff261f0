"""Mixup and CutMix: labels weigh as the pixels do, timm mixes alike, and no split of a batch changes the gradient."""

import random

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader
from transformers import ResNetConfig
from transformers import ResNetForImageClassification
from transformers import Trainer
from transformers import TrainingArguments
from transformers import ViTConfig
from transformers import ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training.augmentation import Augmented
from modeling_vit_custom.training.augmentation import Normalise
from modeling_vit_custom.training.augmentation import WithSteps
from modeling_vit_custom.training.mixing import Mix
from modeling_vit_custom.training.mixing import MixPixels
from modeling_vit_custom.training.mixing import draw_box
from modeling_vit_custom.training.mixing import soft_cross_entropy
from modeling_vit_custom.training.mixing import teacher_mix
from tests.support import fill
from tests.support import tiny

NUM_LABELS = 5
KEYS = {"mix_partner", "mix_ratio", "mix_box"}
HALVES = Normalise([0.5] * 3, [0.5] * 3)
KINDS = {"mixup": dict(cutmix_alpha=0.0), "cutmix": dict(mixup_alpha=0.0), "both": {}, "rarely": dict(prob=0.3)}


def row(index: int, epoch: int = 0, copy: int = 0, size: tuple[int, int] = (13, 17)) -> dict:
    pixels = np.random.default_rng(index).integers(0, 256, (3, *size), dtype=np.uint8)
    return {
        "image": torch.from_numpy(pixels),
        "label": index % NUM_LABELS,
        "index": index,
        "epoch": epoch,
        "copy": copy,
    }


def batch_of(count: int, epoch: int = 0, **settings) -> list[dict]:
    return [row(index, epoch, **settings) for index in range(count)]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    labels = torch.tensor([row["label"] for row in rows])
    return {"pixel_values": torch.stack([row["image"] for row in rows]), "labels": labels}


def collate_floats(rows: list[dict]) -> dict[str, torch.Tensor]:
    return HALVES(collate(rows))


def mix(**settings) -> Mix:
    return Mix(collate, **{"num_labels": NUM_LABELS, **settings})


# --------------------------------------------------------------------------------------------------- labels and pixels


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_labels_weights_are_the_pixels_shares(count):
    """Each image is of its class's colour: then what is seen of a class can be counted."""
    rows = [
        one | {"image": torch.full((3, 13, 17), 50 * one["label"], dtype=torch.uint8)}
        for one in batch_of(min(count, NUM_LABELS))
    ]
    areas = set()
    for epoch in range(40):
        rows = [one | {"epoch": epoch} for one in rows]
        batch = MixPixels()(mix(mixup_alpha=0, label_smoothing=0)(rows))
        colours = 50.0 * torch.arange(NUM_LABELS)
        seen = (batch["pixel_values"][:, 0, :, :, None] == colours).float().sum((1, 2))
        assert seen.sum(1).tolist() == [13 * 17] * len(rows)
        # The own weight is the float32 next to the share; the partner's is what remains of 1.
        torch.testing.assert_close(batch["labels"], (seen.double() / (13 * 17)).float(), rtol=0, atol=1e-7)
        areas |= set(seen.flatten().tolist())
        mixed = MixPixels()(mix(cutmix_alpha=0, label_smoothing=0)(rows))
        colour = batch["labels"].new_tensor(colours.tolist())
        torch.testing.assert_close(mixed["pixel_values"][:, 0, 3, 4], mixed["labels"] @ colour)
    assert count == 1 or len(areas) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_commutes_with_normalisation(kind):
    for epoch in range(10):
        rows = batch_of(5, epoch)
        late = HALVES(MixPixels()(mix(**KINDS[kind])(rows)))
        here = HALVES(mix(on_device=False, **KINDS[kind])(rows))
        early = Mix(collate_floats, NUM_LABELS, on_device=False, **KINDS[kind])(rows)
        assert late.keys() == here.keys() == early.keys() == {"pixel_values", "labels"}
        assert torch.equal(late["pixel_values"], here["pixel_values"])
        torch.testing.assert_close(late["pixel_values"], early["pixel_values"], rtol=0, atol=1e-6)
        assert torch.equal(late["labels"], early["labels"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_timm_mixes_alike(kind, smoothing, monkeypatch):
    for epoch in range(10):
        batch = mix(label_smoothing=smoothing, **KINDS[kind])(batch_of(6, epoch))
        ratio, (top, left, bottom, right) = float(batch["mix_ratio"][0]), batch["mix_box"][0].tolist()
        theirs = timm_mixup.Mixup(label_smoothing=smoothing, num_classes=NUM_LABELS)
        # Of CutMix timm gets the box alone, and finds the ratio by it.
        given = ratio if kind == "mixup" else 0.123
        monkeypatch.setattr(theirs, "_params_per_batch", lambda given=given: (given, kind == "cutmix"))
        box = (top, bottom, left, right)
        monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *args, box=box, **settings: box)
        plain = collate(batch_of(6))
        pixels, labels = theirs(plain["pixel_values"].float(), plain["labels"])
        ours = MixPixels()(batch)
        torch.testing.assert_close(ours["pixel_values"], pixels, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(ours["labels"], labels, rtol=0, atol=1e-6)
        if kind == "cutmix":
            assert torch.equal(ours["pixel_values"], pixels)


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.3, 0.77, 1.0])
def test_timm_draws_the_same_box_around_the_same_pixel(ratio, monkeypatch):
    class Given:
        def __init__(self, *centre):
            self.centre = list(centre)

        def integers(self, high):
            return self.centre.pop(0)

        def randint(self, low, high, size=None):
            assert low == 0
            return self.integers(high)

    for centre in [(0, 0), (12, 16), (6, 8), (3, 15)]:
        monkeypatch.setattr(timm_mixup.np, "random", Given(*centre))
        top, bottom, left, right = timm_mixup.rand_bbox((13, 17), ratio)
        assert draw_box(Given(*centre), 13, 17, ratio) == (top, left, bottom, right)


def test_each_row_is_mixed_by_its_own_partner_ratio_and_box():
    pixels = collate(batch_of(5))["pixel_values"].float()
    partner, ratio = torch.tensor([2, 2, 0, 1, 3]), torch.tensor([0.25, 0.5, 0.0, 1.0, 0.5])
    box = torch.tensor([[0, 0, 0, 0], [2, 3, 7, 17], [5, 5, 5, 9], [0, 0, 13, 17], [2, 5, 7, 5]])
    inputs = dict(pixel_values=pixels, mix_partner=partner, mix_ratio=ratio, mix_box=box, labels=ratio)
    mixed = MixPixels()(inputs)["pixel_values"]
    torch.testing.assert_close(mixed[0], 0.25 * pixels[0] + 0.75 * pixels[2])
    inside = torch.zeros(13, 17, dtype=torch.bool)
    inside[2:7, 3:17] = True
    assert torch.equal(mixed[1], torch.where(inside, pixels[2], pixels[1]))
    assert torch.equal(mixed[2], pixels[0])
    assert torch.equal(mixed[3], pixels[1])
    torch.testing.assert_close(mixed[4], 0.5 * pixels[4] + 0.5 * pixels[3])
    labels = teacher_mix(torch.eye(5)[:, :4], partner, ratio)
    assert labels.tolist() == [[0.25, 0, 0.75, 0], [0, 0.5, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0.5]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_mixing_changes_nothing_in_place(dtype):
    batch = mix(mixup_alpha=0)(batch_of(4))
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    before = {name: values.clone() for name, values in batch.items()}
    mixed = MixPixels()(batch, True)
    assert mixed["pixel_values"].dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    assert batch.keys() == before.keys()
    assert all(torch.equal(values, before[name]) for name, values in batch.items())
    assert not KEYS & mixed.keys()


def test_a_batch_without_the_keys_passes():
    plain = collate(batch_of(3))
    assert MixPixels()(plain) is plain


@pytest.mark.parametrize("on_device", [True, False])
def test_evaluation_rows_pass_untouched(on_device):
    rows = [{name: value for name, value in one.items() if name != "copy"} for one in batch_of(3)]
    batch, plain = mix(on_device=on_device)(rows), collate(rows)
    assert batch.keys() == plain.keys()
    assert all(torch.equal(batch[name], plain[name]) for name in plain)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_partners_are_the_batch_in_reverse_and_one_alone_is_itself(count):
    rows = batch_of(count)
    batch = mix()(rows)
    assert batch["mix_partner"].tolist() == list(range(count))[::-1]
    assert [batch[name].dtype for name in sorted(KEYS)] == [torch.int64, torch.int64, torch.float32]
    assert batch["mix_box"].shape == (count, 4)
    assert batch["labels"].dtype == torch.float32
    torch.testing.assert_close(batch["labels"].sum(1), torch.ones(count))
    if count == 1:
        mixed = MixPixels()(batch)["pixel_values"]
        torch.testing.assert_close(mixed, rows[0]["image"][None].float(), rtol=0, atol=1e-4)
        assert batch["labels"][0].argmax() == rows[0]["label"]


def test_with_both_off_labels_are_only_smoothed():
    batch = mix(mixup_alpha=0, cutmix_alpha=0, label_smoothing=0.2)(batch_of(3))
    assert batch.keys() == {"pixel_values", "labels"}
    assert torch.equal(batch["pixel_values"], collate(batch_of(3))["pixel_values"])
    logits = torch.randn(3, NUM_LABELS, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.cross_entropy(logits, torch.arange(3), label_smoothing=0.2)
    torch.testing.assert_close(soft_cross_entropy((logits,), batch["labels"]), expected)


# ------------------------------------------------------------------------------------------------------- what is drawn


def draws(rows: list[list[dict]], **settings) -> list[tuple]:
    return [
        (float(batch["mix_ratio"][0]), *batch["mix_box"][0].tolist())
        for batch in map(Mix(collate, NUM_LABELS, **settings), rows)
    ]


def test_a_draw_depends_on_the_seed_and_on_each_rows_index_epoch_and_copy():
    base = batch_of(3)
    others = [
        batch_of(3, epoch=1),
        [row(0), row(1), row(3)],
        [row(0), row(1), row(2, copy=1)],
        [row(1), row(0), row(2)],
        batch_of(4),
    ]
    first = draws([base])
    assert draws([*others, base])[-1:] == first
    found = {*first, *draws(others), *draws([base], seed=1)}
    assert len(found) == 7


def test_workers_and_order_change_nothing_and_no_global_generator_notices():
    rows = Augmented(
        [{"image": one["image"], "label": one["label"]} for one in batch_of(12)],
        lambda image: image,
        to_rgb=lambda x: x,
    )
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 23]]
    here = [mix(seed=3)(rows.__getitems__(batch)) for batch in batches]
    back = [mix(seed=3)(rows.__getitems__(batch)) for batch in reversed(batches)][::-1]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert python_state == random.getstate()
    loader = DataLoader(rows, batch_sampler=batches, num_workers=2, collate_fn=mix(seed=3))
    for one, two, three in zip(here, back, loader, strict=True):
        assert one.keys() == two.keys() == three.keys()
        assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)
    assert len({float(batch["mix_ratio"][0]) for batch in here}) == 3


def test_ratios_are_of_the_beta_distribution_and_kinds_as_often_as_said():
    rows = [[row(0, epoch, size=(2, 2)), row(1, epoch, size=(2, 2))] for epoch in range(2000)]
    ratios = [ratio for ratio, *_ in draws(rows, mixup_alpha=0.8, cutmix_alpha=0)]
    assert stats.kstest(ratios, stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    mixer, large = Mix(collate, NUM_LABELS, prob=0.6, switch_prob=0.25), (400, 400)
    found = [mixer.draw(np.random.default_rng(seed), *large) for seed in range(2000)]
    unmixed = sum(ratio == 1 for ratio, _ in found)
    cut = sum(any(box) for _, box in found)
    assert 740 < unmixed < 860
    assert 250 < cut < 350
    assert all(0 <= ratio <= 1 for ratio, _ in found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(mixup_alpha=-1), "0 .off. or more"),
        (dict(prob=1.2), "`prob` must be from 0 to 1"),
        (dict(switch_prob=-0.1), "`switch_prob` must be"),
        (dict(label_smoothing=2), "`label_smoothing` must be"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        mix(**settings)


def test_rows_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="label 4, but labels are 0 to 3: set `num_labels`"):
        mix(num_labels=4)(batch_of(5))
    with pytest.raises(ValueError, match="one class id an image"):
        Mix(mix(), NUM_LABELS)(batch_of(5))
    with pytest.raises(ValueError, match=r"Row 1 of the batch \(index 1\) has no `epoch`: wrap"):
        mix()([row(0), {name: value for name, value in row(1).items() if name != "epoch"}])


# ------------------------------------------------------------------------------------------------------------- the loss


def logits_and_labels(count: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, NUM_LABELS, generator=generator) * 3
    hard = torch.randint(NUM_LABELS, (count,), generator=generator)
    return logits, hard, torch.rand(count, NUM_LABELS, generator=generator).softmax(1)


def test_the_loss_is_torchs_for_hard_ignored_and_soft_labels():
    logits, hard, soft = logits_and_labels()
    ignored = torch.where(torch.arange(8) % 3 == 0, -100, hard)
    for labels in (hard, ignored, soft):
        expected = nn.functional.cross_entropy(logits, labels)
        for outputs in ((logits,), {"logits": logits}, ImageClassifierOutput(logits=logits)):
            torch.testing.assert_close(soft_cross_entropy(outputs, labels), expected)
        count = (labels != -100).sum()
        torch.testing.assert_close(soft_cross_entropy((logits,), labels, count), expected)
        torch.testing.assert_close(soft_cross_entropy((logits,), labels, int(count) * 4), expected / 4)
    assert soft_cross_entropy((logits,), torch.full((8,), -100)) == 0
    assert soft_cross_entropy((logits,), torch.full((8,), -100), torch.tensor(0)) == 0


def test_half_precision_logits_are_taken_in_float32_and_double_stays():
    logits, hard, soft = logits_and_labels()
    for labels in (hard, soft):
        half = soft_cross_entropy((logits.bfloat16(),), labels)
        assert half.dtype == torch.float32
        assert torch.equal(half, soft_cross_entropy((logits.bfloat16().float(),), labels))
        assert soft_cross_entropy((logits.double(),), labels).dtype == torch.float64


@pytest.mark.parametrize("kind", ["single_label_classification", "soft_label_classification"])
@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("times", [None, 3])
def test_the_loss_is_the_models_own(kind, distilled, times):
    tokens = dict(prefix_tokens=["cls", "distillation"], distillation_head=True) if distilled else {}
    model = fill(ViTCustomForImageClassification(tiny(problem_type=kind, **tokens)))
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = logits_and_labels()[1 if kind.startswith("single") else 2]
    number = None if times is None else times * labels.numel()
    settings = {} if number is None else dict(num_items_in_batch=number)
    own = model(pixel_values=pixels, labels=labels, **settings)["loss"]
    torch.testing.assert_close(soft_cross_entropy(model(pixel_values=pixels), labels, number), own)


def test_labels_that_do_not_fit_are_refused():
    logits, _, soft = logits_and_labels()
    with pytest.raises(ValueError, match="sum to 1"):
        soft_cross_entropy((logits,), soft * 1.1)
    with pytest.raises(ValueError, match="do not fit logits"):
        soft_cross_entropy((logits,), soft[:, :4])


@pytest.mark.parametrize("kind", ["hard", "ignored", "soft"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_no_split_into_batches_changes_the_gradient(kind, steps):
    logits, hard, soft = logits_and_labels()
    ignored = torch.where(torch.arange(8) < 3, -100, hard)
    labels = {"hard": hard, "ignored": ignored, "soft": soft}[kind]
    number = (labels != -100).sum()
    whole, split = (logits.clone().requires_grad_() for _ in range(2))
    nn.functional.cross_entropy(whole, labels).backward()
    for part, own in zip(split.chunk(steps), labels.chunk(steps), strict=True):
        soft_cross_entropy((part,), own, number).backward()
    torch.testing.assert_close(split.grad, whole.grad)


# -------------------------------------------------------------------------------------------------------- with Trainer


def arguments(folder, **settings) -> TrainingArguments:
    defaults = dict(
        max_steps=1,
        logging_steps=1,
        max_grad_norm=1e9,
        per_device_train_batch_size=8,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        label_names=["labels"],
    )
    return TrainingArguments(output_dir=str(folder), **defaults | settings)


def tiny_vit() -> ViTForImageClassification:
    sizes = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    return ViTForImageClassification(ViTConfig(**sizes, intermediate_size=32, num_labels=NUM_LABELS))


def tiny_resnet() -> ResNetForImageClassification:
    sizes = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=NUM_LABELS))


def tiny_custom() -> ViTCustomForImageClassification:
    return ViTCustomForImageClassification(tiny(problem_type="single_label_classification"))


@pytest.mark.parametrize("model_of", [tiny_custom, tiny_vit])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_with_transformers_trainer_accumulation_gives_the_same_gradient(model_of, kind, tmp_path):
    mixed = HALVES(MixPixels()(mix()(batch_of(8, size=(32, 32)))))
    labels = mixed["labels"] if kind == "soft" else torch.tensor([0, 1, 2, -100, -100, -100, 3, 4])
    rows = [
        {"pixel_values": pixels, "labels": label} for pixels, label in zip(mixed["pixel_values"], labels, strict=True)
    ]
    model = fill(model_of())
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    norms, losses = [], []
    for steps in (1, 2, 4):
        model.load_state_dict(weights)
        trainer = Trainer(
            model=model,
            args=arguments(tmp_path, per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps),
            train_dataset=rows,
            data_collator=torch.utils.data.default_collate,
            compute_loss_func=soft_cross_entropy,
        )
        trainer.train()
        (log,) = (log for log in trainer.state.log_history if "grad_norm" in log)
        norms.append(log["grad_norm"])
        losses.append(log["loss"])
    model.load_state_dict(weights)
    loss = nn.functional.cross_entropy(model.train()(mixed["pixel_values"]).logits, labels)
    model.zero_grad()
    loss.backward()
    expected = nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    assert norms == pytest.approx([expected.item()] * 3, rel=1e-3)
    assert losses == pytest.approx([loss.item()] * 3, rel=1e-3)


@pytest.mark.parametrize("model_of", [tiny_resnet, tiny_vit])
def test_transformers_own_trainer_and_models_train_and_evaluate_with_it(model_of, tmp_path):
    plain = [{"image": one["image"], "label": one["label"]} for one in batch_of(8, size=(32, 32))]
    rows = Augmented(plain, lambda image: image, to_rgb=lambda image: image)
    model = model_of()
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    made = []

    def recorded(batch: list[dict]) -> dict[str, torch.Tensor]:
        made.append(WithSteps(mix(on_device=False), HALVES)(batch))
        return made[-1]

    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, per_device_eval_batch_size=8),
        train_dataset=rows,
        eval_dataset=plain,
        data_collator=recorded,
        compute_loss_func=soft_cross_entropy,
    )
    trainer.train()
    first = made[0]
    assert first["labels"].shape == (8, NUM_LABELS)
    trained = trainer.evaluate()["eval_loss"]
    expected = nn.functional.cross_entropy(model.eval()(made[-1]["pixel_values"]).logits, made[-1]["labels"])
    assert made[-1]["labels"].dtype == torch.int64
    assert trained == pytest.approx(expected.item(), rel=1e-4)
    model.load_state_dict(weights)
    loss = nn.functional.cross_entropy(model.train()(first["pixel_values"]).logits, first["labels"])
    (log,) = (log for log in trainer.state.log_history if "grad_norm" in log)
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-3)
