"""How often each class is there, and which numbers images have: printed before a training, and kept."""

from collections import Counter
from statistics import fmean
from statistics import pstdev
from typing import Any

from .columns import Splits
from .columns import first

MOST_NAMED, UNBALANCED = 12, 10  # classes in one line, and from which ratio on weights are proposed


def balance_of(splits: Splits, names: list[str]) -> dict[str, Any]:
    """How many images of each split show each class (one of several classes counts for each), and how often the most
    frequent class of training is there for the rarest. Of numbers: their mean, deviation and range."""
    if isinstance(first(splits).features["label"], dict):
        return {
            split: {name: range_of([row[name] for row in rows["label"]]) for name in names}
            for split, rows in splits.items()
        }
    found = {split: count_classes(rows, names) for split, rows in splits.items()}
    counts = [count for count in first(found).values() if count]
    return {**found, "ratio": max(counts) / min(counts) if counts else 1.0}


def count_classes(rows: Any, names: list[str]) -> dict[str, int]:
    counts = Counter(one for label in rows["label"] for one in (label if isinstance(label, list) else [label]))
    return {name: counts[number] for number, name in enumerate(names)}


def range_of(values: list[float]) -> dict[str, float]:
    return dict(mean=fmean(values), std=pstdev(values), min=min(values), max=max(values))


def tell_balance(balance: dict[str, Any], num_images: int, weighted: bool):
    """One line of what training has; a second where classes differ more than ten times."""
    train = balance["train"]
    if "ratio" not in balance:
        for name, of in train.items():
            print(
                f"{name} of {num_images} images: mean {of['mean']:.4g}, deviation {of['std']:.4g}, from "
                f"{of['min']:.4g} to {of['max']:.4g}."
            )
        return
    ranked = sorted(train.items(), key=lambda one: -one[1])
    shown = ranked if len(ranked) <= MOST_NAMED else [*ranked[:3], ("...", None), *ranked[-3:]]
    words = ", ".join(name if count is None else f"{name} {count}" for name, count in shown)
    print(f"{len(train)} classes in {num_images} images of training: {words}.")
    if balance["ratio"] > UNBALANCED and not weighted:
        print(
            f"The most frequent class has {balance['ratio']:.0f} times the images of the rarest: "
            "`class_weights: balanced` weighs them alike."
        )
