"""Tangents as sums of products: of what happens to positions, and of what happens to features."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = [
    "Axes",
    "Factored",
    "NotFactored",
    "Term",
    "axes_of",
    "carried_by",
    "carries",
    "common_axes",
    "dot",
    "moved_source",
    "shrunk",
    "spread",
    "times",
]

Axes = tuple[tuple[int, ...], ...]  # sizes of the atoms of every axis, none of which is one


class NotFactored(Exception):
    """A tangent is no sum of few products; the message says where."""


@dataclass(frozen=True, eq=False)
class Term:
    """One product.

    Attributes:
        c: what happens to positions, `[..atoms.., j]`, size one on atoms that it does not carry.
        u: what happens to features, likewise.
        key: the same for the same c, wherever it came from.
        w: numbers of positions and features that know no source, `[..atoms.., 1]`; None: ones.
    """

    c: Tensor
    u: Tensor
    key: Hashable = ()
    w: Tensor | None = None

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.c, self.u) if self.w is None else (self.c, self.u, self.w)


@dataclass(frozen=True, eq=False)
class Factored:
    """The tangent of one result.

    Attributes:
        axes: of the result.
        terms: whose sum it is.
    """

    axes: Axes
    terms: tuple[Term, ...]

    @property
    def atoms(self) -> tuple[int, ...]:
        """Sizes of all atoms."""
        return tuple(atom for axis in self.axes for atom in axis)

    def places(self, axis: int) -> range:
        """Where the atoms of an axis are among all."""
        first = sum(len(a) for a in self.axes[:axis])
        return range(first, first + len(self.axes[axis]))


def axes_of(shape: Sequence[int]) -> Axes:
    """A shape whose axes are one atom each."""
    return tuple((size,) if size != 1 else () for size in shape)


def moved_source(displacement: Tensor, device: torch.device) -> Factored:
    """The tangent of the source features themselves.

    Args:
        displacement: z - z0, `[b, s, j]`.
        device: of the factor of features.
    """
    axes = axes_of(displacement.shape)
    n = displacement.shape[2]
    eye = torch.eye(n, dtype=displacement.dtype, device=device)
    return Factored(
        axes, (Term(_on_atoms(displacement, axes, (0, 1)), _on_atoms(eye, axes, (2,))),)
    )


def _on_atoms(x: Tensor, axes: Axes, own: Sequence[int]) -> Tensor:
    """A factor `[..own axes.., j]` on the atoms of all axes."""
    sizes = [axis[0] if n in own else 1 for n, axis in enumerate(axes) if axis]
    return x.reshape(*sizes, x.shape[-1])


def times(t: Term, values: Tensor) -> Term:
    """A product with numbers of positions and features."""
    if t.u.shape[-1] == 1:  # which u can hold, as it knows no source
        return replace(t, u=t.u * values)
    return replace(t, w=values if t.w is None else t.w * values)


def carries(f: Tensor, places: Sequence[int]) -> bool:
    """Whether a factor differs along any of some atoms."""
    return any(f.shape[p] > 1 for p in places)


def shrunk(f: Tensor, places: Sequence[int], out: bool, at: int) -> Tensor:
    """A factor that does not carry some atoms, without them, and one for what comes out."""
    before, after = f.shape[:at], f.shape[at + len(places) :]
    return f.reshape(*before, *([1] if out else []), *after)


def common_axes(one: Axes, other: Axes) -> Axes:
    """The atoms of two results that are broadcast against each other."""
    n = max(len(one), len(other))
    pairs = zip(((),) * (n - len(one)) + one, ((),) * (n - len(other)) + other, strict=True)
    return tuple(_refinement(a, b) for a, b in pairs)


def _refinement(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if not one or not other or one == other:
        return one or other
    left, right, atoms = list(one), list(other), []
    while left and right:
        a, b = left.pop(0), right.pop(0)
        step = min(a, b)
        if a % step or b % step:
            raise NotFactored("axes are cut at odd places")
        atoms.append(step)
        if a > step:
            left.insert(0, a // step)
        if b > step:
            right.insert(0, b // step)
    if left or right:
        raise NotFactored("shapes do not fit")
    return tuple(atoms)


def spread(k: Tensor, axes: Axes) -> Tensor:
    """A constant on the atoms of what it is multiplied with, and one axis for the sources."""
    shape = (1,) * (len(axes) - k.ndim) + tuple(k.shape)
    sizes = [
        size
        for own, axis in zip(shape, axes, strict=True)
        for size in (axis if own > 1 else (1,) * len(axis))
    ]
    return k.reshape(*sizes, 1)


def carried_by(shape: Sequence[int], axes: Axes) -> list[int]:
    """The atoms on which a constant of this shape differs."""
    own = (1,) * (len(axes) - len(shape)) + tuple(shape)
    carried: list[int] = []
    place = 0
    for size, axis in zip(own, axes, strict=True):
        if size > 1:
            carried += range(place, place + len(axis))
        place += len(axis)
    return carried


def dot(value: Tensor, u: Tensor, places: Sequence[int]) -> Tensor:
    """The sum of the products along some atoms, which are left with size one."""
    others = [n for n in range(u.ndim - 1) if n not in places]
    if u.shape[-1] > 1 and all(u.shape[n] == 1 for n in others):
        # One product of matrices in place of the numbers of all positions and sources.
        order = [*others, *places, u.ndim - 1]
        sizes = [value.shape[n] for n in others]
        flat = value.permute(order).reshape(*sizes, -1) @ u.permute(order).reshape(-1, u.shape[-1])
        made = flat.reshape(*sizes, *(1 for _ in places), u.shape[-1])
        return made.permute([order.index(n) for n in range(u.ndim)])
    return (value * u).sum(list(places), keepdim=True)
