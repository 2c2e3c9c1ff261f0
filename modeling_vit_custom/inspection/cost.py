"""What a model costs, counted rather than estimated."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *pixel_values_shape: int) -> int:
    """Multiply-accumulates of the matrix products, convolutions and attention for one input of this shape (B, C, H, W).

    Runs on the model's own device: on `meta` the largest models cost neither memory nor time. Norms, activations and
    softmax are not counted, as in the tables of the papers.
    """
    parameter = next(model.parameters())
    pixel_values = torch.empty(pixel_values_shape, dtype=parameter.dtype, device=parameter.device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(pixel_values)
    return counter.get_total_flops() // 2
