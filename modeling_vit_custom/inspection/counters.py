"""What a model costs, counted while it runs rather than estimated."""

import weakref
from collections.abc import Callable
from collections.abc import Iterable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images_for(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    parameter = next(model.parameters())
    return torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)


def count_macs(model: nn.Module, *pixel_values_shape: int) -> int:
    """Multiply-accumulates of the matrix products, convolutions and attention for one input of this shape (B, C, H, W).

    Runs on the model's own device: on `meta` the largest models cost neither memory nor time. Norms, activations and
    softmax are not counted, as in the tables of the papers.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images_for(model, pixel_values_shape))
    return counter.get_total_flops() // 2


def kept_bytes(function: Callable, inputs: torch.Tensor, parameters: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps of one call for the backward pass: each storage once, without the parameters'."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no later one gets its address
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = function(inputs)  # held, so that nothing kept is freed before it is summed up
    total = sum(storage.nbytes() for storage in kept.values())
    del outputs
    return total


def count_kept_bytes(model: nn.Module, *pixel_values_shape: int) -> int:
    """Bytes that autograd keeps of the forward pass of one input of this shape (B, C, H, W), the input with them."""
    return kept_bytes(model, images_for(model, pixel_values_shape), model.parameters())


class PeakMode(TorchDispatchMode):
    """The largest number of bytes in tensors that are alive at once, looked at after each operator.

    What a kernel allocates and frees within itself is not seen.
    """

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.alive, self.peak = 0, 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def free(self, num_bytes: int):
        self.alive -= num_bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **kwargs or {})
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return outputs


def peak_bytes(function: Callable[[], object], known: Iterable[torch.Tensor]) -> int:
    """The most bytes alive at once while `function` runs, in tensors made since and not in `known`."""
    with PeakMode(known) as mode:
        function()
    return mode.peak


def count_peak_bytes(model: nn.Module, *pixel_values_shape: int) -> int:
    """The most bytes that the forward pass of one input holds at once, the input with them and the weights without."""

    def forward():
        with torch.no_grad():
            model(images_for(model, pixel_values_shape))

    return peak_bytes(forward, model.parameters())
