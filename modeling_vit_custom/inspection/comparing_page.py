"""docs/vit_vs_cnn.md, written from the figures alone: no number and no verdict on it is typed by hand."""

from collections.abc import Sequence
from statistics import mean
from statistics import median

from .comparing import RULE
from .comparing import Check
from .comparing import Claim
from .comparing import Results
from .comparing import make_claims
from .comparing import relative
from .comparing import spread
from .pixel_baselines import NAMES
from .plots import LABELS
from .plots import REAL
from .resolution import growth
from .resolution import overtakes

LEARNING = "\n<!-- learning, by make compare -->\n"  # from here on docs/results.md is written by scripts/compare.py
INTRODUCTION = f"""# ViT against CNN, measured

Written by `make compare`. A tutorial on Vision Transformers says how they differ from CNNs; here each of its statements
is put to small models, all trained from scratch under equal conditions, and gets a verdict from the figures.

{RULE}

What is said of hundreds of millions of training images ("when trained on JFT-300M, ViTs outperform CNNs") is not tested
here, and a verdict is about these models on these data only."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    left = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" if cells else left for cells in (head, (), *rows))


def percent(values: Sequence[float]) -> str:
    """The mean, and the range over seeds."""
    middle = f"{100 * mean(values):.1f}"
    return middle if spread(values) == 0 else f"{middle} ({100 * min(values):.1f}-{100 * max(values):.1f})"


def pixels(values: Sequence[float]) -> str:
    return f"{mean(values):.1f}"


def in_words(check: Check) -> str:
    margin = "one seed" if check.margin is None else f"more than {check.margin:.2f} wins"
    return f"{check.where}: {check.difference:+.2f} {check.unit} ({margin}{', **won**' if check.won else ''})"


def verdicts(claims: Sequence[Claim]) -> str:
    rows = [[claim.aspect, claim.said, claim.verdict] for claim in claims]
    lines = ["## Verdicts", "", "| aspect | what is said | verdict |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def comparisons(claims: Sequence[Claim]) -> str:
    """Every comparison behind a verdict."""
    lines = ["## The comparisons behind them", ""]
    for claim in claims:
        lines += [f'- {claim.aspect}, "{claim.said}": {claim.verdict}', *(f"  - {in_words(c)}" for c in claim.checks)]
    return "\n".join(lines)


def efficiency(found: Results, picture: str) -> str:
    sizes, models = found["sizes"], found["models"]
    cost = [
        [LABELS[name], f"{one['parameters']:,}", f"{one['macs'] / 1e6:.2f} M", f"{1000 * one['step_seconds']:.0f} ms"]
        for name, one in models.items()
    ]
    rows = [[LABELS[name], *(percent(ones[str(size)]) for size in sizes)] for name, ones in found["accuracy"].items()]
    rows += [[NAMES[name], *(percent(ones[str(size)]) for size in sizes)] for name, ones in found["baselines"].items()]
    return f"""## Data efficiency

{found["dataset"]}, {found["max_steps"]} steps of {found["batch_size"]} images for every model and every
number of images, {found["seeds"]} seeds, each of which draws other training images, other weights and another order.
Equal compute also means that no model trains until it is finished: a longer run may rank them otherwise.

{table(["model", "parameters", "multiply-accumulates", "a training step"], cost)}

![accuracy against training images]({picture})

Accuracy on held-out images in per cent: mean (range over seeds).

{table(["model", *(f"{size:,} images" for size in sizes)], rows)}"""


def cost(found: Results, picture: str) -> str:
    sides, timed = found["sides"], found["timed_sides"]
    macs = {name: [one["all"] for one in values] for name, values in found["macs"].items()}
    seconds = {name: [median(rounds) for rounds in values] for name, values in found["seconds"].items()}
    places = [sides.index(side) for side in timed]
    rows = [
        [
            f"{name}, billions",
            *(f"{macs[name][place] / 1e9:.2f}" for place in places),
            f"{growth(sides, macs[name]):.2f}",
        ]
        for name in REAL
    ]
    rows += [
        [
            f"{name}, seconds",
            *(f"{one:.3f}" for one in seconds[name]),
            f"{growth(timed, seconds[name]):.2f}",
        ]
        for name in REAL
    ]
    crossings = [
        f"{words}: {one} is cheaper than ViT-S from {side} px on"
        if (side := overtakes(at, values[one], values["ViT-S"]))
        else f"{words}: {one} never becomes cheaper than ViT-S for good"
        for one in ("Swin-T", "ResNet-50")
        for words, at, values in (("counted", sides, macs), ("measured", timed, seconds))
    ]
    share = [
        f"{one['attention'] / one['all']:.0%} at {side} px"
        for side, one in zip(sides, found["macs"]["ViT-S"], strict=True)
        if side in timed
    ]
    return f"""## Cost against resolution

Models of real size with random weights, one image, one thread, {found["rounds"]} rounds in which they took turns
(medians). The power is that of the number of pixels by which the cost grows from an image of half the largest side to
the largest: 1 is linear.

![cost against resolution]({picture})

{table(["model", *(f"{side} px" for side in timed), "power"], rows)}

{chr(10).join(f"- {words}" for words in crossings)}
- of ViT-S's multiply-accumulates, those of tokens with tokens are {", ".join(share)}"""


def robustness(found: Results, picture: str) -> str:
    head = ["model", "clean, %", *(f"{name} {one:.2g}" for name, ones in found["strengths"].items() for one in ones)]
    rows = [
        [
            LABELS[name],
            percent(accuracy["clean"]),
            *(
                f"{100 * mean(relative(accuracy, corruption, index)):.0f}"
                for corruption, ones in found["strengths"].items()
                for index in range(len(ones))
            ),
        ]
        for name, accuracy in found["accuracy"].items()
    ]
    return f"""## Sensitivity to noise, shifts, blur, occlusion

The models trained on {found["size"]:,} images, on {found["num_images"]:,} held-out ones made
worse. Strengths are shares of the range of values
(noise) or of the side (the others). After the first column: per cent left of the clean accuracy, mean over seeds.

![accuracy left]({picture})

{table(head, rows)}"""


def locality(found: Results, picture: str) -> str:
    distance = found["distance"]
    count = len(distance["trained"][0])
    rows = []
    for layer in range(count):
        cells = []
        for when in ("initial", "trained"):
            heads = [value for seed in distance[when] for value in seed[layer]]
            cells.append(f"{mean(heads):.1f} ({min(heads):.1f}-{max(heads):.1f})")
        rows.append([f"layer {layer + 1}", *cells])
    radii = [
        [LABELS[name], place, pixels(ones["initial"][place]), pixels(ones["trained"][place])]
        for name, ones in found["radius"].items()
        for place in ones["trained"]
    ]
    fields = [
        [f"{where}, {place}", f"{side} px", f"{found['field_images'][where]} px"]
        for where, ones in found["fields"].items()
        for place, side in ones.items()
    ]
    return f"""## Locality

Mean attention distance of the plain ViT in pixels over heads and seeds, with the nearest and the farthest looking head;
looking everywhere alike is {found["distance"]["uniform"]:.1f} px.

![locality]({picture})

{table(["", "untrained", "trained"], rows)}

What the middle of a feature map depends on: the mean distance from the centre of its gradient,
on {found["num_images"]} held-out images. Depending on every pixel alike would be {found["uniform_radius"]:.1f} px.

{table(["model", "after", "untrained, px", "trained, px"], radii)}

By its kernels a CNN sees a square of this side; "small" is the one trained here.

{table(["CNN", "receptive field", "image"], fields)}"""


def depth(found: Results, picture: str) -> str:
    rows = [
        [LABELS[name], number, f"{found['macs'][name][number] / 1e6:.1f} M", percent(values)]
        for name, by_depth in found["accuracy"].items()
        for number, values in by_depth.items()
    ]
    return f"""## Depth

{found["size"]:,} training images, {found["max_steps"]} steps; widths as above. ViTs by
layers, CNNs by convolutions after the stem.

![accuracy against depth]({picture})

{table(["model", "depth", "multiply-accumulates", "accuracy, %"], rows)}"""


SECTIONS = {"efficiency": efficiency, "cost": cost, "robustness": robustness, "locality": locality, "depth": depth}


def birth(results: Results) -> str:
    """Hardware, versions and commits of all parts and trainings; each training's time once."""
    trainings = {name: run for found in results.values() for name, run in found["runs"].items()}
    certificates = [one["certificate"] for one in (*results.values(), *trainings.values())]
    told = {key: "; ".join(sorted({one[key] for one in certificates})) for key in ("hardware", "versions", "commit")}
    trained = sum(run["seconds"] for run in trainings.values()) / 60
    measured = sum(found["seconds_taken"] for found in results.values()) / 60
    return (
        f"<sub>{told['hardware']}; {told['versions']}; commits {told['commit']} (+: with changes); `make compare`: "
        f"{len(trainings)} trainings of one thread each, {trained:.0f} minutes in all, and {measured:.0f} minutes of "
        "measuring.</sub>"
    )


def page(results: Results, pictures: dict[str, str]) -> str:
    """Of the parts that were measured."""
    claims = make_claims(results)
    parts = [SECTIONS[name](found, pictures[name]) for name, found in results.items()]
    missing = [name for name in SECTIONS if name not in results]
    notes = [f"Not measured yet: {', '.join(missing)}."] if missing else []
    return "\n\n".join([INTRODUCTION, *notes, verdicts(claims), *parts, comparisons(claims), birth(results)]) + "\n"


def learning(results: Results) -> str:
    """For docs/results.md: what is reached from scratch on the most images, and what distillation adds."""
    found = results["efficiency"]
    size, runs = str(max(found["sizes"])), found["runs"]
    rows = []
    for name, by_size in found["accuracy"].items():
        own = [run["seconds"] for run_name, run in runs.items() if run_name.startswith(f"{name}-{size}-")]
        values = ", ".join(f"{100 * value:.2f}" for value in by_size[size])
        one = found["models"][name]
        cost = f"{one['parameters']:,}", f"{one['macs'] / 1e6:.2f} M"
        rows.append([LABELS[name], *cost, values, percent(by_size[size]), f"{mean(own):.0f}"])
    taught, plain = (found["accuracy"][name][size] for name in ("deit_distilled", "deit"))
    gain, wins = mean(taught) - mean(plain), 2 * max(spread(taught), spread(plain))
    verdict = "more" if gain > wins else "**not more**"
    return f"""{LEARNING}
## Learning from scratch, at equal compute

Written by `make compare`: {found["dataset"]}, {int(size):,} training images, {found["max_steps"]} steps of
{found["batch_size"]} images, all by `scripts/train.py`; per cent of the held-out images, a figure for each seed. Fewer
images, pixel baselines and what it means: [ViT and CNN](vit_vs_cnn.md).

{table(["model", "parameters", "multiply-accumulates", "each seed", "mean (range)", "seconds a run"], rows)}

**Distillation** (DeiT, hard, from the ResNet in this table, trained on the same images): a gain of
{100 * gain:.2f} points over the same recipe without a teacher, {verdict} than twice the larger spread over seeds
({100 * wins:.2f} points).

**Fine-tuning** from a converted checkpoint was not measured: none with trained weights was at hand.

{birth({"efficiency": found})}
"""
