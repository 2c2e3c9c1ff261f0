"""The options of evaluate_checkpoint.py, read before anything that takes seconds to import."""

import argparse
from pathlib import Path

NAMES = """image-classification masked-image-modeling pre-training image-segmentation object-detection
zero-shot-image-classification""".split()


def parse_options(argv: list[str] | None, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder with a config.json, a run, or a name on the Hub")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", help="whatever a recipe's `dataset` may be")
    source.add_argument("--recipe", type=Path, help="for its data, and what it says of batches")
    parser.add_argument("--data_dir", help="where `make data` has put the packages")
    parser.add_argument("--split", default="test", help="of the data set; `all`: everything, with no part held out")
    parser.add_argument("--corrupt_images", choices=("fail", "skip"), help="of the data; skipped ones are counted")
    parser.add_argument("--task", choices=NAMES, help="instead of the one that the checkpoint is for")
    parser.add_argument("--batch_size", type=int, help="of one process, instead of the recipe's")
    parser.add_argument("--output", type=Path, help="a folder; else `evaluation` beside the checkpoint")
    parser.add_argument("--knn", action="append_const", dest="kinds", const="knn", help="20 nearest neighbours' vote")
    parser.add_argument("--linear_probe", action="append_const", dest="kinds", const="linear", help="on features")
    parser.add_argument("--zero_shot", action="store_true", help="classes by their names alone, for a dual encoder")
    return parser.parse_args(argv)
