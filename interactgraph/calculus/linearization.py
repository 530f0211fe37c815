"""A recorded segment at one point as a linear function of tangents: forward mode by hand.

Column after column needs the derivative at the same point of the path. What depends on the point
alone (slopes of pointwise functions, normalised values, attention weights) is computed once here;
a tangent then costs about the matrix products of one forward pass. `torch.func.jvp` under `vmap`
evaluates the slopes again for every tangent. Operations without a rule of their own fall back to it
one by one, so that everything it can differentiate can be linearised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .path import StraightPath
from .rounding import is_close
from .tape import Node, Tape, fill

__all__ = ["Linearization", "RecordedFunction"]

Tangents = Mapping[Node, Any]
_Rule = Callable[[Tangents], Any]

# The same operation on the tangent of its first argument (a tensor or a list of tensors).
_SAME = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select",
    "unsqueeze", "squeeze", "clone", "contiguous", "alias", "lift_fresh_copy", "neg",
    "sum", "mean", "cat", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll",
    "cumsum", "index_select", "repeat", "avg_pool2d", "diagonal", "tril", "triu", "_to_copy",
}  # fmt: skip
_BILINEAR = {"mul", "mm", "bmm", "matmul"}


@dataclass(frozen=True, eq=False)
class RecordedFunction:
    """A recorded segment on one batch.

    Attributes:
        tape: of the segment; arguments are z and the tensors of the batch.
        dependent: the real values that depend on z.
        constants: the values that dependent ones are computed from and that do not depend on z.
    """

    tape: Tape
    dependent: frozenset[Node]
    constants: Mapping[Node, Any]
    _last: list[tuple[Tensor, Linearization]] = field(default_factory=list)

    @staticmethod
    def on(tape: Tape, inputs: Sequence[Tensor]) -> RecordedFunction:
        """The segment on the batch with these tensors."""
        dependent = tape.depending(tape.arguments[0])
        return RecordedFunction(tape, dependent, tape.constants(dependent, inputs))

    @staticmethod
    def serves(tape: Tape) -> bool:
        """Whether the record holds along the path."""
        return tape.output in tape.depending(tape.arguments[0]) and not tape.source_decides

    def agrees_with(self, function: Callable[[Tensor], Tensor], path: StraightPath) -> bool:
        """Whether value and derivative are those that torch finds for a function.

        At a random point of a path, along a random tangent.
        """
        generator = torch.Generator().manual_seed(0)
        point = path.at(float(torch.rand((), generator=generator)))
        tangents = torch.randn(2, *point.shape, generator=generator).to(point)
        try:
            expected = torch.func.jvp(function, (point,), (tangents[1],))
            value, linear = self.value_and_derivative(point)
            found = value, linear(tangents)[1]
        except Exception:  # whatever fails here is no way to go
            return False
        return all(is_close(a, b) for a, b in zip(found, expected, strict=True))

    def value(self, point: Tensor) -> Tensor:
        """The segment's value alone at `[b, s, j]`."""
        known = {self.tape.arguments[0]: point}
        value: Tensor = self.tape.value(self.tape.output, known, self.constants)
        return value

    def linearize(self, point: Tensor) -> Linearization:
        """The segment's derivative at `[b, s, j]`; the last point is remembered."""
        if not self._last or self._last[0][0] is not point:
            self._last[:] = [(point, self._linearized(self.values(point)))]
        return self._last[0][1]

    def value_and_derivative(self, point: Tensor) -> tuple[Tensor, Linearization]:
        """Both at `[b, s, j]`, for less than one after the other; the point is remembered."""
        values = self.values(point)
        self._last[:] = [(point, self._linearized(values))]
        return values[self.tape.output], self._last[0][1]

    def values(self, point: Tensor) -> Mapping[Node, Any]:
        """Values of all nodes at `[b, s, j]`, each computed when it is asked for."""
        return _Values({**self.constants, self.tape.arguments[0]: point})

    def _linearized(self, values: Mapping[Node, Any]) -> Linearization:
        tape = self.tape
        source = tape.arguments[0]
        rules: list[tuple[Node, _Rule]] = []
        active = {source}
        for node in tape.needed(tape.output, (self.constants, {source: None})):
            dependent = [n for n in node.inputs if n in active]
            if dependent and node.differentiable:
                active.add(node)
                rules.append((node, _rule(node, dependent, values)))
        return Linearization(source, tape.output, rules)


class _Values(dict[Node, Any]):
    """Values of nodes, computed when they are asked for: slopes do not need all of them."""

    def __missing__(self, goal: Node) -> Any:
        stack = [goal]
        while stack:
            node = stack[-1]
            waiting = [n for n in node.inputs if n not in self]
            stack.extend(waiting)
            if not waiting:
                stack.pop()
                if node not in self:
                    args, kwargs = node.fill(self)
                    self[node] = node.on(*args, **kwargs)
        return self[goal]


@dataclass(frozen=True, eq=False)
class Linearization:
    """The derivative of a recorded segment at one point."""

    _source: Node
    _output: Node
    _rules: Sequence[tuple[Node, _Rule]]

    def __call__(self, tangents: Tensor) -> Tensor:
        """Derivatives along tangents, `[c, b, s, j] -> [c, b, t, i]`."""
        if len(tangents) == 1:
            return self._along(tangents[0])[None]
        result: Tensor = torch.vmap(self._along)(tangents)
        return result

    def _along(self, tangent: Tensor) -> Tensor:
        derivatives: dict[Node, Any] = {self._source: tangent}
        for node, rule in self._rules:
            derivatives[node] = rule(derivatives)
        result: Tensor = derivatives[self._output]
        return result


def _rule(node: Node, dependent: list[Node], values: Mapping[Node, Any]) -> _Rule:
    """Tangents of the inputs -> tangent of the result.

    Args:
        node: the operation.
        dependent: inputs that have a tangent.
        values: at the point.
    """
    name, first, function = node.name, dependent[0], node.function
    assert function is not None
    alone = dependent == [first] and first.shape is not None
    if name == "getitem":
        return lambda t: t[first][node.args[1]]
    if name in _SAME and node.args:
        parts = node.args[0]
        rest, kwargs = fill(node.args[1:], values), fill(node.kwargs, values)
        if parts is first and dependent == [first]:
            return lambda t: function(t[first], *rest, **kwargs)
        if isinstance(parts, list) and set(dependent) == set(parts):
            return lambda t: function([t[part] for part in parts], *rest, **kwargs)
    if name in _BILINEAR and alone and sum(a is first for a in node.args) == 1:
        place = node.args.index(first)
        before, after = fill(node.args[:place], values), fill(node.args[place + 1 :], values)
        kwargs = fill(node.kwargs, values)
        return lambda t: function(*before, t[first], *after, **kwargs)
    if name in _BILINEAR and len(node.args) == 2 and set(node.args) == set(dependent):
        return _product(function, *node.args, *fill(node.args, values))
    if name in ("add", "sub") and all(n.shape == node.shape for n in dependent):
        sign = (1 if name == "add" else -1) * node.kwargs.get("alpha", 1)
        a, b = node.args[:2]
        if a is not b and first is a:
            return lambda t: torch.add(t[a], t[b], alpha=sign) if b in t else t[a]
        if a is not b:
            return (lambda t: t[b]) if sign == 1 else (lambda t: t[b] * sign)
    if name == "addmm" and dependent == [node.args[1]] and not node.kwargs:
        matrix = fill(node.args[2], values)
        return lambda t: t[first] @ matrix
    if name == "convolution" and dependent == [node.args[0]]:
        kernel, *rest = fill((node.args[1], *node.args[3:]), values)
        return lambda t: function(t[first], kernel, None, *rest)
    if name == "native_layer_norm" and dependent == [node.args[0]]:
        return _layer_norm(first, fill(node.args, values), values[node])
    if name in ("_softmax", "_safe_softmax") and dependent == [node.args[0]]:
        return _softmax(first, node.args[1], values[node])
    pointwise = torch.Tag.pointwise in getattr(function, "tags", ())
    real = first.dtype is not None and first.dtype.is_floating_point
    if pointwise and alone and real and first.shape == node.shape:
        slope = torch.func.jvp(
            lambda x: function(*_swap(node.args, {first: x}, values), **fill(node.kwargs, values)),
            (values[first],),
            (torch.ones_like(values[first]),),
        )[1]
        return lambda t: t[first] * slope
    return _by_torch(node, dependent, values)


def _product(function: Callable[..., Any], a: Node, b: Node, x: Tensor, y: Tensor) -> _Rule:
    """The product rule: d(x y) = dx y + x dy."""
    return lambda t: function(t[a], y) + function(x, t[b])


def _swap(args: Any, tensors: Mapping[Node, Tensor], values: Mapping[Node, Any]) -> Any:
    """Arguments with every node replaced by one of the tensors, or else by its value."""
    return pytree.tree_map_only(
        Node, lambda node: tensors[node] if node in tensors else values[node], args
    )


def _layer_norm(source: Node, args: tuple, values: Any) -> _Rule:
    """The slope of n: dn = (dx - mean dx - n mean(n dx)) / s with n = (x - m) / s."""
    x, shape, weight = args[:3]
    _, mean, rstd = values
    axes = tuple(range(-len(shape), 0))
    normal = (x - mean) * rstd
    mean_of = normal / normal[(0,) * (normal.ndim - len(shape))].numel()
    scale = rstd if weight is None else rstd * weight

    def rule(t: Tangents) -> Any:
        d = t[source]
        along = (d * mean_of).sum(axes, keepdim=True)
        moved = torch.addcmul(d - d.mean(axes, keepdim=True), normal, along, value=-1)
        return moved * scale, None, None

    return rule


def _softmax(source: Node, axis: int, value: Tensor) -> _Rule:
    """The slope of a softmax s: ds = s (dx - sum(s dx))."""

    def rule(t: Tangents) -> Tensor:
        d = t[source] * value
        return torch.addcmul(d, value, d.sum(axis, keepdim=True), value=-1)

    return rule


def _by_torch(node: Node, dependent: list[Node], values: Mapping[Node, Any]) -> _Rule:
    """What `torch.func.jvp` makes of the operation; integer parts of its result have no tangent."""
    whole = [n for n in dependent if n.shape is not None]
    if len(whole) < len(dependent):
        raise NotImplementedError(f"{node.name} of several results")
    primals = tuple(values[n] for n in whole)
    constants = {n: values[n] for n in node.inputs if n not in whole}
    many = node.shape is None

    def function(*tensors: Tensor) -> Any:
        tangent_inputs = dict(zip(whole, tensors, strict=True))
        args, kwargs = _swap((node.args, node.kwargs), tangent_inputs, constants)
        out = node.on(*args, **kwargs)
        return tuple(x for x in out if x.is_floating_point()) if many else out

    real = [x.is_floating_point() for x in values[node]] if many else []

    def rule(t: Tangents) -> Any:
        out = torch.func.jvp(function, primals, tuple(t[n] for n in whole))[1]
        if not many:
            return out
        parts = iter(out)
        return tuple(next(parts) if is_real else None for is_real in real)

    return rule
