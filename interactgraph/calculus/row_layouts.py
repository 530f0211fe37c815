"""Which entries of a result some rows need: some samples and target positions, and all the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = [
    "FREE",
    "POSITION",
    "SAMPLE",
    "Atom",
    "Layout",
    "NotRowwise",
    "Rows",
    "check_whole",
    "free",
    "joint",
    "of_operand",
    "regrouped",
    "whole",
]

FREE, SAMPLE, POSITION = range(3)
Atom = tuple[int, int]  # size, and whether it counts samples, target positions or anything else
Layout = tuple[tuple[Atom, ...], ...]  # of every axis


class NotRowwise(Exception):
    """Target positions do not come apart; the message says where."""


def whole(size: int, kind: int = FREE) -> tuple[Atom, ...]:
    """An axis of one atom."""
    return ((size, kind),) if size != 1 else ()


def free(layout: Layout) -> list[int]:
    """The shape of what a row has of a result."""
    return [math.prod(size for size, kind in axis if kind == FREE) for axis in layout]


def check_whole(axis: Sequence[Atom]) -> None:
    """Checks that every row needs all of an axis.

    Raises:
        NotRowwise: it counts samples or target positions.
    """
    if any(kind != FREE for _, kind in axis):
        raise NotRowwise("samples or target positions are mixed")


def regrouped(layout: Layout, shape: Sequence[int]) -> Layout:
    """The same entries in another shape."""
    left, axes = [atom for axis in layout for atom in axis], []
    for size in shape:
        axis = []
        while size > 1:
            if not left:
                raise NotRowwise("shapes do not fit")
            atom, kind = left.pop(0)
            step = math.gcd(atom, size)
            if step == 1 or (kind != FREE and step != atom):
                raise NotRowwise("axes are cut at odd places")
            if step < atom:
                left.insert(0, (atom // step, kind))
            axis.append((step, kind))
            size //= step
        axes.append(tuple(axis))
    if left:
        raise NotRowwise("shapes do not fit")
    return tuple(axes)


def of_operand(layout: Layout, shape: Sequence[int]) -> Layout:
    """What an operand that is broadcast to a result needs for it."""
    own = layout[len(layout) - len(shape) :]
    return tuple(() if size == 1 else axis for size, axis in zip(shape, own, strict=True))


@dataclass(eq=False)
class Rows:
    """Rows of a batch, and how they are taken of anything.

    Attributes:
        samples: b of each, int64 `[n]`.
        positions: t of each, int64 `[n]`.
    """

    samples: Tensor
    positions: Tensor

    def of(self, x: Tensor, axes: Sequence[tuple[Atom, ...]], last: bool = False) -> Tensor:
        """What the rows have of a tensor.

        Args:
            x: its dimensions are the atoms, each of its size or of size one where x is the same
                all along it, and one more for the sources if `last`.
            axes: the atoms of each axis.
            last: whether there is an axis of sources.

        Returns:
            `[n or 1, .. one for each axis .., j]`; an axis along which x is the same has size one.
        """
        atoms = [atom for axis in axes for atom in axis]
        index, places = [], []
        for place, (_, kind) in enumerate(atoms):
            if kind != FREE and x.shape[place] > 1:
                index.append(self.samples if kind == SAMPLE else self.positions)
                places.append(place)
        gone = [place for place, (_, kind) in enumerate(atoms) if kind != FREE]
        kept = [place for place in range(len(atoms)) if place not in gone]
        rest = [len(atoms)] if last else []
        others = [place for place in gone if place not in places]
        x = x.permute([*places, *others, *kept, *rest])
        x = x[tuple(index)] if index else x[None]
        x = x.reshape(x.shape[0], *x.shape[1 + len(others) :])
        sizes, place = [], 1
        expanded = list(x.shape)
        for axis in axes:
            own = [size for size, kind in axis if kind == FREE]
            here = list(x.shape[place : place + len(own)])
            carried = any(size > 1 for size in here)
            if carried:
                expanded[place : place + len(own)] = own
            sizes.append(math.prod(own) if carried else 1)
            place += len(own)
        x = x.expand(expanded)
        return x.reshape(x.shape[0], *sizes, *(x.shape[-1:] if last else ()))


def joint(atoms: Sequence[int], wanted: tuple[Atom, ...]) -> tuple[Atom, ...]:
    """The atoms of an axis cut so that they serve two."""
    return tuple(atom for axis in regrouped((wanted,), atoms) for atom in axis)
