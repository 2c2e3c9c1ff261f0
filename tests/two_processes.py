"""What two processes do together, each by `main`. The first writes what each scenario found into FOLDER/NAME.json."""

import json
from copy import deepcopy
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict import set_model_state_dict
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from torch.utils.data import IterableDataset
from torch.utils.data import default_collate
from transformers import TrainingArguments

from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom import ViTCustomForObjectDetection
from modeling_vit_custom.training.averaging import WeightAverage
from modeling_vit_custom.training.parameter_groups import parameter_groups
from modeling_vit_custom.training.trainer import ViTCustomTrainer
from tests.support import fill
from tests.support import tiny

WHOLE = StateDictOptions(full_state_dict=True)
STEPS, BATCH, RATE = 4, 8, 1e-2


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(3, (BATCH,), generator=generator)


def fresh() -> ViTCustomForImageClassification:
    return fill(ViTCustomForImageClassification(tiny(num_labels=3, problem_type="single_label_classification"))).train()


def sharded(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def optimizer_of(model):
    # A larger eps than usual: a gradient that is 0 but for rounding, as of keys' biases, would move by a whole step.
    return torch.optim.AdamW(parameter_groups(model, learning_rate=RATE, weight_decay=0.05), eps=1e-3)


def train(model, optimizer, steps, average=None) -> list[float]:
    """Each process takes its part of each batch; the loss is the mean over the whole batch."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if is_sharded(model) else (0, 1)
    losses = []
    for step in steps:
        pixels, labels = (part.chunk(world)[rank] for part in batch_of(step))
        loss = model(pixels, labels=labels, num_items_in_batch=BATCH).loss
        (loss * world).backward()  # gradients are averaged over processes
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if world > 1:
            dist.all_reduce(total)
        losses.append(total.item())
        if average is not None:
            average.update(model)
    return losses


def is_sharded(model) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def difference(state: dict, other: dict) -> float:
    assert state.keys() == other.keys(), state.keys() ^ other.keys()
    return max((state[name] - other[name]).abs().max().item() for name in state)


def fully_sharded(folder: Path) -> dict:
    """A sharded model takes one process's steps; its files are whole, load everywhere, and its optimizer resumes."""
    alone, together = fresh(), sharded(fresh())
    optimizers = optimizer_of(alone), optimizer_of(together)
    averages = [WeightAverage(decay=0.5, warmup=False) for _ in range(2)]
    for average, model in zip(averages, (alone, together), strict=True):
        average.begin(model)
    losses = [
        train(model, optimizer, range(STEPS), average)
        for model, optimizer, average in zip((alone, together), optimizers, averages, strict=True)
    ]
    state = get_model_state_dict(together, options=WHOLE)
    moments = get_optimizer_state_dict(together, optimizers[1], options=WHOLE)
    averages[1].save(folder / "averaged")
    found: dict[str, object] = {"losses": losses}
    if dist.get_rank() == 0:
        together.save_pretrained(folder / "sharded", state_dict=dict(state))  # it empties what it is given
        whole = load_file(folder / "averaged/ema.safetensors")
        found["weights"] = difference(alone.state_dict(), state)
        found["averages"] = difference(averages[0].averages, whole)
    dist.barrier()
    # What one layout wrote, another loads.
    read = ViTCustomForImageClassification.from_pretrained(folder / "sharded")
    again = sharded(fresh())
    set_model_state_dict(again, read.state_dict(), options=WHOLE)
    reread = get_model_state_dict(again, options=WHOLE)
    if dist.get_rank() == 0:
        found["read back"] = [difference(state, reread), difference(state, read.state_dict())]
    # The optimizer goes on in the same layout as if it had never stopped.
    resumed = optimizer_of(again)
    set_optimizer_state_dict(again, resumed, deepcopy(moments), options=WHOLE)  # step counts are not copied
    more = range(STEPS, STEPS + 2)
    found["resumed"] = [train(together, optimizers[1], more), train(again.train(), resumed, more)]
    return found


class Images(Dataset):
    """Rows whose label is their number modulo the classes, and whose image tells the number."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"pixel_values": torch.full((3, 32, 32), index / 100), "labels": index % 3}


def counted(folder: Path) -> dict:
    """For any number of rows and any batch: every row once, in order, and the loss of all."""
    found = {}
    for count, batch in ((1, 1), (3, 2), (7, 4), (8, 4), (9, 4), (10, 3), (13, 20)):
        args = TrainingArguments(
            str(folder / "trainer"), per_device_eval_batch_size=batch, use_cpu=True, report_to="none", disable_tqdm=True
        )
        model, rows = fresh(), Images(count)
        answer = ViTCustomTrainer(model=model, args=args).predict(rows)
        with torch.no_grad():
            whole = default_collate([rows[index] for index in range(count)])
            alone = model.eval()(**whole)
        found[f"{count} rows by {batch}"] = {
            "labels": answer.label_ids.tolist() == whole["labels"].tolist(),
            "logits": (torch.tensor(answer.predictions) - alone.logits).abs().max().item()
            if answer.predictions.shape == alone.logits.shape
            else str(answer.predictions.shape),
            "loss": abs(answer.metrics["test_loss"] - alone.loss.item()),
        }
    return found


class Boxes(IterableDataset):
    """A stream whose image tells its number, and has three objects of a class of that number."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self):
        for index in range(self.count):
            objects = {"class_labels": torch.full((3,), index), "boxes": torch.full((3, 4), 0.4)}
            yield {"pixel_values": torch.full((3, 32, 32), float(index)), "labels": objects}


class Stream(IterableDataset):
    def __init__(self, count: int):
        self.rows = Images(count)

    def __iter__(self):
        yield from (self.rows[index] for index in range(self.rows.count))


def collate_boxes(rows: list[dict]) -> dict:
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": [row["labels"] for row in rows],
    }


class Sees(ViTCustomTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        pictures = inputs["pixel_values"].mean((1, 2, 3)).round().long().tolist()
        self.seen += zip(pictures, [one["class_labels"].tolist() for one in inputs["labels"]], strict=True)
        return super().compute_loss(model, inputs, *args, **kwargs)


def streamed(folder: Path) -> dict:
    """Streams: each row once, whole, or not at all."""
    common = dict(use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no")
    args = TrainingArguments(str(folder / "streamed"), per_device_eval_batch_size=2, **common)
    labels = {
        f"{count} rows": ViTCustomTrainer(fresh(), args).predict(Stream(count)).label_ids.tolist()
        for count in (8, 7, 1)
    }
    detection = fill(ViTCustomForObjectDetection(tiny(num_labels=8, prefix_tokens=["cls"] + ["detection"] * 5)))
    refused = {}
    for dispatch in (None, True):
        args = TrainingArguments(
            str(folder / "streamed"),
            per_device_train_batch_size=2,
            max_steps=2,
            accelerator_config={"dispatch_batches": dispatch},
            **common,
        )
        trainer = Sees(detection, args, data_collator=collate_boxes, train_dataset=Boxes(8))
        trainer.seen = []
        if dispatch and dist.get_rank():  # the first process alone reads
            continue
        try:
            if dispatch:
                trainer.get_train_dataloader().collate_fn(list(Boxes(2)))
            else:
                trainer.train()
        except ValueError as error:
            refused[str(dispatch)] = str(error)
        if not dispatch:
            mine = trainer.seen
    both: list = [None, None]
    dist.all_gather_object(both, mine)
    return {"labels": labels, "seen": both[0] + both[1], "refused": refused}


SCENARIOS = {"fully_sharded": fully_sharded, "counted": counted, "streamed": streamed}


def main(folder: str, *names: str):
    dist.init_process_group("gloo")
    for name in names:
        found = SCENARIOS[name](Path(folder))
        if dist.get_rank() == 0:
            (Path(folder) / f"{name}.json").write_text(json.dumps(found))
        dist.barrier()
    dist.destroy_process_group()
