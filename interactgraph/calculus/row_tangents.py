"""Tangents of all source features at some target positions, at one point of the path.

A target position reads its own query, and keys and values of all positions. Forward mode moves all
three for every source feature and gives all target positions. Where few of these are wanted, most
of that is not: what is computed here goes from the target backwards, and at every operation asks
for the samples b and positions t that are wanted, which are the *rows*.

- What a row has of its own (its query, its scores, its perceptron) is *dense*: `[n, .., j]` for
  n rows and all source features j.
- What it reads of other positions (keys and values) is left as sums of products of what happens to
  positions and to features (`factored_tangents`), and a row contracts them with what it brings, so
  that the tangents of all positions are never written down.

Behind the last operation that bends, everything is linear and the same along the whole path.
Tangents are summed over the path there and go through the rest once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .factored_tangents import NotFactored, Walk, moved_source
from .linearization import RecordedFunction
from .tape import Node, Tape

__all__ = ["NotRowwise", "RowTangents"]

_FREE, _SAMPLE, _POSITION = range(3)
_Atom = tuple[int, int]  # size, and whether it counts samples, target positions or anything else
_Layout = tuple[tuple[_Atom, ...], ...]  # of every axis


class NotRowwise(Exception):
    """Target positions do not come apart; the message says where."""


# --- which entries of a result some rows need ----------------------------------------------------


def _whole(size: int, kind: int = _FREE) -> tuple[_Atom, ...]:
    return ((size, kind),) if size != 1 else ()


def _free(layout: _Layout) -> list[int]:
    """The shape of what a row has of a result."""
    return [math.prod(size for size, kind in axis if kind == _FREE) for axis in layout]


def _untagged(axis: Sequence[_Atom]) -> None:
    if any(kind != _FREE for _, kind in axis):
        raise NotRowwise("samples or target positions are mixed")


def _regrouped(layout: _Layout, shape: Sequence[int]) -> _Layout:
    """The same entries in another shape."""
    left, axes = [atom for axis in layout for atom in axis], []
    for size in shape:
        axis = []
        while size > 1:
            if not left:
                raise NotRowwise("shapes do not fit")
            atom, kind = left.pop(0)
            step = math.gcd(atom, size)
            if step == 1 or (kind != _FREE and step != atom):
                raise NotRowwise("axes are cut at odd places")
            if step < atom:
                left.insert(0, (atom // step, kind))
            axis.append((step, kind))
            size //= step
        axes.append(tuple(axis))
    return tuple(axes)


def _of_operand(layout: _Layout, shape: Sequence[int]) -> _Layout:
    """What an operand that is broadcast to a result needs for it."""
    own = layout[len(layout) - len(shape) :]
    return tuple(() if size == 1 else axis for size, axis in zip(shape, own, strict=True))


@dataclass(eq=False)
class _Rows:
    """Rows of a batch, and how they are taken of anything.

    Attributes:
        samples: b of each, int64 `[n]`.
        positions: t of each, int64 `[n]`.
    """

    samples: Tensor
    positions: Tensor

    def of(self, x: Tensor, axes: Sequence[tuple[_Atom, ...]], last: bool = False) -> Tensor:
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
            if kind != _FREE and x.shape[place] > 1:
                index.append(self.samples if kind == _SAMPLE else self.positions)
                places.append(place)
        gone = [place for place, (_, kind) in enumerate(atoms) if kind != _FREE]
        kept = [place for place in range(len(atoms)) if place not in gone]
        rest = [len(atoms)] if last else []
        others = [place for place in gone if place not in places]
        x = x.permute([*places, *others, *kept, *rest])
        x = x[tuple(index)] if index else x[None]
        x = x.reshape(x.shape[0], *x.shape[1 + len(others) :])
        sizes, place = [], 1
        expanded = list(x.shape)
        for axis in axes:
            own = [size for size, kind in axis if kind == _FREE]
            here = list(x.shape[place : place + len(own)])
            carried = any(size > 1 for size in here)
            if carried:
                expanded[place : place + len(own)] = own
            sizes.append(math.prod(own) if carried else 1)
            place += len(own)
        x = x.expand(expanded)
        return x.reshape(x.shape[0], *sizes, *(x.shape[-1:] if last else ()))


# --- the rows of a recorded segment --------------------------------------------------------------


@dataclass(eq=False)
class RowTangents:
    """Takes a recorded segment apart.

    Args:
        tape: of the segment.
        target: shape of the target features, `[b, t, i]`.

    Attributes:
        products: multiplications for all source features at one row and one point of the path.
        products_at_end: those behind the last operation that bends, once for a row.

    Raises:
        NotRowwise: target positions do not come apart.
    """

    tape: Tape
    target: Sequence[int]
    products: float = 0.0
    products_at_end: float = 0.0
    _dependent: frozenset[Node] = frozenset()
    _varying: frozenset[Node] = frozenset()
    _factored: frozenset[Node] = frozenset()
    _linear: frozenset[Node] = frozenset()
    _ends: tuple[tuple[Node, _Layout], ...] = ()

    def __post_init__(self) -> None:
        tape = self.tape
        z = tape.arguments[0]
        needed = {*tape.needed(tape.output, [{}])}
        self._dependent = frozenset(n for n in tape.depending(z) if n in needed or n is z)
        self._varying = frozenset[Node]().union(*(tape.depending(n) for n in tape.arguments))
        self._linear = self._linear_end()
        try:
            self._try_out()
        except NotRowwise:
            raise
        except Exception as error:  # whatever fails here is no way to go
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NotRowwise(f"it is not taken apart ({said})") from error

    @property
    def moving(self) -> frozenset[Node]:
        """What depends on the source features, and the target on it."""
        return self._dependent

    @property
    def layout(self) -> _Layout:
        """Of the target features."""
        b, t, i = self.target
        return _whole(b, _SAMPLE), _whole(t, _POSITION), _whole(i)

    def _linear_end(self) -> frozenset[Node]:
        """Operations from which on everything is linear with the same numbers along the path."""
        readers: dict[Node, list[Node]] = {node: [] for node in self._dependent}
        for node in self.tape.nodes:
            if node in self._dependent:
                for source in set(node.inputs) & self._dependent:
                    readers[source].append(node)
        linear: set[Node] = set()
        for node in reversed(self.tape.nodes):
            if node not in self._dependent or node.function is None:
                continue
            if all(reader in linear for reader in readers[node]) and self._is_linear(node):
                linear.add(node)
        return frozenset(linear)

    def _is_linear(self, node: Node) -> bool:
        moving = [arg for arg in node.args if isinstance(arg, Node) and arg in self._dependent]
        if node.name in ("add", "sub", *_VIEWS, "permute", "transpose", "t"):
            return True
        if node.name in ("mm", "addmm", "mul", "div"):
            return len(moving) == 1 and not (node.name == "div" and moving[0] is not node.args[0])
        return False

    def _try_out(self) -> None:
        """One row on the meta device: whether it goes, what it takes, and where the linear end is.

        Operations whose tangent is a sum of products are found on the way.
        """
        z = self.tape.arguments[0]
        assert z.shape is not None
        meta = torch.empty(*z.shape, dtype=z.dtype, device="meta")
        one = torch.zeros(1, dtype=torch.int64, device="meta")
        rows = _Rows(one, one)
        walk = self._walk(meta, None, None)
        factored = {z}
        for node in self.tape.nodes:
            if node not in self._dependent or node is z:
                continue
            if any(n in self._dependent and n not in factored for n in node.inputs):
                continue
            try:
                walk.to(node)
            except NotFactored:
                continue
            factored.add(node)
        self._factored = frozenset(factored)
        at = _Point(self, rows, walk, _Meta())
        end = _End(self, rows, {})
        end.wanted = []
        end.tangent(self.tape.output, self.layout)
        self._ends = tuple(dict.fromkeys(end.wanted))
        for node, layout in self._ends:
            at.tangent(node, layout)
        self.products, self.products_at_end = at.products, end.products

    def _walk(
        self, displacement: Tensor, constants: Mapping[Node, Any] | None, values: Any
    ) -> Walk:
        source = moved_source(displacement, displacement.device)
        known: dict[Node, Any] = {self.tape.arguments[0]: source}
        real = constants is not None
        of_points = _Meta() if values is None else values
        return Walk(self.tape, self._varying, constants, real, known, values=of_points)

    @property
    def n_sums(self) -> int:
        """Numbers that are summed over the path, for each row and source feature."""
        return sum(math.prod(_free(layout)) for _, layout in self._ends)

    def at(
        self,
        samples: Tensor,
        positions: Tensor,
        points: Iterable[tuple[float, Tensor]],
        displacement: Tensor,
        recorded: RecordedFunction,
        together: int = 1,
    ) -> Tensor:
        """Sums over the path of the tangents of all source features.

        Args:
            samples: b of each row, int64 `[n]`.
            positions: t of each row, int64 `[n]`.
            points: weights, and points of the path `[b, s, j]`.
            displacement: z - z0, `[b, s, j]`.
            recorded: the segment on the batch.
            together: rows that are computed together.

        Returns:
            A `[n, i, j]`.
        """
        each = [
            _Rows(b, t)
            for b, t in zip(samples.split(together), positions.split(together), strict=True)
        ]
        sums: list[dict[tuple[Node, _Layout], Tensor]] = [{} for _ in each]
        for weight, point in points:
            values = recorded.values(point)
            walk = self._walk(displacement, values, values)
            for rows, total in zip(each, sums, strict=True):
                at = _Point(self, rows, walk, values)
                for end in self._ends:
                    x = at.tangent(*end)
                    if end in total:
                        total[end].add_(x, alpha=weight)
                    else:
                        total[end] = x * weight
        _, _, n_targets = self.target
        found = displacement.new_empty(len(samples), n_targets, displacement.shape[2])
        for rows, total, out in zip(each, sums, found.split(together), strict=True):
            end_of_rows = _End(self, rows, total, recorded.constants)
            a = end_of_rows.tangent(self.tape.output, self.layout)
            out.copy_(a.reshape(a.shape[0], n_targets, a.shape[-1]))
            total.clear()
        return found


class _Meta(dict[Node, Any]):
    """Values of which only the shapes are known."""

    def __missing__(self, node: Node) -> Any:
        return torch.empty(node.shape or (), dtype=node.dtype, device="meta")


@dataclass(eq=False)
class _Dense:
    """Dense tangents of some rows: `[n, .. what a row has of each axis .., j]`.

    Attributes:
        of: the segment.
        rows: which.
        values: of the nodes.
        products: multiplications so far.
    """

    of: RowTangents
    rows: _Rows
    values: Mapping[Node, Any]
    products: float = field(default=0.0, init=False)
    _known: dict[tuple[Node, _Layout], Tensor] = field(default_factory=dict, init=False)
    _values: dict[tuple[Node, _Layout], Tensor] = field(default_factory=dict, init=False)

    def moves(self, arg: Any) -> bool:
        """Whether an argument depends on the source."""
        return isinstance(arg, Node) and arg in self.of._dependent

    def value(self, arg: Any, layout: _Layout) -> Tensor:
        """What the rows have of a value, `[n or 1, ...]`."""
        if not isinstance(arg, Node):
            return self._selected(arg, layout)
        key = arg, layout
        if key not in self._values:
            self._values[key] = self._selected(self.values[arg], layout)
        return self._values[key]

    def _selected(self, x: Tensor, layout: _Layout) -> Tensor:
        atoms = [size for axis in layout for size, _ in axis]
        if self.rows.samples.device.type == "meta":
            x = x.to("meta")
        return self.rows.of(x.reshape(atoms), layout)

    def operand(self, arg: Any, layout: _Layout) -> Any:
        """What the rows have of an operand that is broadcast, with an axis for the sources."""
        if not isinstance(arg, (Node, Tensor)):
            return arg
        x = self.value(arg, _of_operand(layout, tuple(arg.shape or ())))
        return self.spread(x, len(layout) + 1)[..., None]

    @staticmethod
    def spread(x: Tensor, n_axes: int) -> Tensor:
        """With further axes behind that of the rows."""
        return x.reshape(x.shape[0], *(1 for _ in range(n_axes - x.ndim)), *x.shape[1:])

    def tangent_of_operand(self, arg: Node, layout: _Layout) -> Tensor:
        """The tangent of an operand that is broadcast."""
        x = self.tangent(arg, _of_operand(layout, tuple(arg.shape or ())))
        return self.spread(x, len(layout) + 2)

    def multiply(self, matrix: Tensor, x: Tensor) -> Tensor:
        """`[n or 1, .., y, k]` times `[n, .., k, j]`."""
        self.products += x.numel() * matrix.shape[-2]
        if math.prod(matrix.shape[:-2]) == 1 and x.ndim > 2:
            flat = x.reshape(-1, *x.shape[-2:])
            one = matrix.reshape(matrix.shape[-2:])
            made = (one @ flat[0])[None] if len(flat) == 1 else torch.matmul(one, flat)
            return made.reshape(*x.shape[:-2], *made.shape[-2:])
        return torch.matmul(matrix, x)

    def tangent(self, node: Node, layout: _Layout) -> Tensor:
        """The tangent of a node that moves."""
        key = node, layout
        if key not in self._known:
            self._known[key] = self._find(node, layout)
        return self._known[key]

    def _find(self, node: Node, layout: _Layout) -> Tensor:
        raise NotImplementedError

    def apply(self, node: Node, layout: _Layout) -> Tensor:
        """The tangent of a node by those of its inputs."""
        if node.function is operator.getitem:
            return _item(self, node, layout)
        rule = _RULES.get(node.name)
        if rule is not None:
            return rule(self, node, layout)
        if torch.Tag.pointwise in getattr(node.function, "tags", ()):
            return _pointwise(self, node, layout)
        raise NotRowwise(f"{node.name} is not taken apart by target positions")


class _End(_Dense):
    """The linear end, from the sums over the path of what comes before."""

    wanted: list[tuple[Node, _Layout]] | None = None

    def __init__(
        self,
        of: RowTangents,
        rows: _Rows,
        sums: Mapping[tuple[Node, _Layout], Tensor],
        constants: Mapping[Node, Any] | None = None,
    ) -> None:
        super().__init__(of, rows, _Meta() if constants is None else constants)
        self.sums = sums

    def _find(self, node: Node, layout: _Layout) -> Tensor:
        if node in self.of._linear:
            return self.apply(node, layout)
        if self.wanted is None:
            return self.sums[node, layout]
        self.wanted.append((node, layout))
        z = self.of.tape.arguments[0]
        assert z.shape is not None
        n = len(self.rows.samples)
        return torch.empty(n, *_free(layout), z.shape[2], dtype=node.dtype, device="meta")


class _Point(_Dense):
    """Everything before, at one point of the path."""

    def __init__(
        self, of: RowTangents, rows: _Rows, walk: Walk, values: Mapping[Node, Any]
    ) -> None:
        super().__init__(of, rows, values)
        self.walk = walk

    def _find(self, node: Node, layout: _Layout) -> Tensor:
        if node not in self.of._factored:
            return self.apply(node, layout)
        kinds = {kind for axis in layout for _, kind in axis}
        b, t, _ = self.of.target
        if (b > 1 and _SAMPLE not in kinds) or (t > 1 and _POSITION not in kinds):
            raise NotRowwise("all positions are read at once")
        total: Tensor | None = None
        for first, *others in self.factors(node, layout):
            part = math.prod(others, start=first)
            total = part if total is None else total + part
        if total is None:
            raise NotRowwise(f"{node.name} does not move")
        sizes = len(self.rows.samples), *_free(layout), total.shape[-1]
        return total.expand(sizes)

    def factors(self, node: Node, layout: _Layout) -> list[list[Tensor]]:
        """What the rows have of the factors of each product, each as `_Rows.of` returns it."""
        x = self.walk.to(node)
        if x is None:
            return []
        axes = tuple(_joint(own, wanted) for own, wanted in zip(x.axes, layout, strict=True))
        x = self.walk.aligned(x, tuple(tuple(size for size, _ in axis) for axis in axes))
        return [[self.rows.of(f, axes, last=True) for f in t.factors] for t in x.terms]


def _joint(atoms: Sequence[int], wanted: Sequence[_Atom]) -> tuple[_Atom, ...]:
    """The atoms of an axis cut so that they serve two."""
    ours, theirs, joint = list(atoms), list(wanted), []
    while ours and theirs:
        size, (other, kind) = ours.pop(0), theirs.pop(0)
        step = math.gcd(size, other)
        if step == 1 or (kind != _FREE and step != other):
            raise NotRowwise("axes are cut at odd places")
        joint.append((step, kind))
        if size > step:
            ours.insert(0, size // step)
        if other > step:
            theirs.insert(0, (other // step, kind))
    if ours or theirs:
        raise NotRowwise("shapes do not fit")
    return tuple(joint)


# --- operations ----------------------------------------------------------------------------------

_RuleOf = Callable[[_Dense, Node, _Layout], Tensor]

_VIEWS = ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.shape or ())


def _same(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    return at.tangent(node.args[0], layout)


def _to_dtype(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    return at.tangent(node.args[0], layout).to(node.dtype)


def _view(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    x = at.tangent(node.args[0], _regrouped(layout, _shape(node.args[0])))
    return x.reshape(x.shape[0], *_free(layout), x.shape[-1])


def _expand(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    x = at.tangent_of_operand(node.args[0], layout)
    return x.expand(x.shape[0], *_free(layout), x.shape[-1])


def _permute(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    n_axes = len(layout)
    order = list(range(n_axes))
    if node.name == "permute":
        order = [axis % n_axes for axis in node.args[1]]
    elif n_axes > 1:
        a, b = (0, 1) if node.name == "t" else (axis % n_axes for axis in node.args[1:3])
        order[a], order[b] = order[b], order[a]
    before: list[tuple[_Atom, ...]] = [()] * n_axes
    for axis, source in zip(layout, order, strict=True):
        before[source] = axis
    x = at.tangent(node.args[0], tuple(before))
    return x.permute(0, *(1 + axis for axis in order), n_axes + 1)


def _add(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    alpha = node.kwargs.get("alpha", 1)
    total: Tensor | None = None
    for arg, sign in zip(node.args[:2], (1, alpha if node.name == "add" else -alpha), strict=True):
        if at.moves(arg):
            x = at.tangent_of_operand(arg, layout)
            x = x if sign == 1 else x * sign
            total = x if total is None else total + x
    assert total is not None
    return total.expand(total.shape[0], *_free(layout), total.shape[-1])


def _mul(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    total: Tensor | None = None
    for arg, other in (node.args[:2], node.args[1::-1]):
        if at.moves(arg):
            x = at.tangent_of_operand(arg, layout) * at.operand(other, layout)
            total = x if total is None else total + x
    assert total is not None
    return total


def _pointwise(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """By the slope in each of the operands that move."""
    assert node.function is not None
    function, total = node.function, None
    operands = [
        at.operand(arg, layout) if isinstance(arg, (Node, Tensor)) else arg for arg in node.args
    ]
    kwargs = {
        name: at.operand(arg, layout) if isinstance(arg, (Node, Tensor)) else arg
        for name, arg in node.kwargs.items()
    }
    if any(at.moves(arg) for arg in node.kwargs.values()):
        raise NotRowwise(f"{node.name} is not taken apart by target positions")
    for place, arg in enumerate(node.args):
        if not at.moves(arg):
            continue

        def of_one(x: Tensor, place: int = place) -> Tensor:
            result: Tensor = function(*operands[:place], x, *operands[place + 1 :], **kwargs)
            return result

        x = operands[place]
        if x.device.type == "meta":
            slope = of_one(x)
        else:
            slope = torch.func.jvp(of_one, (x,), (torch.ones_like(x),))[1]
        moved = at.tangent_of_operand(arg, layout) * slope
        total = moved if total is None else total + moved
    assert total is not None
    return total


def _mm(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """`[x, k] @ [k, y]`, a sum with something else before or not."""
    a, b = node.args[-2:]
    scale = 1
    total: Tensor | None = None
    if node.name == "addmm":
        scale = node.kwargs.get("alpha", 1)
        if at.moves(node.args[0]):
            total = at.tangent_of_operand(node.args[0], layout) * node.kwargs.get("beta", 1)
    inner = _whole(_shape(a)[1])
    left, right = (layout[0], inner), (inner, layout[1])
    if at.moves(a):
        matrix = at.value(b, right).mT[:, None]  # [n or 1, 1, y, k]
        moved = at.multiply(matrix, at.tangent(a, left))
        moved = moved if scale == 1 else moved * scale
        total = moved if total is None else total + moved
    if at.moves(b):
        x = at.tangent(b, right)  # [n, k, y, j]
        row = at.value(a, left)  # [n, x, k]
        at.products += x.numel() * row.shape[1]
        moved = torch.einsum("nxk,nkyj->nxyj", row, x) * scale
        total = moved if total is None else total + moved
    assert total is not None
    return total


def _bmm(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """`[g, x, k] @ [g, k, y]`: scores, or a pattern and its values."""
    a, b = node.args[:2]
    inner = _whole(_shape(a)[2])
    left, right = (layout[0], layout[1], inner), (layout[0], inner, layout[2])
    total: Tensor | None = None
    if at.moves(a):
        x = at.tangent(a, left)  # [n, g, x, k, j]
        matrix = at.value(b, right).mT[:, :, None]  # [n or 1, g, 1, y, k]
        total = at.multiply(matrix, x)
    if not at.moves(b):
        assert total is not None
        return total
    own = at.value(a, left)  # [n or 1, g, x, k]
    if not isinstance(at, _Point) or b not in at.of._factored:
        raise NotRowwise("what all positions hold is not a sum of few products")
    for factors in at.factors(b, right):
        moved = _contracted(at, own, factors)
        total = moved if total is None else total + moved
    if total is None:
        raise NotRowwise("attention does not move")
    return total


def _contracted(at: _Dense, own: Tensor, factors_of_b: Sequence[Tensor]) -> Tensor:
    """The sum over k of own[n, g, x, k] and factors [n, g, k, y, j], which are broadcast."""
    labels = "ngkyj"

    def named(x: Tensor) -> str:
        return "".join(name for name, size in zip(labels, x.shape, strict=True) if size > 1)

    def squeezed(x: Tensor) -> Tensor:
        return x.reshape([size for size in x.shape if size > 1])

    first = "".join(n for n, size in zip("ngxk", own.shape, strict=True) if size > 1)
    factors = [(own.reshape([size for size in own.shape if size > 1]), first)]
    # Those that share k first, and of them the one without sources: what is summed is small.
    others = sorted(factors_of_b, key=lambda x: (x.shape[2] == 1, x.shape[4] > 1, x.numel()))
    factors += [(squeezed(x), named(x)) for x in others]
    found, names = factors[0]
    for place, (x, of_x) in enumerate(factors[1:], 1):
        later = "".join(name for _, name in factors[place + 1 :])
        every = [name for name in "ngxkyj" if name in names or name in of_x]
        kept = "".join(name for name in every if name != "k" or name in later)
        sizes = {
            **dict(zip(names, found.shape, strict=True)),
            **dict(zip(of_x, x.shape, strict=True)),
        }
        at.products += math.prod(sizes.values())
        if "k" in every and "k" not in kept and "k" in names and "k" in of_x:
            found = torch.einsum(f"{names},{of_x}->{kept}", found, x)
        else:
            found = _spread_to(found, names, every) * _spread_to(x, of_x, every)
            if "k" in every and "k" not in kept:
                found = found.sum(every.index("k"))
        names = kept
    if "k" in names:
        found, names = found.sum(names.index("k")), names.replace("k", "")
    sizes = dict(zip(names, found.shape, strict=True))
    return found.reshape([sizes.get(name, 1) for name in "ngxyj"])


def _spread_to(x: Tensor, names: str, every: Sequence[str]) -> Tensor:
    sizes = dict(zip(names, x.shape, strict=True))
    return x.reshape([sizes.get(name, 1) for name in every])


def _layer_norm(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """The slope of n: dn = (dx - mean dx - n mean(n dx)) / s with n = (x - m) / s."""
    source, shape, weight = node.args[:3]
    if any(at.moves(arg) for arg in node.args[2:]) or len(shape) != 1:
        raise NotRowwise("a normalisation of several axes")
    _untagged(layout[-1])
    x, d = at.value(source, layout), at.tangent(source, layout)
    n = x.shape[-1]
    scale = (x.var(-1, correction=0, keepdim=True) + node.args[4]).rsqrt()
    normal = (x - x.mean(-1, keepdim=True)) * scale
    both = torch.stack([torch.ones_like(normal), normal], -1)  # [n, .., k, 2]
    along = at.multiply(both.mT / n, d)  # [n, .., 2, j]
    moved = d - both @ along
    by = scale if weight is None else scale * at.value(weight, layout[-1:]).reshape(n)
    return moved.mul_(by[..., None])


def _softmax(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """The slope of a softmax s: ds = s (dx - sum(s dx))."""
    axis = node.args[1] % len(layout)
    _untagged(layout[axis])
    s = at.value(node, layout)[..., None]
    d = at.tangent(node.args[0], layout) * s
    return torch.addcmul(d, s, d.sum(1 + axis, keepdim=True), value=-1)


def _sums(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    shape = _shape(node.args[0])
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    dims = range(len(shape)) if dims is None or dims == [] else dims
    axes = sorted({axis % len(shape) for axis in ([dims] if isinstance(dims, int) else dims)})
    rest = iter(layout)
    before = tuple(
        _whole(size) if axis in axes and not (keeps and next(rest, None) is None) else next(rest)
        for axis, size in enumerate(shape)
    )
    x = at.tangent(node.args[0], before)
    x = x.sum([1 + axis for axis in axes], keepdim=bool(keeps))
    return x / math.prod(shape[axis] for axis in axes) if node.name == "mean" else x


def _item(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    """One of several results."""
    whole, index = node.args
    if whole.name == "native_layer_norm":
        if index != 0:
            raise NotRowwise("a mean or scale is read")
        return _layer_norm(at, whole, layout)
    if whole.name not in ("split", "split_with_sizes"):
        raise NotRowwise(f"{whole.name} is not taken apart by target positions")
    source, sizes = whole.args[:2]
    axis = whole.args[2] if len(whole.args) > 2 else whole.kwargs.get("dim", 0)
    axis %= len(layout)
    start = index * sizes if isinstance(sizes, int) else sum(sizes[:index])
    return _part(at, source, layout, axis, start, 1, _shape(node)[axis])


def _part(
    at: _Dense, source: Node, layout: _Layout, axis: int, start: int, step: int, n: int
) -> Tensor:
    """A part of an axis on which rows do not differ."""
    _untagged(layout[axis])
    before = *layout[:axis], _whole(_shape(source)[axis]), *layout[axis + 1 :]
    x = at.tangent(source, before)
    where = slice(start, start + step * (n - 1) + 1, step)
    return x[(slice(None),) * (1 + axis) + (where,)]


def _slice(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    source = node.args[0]
    values = dict(zip(("dim", "start", "end", "step"), node.args[1:], strict=False), **node.kwargs)
    axis = values.get("dim", 0) % len(layout)
    size = _shape(source)[axis]
    if size == _shape(node)[axis]:
        return at.tangent(source, layout)
    start, _, step = slice(
        values.get("start"), values.get("end"), values.get("step", 1)
    ).indices(size)  # fmt: skip
    return _part(at, source, layout, axis, start, step, _shape(node)[axis])


def _select(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    source, axis, index = node.args[:3]
    shape = _shape(source)
    axis %= len(shape)
    before = *layout[:axis], _whole(shape[axis]), *layout[axis:]
    x = at.tangent(source, before)
    return x.select(1 + axis, index % shape[axis])


def _cat(at: _Dense, node: Node, layout: _Layout) -> Tensor:
    axis = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(layout)
    full = [arg for arg in node.args[0] if 0 not in _shape(arg)]
    if len(full) == 1:
        return at.tangent(full[0], layout)
    _untagged(layout[axis])
    parts = []
    for arg in full:
        own = *layout[:axis], _whole(_shape(arg)[axis]), *layout[axis + 1 :]
        if not at.moves(arg):
            raise NotRowwise("a constant is put beside what moves")
        parts.append(at.tangent(arg, own))
    return torch.cat(parts, 1 + axis)


_RULES: dict[str, _RuleOf] = {
    **dict.fromkeys(("clone", "contiguous", "alias", "lift_fresh_copy"), _same),
    "_to_copy": _to_dtype,
    **dict.fromkeys(_VIEWS, _view),
    "expand": _expand,
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("add", "sub"), _add),
    "mul": _mul,
    **dict.fromkeys(("mm", "addmm"), _mm),
    "bmm": _bmm,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("sum", "mean"), _sums),
    "slice": _slice,
    "select": _select,
    "cat": _cat,
}
