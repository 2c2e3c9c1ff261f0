"""From rows to what the model sees: augmented and resized where they are decoded, bytes until the device, there mixed,
shown to the teacher, and normalised."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2.functional import to_pil_image

from ..configuration_checks import pair
from .augmentation import Augmented
from .augmentation import Normalise
from .augmentation import Prepared
from .augmentation import make_transform
from .balance import count_classes
from .class_weights import ClassLoss
from .class_weights import Weigh
from .class_weights import tell_weights
from .class_weights import weights_of
from .collators import Numbered
from .distillation import CachedTeach
from .distillation import DistillationLoss
from .distillation import Teach
from .distillation import cache_predictions
from .distillation import load_teacher
from .kept_processor import made_size
from .mixing import Mix
from .mixing import MixPixels
from .mixing import soft_cross_entropy
from .moving import AugmentedScenes
from .moving import MovingTogether
from .recipe import Recipe
from .recipe import meant
from .recipe import refuse_unknown
from .standardised import mean_and_deviation
from .streams import NumberedStream
from .targets import NUMBERS
from .targets import SINGLE
from .task import Task

DISTILLATION = ("teacher", "kind", "alpha", "temperature", "cache")


@dataclass
class Pipeline:
    train: Any
    test: Any
    collate: Callable
    device_steps: list[Callable] = field(default_factory=list)
    loss: Callable | None = None  # the model's own if there is none


class WithRowIndex:
    """A collator's batch with `row_index` (B), by which cached predictions are found."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self.collate(rows) | {"row_index": torch.tensor([row["index"] for row in rows])}


def make_pipeline(recipe: Recipe, task: Task, splits: Any, config: Any, processor: Any, collate: Callable) -> Pipeline:
    """
    Raises:
        ValueError: a setting that nothing has; or one that this task, or a stream, cannot have.
        FileNotFoundError: there is no such teacher.
    """
    data, seed, problem = recipe.data, recipe.training.seed, task.problem_type
    if recipe.model.class_weights and (problem is None or problem == NUMBERS):
        what = f"`task: {task.name}`" if problem is None else f"`problem_type: {NUMBERS}`"
        raise ValueError(f"{recipe.path} sets `class_weights`, which {what} cannot have: leave it out.")
    if not task.only_images:
        settings = dict(mix=data.mix, streaming=data.streaming, distillation=recipe.model.distillation)
        settings |= dict(repeated_augmentation=data.repeated_augmentation > 1)
        for key in (key for key, value in settings.items() if value):
            raise ValueError(
                f"{recipe.path} sets `{key}`, which `task: {task.name}` cannot have yet, for what is to be found would "
                "have to move with the pixels: leave it out."
            )
        train: Any = Numbered(splits["train"])
        if data.augmentation:
            train = AugmentedScenes(splits["train"], moving(recipe, config, processor), seed)
        return Pipeline(train, Numbered(splits["test"]), collate)
    image_processor = getattr(processor, "image_processor", processor)
    prepared = Prepared(splits["test"], image_processor)
    transform = augment(recipe, config, image_processor) if data.augmentation else prepared.prepare
    if data.streaming:
        args = recipe.training
        block = args.train_batch_size * args.world_size  # so that workers leave the batches as one process makes them
        train = NumberedStream(
            splits["train"], transform, seed, data.shuffle_buffer, corrupt=data.corrupt_images, block=block
        )
    else:
        train = Augmented(splits["train"], transform, seed)
    steps: list[Callable] = [Normalise.of(image_processor)]
    pipeline = Pipeline(
        train, prepared, collate, steps, ClassLoss(problem) if recipe.model.is_foreign and problem else None
    )
    if problem != SINGLE:
        for key, value in (("mix", data.mix), ("distillation", recipe.model.distillation)):
            if value:
                raise ValueError(
                    f"{recipe.path} sets `{key}`, which is for image classification with one class an image: leave it "
                    "out."
                )
        return weighted(pipeline, recipe, task, splits)
    teach = None
    if recipe.model.distillation:
        teach = teacher_step(recipe, splits, config, prepared)
        own = ("teacher", "cache")
        losses: dict[str, Any] = {key: value for key, value in recipe.model.distillation.items() if key not in own}
        pipeline.loss = DistillationLoss(**losses)
        if isinstance(teach, CachedTeach):
            pipeline.collate, steps[:0] = WithRowIndex(pipeline.collate), [teach]
        else:
            steps[:0] = [teach]
    if data.mix:
        refuse_unknown(data.mix, ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob", "label_smoothing"), recipe.path)
        with meant("mix", data.mix, recipe.path):
            pipeline.collate = Mix(pipeline.collate, config.num_labels, seed=seed, **data.mix)
        steps.insert(1 if isinstance(teach, CachedTeach) else 0, MixPixels())
        pipeline.loss = pipeline.loss or soft_cross_entropy
    return weighted(pipeline, recipe, task, splits)


def weighted(pipeline: Pipeline, recipe: Recipe, task: Task, splits: Any) -> Pipeline:
    """With the loss that weighs classes, if the recipe does; or numbers, by their variance."""
    setting, problem = recipe.model.class_weights, str(task.problem_type)
    if problem == NUMBERS and not recipe.data.streaming:
        _, deviation = mean_and_deviation(splits["train"])
        pipeline.device_steps.append(Weigh((1 / deviation.square()).float()))
        pipeline.loss = ClassLoss(problem)
    if setting:
        counts = count_classes(splits["train"], task.class_names(splits))
        weights = weights_of(setting, counts, len(splits["train"]), problem)
        pipeline.device_steps.append(Weigh(weights))
        pipeline.loss = ClassLoss(problem)
        if recipe.training.process_index == 0:
            tell_weights(weights, list(counts))
    smoothing = recipe.training.label_smoothing_factor
    if smoothing and problem not in (SINGLE, "None"):
        raise ValueError(f"{recipe.path} sets `label_smoothing_factor`, which `{problem}` cannot have: leave it out.")
    if smoothing and pipeline.loss:
        raise ValueError(
            f"{recipe.path} sets `label_smoothing_factor`, which Trainer leaves out with such a loss: write "
            f"`mix: {{label_smoothing: {smoothing}}}`, with the alphas 0 for nothing else."
        )
    return pipeline


def augment(recipe: Recipe, config: Any, image_processor: Any) -> Callable:
    """Of the size and the colours of the processor's pictures, and with its filter where it comes from a checkpoint.

    Raises:
        ValueError: a processor that does more to colours than rescale and normalise.
    """
    size = made_size(image_processor) or pair(config.image_size)
    plain = torch.tensor((40, 120, 200), dtype=torch.uint8)[:, None, None].expand(3, *size)
    expected = image_processor(to_pil_image(plain), return_tensors="pt")["pixel_values"]
    normalise = Normalise.of(image_processor)
    if not torch.allclose(normalise({"pixel_values": plain[None]})["pixel_values"], expected, rtol=0, atol=1e-4):
        raise ValueError(
            f"{type(image_processor).__name__} does more to colours than rescale and normalise, which augmented "
            "pictures would lack: leave `augmentation` out."
        )
    settings, filters = recipe.data.augmentation, {0: "nearest", 2: "bilinear", 3: "bicubic"}
    if recipe.model.init_from and image_processor.resample in filters:
        settings = {"interpolation": filters[image_processor.resample], **settings}
    return make_transform(size, settings, fill=normalise.fill)


def moving(recipe: Recipe, config: Any, image_processor: Any) -> MovingTogether:
    size = made_size(image_processor) or pair(config.image_size)
    fill = Normalise.of(image_processor).fill
    return MovingTogether(size, recipe.data.augmentation, fill, config.semantic_loss_ignore_index)


def teacher_step(recipe: Recipe, splits: Any, config: Any, prepared: Prepared) -> Callable:
    settings = recipe.model.distillation
    refuse_unknown(settings, DISTILLATION, recipe.path)
    if "teacher" not in settings:
        raise ValueError(f"{recipe.path} distills from nobody: add `teacher: <checkpoint's folder>`.")
    teacher = load_teacher(settings["teacher"])
    teacher.check_labels(config.id2label)
    if not settings.get("cache"):
        return Teach(teacher)
    if recipe.data.streaming:
        raise ValueError(f"{recipe.path} streams, so a teacher's predictions cannot be kept: set `cache: false`.")
    teacher.to(recipe.training.device)
    name = sha256(str(settings["teacher"]).encode()).hexdigest()[:12]
    path = Path(recipe.data.data_dir) / "built" / f"teacher-{name}.safetensors"
    with recipe.training.main_process_first(desc="the teacher's predictions"):
        rows = splits["train"]
        return CachedTeach(cache_predictions(teacher, rows, lambda row: prepared.prepare(row["image"]), path))
