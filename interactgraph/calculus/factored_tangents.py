"""Tangents of all source features at once, as sums of products of two small factors.

In a block with fixed attention patterns every operation before the nonlinearity does something to
positions (a pattern mixes them, the scale of a normalisation multiplies them) or something to
features (a weight matrix mixes them, a centring takes their mean off), and never both at once in a
way that does not factor. The tangent of an intermediate result x for the source features j, all
positions of a source feature moved together, is then

    dx[..axes.., j] = sum_r c_r[..axes.., j] u_r[..axes.., j],

where c_r has size one on axes of features and u_r on axes of positions. A walk along the tape
applies every operation to the factor that carries the axes it acts on:

- A shape is changed in both. Axes of the tape are products of *atoms*, so that an axis that is
  merged (samples and heads) or split (heads and their coordinates) is bookkeeping.
- A matrix that contracts an axis of u acts on u. Where c carries a part of that axis, too (the
  heads, each with a pattern of its own), the term is split into one for each of its entries.
- A matrix that contracts an axis of c only (a pattern) acts on c.
- Numbers that differ from batch to batch act on c, so that u depends on weights alone: it holds for
  every batch.
- Sums join the terms that have the very same c.

Where an operation does not factor, `NotFactored` says so. A walk needs no numbers: on the meta
device it tells shapes, and with c alone on a real device, the c of a further batch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .tape import Node, Tape

__all__ = ["Axes", "Factored", "NotFactored", "Term", "Walk", "axes_of", "moved_source"]

Axes = tuple[tuple[int, ...], ...]  # sizes of the atoms of every axis, none of which is one

_MOST_PARTS = 256  # terms that one term may be split into
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


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


@dataclass(eq=False)
class Walk:
    """Goes along a tape.

    Attributes:
        tape: of the segment.
        varying: what differs from batch to batch.
        constants: values of what does not depend on the source, where it is met; None: c is on the
            meta device, too.
        real_features: whether u is computed; else it is on the meta device.
        tangents: of the nodes that are known; None: they do not move.
        mixes: whether positions may be mixed, which c carries; else c stays a number for each.
        values: of what moves, at the point where this is the tangent; None: it is the same at
            every point, which leaves out what bends.
    """

    tape: Tape
    varying: frozenset[Node]
    constants: Mapping[Node, Any] | None
    real_features: bool
    tangents: dict[Node, Any]
    mixes: bool = True
    values: Mapping[Node, Tensor] | None = None
    _n_keys: int = 0

    def to(self, goal: Node) -> Factored | None:
        """The tangent of a node.

        Args:
            goal: the node.

        Returns:
            The tangent; None: it is zero.

        Raises:
            NotFactored: it is no sum of few products.
        """
        for node in self.tape.needed(goal, [self.tangents]):
            if any(self.tangents.get(n) is not None for n in node.inputs):
                self.tangents[node] = self._apply(node)
        found: Factored | None = self.tangents.get(goal)
        return found

    def _apply(self, node: Node) -> Any:
        if node.function is operator.getitem:
            return self.tangents[node.args[0]][node.args[1]]
        apply = _OPERATIONS.get(node.name)
        if apply is None:
            raise NotFactored(f"{node.name} is not taken apart into positions and features")
        return apply(self, node)

    # --- operands --------------------------------------------------------------------------------

    def tangent(self, arg: Any) -> Factored | None:
        """The tangent of an argument, None where it does not move."""
        if not isinstance(arg, Node):
            return None
        found: Factored | None = self.tangents.get(arg)
        return found

    def moving(self, arg: Any) -> Factored:
        """The tangent of an argument that has to move."""
        found = self.tangent(arg)
        if found is None:
            raise NotFactored("a constant stands where the source is expected")
        return found

    def shape(self, arg: Any) -> tuple[int, ...]:
        """Of an argument; of a number, none."""
        return tuple(arg.shape) if isinstance(arg, (Node, Tensor)) and arg.shape is not None else ()

    def varies(self, arg: Any) -> bool:
        """Whether an argument differs from batch to batch."""
        return isinstance(arg, Node) and arg in self.varying

    def value(self, arg: Any, *, of_features: bool) -> Any:
        """A constant argument, on the device of the factor that it acts on."""
        real = self.real_features if of_features else self.constants is not None
        if isinstance(arg, Node):
            if self.tangent(arg) is not None:
                raise NotFactored("two results that move are multiplied")
            if not real or self.constants is None or arg not in self.constants:
                if real:
                    raise NotFactored("a constant is not known")
                return torch.empty(arg.shape or (), dtype=arg.dtype, device="meta")
            arg = self.constants[arg]
        return arg if real or not isinstance(arg, Tensor) else arg.to("meta")

    # --- layouts ---------------------------------------------------------------------------------

    def reshaped(self, x: Factored, shape: Sequence[int]) -> Factored:
        """The same numbers in another shape."""
        if 0 in shape:
            raise NotFactored("a result has no entries")
        left, axes = [(atom, n) for n, atom in enumerate(x.atoms)], []
        parts: list[list[int]] = [[] for _ in left]
        for size in shape:
            axis = []
            while size > 1:
                if not left:
                    raise NotFactored("shapes do not fit")
                atom, n = left.pop(0)
                step = min(atom, size)
                if size % step or atom % step:
                    raise NotFactored("axes are cut at odd places")
                if atom > step:
                    left.insert(0, (atom // step, n))
                axis.append(step)
                parts[n].append(step)
                size //= step
            axes.append(tuple(axis))
        if left:
            raise NotFactored("shapes do not fit")
        return self._refined(x, tuple(axes), parts)

    def _refined(self, x: Factored, axes: Axes, parts: Sequence[Sequence[int]]) -> Factored:
        """Every atom as the product of some; the axes may lie otherwise, in the same order."""
        if all(len(part) == 1 for part in parts):
            return Factored(axes, x.terms)

        def refine(f: Tensor) -> Tensor:
            sizes = [
                size
                for carried, part in zip(f.shape, parts, strict=False)
                for size in (part if carried > 1 else [1] * len(part))
            ]
            return f.reshape(*sizes, f.shape[-1])

        return Factored(axes, self._both(x, refine))

    def aligned(self, x: Factored, axes: Axes) -> Factored:
        """The result broadcast to further atoms; those that it has are refined."""
        own = (((),) * (len(axes) - len(x.axes))) + x.axes
        parts: list[list[int]] = []
        for mine, wanted in zip(own, axes, strict=True):
            rest = list(wanted)
            for atom in mine:
                part: list[int] = []
                while math.prod(part) < atom:
                    part.append(rest.pop(0))
                parts.append(part)
        there = tuple(wanted if mine else () for mine, wanted in zip(own, axes, strict=True))
        x = self._refined(Factored(own, x.terms), there, parts)
        if there == axes:
            return x

        def insert(f: Tensor) -> Tensor:
            sizes, place = [], 0
            for mine, wanted in zip(there, axes, strict=True):
                sizes += list(f.shape[place : place + len(mine)]) if mine else [1] * len(wanted)
                place += len(mine)
            return f.reshape(*sizes, f.shape[-1])

        return Factored(axes, self._both(x, insert))

    def permuted(self, x: Factored, order: Sequence[int]) -> Factored:
        """Its axes in another order."""
        places = [place for axis in order for place in x.places(axis)]
        axes = tuple(x.axes[axis] for axis in order)

        def key(t: Term) -> Hashable:
            carried = [place for place in places if t.c.shape[place] > 1]
            return t.key if carried == sorted(carried) else (t.key, *carried)

        return Factored(axes, self._both(x, lambda f: f.permute(*places, len(places)), key))

    def merged(self, x: Factored, axis: int) -> Factored:
        """An axis as one atom, where no more than one factor of every term carries it."""
        places, size = x.places(axis), math.prod(x.axes[axis])
        if len(places) < 2:
            return x
        if any(_carries(t.c, places) and _carries(t.u, places) for t in x.terms):
            raise NotFactored("a part is taken of an axis that holds heads and features")

        def merge(f: Tensor) -> Tensor:
            before, after = f.shape[: places.start], f.shape[places.stop :]
            if not _carries(f, places):
                return f.reshape(*before, 1, *after)
            whole = f.expand(*before, *x.axes[axis], *after)
            return whole.reshape(*before, size, *after)

        axes = (*x.axes[:axis], (size,), *x.axes[axis + 1 :])
        return Factored(axes, self._both(x, merge))

    @staticmethod
    def of_positions(x: Factored, axis: int) -> bool:
        """Whether any c carries a part of an axis."""
        return any(_carries(t.c, x.places(axis)) for t in x.terms)

    def divided(self, x: Factored, number: int, of_positions: bool) -> Factored:
        """A number of positions divides c, as it is another one in other batches."""
        if not of_positions:
            return Factored(x.axes, tuple(replace(t, u=t.u / number) for t in x.terms))
        new_key, by_key = self._new_key(), {t.key: t.c / number for t in x.terms}
        return Factored(
            x.axes, tuple(replace(t, c=by_key[t.key], key=new_key(t.key)) for t in x.terms)
        )

    def padded(self, x: Factored, axis: int, before: int, after: int) -> Factored:
        """With zeros on both sides along an axis of features."""
        size = math.prod(x.axes[axis])
        if size > 1:
            x = self.merged(x, axis)
            (place,) = x.places(axis)
        else:  # which is no atom yet
            place = x.places(axis).start
            x = Factored(x.axes, self._both(x, lambda f: f.unsqueeze(place)))
        if any(_carries(t.c, [place]) for t in x.terms):
            raise NotFactored("positions are put side by side")

        def pad(f: Tensor) -> Tensor:
            sizes = [-1] * f.ndim
            sizes[place] = size
            sides = [0, 0] * (f.ndim - 1 - place) + [before, after]
            return torch.nn.functional.pad(f.expand(sizes), sides)

        terms = tuple(
            replace(t, u=pad(t.u), w=t.w if t.w is None or not _carries(t.w, [place]) else pad(t.w))
            for t in x.terms
        )
        whole = (size + before + after,)
        return Factored((*x.axes[:axis], whole, *x.axes[axis + 1 :]), terms)

    def _both(
        self,
        x: Factored,
        change: Callable[[Tensor], Tensor],
        key: Callable[[Term], Hashable] = lambda t: t.key,
    ) -> tuple[Term, ...]:
        """The same change of both factors, and the keys afterwards."""
        by_key = {t.key: t.c for t in x.terms}
        changed = {known: change(c) for known, c in by_key.items()}
        return tuple(
            Term(changed[t.key], change(t.u), key(t), None if t.w is None else change(t.w))
            for t in x.terms
        )

    def _new_key(self) -> Callable[..., Hashable]:
        """What an operation makes of keys; other than what any other one makes of them."""
        self._n_keys += 1
        number = self._n_keys
        return lambda *parts: (number, *parts)

    # --- what acts on one factor -----------------------------------------------------------------

    def taken(
        self, x: Factored, axis: int, size: int, take: Callable[[Tensor, int], Tensor]
    ) -> Factored:
        """A part of an axis.

        Args:
            x: of what.
            axis: which one.
            size: of the part.
            take: the part of a tensor along an axis of it.
        """
        if not x.axes[axis]:
            raise NotFactored("a part is taken of an axis of one entry")
        x = self.merged(x, axis)
        (place,) = x.places(axis)

        def part(f: Tensor) -> Tensor:
            return take(f, place) if f.shape[place] > 1 else f

        if not self.mixes and any(_carries(t.c, [place]) for t in x.terms):
            raise NotFactored("a part of the positions is taken behind the nonlinearity")
        new_key = self._new_key()
        terms = self._both(
            x, part, lambda t: new_key(t.key) if t.c.shape[place] > 1 else t.key
        )  # fmt: skip
        if size == 1:
            squeezed = self._both(Factored(x.axes, terms), lambda f: f.squeeze(place))
            return Factored((*x.axes[:axis], (), *x.axes[axis + 1 :]), squeezed)
        return Factored((*x.axes[:axis], (size,), *x.axes[axis + 1 :]), terms)

    def scaled(self, x: Factored, arg: Any, *, invert: bool = False) -> Factored:
        """The product with a constant, broadcast."""
        shape = self.shape(arg)
        axes = _common(x.axes, axes_of(shape))
        x = self.aligned(x, axes)
        varies = self.varies(arg)

        def constant(of_features: bool) -> Any:
            k = self.value(arg, of_features=of_features)
            if not isinstance(k, Tensor):
                return 1 / k if invert else k
            k = _spread(k, axes)
            return 1 / k if invert else k

        carried = _carried_by_shape(shape, axes)
        if not varies:
            on_features = constant(of_features=True)
        on_c, new_key = None, self._new_key()
        by_key: dict[Hashable, Tensor] = {}
        terms = []
        for t in x.terms:
            if not varies and not _carries(t.c, carried):
                terms.append(replace(t, u=t.u * on_features))
                continue
            if _carries(t.u, carried):
                if self.values is not None:
                    terms.append(_times(t, constant(of_features=False)))
                    continue
                raise NotFactored(
                    "numbers that are others for every feature differ from batch to batch"
                    if varies
                    else "numbers of positions and features are multiplied"
                )
            if on_c is None:
                on_c = constant(of_features=False)
            if t.key not in by_key:
                by_key[t.key] = t.c * on_c
            terms.append(Term(by_key[t.key], t.u, new_key(t.key), t.w))
        return Factored(axes, tuple(terms))

    def scaled_by_values(self, x: Factored, values: Tensor) -> Factored:
        """The product with numbers of a point, of the same shape or one that is broadcast to it."""
        axes = _common(x.axes, axes_of(values.shape))
        x = self.aligned(x, axes)
        on, carried = _spread(values, axes), _carried_by_shape(values.shape, axes)
        new_key = self._new_key()
        by_key: dict[Hashable, Tensor] = {}
        terms = []
        for t in x.terms:
            if t.u.shape[-1] > 1 and not _carries(t.u, carried):
                if t.key not in by_key:
                    by_key[t.key] = t.c * on
                terms.append(Term(by_key[t.key], t.u, new_key(t.key), t.w))
            else:
                terms.append(_times(t, on))
        return Factored(axes, tuple(terms))

    def contracted(
        self, x: Factored, axis: int, arg: Any, batch: int, n_out: int | None, flip: bool
    ) -> Factored:
        """An axis contracted with a constant matrix, or summed.

        Args:
            x: what is multiplied.
            axis: which axis is contracted.
            arg: `[..batch.., n, out]`; None: a matrix of ones `[n, 1]`.
            batch: first axes of both that are the same ones.
            n_out: entries along the axis afterwards; None: it is left with one.
            flip: the matrix is `[..batch.., out, n]`.
        """
        group, varies = x.axes[axis], self.varies(arg)
        if batch and not varies:
            arg, batch = self._without_batch(arg, batch)
        own = tuple(atom for a in x.axes[:batch] for atom in a)
        out = (n_out,) if n_out is not None and n_out > 1 else ()
        sizes = (*own, *out, *group) if flip else (*own, *group, *out)
        places = list(x.places(axis))
        letters = _LETTERS[: len(x.atoms)]
        inside = "".join(letters[p] for p in places)
        new = _LETTERS[len(letters)] if out else ""
        last = new + inside if flip else inside + new
        of_matrix = letters[: len(own)] + last

        def matrix(of_features: bool, like: Tensor) -> Tensor:
            if arg is None:
                return torch.ones(sizes, dtype=like.dtype, device=like.device)
            k: Tensor = self.value(arg, of_features=of_features)
            return k.reshape(sizes)

        def multiply(f: Tensor, k: Tensor, fixed: Sequence[int] = ()) -> Tensor:
            """The factor times the matrix, both taken at some entries of atoms already."""
            gone = {letters[p] for p in fixed}
            left = "".join(x for x in of_matrix if x not in gone)
            mine = "".join(x for x in letters if x not in gone)
            result = letters[: x.places(axis).start] + new + letters[x.places(axis).stop :]
            found: Tensor = torch.einsum(f"{left},{mine}...->{result}...", k, f)
            return found

        place_in_matrix = {p: of_matrix.index(letters[p]) for p in places}
        first, new_key = x.places(axis).start, self._new_key()
        made: dict[Hashable, Tensor] = {}
        terms: list[Term] = []
        for t in x.terms:
            if t.w is not None and _carries(t.w, places):
                if arg is not None or _carries(t.c, places):
                    raise NotFactored("numbers of positions and features are mixed")
                along = _dot(t.w, t.u, places)
                c = _shrunk(t.c * along, places, bool(new), first)
                terms.append(Term(c, c.new_ones([1] * c.ndim), new_key(t.key, id(t.w))))
                continue
            w = None if t.w is None else _shrunk(t.w, places, bool(new), first)
            here = [p for p in places if t.c.shape[p] > 1]  # that c carries
            if not self.mixes and here:
                raise NotFactored("positions are mixed behind the nonlinearity")
            of_features = _carries(t.u, places)
            if not of_features and (here or varies or _carries(t.c, range(len(own)))):
                key: Hashable = new_key(t.key)
                if key not in made:
                    made[key] = multiply(t.c, matrix(False, t.c))
                terms.append(Term(made[key], _shrunk(t.u, places, bool(new), first), key, w))
                continue
            if varies:
                raise NotFactored("features are mixed by numbers that differ from batch to batch")
            if math.prod(t.c.shape[p] for p in here) > _MOST_PARTS:
                raise NotFactored("positions and features share an axis")
            whole = matrix(True, t.u)
            for entry in product(*(range(t.c.shape[p]) for p in here)):
                taken = list(zip(here, entry, strict=True))
                key = new_key(t.key, *entry) if taken else t.key
                if key not in made:
                    some = t.c
                    for p, n in taken:
                        some = some.narrow(p, n, 1)
                    made[key] = _shrunk(some, places, bool(new), first)
                u, k = t.u, whole
                for p, n in reversed(taken):
                    u = u.select(p, n if u.shape[p] > 1 else 0)
                    k = k.select(place_in_matrix[p], n)
                terms.append(Term(made[key], multiply(u, k, here), key, w))
        axes = (*x.axes[:axis], out, *x.axes[axis + 1 :])
        return Factored(axes, tuple(terms))

    def _without_batch(self, arg: Any, batch: int) -> tuple[Any, int]:
        """A matrix of weights that is the same one along its first axes, without these."""
        if isinstance(arg, Node):
            known = {} if self.constants is None else self.constants
            weights: Tensor = self.tape.value(arg, known)  # of which no batch is a part
        else:
            weights = arg
        first = weights[(0,) * batch]
        axes = range(batch)
        same = all(weights.stride(axis) == 0 or weights.shape[axis] == 1 for axis in axes)
        if same or torch.equal(weights, first.expand_as(weights)):
            return first, 0
        return arg, batch

    def added(self, x: Factored, y: Factored, factor: float = 1.0) -> Factored:
        """The sum x + factor y."""
        axes = _common(x.axes, y.axes)
        x, y = self.aligned(x, axes), self.aligned(y, axes)
        if factor != 1.0:
            y = Factored(axes, tuple(replace(t, u=t.u * factor) for t in y.terms))
        by_key: dict[Hashable, Term] = {}
        for t in (*x.terms, *y.terms):
            known = t.key if t.w is None else (t.key, id(t.w))
            same = by_key.get(known)
            by_key[known] = t if same is None else replace(t, u=same.u + t.u)
        return Factored(axes, tuple(by_key.values()))


def _times(t: Term, values: Tensor) -> Term:
    """A product with numbers of positions and features."""
    if t.u.shape[-1] == 1:  # which u can hold, as it knows no source
        return replace(t, u=t.u * values)
    return replace(t, w=values if t.w is None else t.w * values)


def _carries(f: Tensor, places: Sequence[int]) -> bool:
    return any(f.shape[p] > 1 for p in places)


def _shrunk(f: Tensor, places: Sequence[int], out: bool, at: int) -> Tensor:
    """A factor that does not carry some atoms, without them, and one for what comes out."""
    before, after = f.shape[:at], f.shape[at + len(places) :]
    return f.reshape(*before, *([1] if out else []), *after)


def _common(one: Axes, other: Axes) -> Axes:
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


def _spread(k: Tensor, axes: Axes) -> Tensor:
    """A constant on the atoms of what it is multiplied with, and one axis for the sources."""
    shape = (1,) * (len(axes) - k.ndim) + tuple(k.shape)
    sizes = [
        size
        for own, axis in zip(shape, axes, strict=True)
        for size in (axis if own > 1 else (1,) * len(axis))
    ]
    return k.reshape(*sizes, 1)


def _carried_by_shape(shape: Sequence[int], axes: Axes) -> list[int]:
    """The atoms on which a constant of this shape differs."""
    own = (1,) * (len(axes) - len(shape)) + tuple(shape)
    carried: list[int] = []
    place = 0
    for size, axis in zip(own, axes, strict=True):
        if size > 1:
            carried += range(place, place + len(axis))
        place += len(axis)
    return carried


# --- operations ----------------------------------------------------------------------------------

_Operation = Callable[[Walk, Node], Any]


def _default(node: Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _axis(axis: int, n_axes: int) -> int:
    return axis % n_axes


def _same(walk: Walk, node: Node) -> Factored:
    return walk.moving(node.args[0])


def _cast(walk: Walk, node: Node) -> Factored:
    x, dtype = walk.moving(node.args[0]), node.dtype
    return Factored(x.axes, walk._both(x, lambda f: f.to(dtype)))


def _reshape(walk: Walk, node: Node) -> Factored:
    return walk.reshaped(walk.moving(node.args[0]), tuple(node.shape or ()))


def _permute(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return walk.permuted(x, [_axis(axis, len(x.axes)) for axis in node.args[1]])


def _transpose(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    order = list(range(len(x.axes)))
    a, b = (0, 1) if node.name == "t" else (_axis(axis, len(order)) for axis in node.args[1:3])
    if len(order) > 1:
        order[a], order[b] = order[b], order[a]
    return walk.permuted(x, order)


def _expand(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return walk.aligned(x, _common(x.axes, axes_of(tuple(node.shape or ()))))


def _slice(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    axis = _axis(_default(node, 1, "dim", 0), len(x.axes))
    start, end, step = (
        _default(node, *what) for what in ((2, "start", None), (3, "end", None), (4, "step", 1))
    )
    size = (node.shape or ())[axis]
    if size == math.prod(x.axes[axis]):
        return x
    where = slice(start, end, step)
    return walk.taken(x, axis, size, lambda f, a: f[(slice(None),) * a + (where,)])


def _without(x: Factored, axis: int) -> Factored:
    """An axis of one entry less."""
    assert not x.axes[axis]
    return Factored((*x.axes[:axis], *x.axes[axis + 1 :]), x.terms)


def _select(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return _selected(walk, x, _axis(node.args[1], len(x.axes)), node.args[2])


def _selected(walk: Walk, x: Factored, axis: int, index: int) -> Factored:
    if not x.axes[axis]:
        return _without(x, axis)
    return _without(
        walk.taken(x, axis, 1, lambda f, a: f.narrow(a, index % f.shape[a], 1)), axis
    )  # fmt: skip


def _split(walk: Walk, node: Node) -> list[Factored]:
    x = walk.moving(node.args[0])
    axis = _axis(_default(node, 2, "dim", 0), len(x.axes))
    whole, sizes = math.prod(x.axes[axis]), node.args[1]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - start) for start in range(0, whole, sizes)]
    parts, start = [], 0
    for size in sizes:
        if size == whole:
            parts.append(x)
        else:
            parts.append(
                walk.taken(x, axis, size, lambda f, a, s=start, n=size: f.narrow(a, s, n))  # type: ignore[misc]
            )
        start += size
    return parts


def _unbind(walk: Walk, node: Node) -> list[Factored]:
    x = walk.moving(node.args[0])
    axis = _axis(_default(node, 1, "dim", 0), len(x.axes))
    return [_selected(walk, x, axis, n) for n in range(math.prod(x.axes[axis]))]


def _index_select(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    axis = _axis(node.args[1], len(x.axes))
    index = node.args[2]
    if walk.varies(index):
        raise NotFactored("entries are taken that differ from batch to batch")
    of = {real: walk.value(index, of_features=real) for real in (False, True)}

    def take(f: Tensor, axis: int) -> Tensor:
        found = next((i for i in of.values() if i.device == f.device), None)
        if found is None:
            raise NotFactored("a constant is not known")
        return f.index_select(axis, found)

    return walk.taken(x, axis, (node.shape or ())[axis], take)


def _cat(walk: Walk, node: Node) -> Factored:
    full = [arg for arg in node.args[0] if 0 not in walk.shape(arg)]
    if len(full) == 1:
        return walk.moving(full[0])
    axis = _axis(_default(node, 1, "dim", 0), len(node.shape or ()))
    whole, start, total = (node.shape or ())[axis], 0, None
    for arg in full:
        size = walk.shape(arg)[axis]
        part = walk.tangent(arg)
        if part is not None:
            part = walk.padded(part, axis, start, whole - start - size)
            total = part if total is None else walk.added(total, part)
        start += size
    assert total is not None
    return total


def _sums(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    axes = _default(node, 1, "dim", None)
    axes = range(len(x.axes)) if axes is None or axes == [] else axes
    axes = sorted(
        {_axis(axis, len(x.axes)) for axis in ([axes] if isinstance(axes, int) else axes)}
    )
    for axis in axes:
        size, of_positions = math.prod(x.axes[axis]), walk.of_positions(x, axis)
        x = walk.contracted(x, axis, None, 0, None, flip=False)
        if node.name == "mean":
            x = walk.divided(x, size, of_positions)
    if not _default(node, 2, "keepdim", False):
        for axis in reversed(axes):
            x = _without(x, axis)
    return x


def _neg(walk: Walk, node: Node) -> Factored:
    return walk.scaled(walk.moving(node.args[0]), -1.0)


def _mul(walk: Walk, node: Node) -> Factored:
    a, b = node.args[:2]
    x, y = walk.tangent(a), walk.tangent(b)
    if x is not None and y is not None and walk.values is not None:
        return walk.added(
            walk.scaled_by_values(x, walk.values[b]), walk.scaled_by_values(y, walk.values[a])
        )
    return walk.scaled(walk.moving(b), a) if x is None else walk.scaled(x, b)


def _div(walk: Walk, node: Node) -> Factored:
    return walk.scaled(walk.moving(node.args[0]), node.args[1], invert=True)


def _add(walk: Walk, node: Node) -> Factored:
    a, b = (walk.tangent(arg) for arg in node.args[:2])
    alpha = float(_default(node, 2, "alpha", 1.0))
    of_a, of_b = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.name]
    whole = _common(
        *(
            axes_of(walk.shape(arg)) if x is None else x.axes
            for arg, x in ((node.args[0], a), (node.args[1], b))
        )
    )
    if a is None or b is None:
        x, factor = (b, of_b) if a is None else (a, of_a)
        assert x is not None
        x = walk.aligned(x, whole)
        return x if factor == 1.0 else walk.scaled(x, factor)
    return walk.added(a if of_a == 1.0 else walk.scaled(a, of_a), b, of_b)


def _product(walk: Walk, a: Any, b: Any) -> Factored:
    """The product a @ b of tensors of two axes, or of three, one of which moves."""
    x = walk.tangent(a)
    n_axes = len(walk.shape(a))
    if len(walk.shape(b)) != n_axes or n_axes < 2:
        raise NotFactored("a product of tensors of several shapes")
    batch = n_axes - 2
    if x is not None:
        return walk.contracted(x, n_axes - 1, b, batch, walk.shape(b)[-1], flip=False)
    return walk.contracted(walk.moving(b), n_axes - 2, a, batch, walk.shape(a)[-2], flip=True)


def _matmul(walk: Walk, node: Node) -> Factored:
    return _product(walk, node.args[0], node.args[1])


def _addmm(walk: Walk, node: Node) -> Factored:
    if any(float(node.kwargs.get(name, 1)) != 1 for name in ("alpha", "beta")):
        raise NotFactored(f"{node.name} with factors")
    base, a, b = node.args[:3]
    moved, offset = any(walk.tangent(arg) is not None for arg in (a, b)), walk.tangent(base)
    axes = axes_of(tuple(node.shape or ()))
    if not moved:
        assert offset is not None
        return walk.aligned(offset, _common(offset.axes, axes))
    x = _product(walk, a, b)
    return x if offset is None else walk.added(x, offset)


def _pointwise(walk: Walk, node: Node) -> Factored:
    """By the slope at a point, for functions of one result."""
    if walk.values is None:
        raise NotFactored(f"{node.name} bends")
    if len(node.inputs) > 1 or node.inputs != (node.args[0],):
        raise NotFactored(f"{node.name} of several results")
    value, function = walk.values[node.args[0]], node.function
    assert function is not None
    if value.device.type == "meta":
        return walk.scaled_by_values(walk.moving(node.args[0]), value)
    slope = torch.func.jvp(
        lambda x: function(x, *node.args[1:], **node.kwargs), (value,), (torch.ones_like(value),)
    )[1]
    return walk.scaled_by_values(walk.moving(node.args[0]), slope)


def _layer_norm(walk: Walk, node: Node) -> list[Factored]:
    """The slope of n: dn = (dx - mean dx - n mean(n dx)) / s with n = (x - m) / s.

    The last part is a number of a position and a source feature times n, which has no source.
    """
    if walk.values is None:
        raise NotFactored("native_layer_norm bends")
    source, shape, weight, _, eps = node.args
    if len(shape) != 1 or any(walk.tangent(arg) is not None for arg in node.args[2:]):
        raise NotFactored("a normalisation of several axes")
    d = walk.moving(source)
    value = walk.values[source]
    scale = (value.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    normal = (value - value.mean(-1, keepdim=True)) * scale
    axis, n = len(d.axes) - 1, value.shape[-1]
    mean = walk.contracted(d, axis, None, 0, None, flip=False)
    d = walk.added(d, walk.aligned(mean, d.axes), -1.0 / n)
    own = [t for t in d.terms if t.w is None and not _carries(t.c, d.places(axis))]
    if len(own) < len(d.terms):
        raise NotFactored("a normalisation of what positions carry")
    on_atoms = _spread(normal, d.axes)
    along: Tensor | None = None
    for t in own:
        part = t.c * _dot(on_atoms, t.u, d.places(axis))
        along = part if along is None else along + part
    assert along is not None
    by = _spread(scale, d.axes)
    new_key = walk._new_key()
    scaled = {t.key: t.c * by for t in own}
    terms = [Term(scaled[t.key], t.u, new_key(t.key)) for t in own]
    terms.append(Term(along * by / -n, on_atoms, new_key()))
    moved = Factored(d.axes, tuple(terms))
    return [moved if weight is None else walk.scaled(moved, weight)]


def _dot(value: Tensor, u: Tensor, places: Sequence[int]) -> Tensor:
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


_OPERATIONS: dict[str, _Operation] = {
    **dict.fromkeys(("clone", "contiguous", "alias", "lift_fresh_copy"), _same),
    "_to_copy": _cast,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"), _reshape),
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "unbind": _unbind,
    "index_select": _index_select,
    "cat": _cat,
    "sum": _sums,
    "mean": _sums,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    **dict.fromkeys(("pow", "rsqrt", "sqrt", "reciprocal", "square"), _pointwise),
    "native_layer_norm": _layer_norm,
    **dict.fromkeys(("add", "sub", "rsub"), _add),
    **dict.fromkeys(("mm", "bmm", "matmul"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
}
