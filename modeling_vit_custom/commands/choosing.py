"""Settings that nobody gave, from the data and the machine. They are printed, and saved as the run's recipe."""

import os
from typing import Any
from typing import NamedTuple

import torch

from ..configuration_checks import pair
from ..inspection import Run
from ..inspection import memory

# Effective batches: of new weights, and of weights that have learned.
SCRATCH_BATCH, TUNED_BATCH = 64, 32
SHARE_OF_MEMORY = 0.5  # of what is free, for one batch with its gradients
FEW = 10_000  # pictures, below which new weights learn little (docs/vit_vs_cnn.md)


class Chosen(NamedTuple):
    value: Any
    why: str


def free_memory() -> float:
    """Bytes for tensors on the device that training uses."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def largest_batch(config: Any, image_size: Any, wanted: int) -> int:
    """`wanted`, or half of it again and again until it fits the memory."""
    vision = getattr(config, "vision_config", config)
    batch, available = wanted, SHARE_OF_MEMORY * free_memory()
    while batch > 1 and sum(memory(vision, pair(image_size), Run(batch_size=batch), True).values()) > available:
        batch //= 2
    return batch


def epochs_for(num_images: int, tuned: bool, task: str, accelerated: bool) -> int:
    """More for few pictures: 30 for 200, 10 for 10,000, 4 for 200,000, as "BigTransfer" (section 3.3) lets the number
    of steps grow more slowly than the data; five times as many for new weights; a third without an accelerator, where
    an epoch takes long. Boxes take twice as many ("End-to-End Object Detection with Transformers", section 4).
    """
    epochs = 30 * (200 / max(num_images, 200)) ** 0.3
    epochs *= (1 if tuned else 5) * (2 if task == "object-detection" else 1) / (1 if accelerated else 3)
    return max(3, round(epochs))


def choose(
    task: str, config: Any, image_size: Any, num_images: int, tuned: bool, processes: int = 1
) -> dict[str, Chosen]:
    """-> a recipe's key -> what it becomes and why.

    Args:
        config: of the model that begins; a tower's where it has two.
        image_size: of the pictures that it is given.
        num_images: to train on.
        tuned: it begins from a checkpoint, for a task with a head of its own.
        processes: that share a batch.
    """
    accelerated = torch.accelerator.is_available()
    vision = getattr(config, "vision_config", config)
    batch = TUNED_BATCH if tuned else SCRATCH_BATCH
    while batch > 8 and num_images < 16 * batch:  # an epoch has 16 steps or more
        batch //= 2
    batch = max(1, batch // processes)
    fits = largest_batch(vision, image_size, batch)
    at_once = f"on {'the accelerator' if accelerated else 'this CPU'}"
    made = {
        "num_train_epochs": Chosen(epochs_for(num_images, tuned, task, accelerated), f"for {num_images:,} pictures"),
        "per_device_train_batch_size": Chosen(fits, f"pictures at once {at_once}"),
        "per_device_eval_batch_size": Chosen(2 * fits, "pictures at once, without gradients"),
        "dataloader_num_workers": Chosen(min(8, (os.cpu_count() or 1) - 1) if accelerated else 0, at_once),
        "dataloader_pin_memory": Chosen(accelerated, at_once),
    }
    if fits < batch:
        made["gradient_accumulation_steps"] = Chosen(batch // fits, f"batches of {batch} in parts that fit the memory")
    if tuned:
        made["learning_rate"] = Chosen(3e-4, "for the head of a model that has learned")
        made["layer_decay"] = Chosen(0.75, "each layer below learns more slowly")
    else:
        width = max(vision.hidden_sizes)
        made["learning_rate"] = Chosen(5e-4 if width < 768 else 2e-4, f"for new weights of width {width}")
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        made["bf16"] = Chosen(True, "this accelerator computes it fast")
    return made


def expectation(num_images: int) -> str | None:
    """The warning for new weights and few pictures."""
    if num_images >= FEW:
        return None
    return (
        f"{num_images:,} pictures are few for new weights. On 1,000 pictures of Fashion-MNIST a plain ViT came to 74 % "
        "where a support vector machine on the pixels came to 81 % (docs/vit_vs_cnn.md). Expect little; `--from "
        "CHECKPOINT` is the better start."
    )
