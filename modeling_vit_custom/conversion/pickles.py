"""Files of torch.save: the tensors within, and nothing that runs."""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile
from zipfile import is_zipfile

import torch

from .wrappers import holds_a_model

# What trainings put beside the weights: settings, paths, times, numbers. Nothing of these is run, see `Placeholder`.
HARMLESS = re.compile(
    r"(argparse|datetime|pathlib|decimal|fractions|uuid|numpy|omegaconf)\..+|types\.SimpleNamespace|enum\.\w+|typing\.\w+"
    r"|torch\.torch_version\.TorchVersion"
    r"|builtins\.(set|frozenset|complex|range|slice|bytearray|object|dict|list|tuple|int|float|str|bool|bytes)"
)
# The same that are dictionaries: torch's loader fills no other class than its own.
DICTIONARIES = re.compile(
    r"(yacs|easydict|addict|munch|box|ml_collections|fvcore\.common\.config|detectron2\.config|mmengine\.config"
    r"|mmcv\.utils\.config|(pytorch_lightning|lightning\.(pytorch|fabric))\.utilities)\..+"
)
# Of the standard library: made from arguments, and then filled.
FILLED: dict[str, Any] = {"collections.defaultdict": lambda *_: OrderedDict(), "collections.deque": lambda *_: []}
REFUSED = re.compile(r"GLOBAL (\S+)")
DEPTH = 4  # of entries within entries


class Placeholder:
    """Stands for an object of a class that is harmless and of no use here: that class is neither imported nor run."""

    def __init__(self, *args, **kwargs):
        """Nothing is kept."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __setstate__(self, state):
        """Nor are its attributes."""


def load_tensors(file: Path) -> Any:
    """As torch.load's weights-only loader reads it, with a placeholder for each harmless object.

    Raises:
        ValueError: anything else is in it, which is named and was not run.
    """
    if is_zipfile(file) and any(name.endswith("/constants.pkl") for name in ZipFile(file).namelist()):
        raise ValueError(
            f"{file.name} is a TorchScript archive, a program: if you trust its maker, write its weights anew by "
            f"`torch.save(torch.jit.load({file.name!r}).state_dict(), 'weights.pth')`."
        )
    allowed: list[tuple[Any, str]] = []
    while True:
        try:
            with torch.serialization.safe_globals(allowed), warnings.catch_warnings():  # type: ignore[arg-type]
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # if it matters, it is said below
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            said = re.sub(r"\x1b\[\d*m", "", str(error))
            why, found = said.split("WeightsUnpickler error: ")[-1].strip().splitlines()[0], REFUSED.search(said)
        except Exception as error:  # what a reader of pickles says of bytes that are none
            if "allocate memory" in str(error):
                raise ValueError(f"{file.name} does not fit into the memory that is free: free some.") from None
            raise EOFError(" ".join(str(error).split())) from None
        if found is None and re.match(r"Unsupported operand 1(2[89]|[34]\d)\b", why):
            raise ValueError(
                f"{file.name} was written with another pickle protocol than torch's own, which its safe loader does "
                f"not read: if you trust its maker, write it anew by `torch.save(torch.load({file.name!r}, "
                "weights_only=False), 'weights.pth')`."
            )
        if found is None and re.match("Unsupported operand|invalid load key|pickle data was truncated", why):
            raise EOFError(why)
        if found is None:
            raise ValueError(
                f"{file.name} is not read by torch's safe loader ({why.rstrip('.')}): take a safetensors file of "
                "the same weights, or, if you trust its maker, load it with `weights_only=False` and save its tensors."
            )
        culprit = found[1]
        culprit = culprit if "." in culprit else f"builtins.{culprit}"
        kinds = ((OrderedDict, DICTIONARIES.fullmatch(culprit)), (Placeholder, HARMLESS.fullmatch(culprit)))
        stand_in = next((kind for kind, fits in kinds if fits), FILLED.get(culprit))
        if stand_in is None or culprit in [name for _, name in allowed]:
            raise ValueError(
                f"{file.name} holds more than tensors, {culprit}, which is not unpickled because it could run code: "
                "take a safetensors file of the same weights, or, if you trust its maker, load it with "
                "`weights_only=False` and save its state dict alone."
            )
        allowed.append((stand_in, culprit))


def state_dicts(content: Mapping, path: tuple = ()) -> Iterator[tuple[tuple, Mapping]]:
    """(the keys on the way to it, what it holds) of each mapping with tensors."""
    if any(isinstance(value, torch.Tensor) and isinstance(key, str) for key, value in content.items()):
        yield path, content
    for key, value in content.items():
        if isinstance(value, Mapping) and len(path) < DEPTH:
            yield from state_dicts(value, (*path, key))


def unwrap(content: Any, name: str, prefix: str | None) -> tuple[dict[str, torch.Tensor], str, list[str]]:
    """(the state dict within a pickled file, alone or beside a training's other things; its entry; what was left out).

    Raises:
        ValueError: there is none, or several and `prefix` names none of them.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}, not a state dict: resave its `state_dict()`.")
    ways = {"".join(f"{key}." for key in path): path for path, _ in state_dicts(content)}
    found = {"".join(f"{key}." for key in path): held for path, held in state_dicts(content)}
    models = [path for path in found if holds_a_model(found[path])] or sorted(found, key=lambda at: -len(found[at]))[:1]
    if not models:
        held = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{name} holds {held}, and no tensors under names: resave its `state_dict()` alone.")
    if len(models) > 1 and prefix is not None:
        models = [path for path in models if f"{prefix.rstrip('.')}.".startswith(path)][-1:] or models
    if len(models) > 1:
        raise ValueError(
            f"{name} holds several models, {', '.join(models)}: choose one with `--prefix`, as in "
            f"`--prefix {models[-1]}`."
        )
    (entry,) = models
    taken = {key: value for key, value in found[entry].items() if isinstance(value, torch.Tensor)}
    others, within = {str(key) for key in found[entry]} - {str(key) for key in taken}, content
    for key in ways[entry]:
        others |= {str(other) for other in within} - {str(key)}
        within = within[key]
    what = f"the entry {entry[:-1]!r} was" if entry else "the tensors were"
    return taken, entry, [f"of {name} {what} taken, not {', '.join(sorted(others))}"] if others else []
