"""One recipe from start to end: data, model, Trainer, evaluation."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from datasets import Dataset
from transformers import EvalPrediction
from transformers import Trainer
from transformers import ViTImageProcessor
from transformers import set_seed

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from .data import DATASETS
from .data import ImageCollator
from .recipe import Recipe


@dataclass
class Trained:
    model: ViTCustomForImageClassification
    image_processor: ViTImageProcessor
    held_out: Dataset
    metrics: dict[str, float]
    num_train_images: int
    seconds: float


def train(recipe: Recipe) -> Trained:
    """Train on the recipe's data and evaluate on its held-out part. Writes nothing but Trainer's own files.

    Raises:
        ValueError: the recipe names a data set that is not built in, or asks for more examples than there are.
    """
    if recipe.data.dataset not in DATASETS:
        raise ValueError(f"`dataset: {recipe.data.dataset}` is not built in: choose one of {', '.join(DATASETS)}.")
    start = time.perf_counter()
    set_seed(recipe.training.seed)
    splits = DATASETS[recipe.data.dataset](recipe.data.split_seed)
    if recipe.data.num_examples > len(splits["test"]):
        raise ValueError(
            f"`num_examples: {recipe.data.num_examples}` exceeds the {len(splits['test'])} held-out images."
        )
    labels = splits["train"].features["label"].names
    id2label = dict(enumerate(labels))
    settings: dict[str, Any] = {"problem_type": "single_label_classification", **recipe.model.config_overrides}
    config = ViTCustomConfig(id2label=id2label, label2id={name: index for index, name in id2label.items()}, **settings)
    image_processor = ViTImageProcessor(**recipe.model.processor_overrides)
    accuracy = evaluate.load(str(Path(__file__).with_name("accuracy.py")))

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return accuracy.compute(predictions=np.argmax(prediction.predictions, -1), references=prediction.label_ids)

    model = ViTCustomForImageClassification(config)
    trainer = Trainer(
        model=model,
        args=recipe.training,
        data_collator=ImageCollator(image_processor, config.num_labels),
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        compute_metrics=compute_metrics,
    )
    trainer.train()
    metrics = trainer.evaluate()
    seconds = time.perf_counter() - start
    return Trained(model, image_processor, splits["test"], metrics, len(splits["train"]), seconds)
