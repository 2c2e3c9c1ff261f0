"""A moving average of a model's weights, kept beside them while they are trained; for anyone's Trainer.

    average = WeightAverage(decay=0.9999)
    trainer = MyTrainer(model, args, ..., callbacks=[average])  # class MyTrainer(AveragedEvaluation, Trainer): ...
    trainer.train()
    with average.weights(model):
        model.save_pretrained(folder)

The mean of the last iterates of SGD is better than the last ("Acceleration of stochastic approximation by averaging",
Polyak and Juditsky 1992). DeiT's training code has the exponential average, with a decay of 0.99996 at 1,251 steps an
epoch for 300 epochs: a shorter run needs a lower one.
"""

import os
import re
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import distribute_tensor
from transformers import Trainer
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .parameter_groups import refuse_flat_parameters

EMA_FILE = "ema.safetensors"
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.|_checkpoint_wrapped_module\.")  # DDP's, torch.compile's


class WeightAverage(TrainerCallback):
    """After step t, average <- d * average + (1 - d) * weights, for all that a checkpoint holds: parameters, buffers
    such as BatchNorm's; whole numbers are copied. In float32 at least: bfloat16 would round such small steps away.

    The weights themselves, and all random numbers, are as without it. On several processes each averages what it holds.
    A checkpoint keeps the average as `ema.safetensors`, whose names are those of `model.safetensors`; training resumes
    with it or not at all.

    Args:
        decay: d.
        warmup: the n-th average has a decay of at most (1 + n) / (10 + n), so that the first weights, which are random
            or another task's, are forgotten; else a short run averages little but them. DeiT has none.
        every: so many steps apart; `decay` is then per average.

    Attributes:
        averages: by name, laid out as the model's tensors; empty before training and before `load`.
        step: how many optimizer steps they are from.
    """

    def __init__(self, decay: float = 0.9999, warmup: bool = True, every: int = 1):
        if not 0 <= decay < 1:
            raise ValueError(f"The average's `decay: {decay}` must be at least 0 and below 1: try 0.9999.")
        if every < 1:
            raise ValueError(f"The average's `every: {every}` counts optimizer steps: set it to at least 1.")
        self.decay, self.warmup, self.every = decay, warmup, every
        self.averages: dict[str, torch.Tensor] = {}
        self.step = 0
        self.swapped = False  # whether a model has the averages for its weights
        self.resume_from: Path | None = None  # the checkpoint that training goes on from, where it is known
        self.loaded = False  # by the user, for the training that begins next
        self.writes: bool | None = None
        self.written: os.stat_result | None = None

    @torch.no_grad()
    def begin(self, model: nn.Module):
        """The average is what the weights are now."""
        refuse_parts(model)
        wide = {name: torch.promote_types(value.dtype, torch.float32) for name, value in averaged(model).items()}
        tensors = tensors_of(model)
        self.averages = {n: value.detach().clone().to(wide.get(n, value.dtype)) for n, value in tensors.items()}
        self.step = 0

    def decay_at(self, number: int) -> float:
        """Of the average with this number, from 1 (the schedule is TensorFlow's ExponentialMovingAverage)."""
        return min(self.decay, (1 + number) / (10 + number)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module):
        """One optimizer step is done."""
        self.step += 1
        if self.step % self.every:
            return
        moving = averaged(model)
        means = [local(self.averages[name]) for name in moving]
        values = [local(value).to(mean.dtype) for value, mean in zip(moving.values(), means, strict=True)]
        torch._foreach_lerp_(means, values, 1 - self.decay_at(self.step // self.every))
        for name, value in tensors_of(model).items():
            if name not in moving:
                local(self.averages[name]).copy_(local(value))

    def copy_to(self, model: nn.Module):
        """The averages become the model's weights, for good."""
        self.fit(model)
        put(model, self.averages)

    @contextmanager
    def weights(self, model: nn.Module) -> Iterator[nn.Module]:
        """Inside, the model has the averages for its weights; afterwards its own again, to the last bit."""
        self.fit(model)
        own = {name: local(value.detach()).clone() for name, value in tensors_of(model).items()}
        before = self.swapped
        try:
            self.swapped = True
            put(model, self.averages)
            yield model
        finally:
            put(model, own)
            self.swapped = before

    @torch.no_grad()
    def fit(self, model: nn.Module):
        """Averages that were read from a file, on the model's devices and cut as its tensors are.

        Raises:
            RuntimeError: there are none.
            ValueError: they are another model's.
        """
        if not self.averages:
            raise RuntimeError("Nothing was averaged yet: train first, or `load` the folder of a checkpoint.")
        tensors = tensors_of(model)
        there, here = ({name: value.shape for name, value in some.items()} for some in (self.averages, tensors))
        if there != here:
            name = next(name for name in there | here if there.get(name) != here.get(name))
            shapes = [tuple(some[name]) if name in some else "absent" for some in (there, here)]
            raise ValueError(
                f"The average is of another model than {type(model).__name__}: {name} is {shapes[0]} in the average "
                f"and {shapes[1]} in the model; give it the model that it was made with."
            )
        for name, value in tensors.items():
            mean = self.averages[name].to(value.device)
            if isinstance(value, DTensor) and not isinstance(mean, DTensor):
                mean = distribute_tensor(mean, value.device_mesh, value.placements)
            self.averages[name] = mean

    def save(self, folder: Path | str):
        """Write `ema.safetensors`; called on all processes, of which the first writes (or the first of each node, where
        the training arguments say so).

        Raises:
            RuntimeError: there are no averages yet.
        """
        if not self.averages:
            raise RuntimeError("Nothing was averaged yet: train first.")
        writes = is_first_process() if self.writes is None else self.writes
        whole = {}
        for name, mean in self.averages.items():
            full = mean.full_tensor() if isinstance(mean, DTensor) else mean  # on all processes, in one order
            if writes:
                whole[name] = full.cpu().contiguous()
        if writes:
            path = Path(folder, EMA_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            save_file(whole, part, {"format": "pt", "step": str(self.step)})
            part.replace(path)
            self.written = path.stat()

    def load(self, folder: Path | str):
        """Read a checkpoint's average: to evaluate it, or to train on from there.

        Raises:
            FileNotFoundError: it has none.
            ValueError: the file is broken.
        """
        path = Path(folder, EMA_FILE)
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {EMA_FILE}, so the average cannot go on from there: take a checkpoint of a run with "
                "WeightAverage, or begin a new run from its weights."
            )
        try:
            with safe_open(path, "pt") as file:
                self.step = int(file.metadata()["step"])
                self.averages = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is broken ({error}): take another checkpoint.") from error
        self.loaded = True

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.writes = args.should_save
        if state.global_step == 0 and not self.loaded:
            self.begin(model)
            return
        refuse_parts(model)
        if not self.loaded:
            self.load(self.folder_of(args, state))
        self.loaded = False
        if self.step != state.global_step:
            raise ValueError(
                f"The average that was read is of step {self.step}, and training goes on from step "
                f"{state.global_step}: `load` the average of the checkpoint that you resume from."
            )
        self.fit(model)

    def folder_of(self, args: Any, state: Any) -> Path:
        """The checkpoint that training goes on from. Trainer does not tell a callback, AveragedEvaluation does."""
        if self.resume_from is not None:
            return self.resume_from
        given = args.resume_from_checkpoint
        if isinstance(given, str) and Path(given).is_dir():
            return Path(given)
        return Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.update(model)

    def on_save(self, args, state, control, **kwargs):
        """Unless this very file was written by `save` and is there, whatever its folder was called meanwhile."""
        path = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", EMA_FILE)
        here = self.written is not None and path.is_file() and os.path.samestat(self.written, path.stat())
        if not broadcast_object_list([here])[0]:  # one answer for all: gathering is done by all or by none
            self.save(path.parent)


class AveragedEvaluation(Trainer):
    """A Trainer that also evaluates the averages of its WeightAverage, if it has one, as `eval_ema_...`.

    Both are logged, and given to `on_evaluate`, at once, so `metric_for_best_model: ema_accuracy` and early stopping
    work. Within `average.weights(model)` the model is evaluated once. The weights that `load_best_model_at_end` loads
    are the plain ones: `average.load(trainer.state.best_model_checkpoint)` reads the average beside them.
    """

    averaged_metrics: Mapping[str, float] = {}  # for the evaluation of the plain weights that follows

    @property
    def average(self) -> WeightAverage | None:
        return next((one for one in self.callback_handler.callbacks if isinstance(one, WeightAverage)), None)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        if self.average:
            known = resume_from_checkpoint is not None and not isinstance(resume_from_checkpoint, bool)
            self.average.resume_from = Path(str(resume_from_checkpoint)) if known else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        average, dataset = self.average, self.eval_dataset if eval_dataset is None else eval_dataset
        # Several data sets come back here one by one.
        if average is not None and average.averages and not average.swapped and not isinstance(dataset, dict):
            model: Any = self.model
            devices = [self.args.device] if self.args.device.type == "cuda" else []
            # A data loader draws a seed: forked, training goes on as without, and both evaluations draw alike.
            with average.weights(model), torch.random.fork_rng(devices):
                self.averaged_metrics = self.evaluation_loop(
                    self.get_eval_dataloader(eval_dataset),
                    description="Evaluation of the average",
                    prediction_loss_only=True if self.compute_metrics is None else None,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=f"{metric_key_prefix}_ema",
                ).metrics
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.averaged_metrics = {}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output: Any = super().evaluation_loop(*args, **kwargs)
        output.metrics.update(self.averaged_metrics)
        return output


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint themselves, each once, under the names that they have without wrappers."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():  # FSDP2 first gives up what it has gathered
        if isinstance(value, torch.Tensor):
            found.setdefault(id(value), (WRAPPERS.sub("", name), value))
    return dict(found.values())


def averaged(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those that have a mean: no counts, no masks."""
    return {name: value for name, value in tensors_of(model).items() if value.is_floating_point() or value.is_complex()}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that is here, or the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(model: nn.Module, values: Mapping[str, torch.Tensor]):
    """
    Raises:
        RuntimeError: the model was cut into other parts meanwhile.
    """
    for name, tensor in tensors_of(model).items():
        here, value = local(tensor), local(values[name])
        if here.shape != value.shape:
            raise RuntimeError(
                f"{name} was {tuple(value.shape)} and is now {tuple(here.shape)}: prepare or shard the model before "
                "its weights are exchanged."
            )
        here.copy_(value)


def refuse_parts(model: nn.Module):
    """
    Raises:
        ValueError: the weights are cut in a way that leaves nothing to average here.
    """
    refuse_flat_parameters(model)
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            "DeepSpeed's ZeRO-3 holds no weights between steps, so there is nothing to average: choose ZeRO-2, FSDP 2, "
            "or no WeightAverage."
        )


def is_first_process() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0
