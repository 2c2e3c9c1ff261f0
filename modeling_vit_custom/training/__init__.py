"""Training with transformers' Trainer: recipes, data, metrics."""

from .data import ImageCollator
from .data import load_digits
from .recipe import Recipe
from .recipe import read_recipe
from .run import train

__all__ = ["ImageCollator", "Recipe", "load_digits", "read_recipe", "train"]
