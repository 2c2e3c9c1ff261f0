"""A loss of one's own, of which nobody says how it follows the parts of a batch: what of it is a share of the whole
step, because it was divided by `num_items_in_batch`, and what is a mean over its own part.

The share is found by its derivative: S / n has the derivative -S / n**2 by n, and a mean over its own part has none.
"""

import torch

AS_NUMBERS = ("item", "tolist", "numpy", "__float__", "__int__", "__index__", "__array__")
MUST = (
    "Divide a sum by the tensor `num_items_in_batch` itself, without `.item()`; or set `loss_is_scaled_for_ga` of your "
    "Trainer: False if your loss is a mean over its own part, True if the losses of all parts add up to the whole."
)


class ItemCount(torch.Tensor):
    """`num_items_in_batch` for a loss of one's own. It remembers whether it left its graph, where no derivative sees
    what becomes of it."""

    left = False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            answer = function(*args, **kwargs or {})
        if torch.is_grad_enabled():
            constant = isinstance(answer, torch.Tensor) and not answer.requires_grad and answer.dtype != torch.bool
            if constant or getattr(function, "__name__", "") in AS_NUMBERS:
                for given in args:
                    if isinstance(given, cls):
                        given.left = True
        return answer


def tracked(num_items: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ItemCount]:
    """The leaf that derivatives are by, and what the loss is given."""
    leaf = num_items.detach().to(dtype, copy=True).requires_grad_()
    return leaf, (leaf * 1).as_subclass(ItemCount)


def of_step(
    loss: torch.Tensor, leaf: torch.Tensor, given: ItemCount, processes: int, weight: torch.Tensor | float
) -> torch.Tensor:
    """() -> (): this part's contribution, where gradients are averaged over processes.

    Args:
        processes: over which `num_items_in_batch` was counted.
        weight: of a mean over this part alone.

    Raises:
        ValueError: the loss cannot be told apart.
    """
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss), create_graph=True, allow_unused=True)
    share = torch.zeros_like(loss) if gradient is None else -(gradient * leaf).sum().to(loss.dtype).reshape(loss.shape)
    if given.left and not torch.isclose(share, loss, rtol=1e-3):
        raise ValueError(f"A loss of one's own made a plain number of `num_items_in_batch`: {MUST}")
    return share * processes + (loss - share) * weight
