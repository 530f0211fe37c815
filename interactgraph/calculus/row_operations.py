"""What operations make of the dense tangents of some rows, see `row_tangents`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .row_layouts import Atom, Layout, NotRowwise, check_whole, free, regrouped, whole
from .tape import COPIES, VIEWS, Node

if TYPE_CHECKING:
    from .row_tangents import Dense

__all__ = ["RULES", "item", "pointwise"]

_RuleOf = Callable[["Dense", Node, Layout], Tensor]


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.shape or ())


def _same(at: Dense, node: Node, layout: Layout) -> Tensor:
    return at.tangent(node.args[0], layout)


def _view(at: Dense, node: Node, layout: Layout) -> Tensor:
    x = at.tangent(node.args[0], regrouped(layout, _shape(node.args[0])))
    return x.reshape(x.shape[0], *free(layout), x.shape[-1])


def _expand(at: Dense, node: Node, layout: Layout) -> Tensor:
    x = at.tangent_of_operand(node.args[0], layout)
    return x.expand(x.shape[0], *free(layout), x.shape[-1])


def _permute(at: Dense, node: Node, layout: Layout) -> Tensor:
    order = node.order(len(layout))
    before: list[tuple[Atom, ...]] = [()] * len(layout)
    for axis, source in zip(layout, order, strict=True):
        before[source] = axis
    x = at.tangent(node.args[0], tuple(before))
    return x.permute(0, *(1 + axis for axis in order), len(layout) + 1)


def _total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of at least one part, broadcast."""
    return reduce(torch.add, parts)


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def _add(at: Dense, node: Node, layout: Layout) -> Tensor:
    alpha = node.kwargs.get("alpha", 1)
    signs = 1, alpha if node.name == "add" else -alpha
    total = _total(
        _times(at.tangent_of_operand(arg, layout), sign)
        for arg, sign in zip(node.args[:2], signs, strict=True)
        if at.moves(arg)
    )
    return total.expand(total.shape[0], *free(layout), total.shape[-1])


def _mul(at: Dense, node: Node, layout: Layout) -> Tensor:
    return _total(
        at.tangent_of_operand(arg, layout) * at.operand(other, layout)
        for arg, other in (node.args[:2], node.args[1::-1])
        if at.moves(arg)
    )


def _div(at: Dense, node: Node, layout: Layout) -> Tensor:
    a, b = node.args[:2]
    if at.moves(b) or len(node.args) > 2 or node.kwargs:
        return pointwise(at, node, layout)
    return at.tangent_of_operand(a, layout) / at.operand(b, layout)


def pointwise(at: Dense, node: Node, layout: Layout) -> Tensor:
    """By the slope in each of the operands that move."""
    if any(at.moves(arg) for arg in node.kwargs.values()):
        raise NotRowwise(f"{node.name} is not taken apart by target positions")
    operands = [at.operand(arg, layout) for arg in node.args]
    kwargs = {name: at.operand(arg, layout) for name, arg in node.kwargs.items()}

    def slope(place: int) -> Tensor:
        x = operands[place]

        def of_one(x: Tensor) -> Tensor:
            every = *operands[:place], x, *operands[place + 1 :]
            result: Tensor = node.on(*every, **kwargs)
            return result

        if x.device.type == "meta":
            return of_one(x)
        found: Tensor = torch.func.jvp(of_one, (x,), (torch.ones_like(x),))[1]
        return found

    return _total(
        at.tangent_of_operand(arg, layout) * slope(place)
        for place, arg in enumerate(node.args)
        if at.moves(arg)
    )


def _mm(at: Dense, node: Node, layout: Layout) -> Tensor:
    """`[x, k] @ [k, y]`, a sum with something else before or not."""
    return _total(_parts_of_mm(at, node, layout))


def _parts_of_mm(at: Dense, node: Node, layout: Layout) -> Iterator[Tensor]:
    a, b = node.args[-2:]
    inner = whole(_shape(a)[1])
    left, right = (layout[0], inner), (inner, layout[1])
    scale = node.kwargs.get("alpha", 1)
    if at.moves(a):
        matrix = at.value(b, right).mT[:, None]  # [n or 1, 1, y, k]
        yield _times(at.multiply(matrix, at.tangent(a, left)), scale)
    if at.moves(b):
        x = at.tangent(b, right)  # [n, k, y, j]
        row = at.value(a, left)  # [n, x, k]
        at.products += x.numel() * row.shape[1]
        yield _times(torch.einsum("nxk,nkyj->nxyj", row, x), scale)
    if node.name == "addmm" and at.moves(node.args[0]):
        yield _times(at.tangent_of_operand(node.args[0], layout), node.kwargs.get("beta", 1))


def _bmm(at: Dense, node: Node, layout: Layout) -> Tensor:
    """`[g, x, k] @ [g, k, y]`: scores, or a pattern and its values."""
    return _total(_parts_of_bmm(at, node, layout))


def _parts_of_bmm(at: Dense, node: Node, layout: Layout) -> Iterator[Tensor]:
    a, b = node.args[:2]
    inner = whole(_shape(a)[2])
    left, right = (layout[0], layout[1], inner), (layout[0], inner, layout[2])
    if at.moves(a):
        x = at.tangent(a, left)  # [n, g, x, k, j]
        yield at.multiply(at.value(b, right).mT[:, :, None], x)  # by [n or 1, g, 1, y, k]
    if at.moves(b):
        own = at.value(a, left)  # [n or 1, g, x, k]
        for factors in at.factors(b, right):
            yield _contracted(at, own, factors)


def _contracted(at: Dense, own: Tensor, factors_of_b: Sequence[Tensor]) -> Tensor:
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


def _layer_norm(at: Dense, node: Node, layout: Layout) -> Tensor:
    """The slope of n: dn = (dx - mean dx - n mean(n dx)) / s with n = (x - m) / s."""
    source, shape, weight = node.args[:3]
    if any(at.moves(arg) for arg in node.args[2:]) or len(shape) != 1:
        raise NotRowwise("a normalisation of several axes")
    check_whole(layout[-1])
    x, d = at.value(source, layout), at.tangent(source, layout)
    n = x.shape[-1]
    scale = (x.var(-1, correction=0, keepdim=True) + node.args[4]).rsqrt()
    normal = (x - x.mean(-1, keepdim=True)) * scale
    both = torch.stack([torch.ones_like(normal), normal], -1)  # [n, .., k, 2]
    along = at.multiply(both.mT / n, d)  # [n, .., 2, j]
    moved = d - both @ along
    by = scale if weight is None else scale * at.value(weight, layout[-1:]).reshape(n)
    return moved.mul_(by[..., None])


def _softmax(at: Dense, node: Node, layout: Layout) -> Tensor:
    """The slope of a softmax s: ds = s (dx - sum(s dx))."""
    axis = node.args[1] % len(layout)
    check_whole(layout[axis])
    s = at.value(node, layout)[..., None]
    d = at.tangent(node.args[0], layout) * s
    return torch.addcmul(d, s, d.sum(1 + axis, keepdim=True), value=-1)


def _sums(at: Dense, node: Node, layout: Layout) -> Tensor:
    shape = _shape(node.args[0])
    axes, keeps = node.axes(len(shape)), node.argument(2, "keepdim", False)
    left = list(layout)
    before = []
    for axis, size in enumerate(shape):
        if axis not in axes or keeps:
            own = left.pop(0)
        before.append(whole(size) if axis in axes else own)
    x = at.tangent(node.args[0], tuple(before))
    x = x.sum([1 + axis for axis in axes], keepdim=bool(keeps))
    return x / math.prod(shape[axis] for axis in axes) if node.name == "mean" else x


def item(at: Dense, node: Node, layout: Layout) -> Tensor:
    """One of several results."""
    several, index = node.args
    if several.name == "native_layer_norm":
        if index != 0:
            raise NotRowwise("a mean or scale is read")
        return _layer_norm(at, several, layout)
    if several.name == "unbind":
        return _selected(at, several.args[0], layout, several.axis(1, len(layout) + 1), index)
    if several.name not in ("split", "split_with_sizes"):
        raise NotRowwise(f"{several.name} is not taken apart by target positions")
    (source, sizes), axis = several.args[:2], several.axis(2, len(layout))
    start = index * sizes if isinstance(sizes, int) else sum(sizes[:index])
    return _part(at, source, layout, axis, start, 1, _shape(node)[axis])


def _part(
    at: Dense, source: Node, layout: Layout, axis: int, start: int, step: int, n: int
) -> Tensor:
    """A part of an axis on which rows do not differ."""
    check_whole(layout[axis])
    before = *layout[:axis], whole(_shape(source)[axis]), *layout[axis + 1 :]
    x = at.tangent(source, before)
    where = slice(start, start + step * (n - 1) + 1, step)
    return x[(slice(None),) * (1 + axis) + (where,)]


def _slice(at: Dense, node: Node, layout: Layout) -> Tensor:
    source, axis = node.args[0], node.axis(1, len(layout))
    size = _shape(source)[axis]
    if size == _shape(node)[axis]:
        return at.tangent(source, layout)
    where = slice(*(node.argument(2 + n, name) for n, name in enumerate(("start", "end", "step"))))
    start, _, step = where.indices(size)
    return _part(at, source, layout, axis, start, step, _shape(node)[axis])


def _select(at: Dense, node: Node, layout: Layout) -> Tensor:
    source, index = node.args[0], node.args[2]
    return _selected(at, source, layout, node.axis(1, len(layout) + 1), index)


def _selected(at: Dense, source: Node, layout: Layout, axis: int, index: int) -> Tensor:
    """One entry of an axis."""
    size = _shape(source)[axis]
    before = *layout[:axis], whole(size), *layout[axis:]
    return at.tangent(source, before).select(1 + axis, index % size)


def _cat(at: Dense, node: Node, layout: Layout) -> Tensor:
    axis = node.axis(1, len(layout))
    full = [arg for arg in node.args[0] if 0 not in _shape(arg)]
    if len(full) == 1:
        return at.tangent(full[0], layout)
    check_whole(layout[axis])
    parts = []
    for arg in full:
        own = *layout[:axis], whole(_shape(arg)[axis]), *layout[axis + 1 :]
        if not at.moves(arg):
            raise NotRowwise("a constant is put beside what moves")
        parts.append(at.tangent(arg, own))
    return torch.cat(parts, 1 + axis)


RULES: dict[str, _RuleOf] = {
    **dict.fromkeys(COPIES, _same),
    **dict.fromkeys(VIEWS, _view),
    "expand": _expand,
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("add", "sub"), _add),
    "mul": _mul,
    "div": _div,
    **dict.fromkeys(("mm", "addmm"), _mm),
    "bmm": _bmm,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("sum", "mean"), _sums),
    "slice": _slice,
    "select": _select,
    "cat": _cat,
}
