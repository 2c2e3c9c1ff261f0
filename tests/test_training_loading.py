"""Whole rows, each once, whatever is set for the training; and what the machine has not, in a sentence."""

import gc

import pytest
import torch
from torch.utils.data import default_collate
from transformers import TrainerCallback
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom.training import machine
from modeling_vit_custom.training.loading import Untorn
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.support import fill
from tests.support import tiny
from tests.two_processes import Boxes
from tests.two_processes import Images
from tests.two_processes import Sees
from tests.two_processes import collate_boxes
from tests.two_processes import fresh

QUIET = dict(use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", max_steps=1)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Trainer collects garbage at each start, a second through all that is imported; what is there now it may skip."""
    gc.freeze()
    yield
    gc.unfreeze()


def trainer_of(folder, model=None, kind=ViTCustomTrainer, rows=16, **settings) -> ViTCustomTrainer:
    given = {name: settings.pop(name) for name in ("compute_metrics", "data_collator") if name in settings}
    arguments = TrainingArguments(str(folder), **QUIET | settings)
    rows = Images(rows) if isinstance(rows, int) else rows
    return kind(model or fresh(), arguments, train_dataset=rows, eval_dataset=Images(8), **given)


@pytest.mark.parametrize(
    "settings",
    [
        dict(dataloader_drop_last=True),
        dict(dataloader_drop_last=True, per_device_train_batch_size=16, eval_accumulation_steps=1),
        dict(train_sampling_strategy="group_by_length"),
        dict(train_sampling_strategy="sequential", gradient_accumulation_steps=2),
        dict(eval_do_concat_batches=False, dataloader_drop_last=True),
        dict(dataloader_num_workers=2, dataloader_persistent_workers=True, dataloader_drop_last=True),
    ],
    ids=str,
)
def test_an_evaluation_reads_each_row_once_and_in_order_whatever_is_set_for_the_training(settings, tmp_path):
    kept = []
    trainer = trainer_of(
        tmp_path,
        per_device_eval_batch_size=3,
        compute_metrics=lambda found: kept.append(found.label_ids) or {},
        **settings,
    )
    trainer.args.max_steps = 0
    evaluated = trainer.evaluate()
    trainer.evaluate(Images(5))  # another set is not the first again
    flat = [[label for part in parts for label in torch.as_tensor(part).reshape(-1).tolist()] for parts in kept]
    assert flat == [[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    if settings.get("train_sampling_strategy") != "group_by_length":  # which wants texts
        assert len(trainer.get_train_dataloader()) == 16 // trainer.args.train_batch_size
    whole = default_collate([Images(8)[index] for index in range(8)])
    with torch.no_grad():
        assert evaluated["eval_loss"] == pytest.approx(fresh().eval()(**whole).loss.item(), rel=1e-5)


def test_metrics_by_batch_see_each_row_once(tmp_path):
    seen = []

    def count(found, compute_result):
        seen.extend(found.label_ids.tolist())
        return {"rows": len(seen)} if compute_result else {}

    settings = dict(batch_eval_metrics=True, dataloader_drop_last=True, per_device_eval_batch_size=3)
    assert trainer_of(tmp_path, compute_metrics=count, **settings).evaluate()["eval_rows"] == 8


@pytest.mark.parametrize(
    ("rows", "words"), [(5, "has 5 rows, fewer than a batch of 8, and `dataloader_drop_last`"), (0, "has no rows")]
)
def test_fewer_rows_than_a_batch_are_said(rows, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        trainer_of(tmp_path, rows=rows, dataloader_drop_last=rows > 0).train()


def detector() -> ViTCustomForObjectDetection:
    return fill(ViTCustomForObjectDetection(tiny(num_labels=8, prefix_tokens=["cls"] + ["detection"] * 5)))


@pytest.mark.parametrize("dispatch_batches", [None, True, False])
def test_a_stream_of_boxes_keeps_each_images_own(dispatch_batches, tmp_path):
    trainer = trainer_of(
        tmp_path,
        detector(),
        Sees,
        rows=Boxes(4),
        data_collator=collate_boxes,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        eval_do_concat_batches=False,
        accelerator_config={"dispatch_batches": dispatch_batches},
    )
    for run in (trainer.train, lambda: trainer.evaluate(Boxes(4))):
        trainer.seen = []
        run()
        assert trainer.seen == [(number, [number] * 3) for number in range(4)]


def test_what_would_be_torn_is_refused():
    whole = Untorn(default_collate, "choose another")([{"pixel_values": torch.ones(3), "labels": 1, "id": 5}] * 2)
    assert whole["pixel_values"].shape == (2, 3)
    with pytest.raises(ValueError, match=r"`labels` of the batch holds tensors .*`dispatch_batches`.*: choose another"):
        Untorn(collate_boxes, "choose another")(list(Boxes(2)))


def test_memory_is_pinned_only_where_it_helps(tmp_path):
    """torch would warn, which is an error here."""
    trainer = trainer_of(tmp_path)
    trainer.args.dataloader_pin_memory = True  # as it is by default where `use_cpu` is not set
    trainer.train()
    trainer.evaluate()
    trainer.predict(Images(3))
    assert trainer.args.dataloader_pin_memory


CPUS = {
    "flags\t\t: fpu avx2 avx512f": True,
    "flags\t\t: fpu avx512f avx512_bf16": False,
    "flags\t\t: fpu amx_bf16 amx_tile": False,
    "Features\t: fp asimd": True,
    "Features\t: fp asimd bf16": False,
    "vendor_id: bf16": False,  # nobody knows
}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("setting", ["bf16", "bf16_full_eval"])
def test_slow_bfloat16_is_said_once(cpu, setting, tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(f"processor: 0\n{cpu}\nmodel name: bf16\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    trainer_of(tmp_path)
    assert not capsys.readouterr().out
    trainer_of(tmp_path, **{setting: True})
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"`{setting}: true` on this CPU") for line in said] == [True] * CPUS[cpu]


class Small(TrainerCallback):
    """A machine with room for so many images."""

    def __init__(self, model, room: int, error: Exception):
        self.room, self.error = room, error
        model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, model, args, kwargs):
        if len(kwargs["pixel_values"]) > self.room:
            raise self.error


ERRORS = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cpu", "cuda"])
def test_too_little_memory_is_said_and_found_room_for(error, tmp_path):
    model = fresh()
    Small(model, 7, error)
    with pytest.raises(
        type(error), match=r"not enough for batches of 8, `per_device_train_batch_size`: .*auto_find_"
    ) as told:
        trainer_of(tmp_path, model).train()
    assert "\n" not in str(told.value)
    with pytest.raises(type(error), match="batches of 8, `per_device_eval_batch_size`: lower it"):
        trainer_of(tmp_path, model).evaluate()
    trainer = trainer_of(tmp_path, model, auto_find_batch_size=True)
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer._train_batch_size == 7


def test_other_errors_stay_as_they_are(tmp_path):
    model = fresh()
    Small(model, 7, RuntimeError("The size of tensor a"))
    with pytest.raises(RuntimeError, match=r"^The size of tensor a$"):
        trainer_of(tmp_path, model).train()
