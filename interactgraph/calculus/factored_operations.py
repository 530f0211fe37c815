"""What operations make of tangents that are sums of products, see `factored_tangents`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .factors import (
    Factored,
    NotFactored,
    Term,
    axes_of,
    carries,
    common_axes,
    dot,
    spread,
)
from .tape import COPIES, VIEWS, Node

if TYPE_CHECKING:
    from .factored_tangents import Walk

__all__ = ["OPERATIONS"]

_Operation = Callable[["Walk", Node], Any]


def _same(walk: Walk, node: Node) -> Factored:
    return walk.moving(node.args[0])


def _reshape(walk: Walk, node: Node) -> Factored:
    return walk.reshaped(walk.moving(node.args[0]), tuple(node.shape or ()))


def _permute(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return walk.permuted(x, node.order(len(x.axes)))


def _expand(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return walk.aligned(x, common_axes(x.axes, axes_of(tuple(node.shape or ()))))


def _slice(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    axis = node.axis(1, len(x.axes))
    size = (node.shape or ())[axis]
    if size == math.prod(x.axes[axis]):
        return x
    where = slice(*(node.argument(2 + n, name) for n, name in enumerate(("start", "end", "step"))))
    return walk.taken(x, axis, size, lambda f, a: f[(slice(None),) * a + (where,)])


def _without(x: Factored, axis: int) -> Factored:
    """An axis of one entry less."""
    assert not x.axes[axis]
    return Factored((*x.axes[:axis], *x.axes[axis + 1 :]), x.terms)


def _select(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    return _selected(walk, x, node.axis(1, len(x.axes)), node.args[2])


def _selected(walk: Walk, x: Factored, axis: int, index: int) -> Factored:
    if not x.axes[axis]:
        return _without(x, axis)
    return _without(
        walk.taken(x, axis, 1, lambda f, a: f.narrow(a, index % f.shape[a], 1)), axis
    )  # fmt: skip


def _split(walk: Walk, node: Node) -> list[Factored]:
    x = walk.moving(node.args[0])
    axis = node.axis(2, len(x.axes))
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
    axis = node.axis(1, len(x.axes))
    return [_selected(walk, x, axis, n) for n in range(math.prod(x.axes[axis]))]


def _index_select(walk: Walk, node: Node) -> Factored:
    x = walk.moving(node.args[0])
    axis = node.axis(1, len(x.axes))
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
    axis = node.axis(1, len(node.shape or ()))
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
    axes = node.axes(len(x.axes))
    for axis in axes:
        size, of_positions = math.prod(x.axes[axis]), walk.of_positions(x, axis)
        x = walk.contracted(x, axis, None, 0, None, flip=False)
        if node.name == "mean":
            x = walk.divided(x, size, of_positions)
    if not node.argument(2, "keepdim", False):
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
    alpha = float(node.argument(2, "alpha", 1.0))
    of_a, of_b = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.name]
    whole = common_axes(
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
        return walk.aligned(offset, common_axes(offset.axes, axes))
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
    value = walk.values[source].to(d.terms[0].c.dtype)
    scale = (value.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    normal = (value - value.mean(-1, keepdim=True)) * scale
    axis, n = len(d.axes) - 1, value.shape[-1]
    mean = walk.contracted(d, axis, None, 0, None, flip=False)
    d = walk.added(d, walk.aligned(mean, d.axes), -1.0 / n)
    own = [t for t in d.terms if t.w is None and not carries(t.c, d.places(axis))]
    if len(own) < len(d.terms):
        raise NotFactored("a normalisation of what positions carry")
    on_atoms = spread(normal, d.axes)
    along: Tensor | None = None
    for t in own:
        part = t.c * dot(on_atoms, t.u, d.places(axis))
        along = part if along is None else along + part
    assert along is not None
    by = spread(scale, d.axes)
    new_key = walk.keys()
    scaled = {t.key: t.c * by for t in own}
    terms = [Term(scaled[t.key], t.u, new_key(t.key)) for t in own]
    terms.append(Term(along * by / -n, on_atoms, new_key()))
    moved = Factored(d.axes, tuple(terms))
    return [moved if weight is None else walk.scaled(moved, weight)]


OPERATIONS: dict[str, _Operation] = {
    **dict.fromkeys(COPIES, _same),
    **dict.fromkeys(VIEWS, _reshape),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
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
    "addmm": _addmm,
}
