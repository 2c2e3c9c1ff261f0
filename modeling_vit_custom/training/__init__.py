"""Training with transformers' Trainer: recipes, data, augmentation, batches, losses, averages, checkpoints, metrics.

Each part also works in anyone's own Trainer.
"""

from .adapters import add_lora
from .adapters import merge
from .augmentation import Augmented
from .augmentation import Normalise
from .augmentation import Prepared
from .augmentation import RepeatedAugmentationSampler
from .augmentation import WithSteps
from .augmentation import make_transform
from .averaging import AveragedEvaluation
from .averaging import WeightAverage
from .checkpoints import WholeCheckpoints
from .checkpoints import checkpoints_in
from .class_weights import ClassLoss
from .class_weights import Weigh
from .class_weights import weights_of
from .collators import ImageCollator
from .collators import ImageTextCollator
from .collators import MaskedImageCollator
from .collators import Numbered
from .collators import PreTrainingCollator
from .collators import SegmentationCollator
from .data import DATASETS
from .data import load_digits
from .detection_data import DetectionCollator
from .distillation import CachedTeach
from .distillation import DistillationLoss
from .distillation import Teach
from .distillation import cache_predictions
from .distillation import load_teacher
from .examples import save_examples
from .history import write_history
from .mixing import Mix
from .mixing import MixPixels
from .mixing import soft_cross_entropy
from .parameter_groups import make_optimizer
from .parameter_groups import parameter_groups
from .probing import ProbeCallback
from .recipe import Recipe
from .recipe import read_recipe
from .rows import find_layout
from .run import Trained
from .run import load_data
from .run import train
from .sources import load_source
from .streams import NumberedStream
from .target_tasks import MultiLabelCollator
from .target_tasks import RegressionCollator
from .tasks import TASKS
from .timing import time_training
from .trainer import ViTCustomTrainer

__all__ = [
    "DATASETS",
    "TASKS",
    "Augmented",
    "AveragedEvaluation",
    "CachedTeach",
    "ClassLoss",
    "DetectionCollator",
    "DistillationLoss",
    "ImageCollator",
    "ImageTextCollator",
    "MaskedImageCollator",
    "Mix",
    "MixPixels",
    "MultiLabelCollator",
    "Normalise",
    "Numbered",
    "NumberedStream",
    "PreTrainingCollator",
    "Prepared",
    "ProbeCallback",
    "Recipe",
    "RegressionCollator",
    "RepeatedAugmentationSampler",
    "SegmentationCollator",
    "Teach",
    "Trained",
    "ViTCustomTrainer",
    "Weigh",
    "WeightAverage",
    "WholeCheckpoints",
    "WithSteps",
    "add_lora",
    "cache_predictions",
    "checkpoints_in",
    "find_layout",
    "load_data",
    "load_digits",
    "load_source",
    "load_teacher",
    "make_optimizer",
    "make_transform",
    "merge",
    "parameter_groups",
    "read_recipe",
    "save_examples",
    "soft_cross_entropy",
    "time_training",
    "train",
    "weights_of",
    "write_history",
]
