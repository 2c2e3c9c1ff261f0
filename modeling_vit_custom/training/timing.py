"""Trainer's step beside a bare loop's, in turns, and what preparing pictures takes."""

import io
import time
from collections.abc import Callable

import torch
from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from datasets import Image as Pictures
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers import TrainingArguments
from transformers import ViTImageProcessor

from ..common import extra
from ..configuration_checks import pair
from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from .augmentation import Augmented
from .augmentation import Normalise
from .augmentation import make_transform
from .collators import ImageCollator
from .parameter_groups import make_optimizer
from .trainer import ViTCustomTrainer

RECIPE = dict(policy="rand_augment", crop="resized", flip=0.5, erasing=0.25)
SIDE = 320  # of a picture before it is cropped


def photographs(count: int = 256) -> Dataset:
    """Crops of scikit-learn's two photographs, as JPEG files in memory."""
    with extra("study", "The photographs need"):
        from sklearn.datasets import load_sample_images
    photographs, files = [Image.fromarray(pixels) for pixels in load_sample_images().images], []
    for number in range(count):
        photograph, file = photographs[number % 2], io.BytesIO()
        left, top = 7 * number % (photograph.width - SIDE), 3 * number % (photograph.height - SIDE)
        photograph.crop((left, top, left + SIDE, top + SIDE)).save(file, "JPEG", quality=90)
        files.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Pictures(), "label": ClassLabel(names=["temple", "flower"])})
    return Dataset.from_dict({"image": files, "label": [n % 2 for n in range(count)]}, features=features)


class TakesTurns(TrainerCallback):
    """After each step of Trainer, one of the bare loop."""

    def __init__(self, bare: Callable[[], object]):
        self.bare, self.start = bare, 0.0
        self.seconds: dict[str, list[float]] = {"trainer": [], "bare": []}

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        if state.global_step > 1:
            self.seconds["trainer"].append(now - self.start)
        self.bare()
        if state.global_step > 1:
            self.seconds["bare"].append(time.perf_counter() - now)
        self.start = time.perf_counter()


def time_training(config: ViTCustomConfig, batch: int, steps: int, folder: str) -> dict[str, list[float]]:
    """Seconds of each step of Trainer and of the bare loop, and of preparing one picture. Both models are equal.

    Args:
        config: of a classifier of two classes.
        folder: for what Trainer would write.
    """
    height, width = pair(config.image_size)
    processor = ViTImageProcessor(size=dict(height=height, width=width))
    torch.manual_seed(0)
    models = [ViTCustomForImageClassification(config) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    rows = Augmented(photographs(), make_transform((height, width), RECIPE, fill=[127] * 3), seed=0)
    collate, normalise = ImageCollator(processor, 2), Normalise.of(processor)
    args = TrainingArguments(
        folder,
        max_steps=steps + 1,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        logging_steps=10**6,
    )
    optimizer = make_optimizer(args, models[1], 1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps + 1)

    def forever():
        while True:
            yield from DataLoader(rows, batch, shuffle=True, collate_fn=collate)

    batches = forever()

    def bare():
        inputs = normalise(next(batches), True)
        models[1](**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(models[1].parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    models[1].train()
    turns = TakesTurns(bare)
    trainer = ViTCustomTrainer(
        model=models[0],
        args=args,
        data_collator=collate,
        train_dataset=rows,
        device_steps=[normalise],
        callbacks=[turns],
    )
    trainer.train()
    start = time.perf_counter()
    for index in range(64):
        rows[index]
    return turns.seconds | {"picture": [(time.perf_counter() - start) / 64]}
