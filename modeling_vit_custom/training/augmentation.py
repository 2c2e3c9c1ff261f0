"""Pictures -> uint8 tensors of the model's size: augmented ones for training, plain ones for evaluation; and the step
on the device that makes of them what a model expects.

B batch, C channels, H W pixels.
"""

import math
import random
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Sampler
from torchvision.transforms import v2

from ..near_names import near_miss
from .collators import Numbered
from .images import to_rgb
from .recipe_words import advice

# What a recipe may set, and what it is otherwise: what nobody asks for is off.
SETTINGS: dict[str, Any] = {
    "policy": "none",
    "magnitude": 9,  # RandAugment's two, as DeiT has them ("Training data-efficient image transformers", table 9)
    "num_ops": 2,
    "crop": "none",
    "scale": (0.08, 1.0),  # of the area ("Going Deeper with Convolutions", section 6), as most still crop
    "ratio": (3 / 4, 4 / 3),
    "padding": 4,  # pixels on each side ("DeiT III: Revenge of the ViT", 3.3)
    "flip": 0.0,
    "color_jitter": 0.0,
    "erasing": 0.0,
    "interpolation": "bicubic",
}
CHOICES = {
    "policy": ("none", "rand_augment", "trivial_augment", "three_augment"),
    "crop": ("none", "resized", "padded"),
    "interpolation": ("nearest", "bilinear", "bicubic"),
}
BELONGS = {
    "magnitude": ("policy", "rand_augment"),
    "num_ops": ("policy", "rand_augment"),
    "scale": ("crop", "resized"),
    "ratio": ("crop", "resized"),
    "padding": ("crop", "padded"),
}
NUM_MAGNITUDES = 31  # torchvision's, 0 to 30


def is_number(value: Any, low: float, high: float = math.inf, kinds: Any = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def is_range(value: Any, high: float = math.inf) -> bool:
    ends = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return len(ends) == 2 and all(is_number(end, 0, high) for end in ends) and 0 < ends[0] <= ends[1]


VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "magnitude": (lambda value: is_number(value, 0, NUM_MAGNITUDES - 1, int), "a whole number from 0 to 30"),
    "num_ops": (lambda value: is_number(value, 1, kinds=int), "a whole number from 1"),
    "scale": (lambda value: is_range(value, 1), "two shares of the area, the smaller first, at most 1"),
    "ratio": (is_range, "two ratios of width to height, the smaller first"),
    "padding": (lambda value: is_number(value, 0, kinds=int), "a whole number of pixels"),
    "flip": (lambda value: is_number(value, 0, 1), "a probability from 0 to 1"),
    "color_jitter": (lambda value: is_number(value, 0), "a strength from 0"),
    "erasing": (lambda value: is_number(value, 0, 1), "a probability from 0 to 1"),
}


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """All of SETTINGS, with these among them.

    Raises:
        ValueError: an unknown name or word, with the nearest; a value that cannot be meant; a setting without effect.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(f"Augmentation has no setting `{name}`: {advice(name, SETTINGS, near_miss)}")
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"`{name}: {value}` in augmentation is none: {advice(value, CHOICES[name], near_miss)}")
        if name in VALID and not VALID[name][0](value):
            raise ValueError(f"`{name}: {value}` in augmentation must be {VALID[name][1]}.")
    whole = SETTINGS | settings
    for name, (other, word) in BELONGS.items():
        if name in settings and whole[other] != word:
            raise ValueError(f"`{name}` has an effect only with `{other}: {word}`: set that too, or leave it out.")
    return whole


class Cover:
    """Resize so that the picture just covers `size` (height, width) and keeps its shape."""

    def __init__(self, size: tuple[int, int], interpolation: v2.InterpolationMode):
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        (height, width), (across, down) = self.size, image.size
        if height * across >= width * down:
            sides = [height, height * across // down]
        else:
            sides = [width * down // across, width]
        return v2.functional.resize(image, sides, interpolation=self.interpolation)


def crops(size: tuple[int, int], whole: dict[str, Any], interpolation: v2.InterpolationMode) -> list[Callable]:
    if whole["crop"] == "resized":
        return [v2.RandomResizedCrop(size, tuple(whole["scale"]), tuple(whole["ratio"]), interpolation)]
    if whole["crop"] == "none":
        return [v2.Resize(size, interpolation)]
    if whole["padding"] >= min(size):
        raise ValueError(
            f"`padding: {whole['padding']}` mirrors more than an image of {size[0]} x {size[1]} pixels has: lower it."
        )
    padding = dict(padding=whole["padding"], padding_mode="reflect") if whole["padding"] else {}
    return [Cover(size, interpolation), v2.RandomCrop(size, **padding)]


def policies(
    size: tuple[int, int], whole: dict[str, Any], interpolation: v2.InterpolationMode, fill: list[int]
) -> list[Callable]:
    if whole["policy"] == "rand_augment":
        num_ops, magnitude = whole["num_ops"], whole["magnitude"]
        return [v2.RandAugment(num_ops, magnitude, NUM_MAGNITUDES, interpolation, fill)]
    if whole["policy"] == "trivial_augment":
        return [v2.TrivialAugmentWide(NUM_MAGNITUDES, interpolation, fill)]
    if whole["policy"] == "none":
        return []
    # The blur's radius is 0.1 to 2 pixels, as in DeiT III's code: 13 pixels hold three of the widest on each side. An
    # image that is smaller cannot be mirrored so far.
    kernel = min(13, 2 * min(size) - 1)
    three = [v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), v2.GaussianBlur(kernel, (0.1, 2.0))]
    return [v2.RandomChoice(three)]


def make_transform(
    size: tuple[int, int], settings: dict[str, Any], fill: Sequence[float]
) -> Callable[[Image.Image], torch.Tensor]:
    """RGB picture -> (3, H, W) of uint8, by the plain values of a recipe, in this order:

        crop: resized (a random part of area `scale` and `ratio`) | padded (cover `size`, mirror `padding` pixels
            beyond the edges, cut out at random; "DeiT III", 3.3: simple random crop) | none (resize)
        flip: the probability of a mirror image
        policy: rand_augment (`num_ops`, `magnitude`) | trivial_augment | three_augment (grey, solarized or blurred,
            each as likely; "DeiT III", 3.3: 3-Augment) | none
        color_jitter: how much brightness, contrast and saturation vary
        erasing: the probability that a rectangle becomes `fill`
        interpolation: nearest | bilinear | bicubic

    These are torchvision's, whose RandAugment keeps to its magnitude, where timm's varies it by a normal draw.

    Args:
        size: height and width.
        fill: the colour of what is not known, 0 to 255: the mean, so that it is 0 after normalisation but for rounding.

    Raises:
        ValueError: as `checked`.
    """
    whole = checked(settings)
    interpolation, colour = v2.InterpolationMode(whole["interpolation"]), [round(value) for value in fill]
    steps = crops(size, whole, interpolation)
    if whole["flip"]:
        steps.append(v2.RandomHorizontalFlip(whole["flip"]))
    steps += policies(size, whole, interpolation, colour)
    if whole["color_jitter"]:
        steps.append(v2.ColorJitter(*[whole["color_jitter"]] * 3))
    steps.append(v2.PILToTensor())
    if whole["erasing"]:
        steps.append(v2.RandomErasing(whole["erasing"], value=colour))
    return v2.Compose(steps)


def seed_of(*numbers: int) -> int:
    """A number of 32 bits that is the same for the same numbers on every machine, and unlike for neighbours."""
    words = np.asarray(numbers, dtype="<u8").view("<u4").astype(np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, whatever draws on the CPU from torch's, numpy's or Python's own generator draws by this seed; afterwards
    they go on as if nothing had been drawn. `torch.manual_seed` is not used: it would set the GPUs' generators too."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


class Augmented(Numbered):
    """Training rows: `image` is the transformed picture, drawn by (seed, epoch, index, copy) alone, so that no cut into
    batches, workers and processes and no resumed run changes it.

    An index from `len(rows)` on means another `copy` (0, 1, ...) of a row; see RepeatedAugmentationSampler.

    Args:
        transform: RGB picture -> (C, H, W) of uint8, as `make_transform` gives.
        to_rgb: a picture of any mode -> an RGB picture.
    """

    def __init__(self, rows: Any, transform: Callable, seed: int = 0, to_rgb: Callable = to_rgb):
        super().__init__(rows)
        self.transform, self.seed, self.to_rgb = transform, seed, to_rgb

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))  # by default Python would go on to the copies, without end

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        count = len(self)
        copies, places = [max(index // count, 0) for index in indices], [index % count for index in indices]
        return [
            self.augment(row, place, copy)
            for row, place, copy in zip(super().__getitems__(places), places, copies, strict=True)
        ]

    def augment(self, row: dict[str, Any], index: int, copy: int) -> dict[str, Any]:
        image = self.to_rgb(row["image"])
        with seeded(seed_of(self.seed, row["epoch"], index, copy)):
            return {**row, "image": self.transform(image), "copy": copy}


class Prepared(Numbered):
    """Evaluation rows: `image` is (C, H, W) of uint8 as the image processor resizes and crops it, one row at a time.
    With `Normalise.of(image_processor)` these are the processor's own pixels, bit for bit.

    Raises:
        ValueError: an image processor whose pixels cannot be had so, because it rescales before it resizes.
    """

    def __init__(self, rows: Any, image_processor: Callable, to_rgb: Callable = to_rgb):
        super().__init__(rows)
        self.image_processor, self.to_rgb = image_processor, to_rgb
        probe = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
        pixels, expected = self.prepare(probe), image_processor([probe], return_tensors="pt")["pixel_values"]
        if not expected.is_floating_point():
            raise ValueError(
                f"{type(image_processor).__name__} neither rescales nor normalises, so that a model would get bytes: "
                "set `do_rescale: true`."
            )
        made = Normalise.of(image_processor)({"pixel_values": pixels[None]})["pixel_values"]
        if pixels.dtype != torch.uint8 or not torch.allclose(made, expected, rtol=0, atol=1e-4):
            raise ValueError(
                f"{type(image_processor).__name__} does not resize first and rescale and normalise last: give the "
                "evaluation's pictures to a collator with that processor, without Prepared and Normalise."
            )

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """-> (C, H, W)"""
        settings: dict[str, Any] = dict(do_rescale=False, do_normalize=False, return_tensors="pt")
        return self.image_processor([self.to_rgb(image)], **settings)["pixel_values"][0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        return {**row, "image": self.prepare(row["image"])}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = super().__getitems__(indices)
        return [{**row, "image": self.prepare(row["image"])} for row in rows]


class RepeatedAugmentationSampler(Sampler[int]):
    """Indices for Augmented: an epoch has `num_rows` draws, in which a row that is chosen comes `repeats` times in
    succession, as different copies ("Augment Your Batch", Hoffer et al. 2020; DeiT, section 6, has 3). So an epoch
    sees each third row, if `repeats` is 3, and is as long as without; where `repeats` does not divide `num_rows`, the
    last row comes less often.

    The order depends on (seed, epoch) alone. Each process has the whole of it, and accelerate deals out whole batches
    in turn: the copies of a row stay in one batch of one process, but where a batch ends between them, while DeiT
    deals them out to its processes. The mean gradient over a step's batches is the same.
    """

    def __init__(self, num_rows: int, repeats: int = 3, seed: int = 0):
        if num_rows < 1 or repeats < 1:
            raise ValueError(f"`num_rows` and `repeats` must be at least 1, got {num_rows} and {repeats}.")
        self.num_rows, self.repeats, self.seed, self.epoch = num_rows, repeats, seed, 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        chosen = order[: math.ceil(self.num_rows / self.repeats)]
        copies = chosen[:, None] + self.num_rows * np.arange(self.repeats)
        yield from copies.reshape(-1)[: self.num_rows].tolist()


class Normalise:
    """A step on the device, `(inputs, training) -> inputs`: `pixel_values` (B, C, H, W) from 0 to 255, of uint8 or
    already mixed floats, become what the image processor would have made of them, bit for bit.

    Args:
        mean, std: None where the processor does not normalise.
        rescale_factor: None where it does not rescale.

    Raises:
        ValueError: pixels that were normalised before. Looked at in the first floats of training and of evaluation
            alone, because it stalls the device.
    """

    def __init__(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, rescale_factor: float | None = 1 / 255
    ):
        self.rescale_factor = 1.0 if rescale_factor is None else rescale_factor
        # As transformers fuses the two: one subtraction and one division, of the same float32 numbers.
        self.fused = [
            None if values is None else torch.tensor(values) * (1.0 / self.rescale_factor) for values in (mean, std)
        ]
        self.looked_at: set[bool] = set()

    @classmethod
    def of(cls, image_processor: Any) -> "Normalise":
        rescale_factor = image_processor.rescale_factor if image_processor.do_rescale else None
        if not image_processor.do_normalize:
            return cls(None, None, rescale_factor)
        return cls(image_processor.image_mean, image_processor.image_std, rescale_factor)

    @property
    def fill(self) -> list[float]:
        """The colour, 0 to 255, that becomes 0."""
        mean = self.fused[0]
        return [0.0] * 3 if mean is None else mean.clamp(0, 255).tolist()

    def __call__(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pixels = inputs["pixel_values"]
        if pixels.is_floating_point() and training not in self.looked_at:
            self.looked_at.add(training)
            if (pixels < 0).any():
                raise ValueError(
                    "Normalise got pixels below 0, which were normalised before: wrap the rows in Augmented or "
                    "Prepared, or leave the step out."
                )
        floats = pixels.to(torch.float32)
        mean, std = self.fused = [values if values is None else values.to(pixels.device) for values in self.fused]
        if mean is None:
            return {**inputs, "pixel_values": floats * self.rescale_factor}
        return {**inputs, "pixel_values": v2.functional.normalize(floats, mean, std, inplace=floats is not pixels)}


class WithSteps:
    """A collator followed by steps of the device, for anyone's own Trainer; rows with a `copy` are training rows.

    WithSteps(Mix(collate, num_labels), MixPixels(), Normalise.of(image_processor))
    """

    def __init__(self, collate: Callable, *steps: Callable):
        self.collate, self.steps = collate, steps

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = self.collate(rows)
        for step in self.steps:
            inputs = step(inputs, "copy" in rows[0])
        return inputs
