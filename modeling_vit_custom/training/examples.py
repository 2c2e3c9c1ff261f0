"""The held-out pictures that a result shows, and its worst mistakes.

N rows, L classes.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import EvalPrediction

from .images import to_rgb
from .sources import ROW

MOST = 25  # pictures
WORST = 100  # mistakes


def spread(classes: Sequence[Sequence[Any]], count: int) -> list[int]:
    """Of N rows with these classes, at most `count`, so that classes are shown about equally often; sorted by them."""
    rows_of: dict[Any, list[int]] = {}
    for row in np.random.default_rng(0).permutation(len(classes))[::-1].tolist():
        for name in classes[row] or [None]:
            rows_of.setdefault(name, []).append(row)
    shown, chosen = Counter[Any](), set[int]()
    while len(chosen) < min(count, len(classes)):
        rows = rows_of[min((name for name, rows in rows_of.items() if rows), key=lambda name: shown[name])]
        row = rows.pop()
        if row not in chosen:
            chosen.add(row)
            shown.update(classes[row] or [None])
    return sorted(chosen, key=lambda row: (list(classes[row]), row))


def save_examples(folder: Path, trained: Any, count: int):
    """Some held-out images as files without what cameras write beside pixels, their labels if they have any, and the
    answers of the saved model in `folder / "checkpoint"`: `count`, at most 25 and at most all."""
    images, task, held_out = folder / "examples", trained.task, trained.held_out
    images.mkdir()
    rows = held_out.select(spread(task.classes_of(held_out), min(count, MOST)))
    for index, image in enumerate(rows["image"]):
        bare(image).save(images / f"{index}.png")
    if task.tells_mistakes:
        labels = {f"{index}.png": trained.class_names[label] for index, label in enumerate(rows["label"])}
        (images / "labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")
        write_mistakes(folder / "mistakes.csv", trained.prediction, held_out, trained.class_names)
    elif len(rows):
        saved = task.model_class.from_pretrained(folder / "checkpoint")  # whole and on the CPU, whatever trained it
        task.draw(saved, trained.processor, trained.collate, rows, held_out).save(folder / "predictions.png")


def bare(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(to_rgb(image)))


def write_mistakes(path: Path, prediction: EvalPrediction, held_out: Any, names: Sequence[str]):
    """The surest of the wrong answers first, of logits (N, L) and labels (N)."""
    logits, labels = np.asarray(prediction.predictions, dtype=np.float64), np.asarray(prediction.label_ids)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    found = logits.argmax(1)
    wrong = np.flatnonzero(found != labels)
    raw = held_out.with_format(None)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("row", "file", "truth", "prediction", "score", "score_of_truth"))
        for row in sorted(wrong.tolist(), key=lambda row: (-shares[row, found[row]], row))[:WORST]:
            scores = (f"{shares[row, name]:.4f}" for name in (found[row], labels[row]))
            told, answer = raw[row], (names[labels[row]], names[found[row]])
            writer.writerow((told.get(ROW, row), file_of(told["image"]), *answer, *scores))


def file_of(image: Any) -> str:
    """Of a row's image, decoded or not; nothing where it has none."""
    path = image.get("path") if isinstance(image, dict) else getattr(image, "filename", None)
    return str(path or "")
