"""Predict."""

from dataclasses import dataclass

from .options import argument
from .options import option


@dataclass
class Options:
    checkpoint: str = argument("a run")
    images: list[str] = argument("a run", default=None)
    top_k: int = option(5, "x")


def main(options: Options):
    raise NotImplementedError
