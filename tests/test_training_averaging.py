"""The moving average of weights: its formula, nothing else changed by it, and a resumed run's is the whole run's."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import EarlyStoppingCallback
from transformers import PretrainedConfig
from transformers import PreTrainedModel
from transformers import Trainer
from transformers import TrainerCallback
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.training.averaging import AveragedEvaluation
from modeling_vit_custom.training.averaging import WeightAverage
from modeling_vit_custom.training.averaging import local
from modeling_vit_custom.training.averaging import tensors_of
from tests.support import fill
from tests.support import formula
from tests.support import tiny


class Net(PreTrainedModel):
    """With dropout, BatchNorm's buffers and its count of batches."""

    config_class = PretrainedConfig
    main_input_name = "pixel_values"

    def __init__(self, config=None):
        super().__init__(config or PretrainedConfig(num_labels=3))
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
        self.post_init()

    def forward(self, pixel_values, labels=None):
        logits = self.layers(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class AveragedTrainer(AveragedEvaluation, Trainer):
    pass


def rows(count):
    pixels = formula("rows", torch.Size((count, 4)))
    return [{"pixel_values": pixels[i].float(), "labels": i % 3} for i in range(count)]


def net():
    torch.manual_seed(0)
    return Net()


def trainer(folder, average=None, cls=AveragedTrainer, callbacks=(), **changes):
    settings = dict(
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        save_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    args = TrainingArguments(output_dir=str(folder), **settings | changes)
    callbacks = [*callbacks, *([average] if average else [])]
    return cls(net(), args, train_dataset=rows(24), eval_dataset=rows(10), callbacks=callbacks)


def copied(model):
    return {name: value.detach().clone() for name, value in tensors_of(model).items()}


def equal(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def moved(model, step):
    """Other weights each step, and other buffers."""
    with torch.no_grad():
        for name, value in tensors_of(model).items():
            if value.is_floating_point():
                local(value).add_(formula(f"{name} {step}", value.shape).to(value.dtype))
            else:
                value.add_(step)
    return model


# The average itself.


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_it_is_the_weighted_sum_of_all_weights(warmup, every):
    """The closed form: the weights of average n count (1 - d_n) times the product of all later decays."""
    model, average = net().double(), WeightAverage(0.9, warmup, every)
    average.begin(model)
    seen = [copied(model)]
    for step in range(1, 10):
        average.update(moved(model, step))
        if step % every == 0:
            seen.append(copied(model))
    decays = [min(0.9, (1 + n) / (10 + n)) if warmup else 0.9 for n in range(1, len(seen))]
    shares = [(1 - d) * np.prod(decays[n + 1 :]) for n, d in enumerate([0.0, *decays][1:])]
    shares = np.array([np.prod(decays), *shares])
    assert shares.sum() == pytest.approx(1)
    for name, value in average.averages.items():
        history = np.stack([weights[name].numpy() for weights in seen])
        expected = np.tensordot(shares, history, 1) if value.is_floating_point() else history[-1]
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-14, err_msg=name)
    assert average.step == 9


@pytest.mark.parametrize("build", [net, lambda: fill(ViTCustomForImageClassification(tiny()))], ids=["net", "vit"])
def test_it_is_timms_to_the_last_bit(build):
    model, average = build(), WeightAverage(0.99996, warmup=False)
    average.begin(model)
    theirs = ModelEmaV3(model, decay=0.99996)
    for step in range(1, 6):
        average.update(moved(model, step))
        theirs.update(model)
    assert equal(average.averages, dict(theirs.module.state_dict()))


def test_small_steps_of_bfloat16_weights_are_not_rounded_away():
    model, average = net().bfloat16(), WeightAverage(0.999, warmup=False)
    average.begin(model)
    start = average.averages["layers.0.bias"].clone()
    assert start.dtype == torch.float32
    with torch.no_grad():
        model.layers[0].bias.add_(1)
    for _ in range(10):
        average.update(model)
    expected = start + (model.layers[0].bias.float() - start) * (1 - 0.999**10)
    torch.testing.assert_close(average.averages["layers.0.bias"], expected)


def test_tied_weights_are_averaged_once_and_wrappers_change_no_names():
    model, average = net(), WeightAverage()
    model.layers.add_module("tied", model.layers[0])
    average.begin(model)
    assert "layers.0.weight" in average.averages
    assert not any("tied" in name for name in average.averages)
    for names in (("module",), ("_orig_mod",), ("module", "_orig_mod"), ("_orig_mod", "module")):  # DDP's, compiled
        wrapped = model
        for name in names:
            inner, wrapped = wrapped, nn.Module()
            wrapped.add_module(name, inner)
        assert tensors_of(wrapped).keys() == average.averages.keys()
    average.update(moved(wrapped, 1))


@pytest.mark.parametrize(("settings", "sentence"), [({"decay": 1}, "below 1"), ({"every": 0}, "at least 1")])
def test_settings_that_cannot_be_meant_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        WeightAverage(**settings)


# In and out of the model.


def test_inside_the_model_has_the_averages_and_afterwards_its_own_weights_to_the_last_bit():
    model, average = net().bfloat16(), WeightAverage()
    average.begin(model)
    average.update(moved(model, 1))
    own, places = copied(model), {name: value.data_ptr() for name, value in tensors_of(model).items()}
    for fails in (False, True):
        with average.weights(model) as inside:
            assert inside is model
            assert average.swapped
            expected = {name: value.to(own[name].dtype) for name, value in average.averages.items()}
            assert equal(copied(model), expected)
            assert not equal(copied(model), own)
            with average.weights(model):
                assert equal(copied(model), expected)
            assert average.swapped
            if fails:
                break
        assert equal(copied(model), own)
    with pytest.raises(KeyError, match="of the user"), average.weights(model):
        raise KeyError("of the user")
    assert equal(copied(model), own)
    assert not average.swapped
    assert places == {name: value.data_ptr() for name, value in tensors_of(model).items()}
    average.copy_to(model)
    assert equal(copied(model), expected)


def test_nothing_is_averaged_before_training():
    for use in (lambda: WeightAverage().copy_to(net()), lambda: WeightAverage().save("nowhere")):
        with pytest.raises(RuntimeError, match="Nothing was averaged yet: train first"):
            use()


def test_another_models_average_is_refused(tmp_path):
    average = WeightAverage()
    average.begin(net())
    other = net()
    other.layers[3] = nn.Linear(6, 2)
    with pytest.raises(ValueError, match=r"another model than Net: layers.3.weight is \(3, 6\) in the av.*\(2, 6\)"):
        average.copy_to(other)
    other.layers.add_module("more", nn.Linear(1, 1))
    with pytest.raises(ValueError, match="layers"), average.weights(other):
        pass


def test_a_file_holds_every_bit_under_the_models_names(tmp_path):
    model, average = net(), WeightAverage()
    average.begin(model)
    for step in range(1, 4):
        average.update(moved(model, step))
    average.save(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ema.safetensors"]
    assert equal(load_file(tmp_path / "new" / "ema.safetensors"), average.averages)
    again = WeightAverage()
    again.load(tmp_path / "new")
    assert (again.step, equal(again.averages, average.averages)) == (3, True)
    other = net()
    other.load_state_dict(load_file(tmp_path / "new" / "ema.safetensors"))
    with again.weights(model):
        assert equal(copied(other), copied(model))


def test_strides_of_the_model_are_no_matter(tmp_path):
    model, average = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last), WeightAverage()
    average.begin(model)
    average.update(moved(model, 1))
    average.save(tmp_path)
    again = WeightAverage()
    again.load(tmp_path)
    again.copy_to(model)
    assert equal(copied(model), average.averages)


@pytest.mark.parametrize("content", [b"", b"not a file of tensors at all"])
def test_a_broken_file_is_named(content, tmp_path):
    (tmp_path / "ema.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"ema.safetensors is broken \(.*take another checkpoint"):
        WeightAverage().load(tmp_path)


# In training.


def test_training_is_bit_for_bit_what_it_is_without(tmp_path):
    """With evaluations of both weights in the middle too, which draw random numbers for their data loaders."""
    evaluates = dict(eval_strategy="steps", eval_steps=2)
    plain = trainer(tmp_path / "plain", cls=Trainer, **evaluates)
    plain.train()
    averaged = trainer(tmp_path / "averaged", WeightAverage(0.9), **evaluates)
    averaged.train()
    assert equal(copied(averaged.model), copied(plain.model))
    for step in (2, 4, 6, 8):
        losses = [
            next(
                entry["eval_loss"] for entry in one.state.log_history if entry["step"] == step and "eval_loss" in entry
            )
            for one in (plain, averaged)
        ]
        assert losses[0] == losses[1]
    assert not equal(averaged.average.averages, copied(plain.model))


@pytest.mark.parametrize(("cls", "how"), [(Trainer, "last"), (AveragedTrainer, "path")])
def test_half_a_run_and_its_resumption_are_one_run(cls, how, tmp_path):
    whole = trainer(tmp_path / "whole", WeightAverage(0.9), cls)
    whole.train()
    half = trainer(tmp_path / "halves", WeightAverage(0.9), cls, max_steps=4)
    half.train()
    (tmp_path / "halves" / "other").mkdir()
    rest = trainer(tmp_path / "halves", WeightAverage(0.9), cls)
    rest.train(True if how == "last" else str(tmp_path / "halves" / "checkpoint-4"))
    assert not equal(*(load_file(tmp_path / "whole" / f"checkpoint-{n}" / "ema.safetensors") for n in (4, 8)))
    files = [tmp_path / name / "checkpoint-8" / "ema.safetensors" for name in ("whole", "halves")]
    assert equal(*map(load_file, files))
    assert equal(*(load_file(file.with_name("model.safetensors")) for file in files))
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "step": "8"}


def test_a_checkpoint_elsewhere_is_followed(tmp_path):
    """Trainer tells no callback where it is; a stale checkpoint of the same step lies where it would be sought."""
    for name in ("there", "here"):
        trainer(tmp_path / name, WeightAverage(0.9 if name == "there" else 0.1), max_steps=4).train()
    there = load_file(tmp_path / "there" / "checkpoint-4" / "ema.safetensors")
    seen = {}

    class Looks(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.setdefault("averages", {name: value.clone() for name, value in average.averages.items()})

    average = WeightAverage(0.9)
    trainer(tmp_path / "here", average, callbacks=[Looks()], max_steps=5).train(str(tmp_path / "there/checkpoint-4"))
    assert equal(seen["averages"], there)
    average = WeightAverage(0.9)
    average.load(tmp_path / "there" / "checkpoint-4")  # what who has no AveragedEvaluation does
    seen.clear()
    late = trainer(tmp_path / "here", average, Trainer, [Looks()], max_steps=5)
    late.train(str(tmp_path / "there/checkpoint-4"))
    assert equal(seen["averages"], there)
    assert average.step == 5


def test_an_average_never_restarts_in_the_middle(tmp_path):
    trainer(tmp_path, cls=Trainer, max_steps=4).train()  # without an average
    with pytest.raises(FileNotFoundError, match=r"checkpoint-4 has no ema.safetensors, so the average cannot go on"):
        trainer(tmp_path, WeightAverage()).train(True)
    trainer(tmp_path / "more", WeightAverage(), max_steps=2, save_steps=1).train()
    shutil.copy(tmp_path / "more/checkpoint-2/ema.safetensors", tmp_path / "checkpoint-4")
    with pytest.raises(ValueError, match="is of step 2, and training goes on from step 4: `load` the average"):
        trainer(tmp_path, WeightAverage()).train(True)
    average = WeightAverage()
    average.load(tmp_path / "checkpoint-4")
    with pytest.raises(ValueError, match="is of step 2, and training goes on from step 0"):
        trainer(tmp_path, average).train()


def test_a_second_training_from_the_start_averages_anew(tmp_path):
    average = WeightAverage(0.9)
    twice = trainer(tmp_path, average, max_steps=4)
    twice.train()
    before = copied(twice.model)
    twice.args.max_steps = 1
    twice.train()
    expected = {n: v.lerp(twice.model.state_dict()[n], 1 - 2 / 11) for n, v in before.items() if v.is_floating_point()}
    assert equal({name: average.averages[name] for name in expected}, expected)
    assert average.step == 1


class Staging(AveragedTrainer):
    """Writes a checkpoint aside, with all that its callbacks `save`, and then renames it."""

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        folder.rename(folder.with_name("aside"))
        self.average.save(folder.with_name("aside"))
        folder.with_name("aside").rename(folder)


def test_a_file_that_was_saved_already_is_not_written_again_and_a_stale_one_is(tmp_path, monkeypatch):
    average, calls = WeightAverage(), []
    save = average.save
    monkeypatch.setattr(average, "save", lambda folder: (calls.append(Path(folder).name), save(folder)))
    trainer(tmp_path, average, Staging).train()
    assert calls == ["aside", "aside"]
    trainer(tmp_path, WeightAverage(0.3), Trainer).train()  # over the same folders
    latest = WeightAverage(0.3)
    trainer(tmp_path / "alone", latest, Trainer).train()
    assert equal(load_file(tmp_path / "checkpoint-8" / "ema.safetensors"), latest.averages)


# Evaluation.


def test_both_weights_are_evaluated_and_told_at_once(tmp_path):
    told = []

    class Listens(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            told.append(metrics)

    average = WeightAverage(0.9)
    run = trainer(tmp_path, average, callbacks=[Listens()])
    assert not any("ema" in name for name in run.evaluate())  # nothing is averaged yet
    run.train()
    metrics = run.evaluate()
    assert len(told) == 2
    assert told[1].items() <= metrics.items()
    logged = next(entry for entry in reversed(run.state.log_history) if "eval_loss" in entry)
    plain, averaged = metrics["eval_loss"], metrics["eval_ema_loss"]
    assert logged["eval_ema_loss"] == averaged != plain == logged["eval_loss"]
    own = copied(run.model)
    with average.weights(run.model):
        inside = run.evaluate()
        assert inside["eval_loss"] == averaged
        assert not any("ema" in name for name in inside)
        weights = copied(run.model)
    assert equal(copied(run.model), own)
    alone = trainer(tmp_path, cls=Trainer)
    alone.model.load_state_dict(weights)
    assert alone.evaluate()["eval_loss"] == averaged
    assert not any("ema" in name for name in run.predict(rows(4)).metrics)


def test_several_data_sets_keep_their_names(tmp_path):
    run = trainer(tmp_path, WeightAverage(0.9))
    run.train()
    names = {name for name in run.evaluate({"a": rows(4), "b": rows(8)}) if name.endswith("_loss")}
    assert names == {"eval_a_loss", "eval_a_ema_loss", "eval_b_loss", "eval_b_ema_loss"}
    run.eval_dataset = {"a": rows(4)}
    assert {name for name in run.evaluate(metric_key_prefix="x") if "loss" in name} == {"x_a_loss", "x_a_ema_loss"}


def test_the_averages_can_choose_the_best_checkpoint(tmp_path):
    stops = EarlyStoppingCallback(2)
    choice = dict(metric_for_best_model="ema_loss", greater_is_better=False, load_best_model_at_end=True)
    evaluates = dict(eval_strategy="steps", eval_steps=1, save_steps=1, save_total_limit=2)
    run = trainer(tmp_path, WeightAverage(0.5), callbacks=[stops], learning_rate=0.5, **choice, **evaluates)
    run.train()
    losses = {e["step"]: e["eval_ema_loss"] for e in run.state.log_history if "eval_ema_loss" in e}
    assert run.state.best_metric == min(losses.values())
    best = Path(run.state.best_model_checkpoint)
    assert best.name == f"checkpoint-{min(losses, key=losses.get)}"
    run.average.load(best)
    assert run.evaluate()["eval_ema_loss"] == pytest.approx(run.state.best_metric, rel=1e-6)


# Sharded weights.


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def sharded_and_whole(mesh):
    """A model as FSDP2 has it and its twin, each with an average of three steps."""
    model, whole = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    whole.load_state_dict(fill(model).state_dict())
    fully_shard(model, mesh=mesh)
    averages = WeightAverage(0.9), WeightAverage(0.9)
    for one, average in zip((model, whole), averages, strict=True):
        average.begin(one)
        for step in range(1, 4):
            average.update(moved(one, step))
    return model, whole, *averages


def gathered(model):
    return {name: value.full_tensor().clone() for name, value in model.state_dict().items()}


@pytest.mark.filterwarnings(
    "ignore:DTensor random operators:UserWarning"
)  # torch 2.6 on a CPU, which draws nothing here
def test_sharded_weights_are_averaged_saved_whole_and_exchanged(mesh, tmp_path):
    model, whole, average, expected = sharded_and_whole(mesh)
    assert all(isinstance(value, DTensor) for value in average.averages.values())
    average.save(tmp_path)
    assert equal(load_file(tmp_path / "ema.safetensors"), expected.averages)
    with average.weights(model):
        assert equal(gathered(model), expected.averages)
    assert equal(gathered(model), whole.state_dict())
    again = WeightAverage()
    again.load(tmp_path)
    again.copy_to(model)
    assert equal(gathered(model), expected.averages)
    assert all(isinstance(value, DTensor) for value in again.averages.values())


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="on a CPU, FSDP2 of torch 2.6 has no forward pass")
def test_what_a_forward_pass_has_gathered_is_not_used_after_an_exchange(mesh):
    """FSDP2's root keeps its weights whole after a forward pass without gradients."""
    model, whole, average, expected = sharded_and_whole(mesh)
    pixels = formula("pixels", torch.Size((5, 4))).float()
    with torch.no_grad():
        own = model(pixels)
        with average.weights(model), expected.weights(whole):
            assert torch.equal(model(pixels), whole(pixels))
            assert not torch.equal(model(pixels), own)
        assert torch.equal(model(pixels), own)


def test_a_model_that_is_cut_inside_is_refused():
    model, average = net(), WeightAverage()
    average.begin(model)
    sentence = r"layers.0.weight was \(6, 4\) and is now \(3, 4\): prepare or shard"
    with pytest.raises(RuntimeError, match=sentence), average.weights(model):
        model.layers[0] = nn.Linear(4, 3)


def test_only_the_process_that_writes_writes(tmp_path):
    average = WeightAverage()
    begins = SimpleNamespace(should_save=False), SimpleNamespace(global_step=0), None
    average.on_train_begin(*begins, model=net())
    average.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_zero_3_is_refused():
    model = net()
    model.layers[0].weight.ds_id = 0
    with pytest.raises(ValueError, match=r"DeepSpeed's ZeRO-3 .* choose ZeRO-2, FSDP 2"):
        WeightAverage().begin(model)
