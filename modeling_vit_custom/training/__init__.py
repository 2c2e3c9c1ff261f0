"""Training with transformers' Trainer: recipes, data, batches, metrics."""

from .collators import ImageCollator
from .collators import ImageTextCollator
from .collators import MaskedImageCollator
from .collators import Numbered
from .collators import PreTrainingCollator
from .collators import SegmentationCollator
from .data import DATASETS
from .data import load_digits
from .detection_data import DetectionCollator
from .recipe import Recipe
from .recipe import read_recipe
from .run import Trained
from .run import train
from .tasks import TASKS
from .trainer import ViTCustomTrainer

__all__ = [
    "DATASETS",
    "TASKS",
    "DetectionCollator",
    "ImageCollator",
    "ImageTextCollator",
    "MaskedImageCollator",
    "Numbered",
    "PreTrainingCollator",
    "Recipe",
    "SegmentationCollator",
    "Trained",
    "ViTCustomTrainer",
    "load_digits",
    "read_recipe",
    "train",
]
