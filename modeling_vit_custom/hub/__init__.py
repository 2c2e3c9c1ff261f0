"""Folders and cards for the Hub."""

from .card import render_card
from .folder import run_folder

__all__ = ["render_card", "run_folder"]
