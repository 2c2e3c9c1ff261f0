"""What a model says of a picture, task by task: records for tables and files, and a picture.

B batch, C channels, H W pixels, L classes.
"""

from abc import ABC
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..training.task import Task
from . import drawing

Record = dict[str, Any]


class Answers(ABC):
    """Of one model.

    Args:
        processor: of images, or of images and texts.
        settings: `top_k`, `threshold`, `labels` and `template`, as the verb's options.
    """

    draws = True  # the answer lies in the picture
    columns: tuple[str, ...] = ("label", "score")

    def __init__(self, model: Any, processor: Any, settings: Any):
        self.model = model
        self.processor = processor
        self.images = getattr(processor, "image_processor", processor)
        self.settings = settings
        self.names = [str(name) for _, name in sorted((getattr(model.config, "id2label", None) or {}).items())]

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """RGB -> (C, H, W), as training made them."""
        return self.images(images=image, return_tensors="pt")["pixel_values"][0]

    def inputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": pixel_values}

    @abstractmethod
    def records(self, outputs: Any, images: Sequence[Image.Image]) -> list[list[Record]]:
        """A batch's outputs -> a list of records for each picture, the surest first."""

    @abstractmethod
    def draw(self, image: Image.Image, records: list[Record]) -> Image.Image: ...


class Classes(Answers):
    """Probabilities of one class, or of several that do not exclude each other; or numbers."""

    draws = False

    def records(self, outputs, images):
        return [self.ranked(logits) for logits in outputs.logits.float().cpu()]

    def ranked(self, logits: torch.Tensor) -> list[Record]:
        """(L) -> the surest classes, or all numbers of a regression."""
        kind = self.model.config.problem_type
        if kind == "regression":
            return [dict(label=name, score=value) for name, value in zip(self.names, logits.tolist(), strict=True)]
        return self.best(logits.sigmoid() if kind == "multi_label_classification" else logits.softmax(-1))

    def best(self, shares: torch.Tensor) -> list[Record]:
        """(L) -> the first `top_k`."""
        best = shares.topk(min(self.settings.top_k, len(shares)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [dict(label=self.names[index], score=share) for share, index in pairs]

    def draw(self, image, records):
        return drawing.captioned(image, [f"{one['label']} {one['score']:.3f}" for one in records])


class Texts(Classes):
    """How well each of the given labels fits a picture, as probabilities among them."""

    def __init__(self, model, processor, settings):
        super().__init__(model, processor, settings)
        if not settings.labels:
            raise ValueError("This model compares pictures with texts: give them by --labels 'a cat' 'a dog'.")
        self.names = list(settings.labels)
        texts = [settings.template.format(name) for name in self.names]
        tokens = processor.tokenizer(texts, padding=True, return_token_type_ids=False, return_tensors="pt")
        self.tokens = {key: value.to(model.device) for key, value in tokens.items()}

    def inputs(self, pixel_values):
        return {"pixel_values": pixel_values, **self.tokens}

    def records(self, outputs, images):
        return [self.best(logits.softmax(-1)) for logits in outputs.logits_per_image.float().cpu()]


class Masks(Answers):
    """A class for each pixel; a record for each class that is seen, with its share of the pixels as its score."""

    def records(self, outputs, images):
        sizes = [image.size[::-1] for image in images]
        maps = self.images.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [self.parts(found.cpu()) for found in maps]

    def parts(self, found: torch.Tensor) -> list[Record]:
        """(H, W) -> records, the largest first; each holds its class's mask (H, W) of bytes, 255 where it is."""
        classes, counts = found.unique(return_counts=True)
        rows = sorted(zip(counts.tolist(), classes.tolist(), strict=True), reverse=True)
        return [
            dict(
                label=self.names[index],
                score=count / found.numel(),
                index=index,
                mask=Image.fromarray(((found == index) * 255).byte().numpy()),
            )
            for count, index in rows
        ]

    def draw(self, image, records):
        return drawing.with_masks(image, records)


class Boxes(Answers):
    """Objects that score `threshold` or more, with corners in pixels of the picture."""

    columns = ("label", "score", "box")

    def records(self, outputs, images):
        sizes = [image.size[::-1] for image in images]
        found = self.images.post_process_object_detection(
            outputs, threshold=self.settings.threshold, target_sizes=sizes
        )
        return [self.objects(one) for one in found]

    def objects(self, found: dict[str, torch.Tensor]) -> list[Record]:
        rows = zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
        return [
            dict(
                label=self.names[index],
                score=score,
                index=index,
                box=dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, box), strict=True)),
            )
            for score, index, box in sorted(rows, key=lambda row: -row[0])
        ]

    def draw(self, image, records):
        return drawing.with_boxes(image, records)


KINDS: dict[str, type[Answers]] = {
    "image-classification": Classes,
    "image-segmentation": Masks,
    "object-detection": Boxes,
    "zero-shot-image-classification": Texts,
}


def answers_of(task: Task | None, model: nn.Module, processor: Any, settings: Any) -> Answers:
    """
    Raises:
        ValueError: a model without a head that says something of a picture.
    """
    name = task.name if task else "image-feature-extraction"
    if name not in KINDS:
        raise ValueError(
            f"This checkpoint is for {name}, which gives no answer of a picture: fine-tune it first, by `vit-custom "
            "train --from`."
        )
    return KINDS[name](model, processor, settings)
