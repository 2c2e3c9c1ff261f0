"""The parts of the comparison: which trainings each needs, and what it finds, ready for JSON.

B batch, H W pixels.
"""

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers import ResNetConfig
from transformers import ResNetForImageClassification

from ..configuration_vit_custom import ViTCustomConfig
from ..modeling_vit_custom import ViTCustomForImageClassification
from . import measuring
from .comparing_runs import Run
from .comparing_runs import Runs
from .corruptions import STRENGTHS
from .pixel_baselines import NAMES
from .pixel_baselines import pixel_baselines
from .receptive_field import radius
from .receptive_field import resnet_fields
from .resolution import macs_at

MODELS = ("vit", "deit", "deit_distilled", "pit", "swin", "resnet", "resnet_deit")
LOCAL = ("vit", "swin", "pit", "resnet")
# Layers of attention, or convolutions after the stem -> depths of the stages, those of the recipe if there are none.
DEPTHS: dict[str, dict[int, tuple[int, ...]]] = {"vit": {2: (2,), 4: (), 8: (8,)}, "resnet": {8: (), 16: (4, 4)}}
PRESETS = {"ViT-S": "deit_small_patch16_224", "Swin-T": "swin_tiny_patch4_window7_224", "PiT-S": "pit_s_224"}
STEP = 32  # pixels from one image to the next whose cost is counted, from the smallest timed to the largest
SIDE, BATCH = 28, 64  # pixels and images in a batch, of the recipes
Pictures = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test": bytes (B, H, W), labels (B)


@dataclass(frozen=True)
class Study:
    runs: Runs
    seeds: Sequence[int]
    sizes: Sequence[int]  # numbers of training images, growing
    pictures: Callable[[int, int], Pictures]  # (seed, size): what a run with them has
    presets: Path
    num_images: int  # held-out ones for sensitivity
    timed_sides: Sequence[int]
    rounds: int

    @property
    def size(self) -> int:
        return self.sizes[-1]

    def each_seed(self, model: str, size: int, depths: tuple[int, ...] = ()) -> list[Run]:
        return [Run(model, size, seed, depths) for seed in self.seeds]

    def needed(self, part: str) -> list[Run]:
        if part == "depth":
            rows = [(name, self.size, depths) for name, by_number in DEPTHS.items() for depths in by_number.values()]
        else:
            names = {"cost": (), "locality": LOCAL}.get(part, MODELS)
            sizes = self.sizes if part == "efficiency" else [self.size]
            rows = [(name, size, ()) for size in sizes for name in names]
        return [run for row in rows for run in self.each_seed(*row)]

    def held_out(self, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (B, 1, H, W) bytes and (B), drawn by the seed."""
        images, labels = self.pictures(seed, self.size)["test"]
        rows = np.random.default_rng(seed).permutation(len(images))[:count]
        return torch.from_numpy(images[rows])[:, None], torch.from_numpy(labels[rows])

    def prepare(self, run: Run) -> Callable[[torch.Tensor], torch.Tensor]:
        """(B, 1, H, W) bytes -> (B, 3, H', W'), as the run's checkpoint wants them."""
        processor = AutoImageProcessor.from_pretrained(self.runs.checkpoint(run))
        return lambda images: processor(list(images.expand(-1, 3, -1, -1)), return_tensors="pt")["pixel_values"]


def efficiency(study: Study) -> dict[str, Any]:
    accuracy = {
        name: {str(size): study.runs.reached(study.each_seed(name, size)) for size in study.sizes} for name in MODELS
    }
    baselines: dict[str, dict[str, list[float]]] = {name: {str(size): [] for size in study.sizes} for name in NAMES}
    for size in study.sizes:
        for seed in study.seeds:
            data = study.pictures(seed, size)
            for name, value in pixel_baselines(*data["train"], *data["test"]).items():
                baselines[name][str(size)].append(value)
    models = {name: study.runs.load(Run(name, study.size, study.seeds[0])) for name in MODELS}
    return dict(
        accuracy=accuracy,
        baselines=baselines,
        models=measuring.size_and_speed(models, SIDE, BATCH, study.rounds),
        sizes=list(study.sizes),
        batch_size=BATCH,
        seeds=len(study.seeds),
    )


def cost(study: Study) -> dict[str, Any]:
    """transformers' ResNet is ResNet-50 by default."""
    configs = {name: ViTCustomConfig.from_pretrained(study.presets / f"{file}.json") for name, file in PRESETS.items()}
    make: dict[str, Callable] = {name: partial(ViTCustomForImageClassification, one) for name, one in configs.items()}
    make["ResNet-50"] = partial(ResNetForImageClassification, ResNetConfig.from_dict({"num_labels": 1000}))
    timed = sorted(study.timed_sides)
    sides = sorted({*range(timed[0], timed[-1], STEP), *timed})
    return measuring.cost_of_resolution(make, sides, timed, study.rounds)


def robustness(study: Study) -> dict[str, Any]:
    accuracy: dict[str, dict[str, Any]] = {
        name: {"clean": [], **{corruption: [[] for _ in ones] for corruption, ones in STRENGTHS.items()}}
        for name in MODELS
    }
    for seed in study.seeds:
        images, labels = study.held_out(seed, study.num_images)
        models = {name: study.runs.load(Run(name, study.size, seed)) for name in MODELS}
        prepare = study.prepare(Run(MODELS[0], study.size, seed))
        for name, found in measuring.sensitivity(models, prepare, images, labels).items():
            accuracy[name]["clean"].append(found["clean"])
            for corruption in STRENGTHS:
                for kept, value in zip(accuracy[name][corruption], found[corruption], strict=True):
                    kept.append(value)
    strengths = {name: list(ones) for name, ones in STRENGTHS.items()}
    return dict(accuracy=accuracy, strengths=strengths, num_images=len(images))


def locality(study: Study) -> dict[str, Any]:
    images, _ = study.held_out(study.seeds[0], 64)
    pixel_values = study.prepare(Run("vit", study.size, study.seeds[0]))(images)
    plain = [study.runs.load(run, attn_implementation="eager") for run in study.each_seed("vit", study.size)]
    found: dict[str, Any] = {}
    for name in LOCAL:
        models = [study.runs.load(run) for run in study.each_seed(name, study.size)]
        fresh = [measuring.untrained(model, seed) for seed, model in enumerate(models)]
        found[name] = {"trained": by_map(models, pixel_values), "initial": by_map(fresh, pixel_values)}
    cnn = study.runs.load(Run("resnet", study.size, study.seeds[0]))
    return dict(
        distance=measuring.where_attention_looks(plain, pixel_values),
        radius=found,
        uniform_radius=radius(torch.ones(SIDE, SIDE)),
        fields={"small": resnet_fields(cnn.config), "ResNet-50": resnet_fields(ResNetConfig())},
        field_images={"small": SIDE, "ResNet-50": 224},
        num_images=len(images),
    )


def by_map(models: list[Any], pixel_values: torch.Tensor) -> dict[str, list[float]]:
    """(B, 3, H, W) -> for each feature map a radius of each model, in pixels."""
    found = [measuring.radii(model, pixel_values) for model in models]
    return {name: [one[name] for one in found] for name in found[0]}


def depth(study: Study) -> dict[str, Any]:
    accuracy: dict[str, dict[str, list[float]]] = {name: {} for name in DEPTHS}
    macs: dict[str, dict[str, int]] = {name: {} for name in DEPTHS}
    for name, by_number in DEPTHS.items():
        for number, depths in by_number.items():
            runs = study.each_seed(name, study.size, depths)
            accuracy[name][str(number)] = study.runs.reached(runs)
            macs[name][str(number)] = macs_at(study.runs.load(runs[0]), SIDE)["all"]
    return dict(accuracy=accuracy, macs=macs)


PARTS = {"efficiency": efficiency, "cost": cost, "robustness": robustness, "locality": locality, "depth": depth}
