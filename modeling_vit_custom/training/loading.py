"""Data loaders that give whole rows, to an evaluation each row once, whatever the settings of the training.

class MyTrainer(WholeRows, Trainer): ...
"""

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import IterableDataset
from transformers import Trainer
from transformers.trainer_utils import has_length

ROW_IDS = "row_ids"  # of a batch, which are no tensor
FOR_TRAINING = dict(dataloader_drop_last=False, train_sampling_strategy="random")  # what an evaluation has instead
PINNING = ("cuda", "xpu", "hpu", "npu", "mlu", "musa")


class Untorn:
    """A collator of batches that accelerate will cut by the first dimension of each tensor."""

    def __init__(self, collate: Callable, advice: str):
        self.collate, self.advice = collate, advice

    def __call__(self, rows: list) -> Any:
        batch = {name: values for name, values in self.collate(rows).items() if name != ROW_IDS}
        for name, values in batch.items():
            if not isinstance(values, torch.Tensor) and any(True for _ in tensors_in(values)):
                raise ValueError(
                    f"`{name}` of the batch holds tensors of single rows, and accelerate's `dispatch_batches` would "
                    f"cut each of them: {self.advice}."
                )
        return batch


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


@contextmanager
def changed(holder: Any, **values: Any) -> Iterator[None]:
    """Inside, attributes that it has are these."""
    before = {name: getattr(holder, name) for name in values if hasattr(holder, name)}
    for name in before:
        setattr(holder, name, values[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


class WholeRows(Trainer):
    """A Trainer whose evaluations read every row, in order, whatever is set for the training: `dataloader_drop_last`,
    `train_sampling_strategy`, or workers that persist from the evaluation of other rows.

    Rows of an iterable data set stay whole: each process reads it and takes its own, where accelerate would let the
    first read and cut what it sends, and the objects of a detector's image with it.
    """

    kept_rows: Any = None  # what persistent workers of the evaluation read

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        own = {} if is_training else FOR_TRAINING
        if self.args.device.type not in PINNING:
            own = own | {"dataloader_pin_memory": False}  # torch would only warn
        dispatch, collate = self.accelerator.dataloader_config.dispatch_batches, self.data_collator
        if isinstance(dataset, IterableDataset):
            if self.args.world_size == 1 or (is_training and dispatch is None):
                dispatch = False
            elif dispatch or not is_training:  # cut batches alone tell an evaluation which rows were repeated
                dispatch = True
                advice = (
                    "set `dispatch_batches: false` in `accelerator_config`"
                    if is_training
                    else "evaluate a data set that has a length, or on one process"
                )
                collate = Untorn(collate, advice)
        with (
            changed(self.args, **own),
            changed(self.accelerator.dataloader_config, dispatch_batches=dispatch),
            changed(self, data_collator=collate),
        ):
            return super()._get_dataloader(dataset, *args, **kwargs | dict(is_training=is_training))

    def get_train_dataloader(self) -> DataLoader:
        """
        Raises:
            ValueError: there are no rows, or no whole batch.
        """
        rows: Any = self.train_dataset
        if hasattr(rows, "__len__") and not len(rows):
            raise ValueError("`train_dataset` has no rows: look at what it was read from, or filtered by.")
        loader = super().get_train_dataloader()
        if has_length(loader) and not len(loader):
            size, processes = self._train_batch_size, self.args.world_size
            raise ValueError(
                f"`train_dataset` has {len(rows)} rows, fewer than a batch of {size}"
                f"{f' on each of {processes} processes' if processes > 1 else ''}, and `dataloader_drop_last` leaves "
                "out what fills none: set it to false, or lower `per_device_train_batch_size`."
            )
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        if not isinstance(eval_dataset, str):  # Trainer keeps one loader for all that have no name
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            if rows is not self.kept_rows:
                getattr(self, "_eval_dataloaders", {}).pop("eval", None)
            self.kept_rows = rows
        return super().get_eval_dataloader(eval_dataset)
