"""transformers' Trainer, with losses that no split of a batch changes, and a stop at the first that is not finite.

class MyTrainer(ViTCustomTrainer, YourTrainer): ...  # it also works in front of anyone's own Trainer
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import EvalLoopOutput
from transformers.trainer_utils import get_last_checkpoint

ID_COLUMNS = ("image_id", "id", "index")  # what a row may be known by, the first that it has
ROW_IDS = "row_ids"
SMOOTHER_COUNTS = "num_items_in_batch" in inspect.signature(LabelSmoother.__call__).parameters  # not in 5.5


class WithRowIds:
    """A collator's batch with the ids of its rows beside it, which the Trainer takes out again."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, rows: list) -> dict[str, Any]:
        batch = self.collate(rows)
        names = [name for name in ID_COLUMNS if isinstance(rows[0], dict) and name in rows[0]]
        if names:
            batch = {key: value for key, value in batch.items() if key not in names}
            batch[ROW_IDS] = [str(row[names[0]]) for row in rows]
        return batch


class TellsEpoch(TrainerCallback):
    """To a data set that has a `set_epoch`: Trainer and accelerate tell only samplers."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        dataset = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int((state.epoch or 0) + 1e-6))


class ViTCustomTrainer(Trainer):
    """A Trainer whose loss is the mean over the valid items of a whole optimizer step: of all accumulated batches, on
    all processes. So one batch gives one gradient however it is split.

    transformers counts `labels != -100`, which is no count of pixels, boxes or masked patches. Here the model counts:
    `count_items(**batch)`. It may give a vector, where a loss has several normalisers; the last is then the images.
    A model without that method is trained as by Trainer.

    The evaluation's loss is the mean over all items too, or for a vector the mean over images of the batches' losses.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise ValueError(
                f"This Trainer found {self.args.n_gpu} GPUs and one process, for which it cannot count: launch it with "
                "`torchrun --nproc_per_node`, or choose one GPU by CUDA_VISIBLE_DEVICES."
            )
        self.data_collator = WithRowIds(self.data_collator)
        self.add_callback(TellsEpoch)
        self.row_ids: list[str] | None = None
        self.num_items: torch.Tensor | None = None
        self.evaluated: list[torch.Tensor] = []
        self.counts = hasattr(self.accelerator.unwrap_model(self.model), "count_items")
        if self.counts:
            self.model_accepts_loss_kwargs = True
            self.can_return_loss |= not self.label_names  # masked images have a loss and no labels

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys((*self._signature_columns, *ID_COLUMNS)))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.row_ids = inputs.pop(ROW_IDS, None)
        return super()._prepare_inputs(inputs)

    def count(self, batch: dict[str, Any]) -> torch.Tensor:
        """-> () or (n): the items of one batch."""
        model: Any = self.accelerator.unwrap_model(self.model)
        self.row_ids = batch.get(ROW_IDS, self.row_ids)
        return model.count_items(**{key: value for key, value in batch.items() if key != ROW_IDS})

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Called by Trainer with the batches of an optimizer step, or with one of an evaluation."""
        if not (self.counts and batch_samples):
            return super()._get_num_items_in_batch(batch_samples, device)
        try:
            counts = torch.stack([self.count(batch).to(device) for batch in batch_samples]).sum(0)
        except ValueError as error:  # of boxes that cannot be meant
            error.add_note(f"The batch is of {self.rows_in_words()}.")
            raise
        if self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.num_items = counts
        # A step may have nothing to learn from: then its loss is 0, not 0 / 0. Of several counts the model knows more.
        return counts if counts.dim() else counts.clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """As Trainer's.

        Raises:
            FloatingPointError: the loss is not finite; before any weight could change by it.
        """
        share: torch.Tensor | int = 1
        if self.counts and num_items_in_batch is not None and self.label_smoother is not None and not SMOOTHER_COUNTS:
            share = self.count(inputs) / num_items_in_batch  # its smoothed loss is the mean over this batch alone
        try:
            answer: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        except ValueError as error:  # of labels that cannot be meant
            error.add_note(f"The batch is of {self.rows_in_words()}.")
            raise
        loss, outputs = answer if return_outputs else (answer, None)
        loss = loss * share
        if not loss.isfinite().all():
            raise FloatingPointError(self.what_is_not_finite(loss))
        if self.num_items is not None and not model.training:
            weight = self.num_items.reshape(-1)[-1].to(loss.dtype)
            self.evaluated.append(torch.stack((loss.detach() * weight, weight)))
        return (loss, outputs) if return_outputs else loss

    def rows_in_words(self) -> str:
        return f"rows {', '.join(self.row_ids)}" if self.row_ids else f"rows without {' or '.join(ID_COLUMNS)}"

    def what_is_not_finite(self, loss: torch.Tensor) -> str:
        model: Any = self.model
        broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
        cause = (
            f"Weights were not finite before, {broken[0]} among them: lower `learning_rate` or raise `warmup_steps`"
            if broken
            else "The weights are finite: look at these rows, or lower `learning_rate`"
        )
        folder = Path(str(self.args.output_dir))
        last = get_last_checkpoint(folder) if folder.is_dir() else None
        where = f"after {self.state.global_step} steps, in the batch of {self.rows_in_words()}"
        checkpoint = f"Go on from {last}." if last else "No checkpoint was saved yet: set `save_steps`."
        return f"The loss is {loss.sum().item()} {where}. {cause}. {checkpoint}"

    def evaluation_loop(
        self,
        dataloader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As Trainer's, which weighs the batches' losses by their images; here their items weigh."""
        self.evaluated = []
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        name = f"{metric_key_prefix}_loss"
        if self.evaluated and output.metrics and name in output.metrics:
            total, weight = self.accelerator.reduce(torch.stack(self.evaluated).sum(0), reduction="sum").tolist()
            output.metrics[name] = total / weight
        return output
