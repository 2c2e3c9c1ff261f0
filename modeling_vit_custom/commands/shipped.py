"""Files that are no code and come with the package: inside an installed one, and of a checkout where they are made."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# A name -> its place in an installed package, and in a checkout.
PLACES = {"recipes": ("recipes", "configs/recipes"), "model_card.md": ("card/model_card.md", "model_card.md")}


def shipped(name: str) -> Path:
    """`recipes` or `model_card.md` -> where it is on this machine.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    inside, beside = PLACES[name]
    for place in (PACKAGE / inside, PACKAGE.parent / beside):
        if place.exists():
            return place
    raise FileNotFoundError(f"The package lacks {name}: install it again.")
