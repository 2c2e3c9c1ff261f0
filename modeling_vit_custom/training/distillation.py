"""A teacher beside the student ("Training data-efficient image transformers & distillation through attention", DeiT,
section 3): its logits join each training batch on the device, and the loss asks one head for the truth, the other for
what the teacher says. For a student with one head both are asked of that one.

B batch, C channels, H W pixels, L labels, N rows.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import grayscale_to_rgb
from torchvision.transforms.v2.functional import resize
from torchvision.transforms.v2.functional import rgb_to_grayscale
from tqdm.auto import tqdm
from transformers import AutoImageProcessor
from transformers import AutoModelForImageClassification
from transformers.image_utils import PILImageResampling

from .mixing import logits_of
from .mixing import soft_cross_entropy
from .mixing import teacher_mix
from .naming import class_names
from .naming import inside_run

KINDS = ("hard", "soft")
TIMM = "timm:"
# As transformers maps PIL's: its nearest pixel is torch's exact one, and its Lanczos is not there for tensors.
FOR_TENSORS = {"nearest": "nearest-exact", "lanczos": "bicubic"}
SAMPLES = 16  # rows whose pixels tell one preparation from another


@dataclass(frozen=True)
class Preprocessing:
    """From pixels of 0 to 255 to what a teacher takes."""

    size: tuple[int, int] | None  # (height, width); as the images are, if None
    interpolation: str
    scale: float
    mean: tuple[float, ...]  # one a channel
    std: tuple[float, ...]


class Teacher(nn.Module):
    """An image classifier that only answers: frozen, never in training mode, with its own preprocessing.

    Args:
        model: its forward takes (B, C, H, W) and returns logits, or an output that holds `logits`.
        id2label: the names of its classes, where they are known.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, num_labels: int, id2label: dict[int, str] | None = None
    ):
        super().__init__()
        self.model, self.preprocessing = model, preprocessing
        self.num_labels, self.id2label = num_labels, id2label
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True):
        """Stays as it is: a step in training mode would move the running statistics of its BatchNorms."""
        return super().train(False)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), 0 to 255 -> (B, C', H', W'): the whole picture that the student sees, at the teacher's size."""
        wanted, given = len(self.mean), images.shape[1]
        images = images.float()
        if (given, wanted) == (3, 1):
            images = rgb_to_grayscale(images)
        elif (given, wanted) == (1, 3):
            images = grayscale_to_rgb(images)
        elif given != wanted:
            raise ValueError(
                f"The images have {given} channels, the teacher takes {wanted}: choose a teacher of {given} channels."
            )
        size = self.preprocessing.size
        if size is not None and tuple(images.shape[2:]) != size:
            name = self.preprocessing.interpolation
            mode = InterpolationMode(FOR_TENSORS.get(name, name))
            images = resize(images, list(size), mode, antialias=True).clamp(0, 255)  # bicubic overshoots
        return (images * self.preprocessing.scale - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), 0 to 255 -> (B, L), float32"""
        outputs = self.model(self.preprocess(images))
        return getattr(outputs, "logits", outputs).float()

    def check_labels(self, id2label: dict[Any, str]):
        """
        Raises:
            ValueError: the student has other classes than the teacher.
        """
        if self.num_labels != len(id2label):
            raise ValueError(
                f"The teacher tells {self.num_labels} classes apart, the student {len(id2label)}: choose a teacher "
                "that was trained on the student's classes, or fine-tune this one on them."
            )
        wanted = {int(index): name for index, name in id2label.items()}
        for index, name in (self.id2label or {}).items():
            if wanted[index] != name:
                raise ValueError(
                    f"Class {index} is {name!r} to the teacher and {wanted[index]!r} to the student: order and call "
                    "the student's classes as the teacher's, or correct the names in the teacher's config.json."
                )


def load_teacher(name: str) -> Teacher:
    """A teacher from this machine; nothing is downloaded.

    Args:
        name: the folder of any image classifier of transformers', or of ours, with its image processor, or of a run;
            "timm:<folder>" with a config.json and a model.safetensors of timm's; or "timm:<model>:<checkpoint>".

    Raises:
        FileNotFoundError: there is no such folder, checkpoint or image processor.
        RuntimeError: timm is not installed, or the checkpoint does not hold exactly the model's weights.
        ValueError: no such model, or one whose preprocessing is not understood.
    """
    return load_timm(name.removeprefix(TIMM)) if name.startswith(TIMM) else load_transformers(name)


def load_transformers(folder: str) -> Teacher:
    folder = inside_run(folder)
    for file, kind in (("config.json", "model"), ("preprocessor_config.json", "image processor")):
        if not Path(folder, file).is_file():
            raise FileNotFoundError(
                f"The teacher {folder} holds no {file}: name a folder on this machine with a {kind} by "
                f"`save_pretrained`, or {TIMM}<folder> for one of timm's."
            )
    # Ours is registered, so that its code need not come from the folder; of others none may run.
    trusted: dict[str, Any] = dict(local_files_only=True, trust_remote_code=False)
    model, info = AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **trusted
    )
    if lacking := [*info["missing_keys"], *(row[0] for row in info["mismatched_keys"])]:
        raise RuntimeError(
            f"The teacher {folder} has no weights for {', '.join(sorted(lacking))}: choose a trained classifier."
        )
    processor: Any = AutoImageProcessor.from_pretrained(folder, **trusted)
    preprocessing = read_preprocessing(processor, getattr(model.config, "num_channels", 3), folder)
    names = class_names(model.config)
    teacher = Teacher(model, preprocessing, model.config.num_labels, dict(enumerate(names)) if names else None)
    check_preprocessing(teacher, processor, folder)
    return teacher


def read_preprocessing(processor: Any, num_channels: int, folder: str) -> Preprocessing:
    settings = processor.to_dict()
    size: Any = None
    if settings.get("do_center_crop"):
        size = settings["crop_size"]
    elif settings.get("do_resize"):
        size = settings["size"]  # where `crop_pct` is given too, what is cropped has this size
    if isinstance(size, dict):
        sides = size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))
        if None in sides:
            raise ValueError(
                f"The image processor of the teacher {folder} has the size {size}, from which pictures of many sizes "
                "follow: set `height` and `width` in its preprocessor_config.json."
            )
        size = sides
    mean, std, resample = [0.0] * num_channels, [1.0] * num_channels, settings.get("resample")
    if settings.get("do_normalize"):
        mean, std = list(settings["image_mean"]), list(settings["image_std"])
    if not len(mean) == len(std) == num_channels:
        raise ValueError(
            f"The image processor of the teacher {folder} normalises {len(mean)} channels, its model takes "
            f"{num_channels}: correct `image_mean` and `image_std` in its preprocessor_config.json."
        )
    return Preprocessing(
        size=size,
        interpolation=PILImageResampling(PILImageResampling.BILINEAR if resample is None else resample).name.lower(),
        scale=settings["rescale_factor"] if settings.get("do_rescale") else 1.0,
        mean=tuple(mean),
        std=tuple(std),
    )


def check_preprocessing(teacher: Teacher, processor: Any, folder: str):
    """Raise where the teacher's own processor does more to a picture than is understood here, at the teacher's size."""
    size = teacher.preprocessing.size or (32, 32)
    picture = torch.arange(len(teacher.mean) * size[0] * size[1]).remainder(251).view(-1, *size).to(torch.uint8)
    found = processor(
        [picture], do_resize=False, do_center_crop=False, input_data_format="channels_first", return_tensors="pt"
    )["pixel_values"]
    wanted = teacher.preprocess(picture[None])
    if found.shape != wanted.shape or not torch.allclose(found.float(), wanted, atol=1e-4):
        raise ValueError(
            f"The image processor of the teacher {folder}, a {type(processor).__name__}, does more than resize, "
            "rescale and normalise: choose another teacher, or write a preprocessor_config.json that does no more."
        )


def load_timm(name: str) -> Teacher:
    try:
        import timm
    except ImportError:
        raise RuntimeError(f"The teacher {TIMM}{name} needs timm: pip install timm.") from None
    model_name, _, checkpoint = name.partition(":")
    if checkpoint:
        model: Any = timm_with(checkpoint, model_name, timm)
    else:
        for file in ("config.json", "model.safetensors"):
            if not Path(name, file).is_file():
                raise FileNotFoundError(
                    f"The teacher {TIMM}{name} has no weights here, there is no {Path(name, file)}, and nothing is "
                    f"downloaded: name a folder of timm's with both files, or {TIMM}<model>:<checkpoint>."
                )
        model = timm.create_model(f"local-dir:{name}", pretrained=True)
    settings = timm.data.resolve_model_data_config(model)
    names = model.pretrained_cfg.get("label_names")
    return Teacher(
        model,
        Preprocessing(
            size=tuple(settings["input_size"][1:]),
            interpolation=settings["interpolation"],
            scale=1 / 255,
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
        ),
        model.num_classes,
        dict(enumerate(names)) if names else None,
    )


def timm_with(checkpoint: str, model_name: str, timm: Any) -> nn.Module:
    """One of timm's models, for as many classes as the checkpoint's classifier has."""
    if not timm.is_model(model_name):
        raise ValueError(f"timm has no model {model_name!r}: choose one of timm.list_models().")
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"The teacher's checkpoint {checkpoint} does not exist: name a file of weights.")
    weights = timm.models.load_state_dict(checkpoint)
    classifier = timm.create_model(model_name).pretrained_cfg["classifier"]
    first = classifier if isinstance(classifier, str) else classifier[0]  # distilled models have two
    rows = weights.get(f"{first}.weight", ())
    try:
        model = timm.create_model(model_name, num_classes=len(rows))
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RuntimeError(
            f"{checkpoint} does not hold exactly the weights of {model_name}: choose the model that it is of. {error}"
        ) from error
    return model


@dataclass
class Targets:
    """What a training batch's `labels` become beside a teacher."""

    labels: torch.Tensor  # (B), or probabilities (B, L)
    teacher_logits: torch.Tensor  # (B, L)


class Teach:
    """A device step: the teacher looks at the pixels of each training batch as the student will see them, mixed, and
    before they are normalised for the student: so it stands between MixPixels and Normalise.

    In the autocast that it is called in.
    """

    def __init__(self, teacher: Teacher):
        self.teacher = teacher

    def __call__(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        if not training:
            return inputs
        images = inputs["pixel_values"]
        if images.device.type == "cpu" and (images < 0).any():  # elsewhere a look would stall the device
            raise ValueError("The teacher takes pixels of 0 to 255, some are below 0: let it stand before Normalise.")
        if self.teacher.mean.device != images.device:
            self.teacher.to(images.device)
        return inputs | {"labels": Targets(inputs["labels"], self.teacher(images))}


class CachedTeach:
    """A device step: what the teacher once said of each row as it is in evaluation (`cache_predictions`), in place of
    what it would say now. It stands before MixPixels, and mixes as that does.

    This is not what DeiT does, where the teacher sees the augmented image (section 3): a crop that lost its object
    keeps the object's label. It saves the teacher's forward in every epoch. With augmentation prefer `Teach`.

    Args:
        logits: (N, L), a row for each that `row_index` (B) of a batch can name.
    """

    def __init__(self, logits: torch.Tensor):
        self.log_probabilities = logits.float().log_softmax(dim=-1)

    def __call__(self, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        inputs = dict(inputs)
        rows = inputs.pop("row_index", None)
        if not training:
            return inputs
        if rows is None:
            raise ValueError(
                "The batch does not tell whose rows it holds, `row_index`: let the collator add it, or choose Teach."
            )
        self.log_probabilities = self.log_probabilities.to(rows.device)  # once
        logits = self.log_probabilities[rows]
        if "mix_partner" in inputs:
            mixed = teacher_mix(logits.exp(), inputs["mix_partner"], inputs["mix_ratio"])
            logits = mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
        return inputs | {"labels": Targets(inputs["labels"], logits)}


class DistillationLoss:
    """(1 - alpha) * cross entropy of the class head with the labels, + alpha * distillation of the other head.

    "hard": cross entropy with the class that the teacher finds most likely (DeiT, equation 3, where alpha is 0.5);
    "soft": temperature**2 * KL divergence of the softened predictions (equation 2, with 0.1 and 3 in its table 3).

    Both are means over the images of a whole optimizer step, so that any split of a batch gives one gradient. DeiT's
    code divides the second by the number of logits (deit#61): there, alpha weighs it L times less.

    For plain labels, as in evaluation, it is the loss without a teacher.
    """

    def __init__(self, kind: str = "hard", alpha: float = 0.5, temperature: float = 1.0):
        if kind not in KINDS:
            raise ValueError(f"The kind of distillation is {kind!r}: choose one of {', '.join(KINDS)}.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"The teacher's share of the loss, `alpha`, is {alpha}: set it from 0 to 1.")
        if not temperature > 0:
            raise ValueError(f"`temperature` is {temperature}: set it above 0; 1 leaves the predictions as they are.")
        self.kind, self.alpha, self.temperature = kind, alpha, temperature

    def __call__(
        self, outputs: Any, labels: torch.Tensor | Targets, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """`logits` (B, L), or those of two heads; `Targets`, or (B) or (B, L) -> ()"""
        if not isinstance(labels, Targets):
            return soft_cross_entropy(outputs, labels, num_items_in_batch)
        heads = logits_of(outputs)
        loss = (1 - self.alpha) * soft_cross_entropy(heads[:1], labels.labels, num_items_in_batch)
        return loss + self.alpha * self.distil(heads[-1], labels, num_items_in_batch)

    def distil(
        self, logits: torch.Tensor, targets: Targets, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """(B, L) -> (): of images that are labelled -100, and so not counted, nothing is learned here either."""
        labels, exact = targets.labels, torch.promote_types(logits.dtype, torch.float32)
        logits, teacher = logits.to(exact), targets.teacher_logits.to(exact)
        soft = labels.is_floating_point()
        counted = torch.ones_like(teacher[:, 0]) if soft else (labels.reshape(-1) != -100).to(exact)
        if self.kind == "hard":
            losses = functional.cross_entropy(logits, teacher.argmax(dim=1), reduction="none")
        else:
            student, teacher = ((values / self.temperature).log_softmax(dim=1) for values in (logits, teacher))
            losses = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
            losses = losses * self.temperature**2
        if num_items_in_batch is None:
            return (losses * counted).sum() / counted.sum().clamp(min=1)
        # Trainer counts the elements of the labels: L for each image where they are soft.
        return (losses * counted).sum() / (num_items_in_batch / logits.shape[1] if soft else num_items_in_batch)


class Prepared(Dataset):
    def __init__(self, rows: Any, prepare: Callable[[Any], torch.Tensor]):
        self.rows, self.prepare = rows, prepare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.prepare(self.rows[index])


def cache_predictions(
    teacher: Teacher,
    rows: Any,
    prepare: Callable[[Any], torch.Tensor],
    path: str | Path,
    batch_size: int = 64,
    num_workers: int = 0,
) -> torch.Tensor:
    """-> (N, L): the teacher's logits of every row, from a file if it holds just these, else computed and kept there.

    The file is whole or not there, whenever the run is killed. Of several processes let one come first
    (`TrainingArguments.main_process_first`).

    Args:
        rows: a map-style data set.
        prepare: a row -> (C, H, W), 0 to 255, the picture that the student sees in evaluation.
    """
    prepared = Prepared(rows, prepare)
    fingerprint = fingerprint_of(teacher, prepared)
    logits, reason = read_predictions(Path(path), fingerprint)
    if logits is not None:
        return logits
    print(f"The teacher's predictions are computed and written to {path}: {reason}.")
    batches = DataLoader(prepared, batch_size=batch_size, num_workers=num_workers)
    device = teacher.mean.device
    logits = torch.cat([teacher(batch.to(device)).cpu() for batch in tqdm(batches, desc="teacher", unit="batch")])
    write_predictions(Path(path), logits, fingerprint)
    return logits


def fingerprint_of(teacher: Teacher, prepared: Prepared) -> dict[str, str]:
    """What the predictions depend on, in words that a person can read."""
    rows = getattr(prepared.rows, "rows", prepared.rows)  # within Numbered
    weights, pixels = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(teacher.model.state_dict().items()):
        hash_tensor(weights, name, tensor)
    for sample in range(min(SAMPLES, len(prepared))):
        index = sample * len(prepared) // min(SAMPLES, len(prepared))
        hash_tensor(pixels, str(index), prepared[index])
    return {
        "the teacher's weights": weights.hexdigest(),
        "the teacher's preprocessing": json.dumps(asdict(teacher.preprocessing)),
        "the number of rows": str(len(prepared)),
        "the data set's fingerprint": str(getattr(rows, "_fingerprint", None)),
        "the rows' pixels": pixels.hexdigest(),
    }


def hash_tensor(digest: Any, name: str, tensor: torch.Tensor):
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def read_predictions(path: Path, fingerprint: dict[str, str]) -> tuple[torch.Tensor | None, str]:
    """-> (N, L) if the file holds what the fingerprint says; else None, and why not."""
    if not path.is_file():
        return None, "there is no such file yet"
    try:
        with safe_open(path, "pt") as file:
            kept = file.metadata() or {}
            if changed := [name for name, value in fingerprint.items() if kept.get(name) != value]:
                return None, f"in the file that is there, {' and '.join(changed)} differ"
            return file.get_tensor("logits"), ""
    except SafetensorError as error:
        return None, f"the file that is there cannot be read ({error})"


def write_predictions(path: Path, logits: torch.Tensor, fingerprint: dict[str, str]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder) / path.name
        save_file({"logits": logits.contiguous()}, partial, metadata=fingerprint)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before what it names
        partial.replace(path)
