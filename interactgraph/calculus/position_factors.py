"""The closed form where positions mix: A at one target position from a few products.

With the patterns of attention held fixed, a block is y = L2 phi(L1 z) + L3 z + c, and L1 and L3 mix
positions. The tangents that source feature j makes, moved by z - z0 at all of its positions, are
few products of what happens to positions and of what happens to features (`factored_tangents`): one
for the residual stream and one for each head, with d = z - z0,

    K[t,k,j] = sum_r c_r[t,j] U_r[k,j]    of the pre-activation: c_0 = d, c_h = P_h d, scaled,
    S[t,i,j] = sum_r c_r[t,j] S_r[i,j]    around the nonlinearity.

Behind the nonlinearity positions may be scaled (v, a normalisation after the block) and no more, so

    A[t,i,j] = v[t] sum_k V[i,k] g[t,k] K[t,k,j] + S[t,i,j]

with the slopes g of the nonlinearity. That takes one product of d_tgt d_hid d_src for each target
position, whatever positions it reads from, where passes take d_src JVPs of the whole block. U, S
and V depend on weights alone and are computed once; c and v are those of a batch. Both are found
without knowing how a model is written, and compared with derivatives of the recorded segment: two
linear maps that agree on a random vector are equal with probability one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line
from .derivatives import ANY_FAILURES
from .factored_tangents import Walk
from .factors import Factored, NotFactored, Term, moved_source
from .rounding import is_close
from .secant_lines import SecantFunction
from .structure import Constants, Structure
from .tape import Node

__all__ = [
    "FeatureFactors",
    "PositionFactors",
    "check_factors",
    "factor_sizes",
    "factors_of",
    "products_of_pass",
]

_PRODUCTS = ("mm", "bmm", "addmm")
_CACHE = 1 << 22  # bytes of K at a time


@dataclass(frozen=True, eq=False)
class FeatureFactors:
    """What a segment does to features, whatever the batch.

    Attributes:
        before: U `[j, r, k]`; None: the segment is affine.
        after: V `[k, i]`; None: the target is the pointwise function itself, i = k.
        skip: S `[j, r, i]`; None: zero.
    """

    before: Tensor | None
    after: Tensor | None
    skip: Tensor | None

    @property
    def sizes(self) -> tuple[torch.Size | None, ...]:
        """Shapes of all."""
        every = (self.before, self.after, self.skip)
        return tuple(None if x is None else x.shape for x in every)

    @property
    def n_bytes(self) -> int:
        """Memory that they take."""
        every = (self.before, self.after, self.skip)
        return sum(x.numel() * x.element_size() for x in every if x is not None)

    @property
    def products(self) -> int:
        """Multiplications for A at one target position."""
        count = 0
        if self.before is not None:
            n_sources, n_terms, n_hidden = self.before.shape
            n_targets = 0 if self.after is None else self.after.shape[1]
            count += n_sources * n_hidden * (n_terms + n_targets)
        return count + (0 if self.skip is None else self.skip.numel())


@dataclass(frozen=True, eq=False)
class _Layout:
    """How `[b t, k]` is read from a result of the tape.

    Attributes:
        atoms: its shape.
        order: positions first.
        n_positions: how many of its atoms are positions.
    """

    atoms: tuple[int, ...]
    order: tuple[int, ...]
    n_positions: int

    def read(self, x: Tensor) -> Tensor:
        """A result of the tape as `[b t, k]`."""
        x = x.reshape(self.atoms).permute(self.order)
        n = math.prod(self.atoms[place] for place in self.order[: self.n_positions])
        return x.reshape(n, -1)

    def factors(self, x: Factored) -> list[tuple[Tensor, Tensor]]:
        """(c `[b t, j]`, u `[k, j]`) of each of the terms."""
        found = []
        for t in x.terms:
            c, u = (f.permute(*self.order, len(self.order)) for f in (t.c, t.u))
            n = self.n_positions
            sizes = [self.atoms[place] for place in self.order]
            c = c.reshape(*c.shape[:n], c.shape[-1]).expand(*sizes[:n], -1)
            u = u.reshape(*u.shape[n:-1], u.shape[-1]).expand(*sizes[n:], -1)
            found.append((c.reshape(-1, c.shape[-1]), u.reshape(-1, u.shape[-1])))
        return found


@dataclass(frozen=True, eq=False)
class PositionFactors:
    """What a segment does to positions, on one batch.

    Attributes:
        features: what it does to features.
        before: c_r `[b t, j]` of the pre-activation.
        scale: v `[b t, 1]`; None: one.
        skip: c_r `[b t, j]` around the nonlinearity.
        layout: of the pre-activation.
    """

    features: FeatureFactors
    before: tuple[Tensor, ...]
    scale: Tensor | None
    skip: tuple[Tensor, ...]
    layout: _Layout | None

    def slopes(self, straight: SecantFunction) -> Tensor | None:
        """The slopes of a segment's nonlinearity, `[b t, k]`; None: the segment is affine."""
        return None if self.layout is None else self.layout.read(straight.lines[0][1])

    def preactivation(self, rows: Tensor) -> Tensor:
        """How far the pre-activation moves at some target positions, `[n, k]`."""
        assert self.features.before is not None
        return _summed(self.before, rows, self.features.before)

    def total(self, rows: Tensor, slopes: Tensor | None) -> Tensor:
        """sum_j A at some target positions, `[n, i]`.

        Args:
            rows: numbers of the target positions over all samples, int64 `[n]`.
            slopes: of the nonlinearity there, `[n, k]`; None: the segment is affine.
        """
        total: Tensor | None = None
        if slopes is not None:
            total = slopes * self.preactivation(rows)
            if self.features.after is not None:
                total = total @ self.features.after
            total = total if self.scale is None else total * self.scale[rows]
        if self.features.skip is not None:
            around = _summed(self.skip, rows, self.features.skip)
            total = around if total is None else total + around
        assert total is not None
        return total

    def blocks(
        self, rows: Tensor, slopes: Tensor | None, n_targets: int, most: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """A at some target positions, a few at a time.

        Args:
            rows: as in `total`.
            slopes: as in `total`.
            n_targets: target features.
            most: positions at a time.

        Yields:
            Which of the rows, and A `[j, n, i]` there, which the next one overwrites.
        """
        like = self.before[0] if self.before else self.skip[0]
        whole = like.new_empty(like.shape[1] * min(most, len(rows)) * n_targets)
        for start in range(0, len(rows), most):
            span = slice(start, min(start + most, len(rows)))
            n = span.stop - span.start
            a = whole[: like.shape[1] * n * n_targets].view(like.shape[1], n, n_targets)
            self._fill(a, rows[span], None if slopes is None else slopes[span])
            yield span, a

    def _fill(self, a: Tensor, rows: Tensor, slopes: Tensor | None) -> None:
        """A `[j, n, i]` of a few target positions, written into a tensor."""
        features = self.features
        if features.skip is not None:
            torch.bmm(_stacked(self.skip, rows), features.skip, out=a)
        if slopes is None or features.before is None:
            return
        c = _stacked(self.before, rows)
        if self.scale is not None:
            slopes = slopes * self.scale[rows]
        n_sources, n, n_hidden = len(c), len(rows), features.before.shape[2]
        step = n_sources
        if a.device.type == "cpu":  # what is computed of a few features stays in the cache
            step = max(1, _CACHE // (n * n_hidden * a.element_size()))
        for start in range(0, n_sources, step):
            some = slice(start, start + step)
            moved = torch.bmm(c[some], features.before[some]).mul_(slopes)
            out = a[some].view(-1, a.shape[2])
            if features.after is None:
                moved = moved.view(-1, n_hidden)
                _ = out.add_(moved) if features.skip is not None else out.copy_(moved)
            elif features.skip is not None:
                out.addmm_(moved.view(-1, n_hidden), features.after)
            else:
                torch.mm(moved.view(-1, n_hidden), features.after, out=out)


def _stacked(c: Sequence[Tensor], rows: Tensor) -> Tensor:
    """The c_r of some rows, `[j, n, r]`."""
    return torch.stack([each[rows] for each in c], -1).transpose(0, 1)


def _summed(c: Sequence[Tensor], rows: Tensor, u: Tensor) -> Tensor:
    """The sum over r and j of c_r[n, j] u[j, r, k], `[n, k]`."""
    return torch.stack([each[rows] for each in c], -1).flatten(1) @ u.flatten(0, 1)


# --- how they are found --------------------------------------------------------------------------


def factor_sizes(
    structure: Structure, source: Sequence[int], target: Sequence[int]
) -> FeatureFactors:
    """What factors there are, without numbers: on the meta device.

    Args:
        structure: what the segment computes.
        source: shape of the source features, `[b, s, j]`.
        target: shape of the target features, `[b, t, i]`.

    Raises:
        NotFactored: there are none.
    """
    like = torch.empty(*source, dtype=structure.tape.arguments[0].dtype, device="meta")
    return _found(structure, like, target, None, real_features=False)[0]


def products_of_pass(moving: Iterable[Node]) -> int:
    """Multiplications of one pass through what depends on the source features."""
    count = 0
    for node in moving:
        if node.name in _PRODUCTS and node.shape is not None:
            of = node.args[-2] if node.name in ("mm", "bmm") else node.args[1]
            count += math.prod(node.shape) * of.shape[-1]
    return count


def factors_of(
    structure: Structure,
    displacement: Tensor,
    target: Sequence[int],
    constants: Constants,
    features: FeatureFactors | None = None,
) -> PositionFactors:
    """The factors of a batch.

    Args:
        structure: what the segment computes.
        displacement: z - z0, `[b, s, j]`.
        target: shape of the target features, `[b, t, i]`.
        constants: of the structure on the batch.
        features: what is done to features, of another batch; None: not known.

    Raises:
        NotFactored: there are none, or others than those of the other batch.
    """
    found, positions = _found(
        structure, displacement, target, constants, real_features=features is None
    )
    if features is None:
        return positions
    if found.sizes != _with_identity(features).sizes:
        raise NotFactored("a batch has other factors than the batch before")
    return PositionFactors(
        features, positions.before, positions.scale, positions.skip, positions.layout
    )


def _with_identity(features: FeatureFactors) -> FeatureFactors:
    """The sizes as they are found before an identity is seen."""
    if features.before is None or features.after is not None:
        return features
    n_hidden = features.before.shape[2]
    after = torch.empty(n_hidden, n_hidden, device="meta")
    return FeatureFactors(features.before, after, features.skip)


def check_factors(factors: PositionFactors, tangent: Tensor, slopes: Tensor | None) -> None:
    """Compares factors with a derivative of the segment that they were found from.

    Args:
        factors: of z - z0, whatever it is.
        tangent: derivative of the segment along z - z0, with the slopes in the place of the
            nonlinearity, `[b, t, i]`.
        slopes: of the nonlinearity, `[b t, k]`.

    Raises:
        NotFactored: they disagree.
    """
    rows = torch.arange(tangent.shape[0] * tangent.shape[1], device=tangent.device)
    if not is_close(factors.total(rows, slopes), tangent.flatten(0, 1)):
        raise NotFactored("factors of positions and features disagree with forward mode")


def _found(
    structure: Structure,
    displacement: Tensor,
    target: Sequence[int],
    constants: Constants | None,
    *,
    real_features: bool,
) -> tuple[FeatureFactors, PositionFactors]:
    """Both kinds of factors; see `Walk` for what is computed of them.

    Raises:
        NotFactored: there are none; what an operation does otherwise than expected is no error.
    """
    try:
        return _taken_apart(structure, displacement, target, constants, real_features=real_features)
    except ANY_FAILURES as error:
        raise NotFactored(f"it is not taken apart ({first_line(error)})") from error


def _taken_apart(
    structure: Structure,
    displacement: Tensor,
    target: Sequence[int],
    constants: Constants | None,
    *,
    real_features: bool,
) -> tuple[FeatureFactors, PositionFactors]:
    if len(structure.nonlinearities) > 1:
        raise NotFactored("several functions of the pre-activation are read")
    tape = structure.tape
    z = tape.arguments[0]
    varying = frozenset[Node]().union(*(tape.depending(node) for node in tape.arguments[1:]))

    def walk(start: Mapping[Node, Factored | None], *, mixes: bool) -> Walk:
        return Walk(tape, varying, constants, real_features, dict(start), mixes)

    where = displacement.device if real_features else torch.device("meta")
    n_sources = displacement.shape[2]
    first: dict[Node, Factored | None] = {z: moved_source(displacement, where)}
    first.update(dict.fromkeys(structure.nonlinearities))
    forward = walk(first, mixes=True)
    before: list[tuple[Tensor, Tensor]] = []
    after, scale, layout = None, None, None
    if structure.root is not None:
        p = forward.to(structure.root)
        if p is None:
            raise NotFactored("the pre-activation does not move")
        behind = _Behind(structure, walk, p, target, displacement, where)
        layout = behind.in_order(_layout_of(p, target[0] * target[1]))
        before = layout.factors(p)
        after, scale = behind.maps(layout)
    y = forward.to(tape.output)
    skip = [] if y is None else _target_layout(y, target).factors(y)
    n_hidden = 0 if not before else before[0][1].shape[0]
    features = FeatureFactors(
        _stack(before, n_sources, n_hidden), after, _stack(skip, n_sources, target[2])
    )
    c, c_skip = ([each.expand(-1, n_sources) for each, _ in some] for some in (before, skip))
    return features, PositionFactors(features, tuple(c), scale, tuple(c_skip), layout)


@dataclass(frozen=True, eq=False)
class _Behind:
    """The map behind the nonlinearity.

    Attributes:
        structure: of the segment.
        walk: makes a walk from what is known.
        p: the pre-activation.
        target: shape of the target features.
        like: a tensor on the device of c.
        where: device of u.
    """

    structure: Structure
    walk: Any
    p: Factored
    target: Sequence[int]
    like: Tensor
    where: torch.device

    def of(self, layout: _Layout, numbers: Tensor | None = None) -> tuple[Tensor, Tensor, bool]:
        """V `[b t, 1]`, V `[i, k]`, and whether v is what it began with.

        Args:
            layout: of the pre-activation.
            numbers: that each of its positions is multiplied with, `[b t]`; None: ones.
        """
        sizes = [layout.atoms[place] for place in layout.order]
        n = layout.n_positions
        n_hidden = math.prod(sizes[n:])
        back = [layout.order.index(place) for place in range(len(sizes))]
        own = (*sizes[:n], *(1 for _ in sizes[n:]))
        c = self.like.new_ones(own) if numbers is None else numbers.reshape(own)
        eye = torch.eye(n_hidden, dtype=self.like.dtype, device=self.where)
        eye = eye.reshape(*(1 for _ in sizes[:n]), *sizes[n:], n_hidden)
        start = Term(c.permute(back)[..., None], eye.permute(*back, len(back)), "start")
        (h,) = self.structure.nonlinearities
        tape = self.structure.tape
        known = {tape.arguments[0]: None, h: Factored(self.p.axes, (start,))}
        y = self.walk(known, mixes=False).to(tape.output)
        if y is None:
            raise NotFactored("the target does not depend on the nonlinearity")
        found = _target_layout(y, self.target).factors(y)
        if len(found) > 1:
            raise NotFactored("positions are scaled in several ways behind the nonlinearity")
        ((scale, after),) = found
        return scale, after.expand(-1, n_hidden), y.terms[0].key == "start"

    def in_order(self, layout: _Layout) -> _Layout:
        """The layout with positions in the order of the target's, [b, t].

        Raises:
            NotFactored: they are in no order that permuted axes make.
        """
        if layout.n_positions < 2 or self.like.device.type == "meta":
            return layout
        rows = self.target[0] * self.target[1]
        numbers = torch.arange(1, rows + 1, dtype=self.like.dtype, device=self.like.device)
        rest, features = layout.order[: layout.n_positions], layout.order[layout.n_positions :]
        for order in permutations(rest):
            other = _Layout(layout.atoms, (*order, *features), layout.n_positions)
            alone, counted = self.of(other)[0], self.of(other, numbers)[0]
            if is_close(counted.expand(rows, -1), alone.expand(rows, -1) * numbers[:, None]):
                return other
        raise NotFactored("positions are in another order behind the nonlinearity")

    def maps(self, layout: _Layout) -> tuple[Tensor | None, Tensor | None]:
        """V `[k, i]` and v `[b t, 1]`, None where they are one."""
        scale, after, is_start = self.of(layout)
        after = after.mT.contiguous()
        if self.where.type != "meta" and after.shape[0] == after.shape[1]:
            same = torch.equal(after, torch.eye(len(after), dtype=after.dtype, device=self.where))
            if same:
                return None, None if is_start else scale
        return after, None if is_start else scale


def _layout_of(x: Factored, n_rows: int) -> _Layout:
    """Positions are what no u carries, features what no c carries."""
    places = range(len(x.atoms))
    of_u = [place for place in places if any(t.u.shape[place] > 1 for t in x.terms)]
    rest = [place for place in places if place not in of_u]
    layout = _Layout(x.atoms, (*rest, *of_u), len(rest))
    _check_layout(x, layout, n_rows)
    return layout


def _target_layout(x: Factored, target: Sequence[int]) -> _Layout:
    """Of the target features `[b, t, i]`."""
    n = sum(len(axis) for axis in x.axes[:2])
    layout = _Layout(x.atoms, tuple(range(len(x.atoms))), n)
    if len(x.axes) != 3:
        raise NotFactored("the target has other axes")
    _check_layout(x, layout, target[0] * target[1])
    return layout


def _check_layout(x: Factored, layout: _Layout, n_rows: int) -> None:
    positions, features = (
        layout.order[: layout.n_positions], layout.order[layout.n_positions :]
    )  # fmt: skip
    if math.prod(x.atoms[place] for place in positions) != n_rows:
        raise NotFactored("the nonlinearity has other positions than the target")
    for t in x.terms:
        if any(t.c.shape[p] > 1 for p in features) or any(t.u.shape[p] > 1 for p in positions):
            raise NotFactored("positions and features share an axis")


def _stack(found: list[tuple[Tensor, Tensor]], n_sources: int, n_out: int) -> Tensor | None:
    """`[j, r, k]`."""
    if not found:
        return None
    u = [each.expand(n_out, n_sources).mT for _, each in found]
    return torch.stack(u, 1).contiguous()
