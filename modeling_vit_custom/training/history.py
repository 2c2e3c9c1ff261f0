"""What a run logged, by step, as a file and a picture; and the trackers that it may tell."""

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..near_names import near_miss

OF_THE_CLOCK = ("_runtime", "_per_second", "_preparation_time", "total_flos")
FIRST = ("step", "epoch", "loss", "learning_rate", "grad_norm", "eval_loss")
# Where a tracker's module is not called as the tracker.
MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "flyte": ("flytekit",)}
INSTALLABLE = frozenset(INTEGRATION_TO_CALLBACK)  # as transformers has them; a user may register more
PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}


def refuse_trackers(names: Sequence[str]):
    """
    Raises:
        ValueError: a tracker that transformers has not.
        ImportError: one that is not installed.
    """
    for name in (name for name in names if name not in ("none", "all")):
        if name not in INTEGRATION_TO_CALLBACK:
            near = near_miss(name, INTEGRATION_TO_CALLBACK)
            hint = f"did you mean `{near}`?" if near else f"choose of {', '.join(INTEGRATION_TO_CALLBACK)}, or none."
            raise ValueError(f"`report_to: {name}` is no tracker of transformers: {hint}")
        if name in INSTALLABLE and not any(find_spec(module) for module in MODULES.get(name, (name,))):
            package = PACKAGES.get(name, name)
            raise ImportError(f"`report_to: {name}` needs {package}: `pip install {package}`, or `report_to: none`.")


def by_step(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each step that was logged. The first value of a step stands: the last evaluation may be of the best
    weights. What the clock says is left out, and the mean loss of a whole run where steps have theirs."""
    rows: dict[int, dict[str, Any]] = {}
    names = {name for entry in log for name in entry if not name.endswith(OF_THE_CLOCK)}
    names -= {"train_loss"} if "loss" in names else set()
    for entry in log:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        for name, value in entry.items():
            if name in names:
                row.setdefault(name, value)
    columns = [*FIRST, *sorted(names.difference(FIRST))]  # a checkpoint's state has lost the order
    return [{name: rows[step][name] for name in columns if name in rows[step]} for step in sorted(rows)]


def write_history(log: Sequence[dict[str, Any]], folder: Path):
    """`history.csv` and `history.png`, of Trainer's `state.log_history`, which a resumed run goes on with.

    Raises:
        ImportError: matplotlib, which draws the picture, is not installed; the file is written.
    """
    rows = by_step(log)
    columns = [*FIRST, *sorted({name for row in rows for name in row}.difference(FIRST))]
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    from .plots import draw_history

    draw_history(rows).save(folder / "history.png")
