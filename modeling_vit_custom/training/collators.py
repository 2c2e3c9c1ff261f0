"""Rows -> batches, a collator for each task; that of boxes is in detection_data.py. What a model cannot check, or only
where it runs on a CPU, is checked here, and the row named.

B batch, C channels, H W pixels, h w grid, M tokens.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import ImageOps
from torch.utils.data import Dataset

from ..configuration_checks import pair
from ..configuration_stages import grid_at
from ..configuration_vit_custom import ViTCustomConfig
from .detection_data import pad
from .images import decode_rgb
from .naming import name_of
from .tokenizers import first_caption


class Numbered(Dataset):
    """A data set whose rows hold their `index` and the `epoch` too, by which a collator draws masks: the same for a row
    in an epoch, however batches, processes and workers are cut. ViTCustomTrainer says when an epoch begins.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it too

    def set_epoch(self, epoch: int):
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "index": index, "epoch": int(self.epoch)}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """A batch at once, which a `datasets.Dataset` reads twice as fast."""
        read, epoch = getattr(self.rows, "__getitems__", None), int(self.epoch)
        rows = read(indices) if read else [self.rows[index] for index in indices]
        return [{**row, "index": i, "epoch": epoch} for i, row in zip(indices, rows, strict=True)]


def refuse_infinite(images: Sequence[torch.Tensor] | torch.Tensor, rows: list[dict[str, Any]]):
    """(B, C, H, W) or B x (C, H', W') -> nothing."""
    for position, (image, row) in enumerate(zip(images, rows, strict=True)):
        if not image.isfinite().all():
            raise ValueError(
                f"{name_of(position, row)} has pixels that are not finite: check image_mean and image_std."
            )


def rgb_of(rows: list[dict[str, Any]]) -> list[Image.Image]:
    """The rows' pictures as people see them.

    Raises:
        CorruptImage: a picture that cannot be made RGB; the row is named.
    """
    return [decode_rgb(row["image"], name_of(position, row)) for position, row in enumerate(rows)]


def refuse_sizes(images: Sequence[torch.Tensor], rows: list[dict[str, Any]]):
    """B x (C, H', W') -> nothing."""
    for position, image in enumerate(images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{name_of(position, rows[position])} is {tuple(image.shape[1:])} pixels large after processing, not "
                f"{tuple(images[0].shape[1:])} as others: give the image processor a `size` of `height` and `width`."
            )


def pixels_of(image_processor: Callable, rows: list[dict[str, Any]]) -> torch.Tensor:
    """The rows' `image`s -> (B, C, H, W): PIL images processed, tensors of bytes as they are, for the device to
    normalise."""
    if isinstance(rows[0]["image"], torch.Tensor):
        refuse_sizes([row["image"] for row in rows], rows)
        return torch.stack([row["image"] for row in rows])
    pixel_values = image_processor(rgb_of(rows), return_tensors="pt")["pixel_values"]
    refuse_infinite(pixel_values, rows)
    return pixel_values


class ImageCollator:
    """A list of `{"image": PIL image, "label": int}` -> `pixel_values` (B, C, H, W) and `labels` (B).

    Values are checked here, outside the graph and the device.

    Raises:
        ValueError: a label that is no class, or pixels that are not finite after processing; the row is named.
    """

    def __init__(self, image_processor: Callable, num_labels: int | None):
        self.image_processor = image_processor
        self.num_labels = num_labels or 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        for position, row in enumerate(rows):
            if not 0 <= row["label"] < self.num_labels:
                raise ValueError(
                    f"{name_of(position, row)} has label {row['label']}, but labels are 0 to {self.num_labels - 1}: "
                    "set `num_labels` in the configuration, or map the labels."
                )
        pixel_values = pixels_of(self.image_processor, rows)
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}


class SegmentationCollator:
    """A list of `{"image": PIL image, "mask": PIL image or array of one class id a pixel}` -> `pixel_values`
    (B, C, H, W), `labels` (B, H, W), and where sizes differ `pixel_mask` (B, H, W); padding is ignored.

    Args:
        image_processor: transformers' SegformerImageProcessor, which resizes masks to the nearest pixel.
        num_labels, ignore_index: `config.num_labels` and `config.semantic_loss_ignore_index`.

    Raises:
        ValueError: a mask of another size than its image, or with ids that are no class, or pixels that are not finite
            after processing; the row is named.
    """

    def __init__(self, image_processor: Callable, num_labels: int | None, ignore_index: int = 255):
        self.image_processor = image_processor
        self.num_labels = num_labels or 0
        self.ignore_index = ignore_index

    def mask_of(self, position: int, row: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """-> (H, W), checked; `size` is the width and height of the image, turned as EXIF says."""
        mask, name, (width, height) = row["mask"], name_of(position, row), size
        mask = np.asarray(ImageOps.exif_transpose(mask) if isinstance(mask, Image.Image) else mask)
        if mask.ndim != 2 or mask.dtype.kind not in "iu":
            raise ValueError(
                f"{name} has a mask of shape {mask.shape} and type {mask.dtype}: give one integer a pixel, the id of "
                "its class, as in a picture of mode 'L'."
            )
        if mask.shape != (height, width):
            raise ValueError(
                f"{name} has a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of {width} x {height}: "
                "resize the mask to its image, with the nearest pixel, or find the right one."
            )
        wrong = mask[(mask != self.ignore_index) & ((mask < 0) | (mask >= self.num_labels))]
        if wrong.size:
            raise ValueError(
                f"{name} has a pixel of class {wrong[0]}, but classes are 0 to {self.num_labels - 1} (or "
                f"{self.ignore_index}, ignored): set `num_labels` in the configuration, or map the classes."
            )
        return mask.astype(np.int64)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = rgb_of(rows)
        masks = [self.mask_of(place, row, images[place].size) for place, row in enumerate(rows)]
        made = self.image_processor(images, segmentation_maps=masks)
        pixels, labels = ([torch.as_tensor(image) for image in made[name]] for name in ("pixel_values", "labels"))
        refuse_infinite(pixels, rows)
        batch = pad(pixels)
        height, width = batch["pixel_values"].shape[2:]
        padded = torch.full((len(rows), height, width), self.ignore_index)
        for whole, part in zip(padded, labels, strict=True):
            whole[: part.shape[0], : part.shape[1]] = part
        return batch | {"labels": padded}


def generator_of(seed: int, position: int, row: dict[str, Any]) -> np.random.Generator:
    """Its numbers depend on the seed, the row and the epoch alone."""
    if "index" not in row:
        raise ValueError(
            f"{name_of(position, row)} has no `index`, by which its mask is drawn: wrap the data set, Numbered(rows)."
        )
    return np.random.default_rng([seed, row.get("epoch", 0), row["index"]])


class MaskedImageCollator:
    """A list of numbered `{"image": PIL image}` -> `pixel_values` (B, C, H, W) and `bool_masked_pos` (B, h * w), for
    masked image modelling: squares of `mask_patch_size` pixels, the same number of them in each image ("SimMIM: a
    Simple Framework for Masked Image Modeling", 3.2: 32 pixels, 0.6).

    Raises:
        ValueError: squares that are no multiple of the patches, or that leave nothing hidden or nothing visible.
    """

    def __init__(
        self,
        image_processor: Callable,
        config: ViTCustomConfig,
        mask_patch_size: int = 32,
        mask_ratio: float = 0.6,
        seed: int = 0,
    ):
        self.image_processor, self.config, self.seed = image_processor, config, seed
        self.mask_patch_size, self.mask_ratio = mask_patch_size, mask_ratio
        self.stride = pair(config.patch_stride or config.patch_size)
        if mask_patch_size < 1 or any(mask_patch_size % side for side in self.stride):
            raise ValueError(
                f"`mask_patch_size` {mask_patch_size} must be a multiple of the patches' {self.stride} pixels: a patch "
                "is hidden whole."
            )
        self.draw(np.random.default_rng(0), *pair(config.image_size))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """-> (h, w): 1 for each hidden patch. Squares that reach beyond the image are cut off there."""
        rows, columns = grid_at(self.config, height, width, stage=0)
        down, across = (self.mask_patch_size // side for side in self.stride)
        shape = math.ceil(rows / down), math.ceil(columns / across)
        squares = shape[0] * shape[1]
        hidden = math.ceil(squares * self.mask_ratio)
        if not 0 < hidden < squares:
            raise ValueError(
                f"`mask_ratio` {self.mask_ratio} hides {hidden} of the {squares} squares of {self.mask_patch_size} "
                f"pixels in an image of {height} x {width}: change it so that some are hidden and some are not, or "
                "make `mask_patch_size` smaller."
            )
        mask = np.zeros(squares, dtype=np.int64)
        mask[rng.permutation(squares)[:hidden]] = 1
        return mask.reshape(shape).repeat(down, axis=0).repeat(across, axis=1)[:rows, :columns]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = pixels_of(self.image_processor, rows)
        height, width = pixel_values.shape[2:]
        masks = [self.draw(generator_of(self.seed, place, row), height, width) for place, row in enumerate(rows)]
        return {"pixel_values": pixel_values, "bool_masked_pos": torch.from_numpy(np.stack(masks)).flatten(1)}


class PreTrainingCollator:
    """A list of numbered `{"image": PIL image}` -> `pixel_values` (B, C, H, W) and `noise` (B, h * w), for pre-training
    (MAE): a patch with little of it stays visible; how many do, `config.mask_ratio` says."""

    def __init__(self, image_processor: Callable, config: ViTCustomConfig, seed: int = 0):
        self.image_processor, self.config, self.seed = image_processor, config, seed

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = pixels_of(self.image_processor, rows)
        height, width = pixel_values.shape[2:]
        down, across = grid_at(self.config, height, width, stage=0)
        noise = [generator_of(self.seed, place, row).random(down * across) for place, row in enumerate(rows)]
        return {"pixel_values": pixel_values, "noise": torch.from_numpy(np.stack(noise)).float()}


class ImageTextCollator:
    """A list of `{"image": PIL image, "caption": str}` -> `pixel_values` (B, C, H, W), and `input_ids` and
    `attention_mask` (B, M), as long as the longest caption. Of a list of captions, a training row (Augmented) gives
    one, drawn by seed, epoch and index alone; other rows the first.

    Args:
        processor: an image processor and a tokenizer in one; the text tower takes `tokenizer.model_max_length` tokens.
        truncation: cut longer captions off instead of refusing them.

    Raises:
        ValueError: a caption that is empty or too long, or pixels that are not finite after processing; the row is
            named.
    """

    def __init__(self, processor: Any, truncation: bool = False, seed: int = 0):
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        self.truncation, self.seed = truncation, seed

    def caption_of(self, position: int, row: dict[str, Any]) -> str:
        captions = row["caption"]
        if isinstance(captions, str) or "copy" not in row or len(captions) < 2:
            return first_caption(captions or "").strip()
        return captions[int(generator_of(self.seed, position, row).integers(len(captions)))].strip()

    def keep_ends(self, captions: list[str], texts: dict[str, torch.Tensor]):
        """Put the end token back as the last of each caption that was cut off before it."""
        end = self.tokenizer.eos_token_id
        for caption, ids, mask in zip(captions, texts["input_ids"], texts["attention_mask"], strict=True):
            if self.truncation and end is not None and end not in ids and end in self.tokenizer(caption)["input_ids"]:
                ids[mask.nonzero()[-1]] = end

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        captions = [self.caption_of(position, row) for position, row in enumerate(rows)]
        longest = self.tokenizer.model_max_length
        settings: dict[str, Any] = dict(padding=True, return_token_type_ids=False, return_tensors="pt")
        texts = self.tokenizer(captions, truncation=self.truncation, **settings)
        self.keep_ends(captions, texts)
        for position, (row, caption, mask) in enumerate(zip(rows, captions, texts["attention_mask"], strict=True)):
            if not caption:
                raise ValueError(f"{name_of(position, row)} has an empty caption: leave the row out.")
            if mask.sum() > longest:
                raise ValueError(
                    f"{name_of(position, row)} has a caption of {int(mask.sum())} tokens, but the text tower takes "
                    f"{longest}: cut captions off (`truncation`), or give it more positions "
                    "(`max_position_embeddings`)."
                )
        return {"pixel_values": pixels_of(self.image_processor, rows), **texts}
