"""Timing several ways to do one thing so that a noisy machine treats them alike."""

import statistics
import time
from collections.abc import Callable
from collections.abc import Mapping
from itertools import chain
from itertools import islice


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round.

    Every round runs every task once; who begins changes from round to round. A round before the first warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in chain(islice(names, turn, None), islice(names, turn)):
            start = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile) of one's time over the other's, round by round."""
    quotients = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    low, middle, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return low, middle, high
