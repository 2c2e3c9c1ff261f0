"""The engine behind all rename tables: which tensors of theirs are which of ours, and back, bit for bit."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from .names import fill
from .names import match

Tensors = Mapping[str, torch.Tensor]
Model = TypeVar("Model", bound=nn.Module)
Config = TypeVar("Config")


@dataclass(frozen=True)
class Op:
    """A list of tensors as another list, and back: no arithmetic, so that the way back is exact."""

    into: Callable[[list[torch.Tensor]], list[torch.Tensor]]
    back: Callable[[list[torch.Tensor]], list[torch.Tensor]]


def each(into: Callable[[torch.Tensor], torch.Tensor], back: Callable[[torch.Tensor], torch.Tensor]) -> Op:
    """Every tensor by itself."""
    return Op(lambda tensors: list(map(into, tensors)), lambda tensors: list(map(back, tensors)))


def permute(*dims: int) -> Op:
    """Ours has their axes in the order `dims`."""
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return each(lambda tensor: tensor.permute(dims), lambda tensor: tensor.permute(inverse))


def reshape(theirs: Sequence[int], ours: Sequence[int]) -> Op:
    """The same numbers in another shape; -1 once in each, as torch has it."""
    return each(lambda tensor: tensor.reshape(ours), lambda tensor: tensor.reshape(theirs))


def split(count: int, dim: int = 0) -> Op:
    """One of theirs is `count` equal parts of ours: fused projections."""

    def into(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        if tensors[0].shape[dim] % count:
            raise ValueError(f"{count} does not divide {tuple(tensors[0].shape)}")
        return list(tensors[0].chunk(count, dim))

    return Op(into, lambda tensors: [torch.cat(tensors, dim)])


def join(*sizes: int, dim: int = 1) -> Op:
    """Several of theirs, of these lengths along `dim`, are one of ours: tokens that they hold apart."""
    return Op(lambda tensors: [torch.cat(tensors, dim)], lambda tensors: list(tensors[0].split(sizes, dim)))


@dataclass(frozen=True)
class Row:
    """Names of theirs, names of ours, and what is done on the way into ours, in order.

    No name of ours: kept aside, to be put back. `None` among names of ours: a part that must be zero, and is not held.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str | None, ...] = ()
    ops: tuple[Op, ...] = ()

    @property
    def names(self) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
        """(theirs, ours), as tuples."""
        theirs = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return theirs, (self.ours,) if isinstance(self.ours, str) else self.ours


Table = Sequence[Row]


def row(theirs: str | tuple[str, ...], ours: str | tuple[str | None, ...], *ops: Op) -> Row:
    return Row(theirs, ours, ops)


def kept(*theirs: str) -> list[Row]:
    """What ours has no use for, by name: kept in a file aside, never dropped."""
    return [Row(name) for name in theirs]


def prefixed(table: Iterable[Row], theirs: str = "", ours: str = "") -> list[Row]:
    """The same table below a module: `prefixed(base, "vit.", "vit.")`."""
    rows = []
    for entry in table:
        left, right = entry.names
        rows.append(
            replace(
                entry,
                theirs=tuple(theirs + name for name in left),
                ours=tuple(name if name is None else ours + name for name in right),
            )
        )
    return rows


def apply(
    tensors: Tensors, table: Table, back: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[str]]:
    """(the tensors under the other side's names, what a row keeps aside, what is wrong in sentences)."""
    renamed: dict[str, torch.Tensor] = {}
    aside: dict[str, torch.Tensor] = {}
    problems: list[str] = []
    done: set[str] = set()
    for name in tensors:
        if name in done:
            continue
        for entry in table:
            side, other = entry.names[::-1] if back else entry.names
            fields = next((f for n in side if n is not None and (f := match(n, name)) is not None), None)
            if fields is not None:
                break
        else:
            problems.append(f"  no counterpart: {name}")
            continue
        group = [n and fill(n, fields) for n in side]
        done.update(filter(None, group))
        if not other:
            aside[name] = tensors[name]
        elif absent := [n for n in group if n is not None and n not in tensors]:
            problems += [f"  missing: {n}" for n in absent]
        else:
            shaped = [n if n is None else tensors[n] for n in group]
            held = next(t for t in shaped if t is not None)
            parts = [torch.zeros_like(held) if t is None else t for t in shaped]
            try:
                for op in reversed(entry.ops) if back else entry.ops:
                    parts = (op.back if back else op.into)(parts)
            except (RuntimeError, ValueError, IndexError) as error:
                problems.append(f"  {', '.join(filter(None, group))}: {[tuple(t.shape) for t in parts]}, {error}")
                continue
            for target, part in zip(other, parts, strict=True):
                if target is not None:
                    renamed[fill(target, fields)] = part.clone(memory_format=torch.contiguous_format)
                elif not part.is_meta and part.count_nonzero():
                    problems.append(f"  {group[0]}: the part that ours does not hold is not zero")
    return renamed, aside, problems


def into_ours(tensors: Tensors, table: Table) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(theirs under our names, what is kept aside under theirs).

    Raises:
        ValueError: tensors that no row names, or that no row can take; nothing is dropped.
    """
    renamed, aside, problems = apply(tensors, table, back=False)
    if problems:
        raise ValueError("The source holds tensors that this conversion does not know:\n" + "\n".join(sorted(problems)))
    return renamed, aside


def into_theirs(tensors: Tensors, table: Table, aside: Tensors = {}) -> dict[str, torch.Tensor]:  # noqa: B006
    """Ours under their names, and what was kept aside beside them: the exact inverse of `into_ours`.

    Raises:
        ValueError: tensors of ours that their layout has no place for.
    """
    renamed, _, problems = apply(tensors, table, back=True)
    if problems:
        raise ValueError("Our model holds tensors that the target has no place for:\n" + "\n".join(sorted(problems)))
    return renamed | dict(aside)


def choose(tables: Mapping[str, Table], names: Iterable[str]) -> str:
    """The spelling whose rows know the most of these names, the first of equals."""
    names = list(names)

    def known(spelling: str) -> int:
        left = [name for entry in tables[spelling] for name in entry.names[0]]
        return sum(any(match(name, found) is not None for name in left) for found in names)

    return max(tables, key=known)


def differences(found: Tensors, expected: Tensors, table: Table) -> list[str]:
    """What a source lacks, has too much of, or has in another shape, beside what was expected; their names."""
    aside = [entry.names[0] for entry in table if not entry.names[1]]
    lines = [f"  missing from the source: {name}" for name in expected if name not in found]
    for name, tensor in found.items():
        if name in expected:
            if tensor.shape != expected[name].shape:
                shapes = tuple(tensor.shape), tuple(expected[name].shape)
                lines.append(f"  {name}: {shapes[0]} in the source, {shapes[1]} in the model")
        elif not any(match(left, name) is not None for names in aside for left in names):
            lines.append(f"  in the source, not in the model: {name}")
    return sorted(lines)


def load(make: Callable[[Config], Model], config: Config, tensors: Tensors, table: Table) -> tuple[Model, Tensors]:
    """(a model of ours with exactly these tensors, in their dtype and sharing no memory; what is kept aside).

    Raises:
        ValueError: the two-sided list, in the source's names; nothing was loaded.
    """
    with torch.device("meta"):
        model = make(config)
    expected = into_theirs(model.state_dict(), table)
    if lines := differences(tensors, expected, table):
        raise ValueError(f"The source does not fit {type(model).__name__}:\n" + "\n".join(lines))
    ours, aside = into_ours(tensors, table)
    model.load_state_dict(ours, assign=True)
    return model.eval(), aside
