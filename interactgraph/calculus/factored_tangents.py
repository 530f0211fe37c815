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

At a point of the path (`values`) a walk goes through what bends before a nonlinearity mixes
features, too: the slope of a normalisation is a number of each position and source feature, which
makes a c, times values that know no source, which make a u. Numbers of positions and features
together, by which keys are turned, become a third factor w; no matrix acts on it.

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

from .factored_operations import OPERATIONS
from .factors import (
    Axes,
    Factored,
    NotFactored,
    Term,
    axes_of,
    carried_by,
    carries,
    common_axes,
    dot,
    shrunk,
    spread,
    times,
)
from .tape import Node, Tape

__all__ = ["Walk"]

_MOST_PARTS = 256  # terms that one term may be split into
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        apply = OPERATIONS.get(node.name)
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
            if not real or self.constants is None:
                return torch.empty(arg.shape or (), dtype=arg.dtype, device="meta")
            try:
                arg = self.constants[arg]
            except KeyError:
                raise NotFactored("a constant is not known") from None
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

        return Factored(axes, self.both(x, refine))

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

        return Factored(axes, self.both(x, insert))

    def permuted(self, x: Factored, order: Sequence[int]) -> Factored:
        """Its axes in another order."""
        places = [place for axis in order for place in x.places(axis)]
        axes = tuple(x.axes[axis] for axis in order)

        def key(t: Term) -> Hashable:
            carried = [place for place in places if t.c.shape[place] > 1]
            return t.key if carried == sorted(carried) else (t.key, *carried)

        return Factored(axes, self.both(x, lambda f: f.permute(*places, len(places)), key))

    def merged(self, x: Factored, axis: int) -> Factored:
        """An axis as one atom, where no more than one factor of every term carries it."""
        places, size = x.places(axis), math.prod(x.axes[axis])
        if len(places) < 2:
            return x
        if any(carries(t.c, places) and carries(t.u, places) for t in x.terms):
            raise NotFactored("a part is taken of an axis that holds heads and features")

        def merge(f: Tensor) -> Tensor:
            before, after = f.shape[: places.start], f.shape[places.stop :]
            if not carries(f, places):
                return f.reshape(*before, 1, *after)
            whole = f.expand(*before, *x.axes[axis], *after)
            return whole.reshape(*before, size, *after)

        axes = (*x.axes[:axis], (size,), *x.axes[axis + 1 :])
        return Factored(axes, self.both(x, merge))

    @staticmethod
    def of_positions(x: Factored, axis: int) -> bool:
        """Whether any c carries a part of an axis."""
        return any(carries(t.c, x.places(axis)) for t in x.terms)

    def divided(self, x: Factored, number: int, of_positions: bool) -> Factored:
        """A number of positions divides c, as it is another one in other batches."""
        if not of_positions:
            return Factored(x.axes, tuple(replace(t, u=t.u / number) for t in x.terms))
        new_key, by_key = self.keys(), {t.key: t.c / number for t in x.terms}
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
            x = Factored(x.axes, self.both(x, lambda f: f.unsqueeze(place)))
        if any(carries(t.c, [place]) for t in x.terms):
            raise NotFactored("positions are put side by side")

        def pad(f: Tensor) -> Tensor:
            sizes = [-1] * f.ndim
            sizes[place] = size
            sides = [0, 0] * (f.ndim - 1 - place) + [before, after]
            return torch.nn.functional.pad(f.expand(sizes), sides)

        terms = tuple(
            replace(t, u=pad(t.u), w=t.w if t.w is None or not carries(t.w, [place]) else pad(t.w))
            for t in x.terms
        )
        whole = (size + before + after,)
        return Factored((*x.axes[:axis], whole, *x.axes[axis + 1 :]), terms)

    def both(
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

    def keys(self) -> Callable[..., Hashable]:
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

        if not self.mixes and any(carries(t.c, [place]) for t in x.terms):
            raise NotFactored("a part of the positions is taken behind the nonlinearity")
        new_key = self.keys()
        terms = self.both(
            x, part, lambda t: new_key(t.key) if t.c.shape[place] > 1 else t.key
        )  # fmt: skip
        if size == 1:
            squeezed = self.both(Factored(x.axes, terms), lambda f: f.squeeze(place))
            return Factored((*x.axes[:axis], (), *x.axes[axis + 1 :]), squeezed)
        return Factored((*x.axes[:axis], (size,), *x.axes[axis + 1 :]), terms)

    def scaled(self, x: Factored, arg: Any, *, invert: bool = False) -> Factored:
        """The product with a constant, broadcast."""
        shape = self.shape(arg)
        axes = common_axes(x.axes, axes_of(shape))
        x = self.aligned(x, axes)
        varies = self.varies(arg)

        def constant(of_features: bool) -> Any:
            k = self.value(arg, of_features=of_features)
            if not isinstance(k, Tensor):
                return 1 / k if invert else k
            k = spread(k, axes)
            return 1 / k if invert else k

        carried = carried_by(shape, axes)
        if not varies:
            on_features = constant(of_features=True)
        on_c, new_key = None, self.keys()
        by_key: dict[Hashable, Tensor] = {}
        terms = []
        for t in x.terms:
            if not varies and not carries(t.c, carried):
                terms.append(replace(t, u=t.u * on_features))
                continue
            if carries(t.u, carried):
                if self.values is not None:
                    terms.append(times(t, constant(of_features=False)))
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
        axes = common_axes(x.axes, axes_of(values.shape))
        x = self.aligned(x, axes)
        dtype = x.terms[0].c.dtype
        on, carried = spread(values.to(dtype), axes), carried_by(values.shape, axes)
        new_key = self.keys()
        by_key: dict[Hashable, Tensor] = {}
        terms = []
        for t in x.terms:
            if t.u.shape[-1] > 1 and not carries(t.u, carried):
                if t.key not in by_key:
                    by_key[t.key] = t.c * on
                terms.append(Term(by_key[t.key], t.u, new_key(t.key), t.w))
            else:
                terms.append(times(t, on))
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
            # Values may be in another dtype for a while; tangents stay in theirs.
            found: Tensor = torch.einsum(f"{left},{mine}...->{result}...", k.to(f.dtype), f)
            return found

        place_in_matrix = {p: of_matrix.index(letters[p]) for p in places}
        first, new_key = x.places(axis).start, self.keys()
        made: dict[Hashable, Tensor] = {}
        terms: list[Term] = []
        for t in x.terms:
            if t.w is not None and carries(t.w, places):
                if arg is not None or carries(t.c, places):
                    raise NotFactored("numbers of positions and features are mixed")
                along = dot(t.w, t.u, places)
                c = shrunk(t.c * along, places, bool(new), first)
                terms.append(Term(c, c.new_ones([1] * c.ndim), new_key(t.key, id(t.w))))
                continue
            w = None if t.w is None else shrunk(t.w, places, bool(new), first)
            here = [p for p in places if t.c.shape[p] > 1]  # that c carries
            if not self.mixes and here:
                raise NotFactored("positions are mixed behind the nonlinearity")
            of_features = carries(t.u, places)
            if not of_features and (here or varies or carries(t.c, range(len(own)))):
                key: Hashable = new_key(t.key)
                if key not in made:
                    made[key] = multiply(t.c, matrix(False, t.c))
                terms.append(Term(made[key], shrunk(t.u, places, bool(new), first), key, w))
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
                    made[key] = shrunk(some, places, bool(new), first)
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
        axes = common_axes(x.axes, y.axes)
        x, y = self.aligned(x, axes), self.aligned(y, axes)
        if factor != 1.0:
            y = Factored(axes, tuple(replace(t, u=t.u * factor) for t in y.terms))
        by_key: dict[Hashable, Term] = {}
        shapes: dict[Hashable, torch.Size] = {}
        for t in (*x.terms, *y.terms):
            # The same numbers along other axes, as where every position meets every other one.
            if shapes.setdefault(t.key, t.c.shape) != t.c.shape:
                t = replace(t, key=(t.key, *t.c.shape))
            known = t.key if t.w is None else (t.key, id(t.w))
            same = by_key.get(known)
            by_key[known] = t if same is None else replace(t, u=same.u + t.u)
        return Factored(axes, tuple(by_key.values()))
