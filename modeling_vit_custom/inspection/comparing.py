"""What a tutorial says of Vision Transformers and CNNs, judged by figures: each claim is a list of comparisons, and the
rule that decides them is here and nowhere else.

A `Results` holds what scripts/compare.py has measured: part -> figures, as its JSON files have them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from statistics import quantiles
from typing import Any

from .resolution import growth
from .speed import ratio

Results = dict[str, Any]
RULE = """A comparison is won where the difference of the means over seeds is larger than twice the larger spread, that
is the range over seeds; what is counted has no spread, and what is timed must be true in three of four rounds. A claim
**holds** if all its comparisons are won, **holds under these conditions** if some are, and **does not hold here** if
none is."""
LINEAR = 1.1  # a cost that grows by a larger power of the pixels is more than linear
NEAR = 0.05  # figures that differ by a smaller share are taken for equal


@dataclass(frozen=True)
class Check:
    """One comparison: the claim says that `difference`, in `unit`, is above 0; it is won above `margin`."""

    where: str
    difference: float
    margin: float | None  # None: one seed has no spread, so that nothing is decided
    unit: str = "points"

    @property
    def won(self) -> bool:
        return self.margin is not None and self.difference > self.margin


@dataclass(frozen=True)
class Claim:
    aspect: str
    said: str  # by the tutorial
    checks: list[Check]

    @property
    def verdict(self) -> str:
        if any(check.margin is None for check in self.checks):
            return "**not decided**: one seed has no spread"
        won = [check.where for check in self.checks if check.won]
        if len(won) == len(self.checks):
            return "**holds**"
        return f"**holds under these conditions**: {'; '.join(won)}" if won else "**does not hold here**"


def spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def trained(where: str, above: Sequence[float], below: Sequence[float], unit: str = "points") -> Check:
    """Of values a seed each; accuracies become points of 100."""
    scale = 100 if unit == "points" else 1
    margin = None if min(len(above), len(below)) < 2 else 2 * scale * max(spread(above), spread(below))
    return Check(where, scale * (mean(above) - mean(below)), margin, unit)


def counted(where: str, difference: float, unit: str) -> Check:
    return Check(where, difference, 0.0, unit)


Quartiles = tuple[float, float, float]


def timed(where: str, found: Quartiles, unit: str) -> Check:
    """Of a lower quartile, a median, an upper quartile over rounds: won if the lower quartile is above 0 too."""
    low, middle, _ = found
    return Check(where, middle, middle - low, unit)


def quartiles(values: Sequence[float]) -> Quartiles:
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, middle, high


def minus_one(found: Quartiles) -> Quartiles:
    low, middle, high = found
    return low - 1, middle - 1, high - 1


def minus(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [one - other for one, other in zip(some, others, strict=True)]


def relative(accuracy: dict[str, Any], corruption: str, strength: int) -> list[float]:
    """What is left of the accuracy on clean pictures, seed by seed."""
    return [one / clean for one, clean in zip(accuracy[corruption][strength], accuracy["clean"], strict=True)]


def make_claims(results: Results) -> list[Claim]:
    """The claims in the order of the tutorial, from the parts that were measured."""
    makers = {
        "locality": locality_claims,
        "efficiency": efficiency_claims,
        "robustness": robustness_claims,
        "depth": depth_claims,
        "cost": cost_claims,
    }
    return [claim for part, make in makers.items() if part in results for claim in make(results[part])]


def locality_claims(found: Results) -> list[Claim]:
    uniform, image = found["distance"]["uniform"], found["field_images"]["small"]
    initial, learned = found["radius"]["vit"]["initial"], found["radius"]["vit"]["trained"]
    cnn = found["radius"]["resnet"]
    everywhere = [abs(mean(map(mean, layers)) - uniform) / uniform for layers in found["distance"]["initial"]]
    first = [mean(layers[0]) for layers in found["distance"]["trained"]]
    stages = list(cnn["initial"])
    bias = [
        *(
            trained(
                f"untrained, CNN's {stage} narrower than ViT's layer 1", initial["layer 1"], cnn["initial"][stage], "px"
            )
            for stage in stages
        ),
        counted("untrained, ViT's attention looks everywhere alike", NEAR - mean(everywhere), "of it"),
    ]
    narrow = [
        *(
            trained(
                f"trained, CNN's {stage} narrower than ViT's layer 1", learned["layer 1"], cnn["trained"][stage], "px"
            )
            for stage in stages
        ),
        *(
            counted(f"by its kernels, the CNN's {stage} sees less than the image", image - side, "px")
            for stage, side in found["fields"]["small"].items()
        ),
    ]
    return [
        Claim("Inductive bias", "CNN: spatial locality and hierarchy; ViT: none", bias),
        Claim("Feature extraction", "CNN: local kernels with limited receptive fields", narrow),
        Claim(
            "Feature extraction",
            "ViT: global interactions via self-attention",
            [trained("layer 1 looks further than half of what looking everywhere is", first, [uniform / 2] * 2, "px")],
        ),
    ]


def efficiency_claims(found: Results) -> list[Claim]:
    accuracy, sizes = found["accuracy"], found["sizes"]
    few, many = sizes[0], sizes[-1]

    def each(above: str, below: str, words: str) -> list[Check]:
        pairs = [(size, accuracy[above][str(size)], accuracy[below][str(size)]) for size in sizes]
        return [trained(f"{words} {size:,} images", one, other) for size, one, other in pairs]

    first, last = (minus(accuracy["resnet"][str(size)], accuracy["vit"][str(size)]) for size in (few, many))
    recipe = each("deit", "vit", "recipe,") + each("deit_distilled", "vit", "recipe and distillation,")
    bias = "Hierarchy and windows (Swin), or pooling (PiT), spare data"
    return [
        Claim("Data efficiency", "CNN: more efficient on small data sets", each("resnet", "vit", "plain ViT,")),
        Claim(
            "Data efficiency",
            "ViT: requires large data sets, so that more of them close the gap",
            [trained(f"gap at {few:,} images above that at {many:,}", first, last)],
        ),
        Claim("Data efficiency", "DeiT's augmentation and distillation improve it", recipe),
        Claim("Data efficiency", bias, each("swin", "vit", "Swin,") + each("pit", "vit", "PiT,")),
        Claim(
            "Data efficiency",
            "(beyond the tutorial) with DeiT's recipe for both, the CNN stays ahead",
            each("resnet_deit", "deit", "both with the recipe,"),
        ),
    ]


def robustness_claims(found: Results) -> list[Claim]:
    def each(corruption: str) -> list[Check]:
        cnn, vit = found["accuracy"]["resnet"], found["accuracy"]["vit"]
        return [
            trained(
                f"{corruption} of strength {strength:.2g}", relative(cnn, corruption, i), relative(vit, corruption, i)
            )
            for i, strength in enumerate(found["strengths"][corruption])
        ]

    others = [check for corruption in found["strengths"] if corruption != "noise" for check in each(corruption)]
    return [
        Claim("Noise", "Lack of inductive biases makes ViTs more sensitive to noise than CNNs", each("noise")),
        Claim("Noise", "(beyond the tutorial) and to shifts, blur and occlusion", others),
    ]


def depth_claims(found: Results) -> list[Claim]:
    vit, cnn = found["accuracy"]["vit"], found["accuracy"]["resnet"]

    def steps(values: dict[str, list[float]], what: str) -> list[Check]:
        names = list(values)
        pairs = pairwise(names)
        return [trained(f"{new} rather than {old} {what}", values[new], values[old]) for old, new in pairs]

    return [
        Claim("Scalability", "ViT: easy to scale with more attention layers", steps(vit, "layers")),
        Claim("Scalability", "CNN: scales by increasing its depth", steps(cnn, "convolutions")),
    ]


def cost_claims(found: Results) -> list[Claim]:
    sides, seconds, clock = found["sides"], found["seconds"], found["timed_sides"]
    macs = {name: [value["all"] for value in values] for name, values in found["macs"].items()}

    def nearest(side: int) -> int:
        return min(clock, key=lambda other: abs(other - side))

    def cheaper(one: str, other: str, side: int) -> list[Check]:
        at, when = sides.index(side), clock.index(side)
        times = {name: seconds[name][when] for name in (one, other)}
        return [
            counted(
                f"{one} below {other} in multiply-accumulates at {side} px",
                macs[other][at] / macs[one][at] - 1,
                "of it",
            ),
            timed(f"{one} below {other} in seconds at {side} px", minus_one(ratio(times, other, one)), "of it"),
        ]

    rounds = [list(values) for values in zip(*seconds["ViT-S"], strict=True)]
    power = [
        counted(f"ViT-S in multiply-accumulates up to {sides[-1]} px", growth(sides, macs["ViT-S"]) - LINEAR, "power"),
        timed(
            f"ViT-S in seconds up to {clock[-1]} px",
            quartiles([growth(clock, one) - LINEAR for one in rounds]),
            "power",
        ),
    ]
    usual, last = nearest(224), clock[-1]
    return [
        Claim("Computational cost", "CNN: low for standard image sizes", cheaper("ResNet-50", "ViT-S", usual)),
        Claim("Computational cost", "ViT: high for larger images, as attention is quadratic", power),
        Claim("Variants", "Swin: large images with reduced complexity", cheaper("Swin-T", "ViT-S", last)),
        Claim("Variants", "PiT: pooling makes it more efficient", cheaper("PiT-S", "ViT-S", usual)),
    ]
