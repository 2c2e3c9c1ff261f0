"""transformers' Trainer, with losses that no split of a batch changes, and a stop at the first that is not finite.

class MyTrainer(ViTCustomTrainer, YourTrainer): ...  # it also works in front of anyone's own Trainer
"""

import inspect
import math
import os
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import EvalLoopOutput

from .adapters import let_gradients_through
from .adapters import outermost
from .augmentation import RepeatedAugmentationSampler
from .averaging import AveragedEvaluation
from .checkpoints import WholeCheckpoints
from .checkpoints import last_checkpoint
from .checkpoints import refuse_unsharded
from .class_weights import ClassLoss
from .distillation import DistillationLoss
from .loading import ROW_IDS
from .loading import WholeRows
from .machine import memory_told
from .machine import slow_bf16
from .mixing import soft_cross_entropy
from .naming import ID_COLUMNS
from .own_loss import MUST
from .own_loss import of_step
from .own_loss import tracked
from .parameter_groups import make_optimizer

LONG = 0.3  # of the time of training
SMALLER = (
    "lower it and raise `gradient_accumulation_steps` as much, which takes the same steps, set `auto_find_batch_size: "
    "true`, or keep fewer activations by `gradient_checkpointing: true`"
)
KNOWS_SCALED = hasattr(Trainer, "loss_is_scaled_for_ga")  # not in transformers 5.5
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


class RefusesUnsharded(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        refuse_unsharded(model, wanted=os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true")


class LetsGradientsThrough(TrainerCallback):
    """To layers behind frozen embeddings, once Trainer has turned on what checkpoints them."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.changed = let_gradients_through(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.changed:
            outermost(model).disable_input_require_grads()


class ViTCustomTrainer(WholeRows, AveragedEvaluation, WholeCheckpoints):
    """A Trainer whose loss is the mean over the valid items of a whole optimizer step: of all accumulated batches, on
    all processes. So one batch gives one gradient however it is split.

    transformers counts `labels != -100`, which is no count of pixels, boxes or masked patches. Here the model counts:
    `count_items(**batch)`. It may give a vector, where a loss has several normalisers; the last is then the images.
    A model without that method is trained as by Trainer.

    The evaluation's loss is the mean over all items too, or for a vector the mean over images of the batches' losses;
    on several processes no row counts twice.

    A loss of one's own (`compute_loss` of a class before or behind this one, or `compute_loss_func`) is taken apart:
    what was divided by `num_items_in_batch` adds up over accumulated batches and processes; the rest, a mean over its
    own batch, is weighted by the batch's items, or as by Trainer where they cannot be counted. So it must not multiply
    by the number of processes. `loss_is_scaled_for_ga` says instead what it is.

    Args, beside Trainer's:
        device_steps: called in turn on each batch on its device, `(inputs, training) -> inputs`, such as MixPixels(),
            Teach(teacher) and Normalise(...).
        layer_decay: each layer learns by this factor slower than the next ("BEiT", appendix H).
        repeats: so many augmented copies of an image follow each other (DeiT, 6).
    """

    loss_is_scaled_for_ga: bool | None = None

    def __init__(
        self,
        *args: Any,
        device_steps: Sequence[Callable] = (),
        layer_decay: float = 1.0,
        repeats: int = 1,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.device_steps, self.layer_decay, self.repeats = device_steps, layer_decay, repeats
        if self.args.n_gpu > 1:
            raise ValueError(
                f"This Trainer found {self.args.n_gpu} GPUs and one process, for which it cannot count: launch it with "
                "`torchrun --nproc_per_node`, or choose one GPU by CUDA_VISIBLE_DEVICES."
            )
        if (line := slow_bf16(self.args)) and self.args.should_log:
            print(line)
        self.data_collator = WithRowIds(self.data_collator)
        self.add_callback(TellsEpoch)
        self.add_callback(RefusesUnsharded)
        self.add_callback(LetsGradientsThrough)
        self.row_ids: list[str] | None = None
        self.num_items: torch.Tensor | None = None
        self.items_of_batches: list[torch.Tensor] = []  # of an optimizer step, those that are still to come
        self.evaluated: list[torch.Tensor] = []
        self.evaluates = self.idles = False
        self.waited = 0.0  # seconds
        self.counts = hasattr(self.accelerator.unwrap_model(self.model), "count_items") or bool(self.compute_loss_func)
        if self.counts:
            self.model_accepts_loss_kwargs = True
            self.can_return_loss |= not self.label_names  # masked images have a loss and no labels

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys((*self._signature_columns, *ID_COLUMNS)))

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.row_ids = inputs.pop(ROW_IDS, None)
        inputs = super()._prepare_inputs(inputs)
        with self.accelerator.autocast():  # a teacher runs as the student does
            for step in self.device_steps:
                inputs = step(inputs, not self.evaluates)
        return inputs

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        answer = super().get_batch_samples(*args, **kwargs)
        self.waited += time.perf_counter() - start
        return answer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; says so if the model waited long for its pictures."""
        self.waited = 0.0
        with memory_told("per_device_train_batch_size", lambda: self._train_batch_size, SMALLER):
            output = super().train(*args, **kwargs)
        share = self.waited / max(output.metrics.get("train_runtime", 0.0), 1e-9)
        if share > LONG and self.args.should_log:
            print(
                f"The model waited for its pictures {share:.0%} of the time: raise `dataloader_num_workers`, now "
                f"{self.args.dataloader_num_workers}, if cores are free, or store smaller pictures."
            )
        return output

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Without weight decay for norms, biases, tokens and positions, and with `layer_decay`."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.args, self.model if model is None else model, self.layer_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.repeats == 1 or not hasattr(rows, "__len__"):
            return super()._get_train_sampler(train_dataset)
        return RepeatedAugmentationSampler(len(rows), self.repeats, self.args.data_seed or self.args.seed)

    def count(self, batch: dict[str, Any]) -> torch.Tensor:
        """-> () or (n): the items of one batch."""
        model: Any = self.accelerator.unwrap_model(self.model)
        self.row_ids = batch.get(ROW_IDS, self.row_ids)
        if not hasattr(model, "count_items"):
            labels = batch["labels"]
            return ((labels != -100) | labels.is_floating_point()).sum()
        return model.count_items(**{key: value for key, value in batch.items() if key != ROW_IDS})

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Called by Trainer with the batches of an optimizer step, or with one of an evaluation."""
        self.num_items, self.items_of_batches = None, []
        if not (self.counts and batch_samples):
            return super()._get_num_items_in_batch(batch_samples, device)
        try:
            items = [self.count(batch).to(device) * (not self.idles) for batch in batch_samples]
        except ValueError as error:  # of boxes that cannot be meant
            error.add_note(f"The batch is of {self.rows_in_words()}.")
            raise
        except (AttributeError, KeyError, TypeError):  # a loss of one's own may have no labels, or others
            return super()._get_num_items_in_batch(batch_samples, device)
        counts, self.items_of_batches = torch.stack(items).sum(0), items
        if self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.num_items = counts
        # A step may have nothing to learn from: then its loss is 0, not 0 / 0. Of several counts the model knows more.
        return counts if counts.dim() else counts.clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """As Trainer's."""
        share: torch.Tensor | int = 1
        if self.counts and num_items_in_batch is not None and self.label_smoother is not None and not SMOOTHER_COUNTS:
            share = self.count(inputs) / num_items_in_batch  # its smoothed loss is the mean over this batch alone
        given = {"return_outputs": True} if return_outputs else {}
        answer: Any = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch, **given)
        return (answer[0] * share, *answer[1:]) if return_outputs else answer * share

    @property
    def has_own_loss(self) -> bool:
        classes = [cls for cls in type(self).__mro__ if cls not in (ViTCustomTrainer, Trainer)]
        function = self.compute_loss_func
        ours = function is None or function is soft_cross_entropy or isinstance(function, DistillationLoss | ClassLoss)
        return not ours or any("compute_loss" in vars(cls) for cls in classes) or "compute_loss" in self.__dict__

    @contextmanager
    def watched(self, training: bool) -> Iterator[None]:
        """Inside, `compute_loss` is what it was, whosever it is, and `watch` looks at what it gives."""
        given, compute = self.__dict__.get("compute_loss"), self.compute_loss
        if training and self.has_own_loss:
            compute = partial(self.own_loss, compute)
        self.compute_loss = partial(self.watch, compute)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.compute_loss
            if given is not None:
                self.compute_loss = given  # type: ignore[method-assign]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.watched(training=True):
            return super().training_step(*args, **kwargs)

    def watch(self, compute: Callable, model, inputs, return_outputs: bool = False, num_items_in_batch=None) -> Any:
        """
        Raises:
            FloatingPointError: the loss is not finite; before any weight could change by it.
        """
        given = {"return_outputs": True} if return_outputs else {}
        try:
            answer: Any = compute(model, inputs, num_items_in_batch=num_items_in_batch, **given)
        except ValueError as error:  # of labels that cannot be meant
            error.add_note(f"The batch is of {self.rows_in_words()}.")
            raise
        loss = answer[0] if return_outputs else answer
        items = self.num_items.reshape(-1)[-1] if self.num_items is not None and self.evaluates else None
        if not loss.isfinite().all() and (items is None or items > 0):
            raise FloatingPointError(self.what_is_not_finite(loss))
        if items is not None:
            total = torch.where(items > 0, loss.detach().mean() * items * (not self.idles), 0)
            self.evaluated.append(torch.stack((total, items.to(total.dtype))))
        return answer

    def own_loss(self, compute: Callable, model, inputs, num_items_in_batch=None, **given: Any) -> Any:
        """A loss of one's own, as this batch's contribution to an optimizer step."""
        steps, scaled, num_items = (
            self.current_gradient_accumulation_steps,
            self.loss_is_scaled_for_ga,
            num_items_in_batch,
        )
        across = self.args.average_tokens_across_devices
        processes = self.args.world_size if across else 1
        items = self.items_of_batches.pop(0) if self.items_of_batches else None
        has_parts = steps > 1 or self.args.world_size > 1
        leaf = None
        if num_items is not None and scaled is None and has_parts:
            if self.args.torch_compile:  # compiled code has no second derivative
                raise ValueError(f"Beside `torch_compile` a loss of one's own is not taken apart. {MUST}")
            dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)  # type: ignore[union-attr]
            leaf, num_items = tracked(num_items, dtype)
        self.args.average_tokens_across_devices = False  # or Trainer, if it is asked, would multiply by the processes
        try:
            answer = compute(model, inputs, num_items_in_batch=num_items, **given)
        finally:
            self.args.average_tokens_across_devices = across
        loss, outputs = answer if given else (answer, None)
        if leaf is not None:
            weight = 1 / steps
            if items is not None and not items.dim():
                weight = items * processes / leaf.detach()
            loss = of_step(loss, leaf, num_items, processes, weight)
        elif scaled or (num_items is not None and scaled is None):
            loss = loss * processes
        else:
            loss = loss / steps
        # What Trainer does next, unless it is asked for more than it knows.
        whole = self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and num_items is not None)
        divides = not (whole if scaled is None or not KNOWS_SCALED else scaled)
        loss = loss * steps if divides else loss
        return (loss, outputs) if given else loss

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
        last = last_checkpoint(Path(str(self.args.output_dir)))
        where = f"after {self.state.global_step} steps, in the batch of {self.rows_in_words()}"
        checkpoint = f"Go on from {last}." if last else "No checkpoint was saved yet: set `save_steps`."
        return f"The loss is {loss.sum().item()} {where}. {cause}. {checkpoint}"

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As Trainer's. The last batch of a process may repeat rows, so that all are equally many; accelerate drops
        their outputs, and here they do not count for the loss either."""
        real, known = self.num_real_rows(inputs), len(self.evaluated)
        whole = dict(inputs) if real is not None else {}
        with self.watched(training=False):
            answer = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            if real is not None and len(self.evaluated) > known:
                self.evaluated.pop()
                self.idles = (
                    real == 0
                )  # it still runs, with a row that counts nothing: parts of a model may be elsewhere
                try:
                    part = {key: value[: max(real, 1)] for key, value in whole.items()}
                    super().prediction_step(model, part, True, ignore_keys)
                finally:
                    self.idles = False
        return answer

    def num_real_rows(self, inputs: dict[str, Any]) -> int | None:
        """Of this process's last batch of an evaluation, how many rows no process has had before; None: all."""
        state = self.accelerator.gradient_state
        remainder = state.remainder if self.args.world_size > 1 and state.end_of_dataloader else -1
        size = len(next(value for key, value in inputs.items() if key != ROW_IDS))
        if remainder <= 0 or remainder == size * self.args.world_size:
            return None
        return min(max(remainder - size * self.args.process_index, 0), size)

    def evaluation_loop(
        self,
        dataloader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As Trainer's, which weighs the batches' losses by their images; here their items weigh."""
        self.evaluated, self.evaluates = [], True
        try:
            with memory_told("per_device_eval_batch_size", lambda: self.args.eval_batch_size, "lower it"):
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
                )
        finally:
            self.evaluates = False
        name = f"{metric_key_prefix}_loss"
        if self.counts and output.metrics and name in output.metrics:
            own = torch.stack(self.evaluated).sum(0) if self.evaluated else torch.zeros(2, device=self.args.device)
            total, weight = self.accelerator.reduce(own, reduction="sum").tolist()
            if weight or not self.has_own_loss:
                output.metrics[name] = total / weight if weight else math.nan
        return output
