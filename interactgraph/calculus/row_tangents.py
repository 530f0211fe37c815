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
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line
from .derivatives import ANY_FAILURES
from .factored_tangents import Walk
from .factors import NotFactored, moved_source
from .linearization import RecordedFunction
from .row_layouts import (
    POSITION,
    SAMPLE,
    Layout,
    NotRowwise,
    Rows,
    free,
    joint,
    of_operand,
    whole,
)
from .row_operations import RULES, item, pointwise
from .tape import VIEWS, Node, Tape

__all__ = ["Dense", "NotRowwise", "RowTangents"]


@dataclass(eq=False)
class RowTangents:
    """Takes a recorded segment apart.

    Args:
        tape: of the segment.
        target: shape of the target features, `[b, t, i]`.

    Attributes:
        moving: what depends on the source features, and the target on it.
        factored: that of which the tangent is a sum of products.
        linear: operations from which on everything is linear, with the same numbers along the path.
        products: multiplications for all source features at one row and one point of the path.
        products_at_end: those behind the last operation that bends, once for a row.

    Raises:
        NotRowwise: target positions do not come apart.
    """

    tape: Tape
    target: Sequence[int]
    moving: frozenset[Node] = field(init=False)
    factored: frozenset[Node] = field(init=False)
    linear: frozenset[Node] = field(init=False)
    products: float = field(init=False)
    products_at_end: float = field(init=False)
    _changing: frozenset[Node] = field(init=False)
    _varying: frozenset[Node] = field(init=False)
    _ends: tuple[tuple[Node, Layout], ...] = field(init=False)

    def __post_init__(self) -> None:
        tape = self.tape
        z = tape.arguments[0]
        needed = {*tape.needed(tape.output, [{}])}
        self._changing = tape.depending(z)
        moving = {z}
        for node in tape.nodes:  # what is detached changes along the path, and does not move
            if node in needed and node.differentiable and not moving.isdisjoint(node.inputs):
                moving.add(node)
        self.moving = frozenset(moving)
        self._varying = frozenset[Node]().union(*(tape.depending(n) for n in tape.arguments))
        self.linear = self._linear_end()
        try:
            self._try_out()
        except (NotFactored, *ANY_FAILURES) as error:
            raise NotRowwise(f"it is not taken apart ({first_line(error)})") from error

    @property
    def layout(self) -> Layout:
        """Of the target features."""
        b, t, i = self.target
        return whole(b, SAMPLE), whole(t, POSITION), whole(i)

    def _linear_end(self) -> frozenset[Node]:
        """Operations from which on everything is linear with the same numbers along the path."""
        readers: dict[Node, list[Node]] = {node: [] for node in self.moving}
        for node in self.tape.nodes:
            if node in self.moving:
                for source in set(node.inputs) & self.moving:
                    readers[source].append(node)
        linear: set[Node] = set()
        for node in reversed(self.tape.nodes):
            if node not in self.moving or node.function is None:
                continue
            if all(reader in linear for reader in readers[node]) and self._is_linear(node):
                linear.add(node)
        return frozenset(linear)

    def _is_linear(self, node: Node) -> bool:
        moving = [arg for arg in node.args if isinstance(arg, Node) and arg in self.moving]
        if any(n in self._changing and n not in self.moving for n in node.inputs):
            return False
        if node.name in ("add", "sub", *VIEWS, "permute", "transpose", "t"):
            return True
        if node.name in ("mm", "addmm", "mul", "div"):
            simple = node.name != "div" or (moving == [node.args[0]] and not node.kwargs)
            return len(moving) == 1 and simple
        return False

    def _try_out(self) -> None:
        """One row on the meta device: whether it goes, what it takes, and where the linear end is.

        Operations whose tangent is a sum of products are found on the way.
        """
        z = self.tape.arguments[0]
        assert z.shape is not None
        meta = torch.empty(*z.shape, dtype=z.dtype, device="meta")
        one = torch.zeros(1, dtype=torch.int64, device="meta")
        rows = Rows(one, one)
        walk = self._walk(meta, None)
        factored = {z}
        for node in self.tape.nodes:
            if node not in self.moving or node is z:
                continue
            if any(n in self.moving and n not in factored for n in node.inputs):
                continue
            try:
                walk.to(node)
            except NotFactored:
                continue
            factored.add(node)
        self.factored = frozenset(factored)
        at = _Point(self, rows, walk, _Meta())
        end = _End(self, rows, {})
        end.wanted = []
        end.tangent(self.tape.output, self.layout)
        self._ends = tuple(dict.fromkeys(end.wanted))
        for node, layout in self._ends:
            at.tangent(node, layout)
        self.products, self.products_at_end = at.products, end.products

    def _walk(self, displacement: Tensor, values: Mapping[Node, Any] | None) -> Walk:
        """A walk at a point; without its values, for the shapes alone."""
        known: dict[Node, Any] = dict.fromkeys(self._changing - self.moving)
        known[self.tape.arguments[0]] = moved_source(displacement, displacement.device)
        return Walk(
            self.tape, self._varying, values, values is not None, known,
            values=_Meta() if values is None else values,
        )  # fmt: skip

    @property
    def n_sums(self) -> int:
        """Numbers that are summed over the path, for each row and source feature."""
        return sum(math.prod(free(layout)) for _, layout in self._ends)

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
            Rows(b, t)
            for b, t in zip(samples.split(together), positions.split(together), strict=True)
        ]
        sums: list[dict[tuple[Node, Layout], Tensor]] = [{} for _ in each]
        for weight, point in points:
            values = recorded.values(point)
            walk = self._walk(displacement, values)
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
class Dense(ABC):
    """Dense tangents of some rows: `[n, .. what a row has of each axis .., j]`.

    Attributes:
        of: the segment.
        rows: which.
        values: of the nodes.
        products: multiplications so far.
    """

    of: RowTangents
    rows: Rows
    values: Mapping[Node, Any]
    products: float = field(default=0.0, init=False)
    _known: dict[tuple[Node, Layout], Tensor] = field(default_factory=dict, init=False)
    _values: dict[tuple[Node, Layout], Tensor] = field(default_factory=dict, init=False)

    def moves(self, arg: Any) -> bool:
        """Whether an argument depends on the source."""
        return isinstance(arg, Node) and arg in self.of.moving

    def value(self, arg: Any, layout: Layout) -> Tensor:
        """What the rows have of a value, `[n or 1, ...]`."""
        if not isinstance(arg, Node):
            return self._selected(arg, layout)
        key = arg, layout
        if key not in self._values:
            self._values[key] = self._selected(self.values[arg], layout)
        return self._values[key]

    def _selected(self, x: Tensor, layout: Layout) -> Tensor:
        atoms = [size for axis in layout for size, _ in axis]
        if self.rows.samples.device.type == "meta":
            x = x.to("meta")
        if x.is_floating_point():  # in another dtype for a while, as tangents are not
            x = x.to(self.of.tape.arguments[0].dtype)
        return self.rows.of(x.reshape(atoms), layout)

    def operand(self, arg: Any, layout: Layout) -> Any:
        """What the rows have of an operand that is broadcast, with an axis for the sources."""
        if not isinstance(arg, (Node, Tensor)):
            return arg
        x = self.value(arg, of_operand(layout, tuple(arg.shape or ())))
        return self.spread(x, len(layout) + 1)[..., None]

    @staticmethod
    def spread(x: Tensor, n_axes: int) -> Tensor:
        """With further axes behind that of the rows."""
        return x.reshape(x.shape[0], *(1 for _ in range(n_axes - x.ndim)), *x.shape[1:])

    def tangent_of_operand(self, arg: Node, layout: Layout) -> Tensor:
        """The tangent of an operand that is broadcast."""
        x = self.tangent(arg, of_operand(layout, tuple(arg.shape or ())))
        return self.spread(x, len(layout) + 2)

    def multiply(self, matrix: Tensor, x: Tensor) -> Tensor:
        """`[n or 1, .., y, k]` times `[n, .., k, j]`."""
        self.products += x.numel() * matrix.shape[-2]
        if math.prod(matrix.shape[:-2]) == 1 and x.ndim > 2:
            flat = x.reshape(-1, *x.shape[-2:])
            one = matrix.reshape(matrix.shape[-2:])
            # A single product takes its operand where it lies; many would be copied.
            made = (one @ flat[0])[None] if len(flat) == 1 else torch.matmul(one, flat)
            return made.reshape(*x.shape[:-2], *made.shape[-2:])
        return torch.matmul(matrix, x)

    def tangent(self, node: Node, layout: Layout) -> Tensor:
        """The tangent of a node that moves."""
        key = node, layout
        if key not in self._known:
            self._known[key] = self._find(node, layout)
        return self._known[key]

    @abstractmethod
    def _find(self, node: Node, layout: Layout) -> Tensor:
        """The tangent of a node that was not asked for before."""

    def factors(self, node: Node, layout: Layout) -> list[list[Tensor]]:
        """What the rows have of the factors of each product, each as `Rows.of` returns it.

        Raises:
            NotRowwise: the tangent is no sum of products.
        """
        raise NotRowwise("what all positions hold is not a sum of few products")

    def apply(self, node: Node, layout: Layout) -> Tensor:
        """The tangent of a node by those of its inputs."""
        if node.function is operator.getitem:
            return item(self, node, layout)
        rule = RULES.get(node.name)
        if rule is not None:
            return rule(self, node, layout)
        if torch.Tag.pointwise in getattr(node.function, "tags", ()):
            return pointwise(self, node, layout)
        raise NotRowwise(f"{node.name} is not taken apart by target positions")


class _End(Dense):
    """The linear end, from the sums over the path of what comes before."""

    wanted: list[tuple[Node, Layout]] | None = None

    def __init__(
        self,
        of: RowTangents,
        rows: Rows,
        sums: Mapping[tuple[Node, Layout], Tensor],
        constants: Mapping[Node, Any] | None = None,
    ) -> None:
        super().__init__(of, rows, _Meta() if constants is None else constants)
        self.sums = sums

    def _find(self, node: Node, layout: Layout) -> Tensor:
        if node in self.of.linear:
            return self.apply(node, layout)
        if self.wanted is None:
            return self.sums[node, layout]
        self.wanted.append((node, layout))
        z = self.of.tape.arguments[0]
        assert z.shape is not None
        n = len(self.rows.samples)
        return torch.empty(n, *free(layout), z.shape[2], dtype=node.dtype, device="meta")


class _Point(Dense):
    """Everything before, at one point of the path."""

    def __init__(self, of: RowTangents, rows: Rows, walk: Walk, values: Mapping[Node, Any]) -> None:
        super().__init__(of, rows, values)
        self.walk = walk

    def _find(self, node: Node, layout: Layout) -> Tensor:
        if node not in self.of.factored:
            return self.apply(node, layout)
        kinds = {kind for axis in layout for _, kind in axis}
        b, t, _ = self.of.target
        if (b > 1 and SAMPLE not in kinds) or (t > 1 and POSITION not in kinds):
            raise NotRowwise("all positions are read at once")
        products = (math.prod(others, start=first) for first, *others in self.factors(node, layout))
        total = reduce(torch.add, products)
        sizes = len(self.rows.samples), *free(layout), total.shape[-1]
        return total.expand(sizes)

    def factors(self, node: Node, layout: Layout) -> list[list[Tensor]]:
        """See `Dense`."""
        if node not in self.of.factored:
            return super().factors(node, layout)
        x = self.walk.to(node)
        if x is None:
            raise NotRowwise(f"{node.name} does not move")
        axes = tuple(joint(own, wanted) for own, wanted in zip(x.axes, layout, strict=True))
        x = self.walk.aligned(x, tuple(tuple(size for size, _ in axis) for axis in axes))
        return [[self.rows.of(f, axes, last=True) for f in t.factors] for t in x.terms]
