"""Load a run's checkpoint as a stranger would, and show its predictions beside the truth.

    python scripts/load_as_stranger.py runs/quickstart

Without this package (importing it is forbidden here) and without network: only transformers and the folder's own code.
"""

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from vit_custom import listen


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a run's folder, with checkpoint/ and examples/")
    return parser.parse_args(argv)


if __name__ == "__main__":
    listen(parse)

os.environ["HF_HUB_OFFLINE"] = "1"
sys.modules["modeling_vit_custom"] = None  # type: ignore[assignment]  # an installed package cannot help

import matplotlib
import torch
from PIL import Image
from transformers import AutoConfig
from transformers import AutoImageProcessor
from transformers import AutoModel
from transformers import AutoModelForImageClassification
from transformers import pipeline
from transformers.utils import logging

matplotlib.use("Agg")
logging.set_verbosity_error()  # else AutoModel reports at length that the bare model has no classifier
from matplotlib import pyplot


def main(argv: list[str] | None = None) -> Path:
    folder = parse(argv).folder
    if folder.name == "checkpoint" and not (folder / "examples").is_dir():
        folder = folder.parent  # of the run
    if not (folder / "examples/labels.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no examples/labels.json: name the folder of a run of image classification, which holds "
            "checkpoint/ and examples/, or try the checkpoint on pictures of your own by transformers' pipeline."
        )
    truth = json.loads((folder / "examples" / "labels.json").read_text(encoding="utf-8"))
    if not truth:
        raise ValueError(f"{folder / 'examples'} is empty: train with `num_examples` of 1 to 25.")
    images = [Image.open(folder / "examples" / name).convert("RGB") for name in truth]
    checkpoint = str(folder / "checkpoint")
    classify = pipeline("image-classification", model=checkpoint, trust_remote_code=True)
    answers = [answer[0] for answer in classify(images, top_k=1)]
    width = max(map(len, ["prediction", *truth.values(), *(answer["label"] for answer in answers)])) + 2
    print(f"\n{'image':<8}{'truth':<{width}}{'prediction':<{width}}score")
    for (name, label), answer in zip(truth.items(), answers, strict=True):
        wrong = "" if answer["label"] == label else "  wrong"
        print(f"{name:<8}{label:<{width}}{answer['label']:<{width}}{answer['score']:.3f}{wrong}")
    check_by_hand(checkpoint, images, [answer["label"] for answer in answers])
    picture = folder / "predictions.png"
    draw(picture, images, list(truth.values()), answers)
    print(f"The picture: {picture}")
    return picture


@torch.no_grad()
def check_by_hand(checkpoint: str, images: list[Image.Image], labels: list[str]):
    """The Auto classes one by one give what the pipeline gave."""
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    inputs = processor(images, return_tensors="pt")
    logits = AutoModelForImageClassification.from_pretrained(checkpoint, trust_remote_code=True)(**inputs).logits
    tokens = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)(**inputs).last_hidden_state
    by_hand = [config.id2label[index] for index in logits.argmax(-1).tolist()]
    if by_hand != labels:
        raise RuntimeError(f"The pipeline says {labels}, the Auto classes say {by_hand}: the folder is not consistent.")
    print(f"AutoModelForImageClassification agrees; AutoModel gives tokens of shape {tuple(tokens.shape)}.")


def draw(path: Path, images: list[Image.Image], truth: list[str], answers: list[dict]):
    """All images in one picture, each with its truth and prediction; a wrong one in red."""
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    size = max(4, 1.8 * columns), 2.4 * rows
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, image, label, answer in zip(axes.flat, images, truth, answers, strict=False):
        axis.imshow(image)
        color = "black" if answer["label"] == label else "red"
        title = f"{short(answer['label'])} ({answer['score']:.0%})\n{short(f'truth {label}')}"
        axis.set_title(title, color=color, fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def short(name: str) -> str:
    """A long name in two lines at most, as wide as a picture."""
    return textwrap.fill(name, 21, max_lines=2, placeholder=" ...")


if __name__ == "__main__":
    main()
