"""What a segment computes, read off its tape: affine, pointwise, or one after the other.

The closed form holds where the source reaches the target through one pointwise function at most,
with affine maps before and after it. That is decided from the operations that the segment really
executes, so it does not matter which module classes they come from.

Every operation on the tape gets one of these kinds:

- *held*: does not depend on the source features z.
- *affine*: an affine function of z, with coefficients that are held.
- *pointwise* of some affine operations, its *roots*: an elementwise function of any one of them.
- *mixed*: an affine function of pointwise operations and of z.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .tape import Node, Tape

__all__ = ["Held", "NoClosedForm", "Structure", "read_structure"]

Held = Mapping[Node, Any]


class NoClosedForm(Exception):
    """The segment is not affine-pointwise-affine; the message says where it is not."""


# Linear in the first argument (or the list of tensors that it is), everything else held.
_LINEAR = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select",
    "unsqueeze", "squeeze", "clone", "contiguous", "alias", "lift_fresh_copy", "neg",
    "sum", "mean", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll",
    "constant_pad_nd", "cumsum", "index_select", "gather", "index", "repeat", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "diagonal", "tril", "triu",
    "as_strided_copy", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "_to_copy",
    "unfold", "im2col", "pixel_shuffle", "channel_shuffle", "movedim", "swapaxes",
}  # fmt: skip
# Linear in each tensor argument while the others are held; division only in the first.
_MULTILINEAR = {
    "mul", "mm", "bmm", "matmul", "mv", "dot", "convolution", "einsum",
}  # fmt: skip
# Affine in several arguments at once.
_SUM = {"add", "sub", "rsub", "slice_scatter", "select_scatter"}


_ELEMENTWISE = {
    "clone", "alias", "_to_copy", "prelu", "_prelu_kernel", "masked_fill", "where",
    "lift_fresh_copy", "hardtanh", "celu", "copy",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Kind:
    name: str  # "affine", "pointwise", "mixed"
    roots: frozenset[Node] = frozenset()


@dataclass(frozen=True, eq=False)
class Structure:
    """A recorded segment `[b, s, j] -> [b, t, i]` that is affine-pointwise-affine.

    Attributes:
        tape: the computation; arguments are z and then the tensors of the batch.
        root: the pre-activation p; None if the segment is affine.
        bends: the pointwise results h = phi(p) that enter the affine part after them.
        held_maps: whether the coefficients of the affine parts are the same for every batch.
        moving: everything that depends on z.
    """

    tape: Tape
    root: Node | None
    bends: tuple[Node, ...]
    held_maps: bool
    moving: frozenset[Node]

    def prepare(self, inputs: Sequence[Tensor]) -> dict[Node, Any]:
        """What is held on a batch, as far as z meets it: computed once, reused by every pass."""
        return self.tape.hold(self.moving, inputs)

    def constants(self, held: Held) -> list[Tensor]:
        """Every tensor that meets z: weights, and what `prepare` gave."""
        found: dict[int, Tensor] = {}
        for node in self.tape.nodes:
            if node in self.moving and node.function is not None:
                leaves = pytree.tree_leaves((node.args, node.kwargs))
                for leaf in (held.get(x) if isinstance(x, Node) else x for x in leaves):
                    if isinstance(leaf, Tensor):
                        found[id(leaf)] = leaf
        return list(found.values())

    def preactivation(self, z: Tensor, held: Held) -> Tensor:
        """The pre-activation p at z, shape as recorded."""
        assert self.root is not None
        value: Tensor = self.tape.value(self.root, held, {self.tape.arguments[0]: z})
        return value

    def bend(self, index: int, p: Tensor, held: Held) -> Tensor:
        """The pointwise function phi of one bend, in the dtype of p (shape as recorded)."""
        assert self.root is not None
        goal = self.bends[index]
        value: Tensor = self.tape.value(goal, held, {self.root: p}, dtype=p.dtype)
        return value

    def slope(self, index: int, p: Tensor, held: Held) -> Tensor:
        """The derivative of phi of one bend at p, shape of p."""
        result: Tensor = torch.func.jvp(
            lambda p: self.bend(index, p, held), (p,), (torch.ones_like(p),)
        )[1]
        return result

    def affine(
        self, z: Tensor, held: Held, lines: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> Tensor:
        """The segment with every bend replaced by the line h = h0 + slope (p - p0).

        Args:
            z: `[b, s, j]`.
            held: from `prepare`.
            lines: (h0, slope, p0) for each bend, shapes as recorded.
        """
        values: dict[Node, Any] = {self.tape.arguments[0]: z}
        if self.root is not None:
            p = values[self.root] = self.tape.value(self.root, held, values)
            for node, (h0, slope, p0) in zip(self.bends, lines, strict=True):
                values[node] = (h0 + slope * (p - p0)).to(node.dtype)
        value: Tensor = self.tape.value(self.tape.output, held, values)
        return value

    def after(self, bends: Sequence[Tensor], z: Tensor, held: Held) -> Tensor:
        """The target features when the pointwise results have these values."""
        values: dict[Node, Any] = {
            node: h.to(node.dtype) for node, h in zip(self.bends, bends, strict=True)
        }
        values[self.tape.arguments[0]] = z
        value: Tensor = self.tape.value(self.tape.output, held, values)
        return value

    def skips(self) -> bool:
        """Whether z reaches the target on a path around the pointwise function, too."""
        z = self.tape.arguments[0]
        return z in _ancestors(self.tape.output, self.moving - set(self.bends))

    def is_scalar_bend(self, index: int, held: Held) -> bool:
        """Whether phi is one function of a number, the same for all elements of p."""
        assert self.root is not None
        nodes = _ancestors(self.bends[index], self.moving - {self.root})
        for node in nodes:
            constants = [
                *(held[n] for n in node.inputs if n not in self.moving),
                *pytree.tree_leaves((node.args, node.kwargs)),
            ]
            if any(isinstance(c, Tensor) and c.numel() > 1 for c in constants):
                return False
        return True


def _ancestors(node: Node, within: frozenset[Node]) -> set[Node]:
    """The node and what it is computed from, without leaving `within`."""
    found: set[Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node in within and node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


def read_structure(tape: Tape) -> Structure:
    """Finds the affine and pointwise parts of a recorded segment.

    Args:
        tape: with the source features and the tensors of the batch as arguments.

    Raises:
        NoClosedForm: the segment is something else; the message says which operation is in the way.
    """
    return _Reader(tape).read()


class _Reader:
    """Assigns a kind to everything on a tape that depends on z and that the output needs."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.kinds: dict[Node, _Kind] = {}
        self.varying: set[Node] = set()  # held, but not the same for every batch

    def read(self) -> Structure:
        tape = self.tape
        z, *inputs = tape.arguments
        self.kinds[z] = _Kind("affine", frozenset({z}))
        self.varying.update(inputs)
        if tape.bends_path:
            raise NoClosedForm("values decide which operations it executes")
        needed = _ancestors(tape.output, frozenset(tape.nodes))
        held_maps = True
        for node in tape.nodes:
            if node not in needed or node.function is None:
                continue
            moving = [n for n in node.inputs if n in self.kinds]
            batchwise = any(n in self.varying for n in node.inputs)
            if not moving:
                if batchwise:
                    self.varying.add(node)
                continue
            held_maps &= not batchwise
            self.kinds[node] = self._kind(node, moving)
        if tape.output not in self.kinds:
            raise NoClosedForm("the target does not depend on the source")
        bends = self._bends()
        return Structure(tape, self._root(bends), bends, held_maps, frozenset(self.kinds))

    def _kind(self, node: Node, moving: list[Node]) -> _Kind:
        if node.name == "detach":
            raise NoClosedForm("a part of it is detached")
        if node.dtype is not None and node.dtype.is_complex:
            raise NoClosedForm("it has complex values")
        kinds = [self.kinds[n] for n in moving]
        elementwise = self._is_elementwise(node, moving)
        roots = frozenset.intersection(*(k.roots for k in kinds)) if elementwise else frozenset()
        curved = any(k.name != "affine" for k in kinds)
        linear = self._is_linear(node, moving)
        if linear and not curved:
            return _Kind("affine", roots | {node})
        if elementwise and roots and all(k.name != "mixed" for k in kinds):
            return _Kind("pointwise", roots)
        if linear:
            return _Kind("mixed")
        if not curved and not elementwise:
            raise NoClosedForm(f"{node.name} is neither affine nor pointwise")
        raise NoClosedForm(f"{node.name} combines different functions of the source nonlinearly")

    def _is_elementwise(self, node: Node, moving: list[Node]) -> bool:
        tagged = torch.Tag.pointwise in getattr(node.function, "tags", ())
        return (tagged or node.name in _ELEMENTWISE) and all(n.shape == node.shape for n in moving)

    def _is_linear(self, node: Node, moving: list[Node]) -> bool:
        """Affine in everything that moves, while the rest is held."""
        name = node.name
        first = _nodes(node.args[:1])
        rest = [*_nodes(node.args[1:]), *_nodes(node.kwargs)]
        only_first = not set(rest) & set(moving)
        if node.function is operator.getitem or name in _SUM:
            return True
        if name in _LINEAR:
            return only_first and node.differentiable
        if name in _MULTILINEAR:
            return sum(n in self.kinds for n in [*first, *rest]) == 1
        if name == "div":
            return only_first and len(node.args) == 2 and not node.kwargs
        if name in ("addmm", "baddbmm", "addbmm"):
            return not (_moves(node.args[1], self.kinds) and _moves(node.args[2], self.kinds))
        if name == "masked_fill":
            return only_first
        if name == "where":
            return not _moves(node.args[0], self.kinds)
        if name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"):
            return only_first and node.args[5] is False
        return name in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update") and (
            only_first
        )

    def _bends(self) -> tuple[Node, ...]:
        """Pointwise results that something other than a pointwise operation reads."""
        curved = {node for node, kind in self.kinds.items() if kind.name == "pointwise"}
        read = {self.tape.output}
        for node in self.kinds:
            if node not in curved:
                read.update(node.inputs)
        return tuple(node for node in self.kinds if node in curved and node in read)

    def _root(self, bends: tuple[Node, ...]) -> Node | None:
        if not bends:
            return None
        common = frozenset.intersection(*(self.kinds[node].roots for node in bends))
        if not common:
            raise NoClosedForm("several pointwise functions act on different pre-activations")
        order = {node: index for index, node in enumerate(self.tape.nodes)}
        return max(common, key=order.__getitem__)


def _nodes(args: Any) -> list[Node]:
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Node)]


def _moves(arg: Any, kinds: Mapping[Node, _Kind]) -> bool:
    return isinstance(arg, Node) and arg in kinds
