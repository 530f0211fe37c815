"""What a segment computes, read off its tape: affine, pointwise, or one after the other.

The closed form holds where the source reaches the target through one pointwise function at most,
with affine maps before and after it. That is decided from the operations that the segment really
executes, so it does not matter which module classes they come from.

Every operation on the tape gets one of these kinds:

- *constant*: does not depend on the source features z.
- *affine*: an affine function of z, with constant coefficients.
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

__all__ = ["Constants", "NoClosedForm", "Structure", "read_structure"]

Constants = Mapping[Node, Any]


class NoClosedForm(Exception):
    """The segment is not affine-pointwise-affine; the message says where it is not."""


# Linear in the first argument (or the list of tensors that it is), everything else constant.
_LINEAR = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select",
    "unsqueeze", "squeeze", "clone", "contiguous", "alias", "lift_fresh_copy", "neg",
    "sum", "mean", "cat", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll",
    "constant_pad_nd", "cumsum", "index_select", "gather", "index", "repeat", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "diagonal", "tril", "triu",
    "as_strided_copy", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "_to_copy",
    "unfold", "im2col", "pixel_shuffle", "channel_shuffle", "movedim", "swapaxes",
}  # fmt: skip
# Linear in each tensor argument while the others are constant; division only in the first.
_MULTILINEAR = {
    "mul", "mm", "bmm", "matmul", "dot", "convolution", "einsum",
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
        nonlinearities: the pointwise results h = phi(p) that enter the affine part after them.
        fixed_maps: whether the coefficients of the affine parts are the same for every batch.
        dependent: everything that depends on z.
    """

    tape: Tape
    root: Node | None
    nonlinearities: tuple[Node, ...]
    fixed_maps: bool
    dependent: frozenset[Node]

    def constants(self, inputs: Sequence[Tensor]) -> dict[Node, Any]:
        """Values that do not depend on z, where z meets them: computed once for every pass."""
        return self.tape.constants(self.dependent, inputs)

    def coefficients(self, constants: Constants) -> list[Tensor]:
        """Every tensor that meets z: weights, and what `constants` gave."""
        coefficients: dict[int, Tensor] = {}
        for node in self.tape.nodes:
            if node in self.dependent and node.function is not None:
                leaves = pytree.tree_leaves((node.args, node.kwargs))
                for leaf in (constants.get(x) if isinstance(x, Node) else x for x in leaves):
                    if isinstance(leaf, Tensor):
                        coefficients[id(leaf)] = leaf
        return list(coefficients.values())

    def value(self, z: Tensor, constants: Constants) -> Tensor:
        """The target features at z, `[b, s, j] -> [b, t, i]`."""
        value: Tensor = self.tape.value(self.tape.output, constants, {self.tape.arguments[0]: z})
        return value

    def preactivation(self, z: Tensor, constants: Constants) -> Tensor:
        """The pre-activation p at z, shape as recorded."""
        assert self.root is not None
        value: Tensor = self.tape.value(self.root, constants, {self.tape.arguments[0]: z})
        return value

    def nonlinearity(self, index: int, p: Tensor, constants: Constants) -> Tensor:
        """The pointwise function phi of one nonlinearity, in the dtype of p (shape as recorded)."""
        assert self.root is not None
        goal = self.nonlinearities[index]
        value: Tensor = self.tape.value(goal, constants, {self.root: p}, dtype=p.dtype)
        return value

    def slope(self, index: int, p: Tensor, constants: Constants) -> Tensor:
        """The derivative of phi of one nonlinearity at p, shape of p."""
        result: Tensor = torch.func.jvp(
            lambda p: self.nonlinearity(index, p, constants), (p,), (torch.ones_like(p),)
        )[1]
        return result

    def affine(
        self, z: Tensor, constants: Constants, lines: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> Tensor:
        """The segment with every nonlinearity replaced by the line h = h0 + slope (p - p0).

        Args:
            z: `[b, s, j]`.
            constants: from `constants`.
            lines: (h0, slope, p0) for each nonlinearity, shapes as recorded.
        """
        values: dict[Node, Any] = {self.tape.arguments[0]: z}
        if self.root is not None:
            p = values[self.root] = self.tape.value(self.root, constants, values)
            for node, (h0, slope, p0) in zip(self.nonlinearities, lines, strict=True):
                values[node] = (h0 + slope * (p - p0)).to(node.dtype)
        value: Tensor = self.tape.value(self.tape.output, constants, values)
        return value

    def after(self, nonlinearities: Sequence[Tensor], z: Tensor, constants: Constants) -> Tensor:
        """The target features when the pointwise results have these values."""
        values: dict[Node, Any] = {
            node: h.to(node.dtype)
            for node, h in zip(self.nonlinearities, nonlinearities, strict=True)
        }
        values[self.tape.arguments[0]] = z
        value: Tensor = self.tape.value(self.tape.output, constants, values)
        return value

    def skips(self) -> bool:
        """Whether z reaches the target on a path around the pointwise function, too."""
        z = self.tape.arguments[0]
        return z in _ancestors(self.tape.output, self.dependent - set(self.nonlinearities))

    def is_scalar(self, index: int, constants: Constants) -> bool:
        """Whether phi is one function of a number, the same for all elements of p."""
        assert self.root is not None
        nodes = _ancestors(self.nonlinearities[index], self.dependent - {self.root})
        for node in nodes:
            met = [
                *(constants[n] for n in node.inputs if n not in self.dependent),
                *pytree.tree_leaves((node.args, node.kwargs)),
            ]
            if any(isinstance(c, Tensor) and c.numel() > 1 for c in met):
                return False
        return True


def _ancestors(node: Node, within: frozenset[Node]) -> set[Node]:
    """The node and what it is computed from, without leaving `within`."""
    ancestors: set[Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node in within and node not in ancestors:
            ancestors.add(node)
            stack.extend(node.inputs)
    return ancestors


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
        self.varying: set[Node] = set()  # constant, but not the same for every batch

    def read(self) -> Structure:
        tape = self.tape
        z, *inputs = tape.arguments
        self.kinds[z] = _Kind("affine", frozenset({z}))
        self.varying.update(inputs)
        if tape.source_decides:
            raise NoClosedForm("values decide which operations it executes")
        needed = _ancestors(tape.output, frozenset(tape.nodes))
        fixed_maps = True
        for node in tape.nodes:
            if node not in needed or node.function is None:
                continue
            dependent = [n for n in node.inputs if n in self.kinds]
            batchwise = any(n in self.varying for n in node.inputs)
            if not dependent:
                if batchwise:
                    self.varying.add(node)
                continue
            fixed_maps &= not batchwise
            self.kinds[node] = self._kind(node, dependent)
        if tape.output not in self.kinds:
            raise NoClosedForm("the target does not depend on the source")
        nonlinearities = self._bends()
        return Structure(
            tape, self._root(nonlinearities), nonlinearities, fixed_maps, frozenset(self.kinds)
        )

    def _kind(self, node: Node, dependent: list[Node]) -> _Kind:
        if node.name == "detach":
            raise NoClosedForm("a part of it is detached")
        if node.dtype is not None and node.dtype.is_complex:
            raise NoClosedForm("it has complex values")
        kinds = [self.kinds[n] for n in dependent]
        elementwise = self._is_elementwise(node, dependent)
        roots = frozenset.intersection(*(k.roots for k in kinds)) if elementwise else frozenset()
        curved = any(k.name != "affine" for k in kinds)
        linear = self._is_linear(node, dependent)
        if linear and not curved:
            return _Kind("affine", roots | {node})
        if elementwise and roots and all(k.name != "mixed" for k in kinds):
            return _Kind("pointwise", roots)
        if linear:
            return _Kind("mixed")
        if not curved and not elementwise:
            raise NoClosedForm(f"{node.name} is neither affine nor pointwise")
        raise NoClosedForm(f"{node.name} combines different functions of the source nonlinearly")

    def _is_elementwise(self, node: Node, dependent: list[Node]) -> bool:
        tagged = torch.Tag.pointwise in getattr(node.function, "tags", ())
        return (tagged or node.name in _ELEMENTWISE) and all(
            n.shape == node.shape for n in dependent
        )

    def _is_linear(self, node: Node, dependent: list[Node]) -> bool:
        """Affine in everything that depends on z, while the rest is constant."""
        name = node.name
        first = _nodes(node.args[:1])
        rest = [*_nodes(node.args[1:]), *_nodes(node.kwargs)]
        only_first = not set(rest) & set(dependent)
        if node.function is operator.getitem or name in _SUM:
            return True
        if name in _LINEAR:
            return only_first and node.differentiable
        if name in _MULTILINEAR:
            return sum(n in self.kinds for n in [*first, *rest]) == 1
        if name == "div":
            return only_first and len(node.args) == 2 and not node.kwargs
        if name in ("addmm", "addbmm"):
            return not (_depends(node.args[1], self.kinds) and _depends(node.args[2], self.kinds))
        if name == "masked_fill":
            return only_first
        if name == "where":
            return not _depends(node.args[0], self.kinds)
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

    def _root(self, nonlinearities: tuple[Node, ...]) -> Node | None:
        if not nonlinearities:
            return None
        common = frozenset.intersection(*(self.kinds[node].roots for node in nonlinearities))
        if not common:
            raise NoClosedForm("several pointwise functions act on different pre-activations")
        order = {node: index for index, node in enumerate(self.tape.nodes)}
        return max(common, key=order.__getitem__)


def _nodes(args: Any) -> list[Node]:
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Node)]


def _depends(arg: Any, kinds: Mapping[Node, _Kind]) -> bool:
    return isinstance(arg, Node) and arg in kinds
