"""Packages that are not installed with this one: the extras of pyproject.toml."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, why: str) -> Iterator[None]:
    """Around imports of the packages of an extra; `why` begins the sentence: "A plot needs"

    Raises:
        ImportError: one of them is not installed; the sentence names the command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{why} {error.name}, which is not installed: pip install 'modeling-vit-custom[{name}]'."
        ) from None
