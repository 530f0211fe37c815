"""What a segment computes, read off its traced graph: affine, pointwise, or one after the other.

The closed form holds where the source reaches the target through one pointwise function at most,
with affine maps before and after it. That is decided from the operations that the segment really
executes, so it does not matter which module classes they come from.

Every node of the traced graph gets one of these kinds:

- *held*: does not depend on the source features z.
- *affine*: an affine function of z, with coefficients that are held.
- *pointwise* of some affine nodes, its *roots*: an elementwise function of any one of them.
- *mixed*: an affine function of pointwise nodes and of z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ..errors import InteractGraphError

__all__ = ["NoClosedForm", "Structure", "read_structure"]


class NoClosedForm(Exception):
    """The segment is not affine-pointwise-affine; the message says where it is not."""


# Linear in the first argument (or the list of tensors that it is), everything else held.
_LINEAR = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "neg", "sum", "mean", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll", "constant_pad_nd", "cumsum", "index_select", "gather", "index", "repeat", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "diagonal", "tril", "triu", "as_strided_copy", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "_to_copy", "unfold", "im2col", "pixel_shuffle", "channel_shuffle", "movedim", "swapaxes"}  # fmt: skip
# Linear in each tensor argument while the others are held; division only in the first.
_MULTILINEAR = {"mul", "mm", "bmm", "matmul", "mv", "dot", "convolution", "einsum"}  # fmt: skip
# Affine in several arguments at once.
_SUM = {"add", "sub", "rsub"}


@dataclass(frozen=True, eq=False)
class _Kind:
    name: str  # "affine", "pointwise", "mixed"
    roots: frozenset[fx.Node] = frozenset()


@dataclass(eq=False)
class Structure:
    """A traced segment `[b, s, j] -> [b, t, i]` that is affine-pointwise-affine.

    Attributes:
        graph: the traced computation; placeholders are z and then the tensors of the batch.
        root: the node of the pre-activation p; None if the segment is affine.
        bends: the pointwise nodes h = phi(p) that enter the affine part after them.
        held_maps: whether the coefficients of the affine parts are the same for every batch.
    """

    graph: fx.GraphModule
    root: fx.Node | None
    bends: tuple[fx.Node, ...]
    held_maps: bool
    _moving: frozenset[fx.Node] = field(repr=False, default_factory=frozenset)

    def prepare(self, inputs: Sequence[Tensor], z: Tensor) -> dict[fx.Node, Any]:
        """Values of everything that is held on a batch: computed once, reused by every pass."""
        runner = _Replay(self.graph, keep=lambda node: node not in self._moving)
        runner.run(z, *inputs)
        return runner.kept

    def preactivation(self, z: Tensor, held: dict[fx.Node, Any]) -> Tensor:
        """P at z."""
        assert self.root is not None
        return _Replay(self.graph, stop=self.root).value(z, held)

    def bend(self, index: int, p: Tensor, held: dict[fx.Node, Any]) -> Tensor:
        """The pointwise function phi of one bend at pre-activation p (shape as traced)."""
        assert self.root is not None
        return _Replay(self.graph, stop=self.bends[index], given={self.root: p}).value(None, held)

    def skips(self) -> bool:
        """Whether z reaches the target on a path around the pointwise function, too."""
        seen, stack = set(), [_output(self.graph)]
        while stack:
            node = stack.pop()
            if node in seen or node in self.bends or node not in self._moving:
                continue
            if node.op == "placeholder":
                return True
            seen.add(node)
            stack.extend(node.all_input_nodes)
        return False

    def is_scalar_bend(self, index: int, held: dict[fx.Node, Any]) -> bool:
        """Whether phi is one function of a number, the same for all elements of p."""
        assert self.root is not None
        seen, stack = set(), [self.bends[index]]
        while stack:
            node = stack.pop()
            if node is self.root or node in seen:
                continue
            seen.add(node)
            if node not in self._moving:
                value = held.get(node)
                if isinstance(value, Tensor) and value.numel() > 1:
                    return False
                continue
            stack.extend(node.all_input_nodes)
        return True

    def affine(
        self, z: Tensor, held: dict[fx.Node, Any], lines: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> Tensor:
        """The segment with every bend replaced by the line h = h0 + slope (p - p0).

        Args:
            z: `[b, s, j]`.
            held: from `prepare`.
            lines: (h0, slope, p0) for each bend, shapes as traced.
        """
        bends = dict(zip(self.bends, lines, strict=True))
        return _Replay(self.graph, bends=bends, root=self.root).value(z, held)

    def after(self, bends: Sequence[Tensor], z: Tensor, held: dict[fx.Node, Any]) -> Tensor:
        """The target features when the pointwise nodes have these values."""
        given = dict(zip(self.bends, bends, strict=True))
        return _Replay(self.graph, given=given).value(z, held)


class _Replay(fx.Interpreter):
    """Runs the traced graph with some values given, up to a node."""

    def __init__(
        self,
        graph: fx.GraphModule,
        *,
        stop: fx.Node | None = None,
        given: dict[fx.Node, Any] | None = None,
        keep: Callable[[fx.Node], bool] | None = None,
        bends: dict[fx.Node, tuple[Tensor, Tensor, Tensor]] | None = None,
        root: fx.Node | None = None,
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.goal = stop or _output(graph)
        self.given = given or {}
        self.keep = keep
        self.kept: dict[fx.Node, Any] = {}
        self.lines = bends or {}
        self.root = root

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self.keep is not None and n.op != "output" and self.keep(n):
            self.kept[n] = value
        return value

    def value(self, z: Tensor | None, held: dict[fx.Node, Any]) -> Any:
        """Evaluates the goal: only what it needs and what is not held or given."""
        env: dict[fx.Node, Any] = dict(self.given)
        goal = self.goal
        stack = [goal]
        while stack:
            node = stack[-1]
            if node in env or node in held:
                stack.pop()
                continue
            if node in self.lines:
                assert self.root is not None
                needed = [self.root]
            else:
                needed = node.all_input_nodes
            missing = [m for m in needed if m not in env and m not in held]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if node.op == "placeholder":
                env[node] = z
            elif node in self.lines:
                h0, slope, p0 = self.lines[node]
                env[node] = h0 + slope * (env[self.root] - p0)
            else:

                def look_up(m: fx.Node) -> Any:
                    return env[m] if m in env else held[m]

                args = fx.map_arg(node.args, look_up)
                kwargs = fx.map_arg(node.kwargs, look_up)
                env[node] = getattr(self, node.op)(node.target, args, kwargs)
        return env[goal] if goal in env else held[goal]


def read_structure(
    function: Callable[..., Tensor], z: Tensor, inputs: Sequence[Tensor]
) -> Structure:
    """Traces `function(z, *inputs)` and finds its affine and pointwise parts.

    Args:
        function: the segment in feature coordinates, with the tensors of the batch as arguments.
        z: source features, `[b, s, j]`.
        inputs: the tensors of the batch.

    Raises:
        NoClosedForm: the segment is something else; the message says which operation is in the way.
    """
    traced = _trace(function, z, inputs)
    if any(_is_mutating(node) for node in traced.graph.nodes):
        traced = _trace(torch.func.functionalize(function), z, inputs)
        if any(_is_mutating(node) for node in traced.graph.nodes):
            raise NoClosedForm("the segment changes tensors in place")
    traced.graph.eliminate_dead_code()
    return _Reader(traced).read()


def _trace(function: Callable[..., Tensor], z: Tensor, inputs: Sequence[Tensor]) -> fx.GraphModule:
    try:
        return make_fx(function, tracing_mode="real", _allow_non_fake_inputs=True)(z, *inputs)
    except InteractGraphError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NoClosedForm(f"the segment cannot be traced ({reason})") from error


class _Reader:
    """Assigns a kind to every node of a traced graph that depends on z."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.kinds: dict[fx.Node, _Kind] = {}
        self.varying: set[fx.Node] = set()  # held, but not the same for every batch

    def read(self) -> Structure:
        nodes = list(self.traced.graph.nodes)
        z, *inputs = [node for node in nodes if node.op == "placeholder"]
        self.kinds[z] = _Kind("affine", frozenset({z}))
        self.varying.update(inputs)
        held_maps = True
        output = None
        for node in nodes:
            if node.op == "output":
                output = node.args[0]
            if node.op != "call_function":
                continue
            moving = [n for n in node.all_input_nodes if n in self.kinds]
            batchwise = any(n in self.varying for n in node.all_input_nodes)
            if not moving:
                if batchwise:
                    self.varying.add(node)
                continue
            held_maps &= not batchwise
            self.kinds[node] = self._kind(node, moving)
        if not isinstance(output, fx.Node):
            raise NoClosedForm("the segment does not return one tensor")
        if output not in self.kinds:
            raise NoClosedForm("the target does not depend on the source")
        bends = self._bends(output)
        root = self._root(bends)
        return Structure(self.traced, root, bends, held_maps, frozenset(self.kinds))

    def _kind(self, node: fx.Node, moving: list[fx.Node]) -> _Kind:
        operation = _name(node)
        kinds = [self.kinds[n] for n in moving]
        first = _tensors(node.args[:1])
        elementwise = self._is_elementwise(node, moving)
        roots = frozenset.intersection(*(k.roots for k in kinds)) if elementwise else frozenset()

        curved = any(k.name != "affine" for k in kinds)
        linear = (
            (operation in _LINEAR and set(moving) <= set(first) and _is_real(node))
            or (operation in _MULTILINEAR and len(moving) == 1 and self._once(node, moving[0]))
            or (operation == "div" and len(node.args) == 2 and self._only_first(node, moving))
            or (operation in _SUM)
            or (operation in ("addmm", "baddbmm", "addbmm") and self._one_factor(node))
            or (operation == "masked_fill" and self._only_first(node, moving))
            or (operation == "where" and node.args[0] not in self.kinds)
            or _is_getitem(node)
            or self._is_batch_norm(node, operation, moving)
        )
        if linear and not curved:
            return _Kind("affine", roots | {node})
        if elementwise and roots and all(k.name != "mixed" for k in kinds):
            return _Kind("pointwise", roots)
        if linear:
            return _Kind("mixed")
        if not curved and not elementwise:
            raise NoClosedForm(f"{_name(node)} is neither affine nor pointwise")
        raise NoClosedForm(f"{_name(node)} combines different functions of the source nonlinearly")

    def _is_elementwise(self, node: fx.Node, moving: list[fx.Node]) -> bool:
        tags = getattr(node.target, "tags", ())
        pointwise = torch.Tag.pointwise in tags or _name(node) in (
            "clone", "detach", "alias", "_to_copy", "prelu", "_prelu_kernel", "masked_fill", "where", "lift_fresh_copy", "hardtanh", "celu",
        )  # fmt: skip
        return pointwise and all(_shape(n) == _shape(node) for n in moving)

    def _bends(self, output: fx.Node) -> tuple[fx.Node, ...]:
        """Pointwise nodes that something other than a pointwise node reads."""
        needed, stack = set(), [output]
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed.add(node)
            stack.extend(n for n in node.all_input_nodes if n in self.kinds)
        return tuple(
            node
            for node, kind in self.kinds.items()
            if node in needed
            and kind.name == "pointwise"
            and (
                node is output
                or any(
                    user in needed and self.kinds[user].name != "pointwise" for user in node.users
                )
            )
        )

    def _root(self, bends: tuple[fx.Node, ...]) -> fx.Node | None:
        if not bends:
            return None
        common = frozenset.intersection(*(self.kinds[node].roots for node in bends))
        if not common:
            raise NoClosedForm("several pointwise functions act on different pre-activations")
        order = {node: index for index, node in enumerate(self.traced.graph.nodes)}
        return max(common, key=order.__getitem__)

    # --- questions about single operations -------------------------------------------------------

    def _once(self, node: fx.Node, moving: fx.Node) -> bool:
        return sum(n is moving for n in _tensors(node.args)) == 1

    def _only_first(self, node: fx.Node, moving: list[fx.Node]) -> bool:
        rest = {*_tensors(node.args[1:]), *_tensors(node.kwargs.values())}
        return not rest & set(moving)

    def _one_factor(self, node: fx.Node) -> bool:
        """addmm(bias, a, b): affine unless both factors depend on z."""
        return not (node.args[1] in self.kinds and node.args[2] in self.kinds)

    def _is_batch_norm(self, node: fx.Node, operation: str, moving: list[fx.Node]) -> bool:
        if operation in ("native_batch_norm", "cudnn_batch_norm"):
            return node.args[5] is False and self._only_first(node, moving)
        if operation in ("_native_batch_norm_legit_no_training", "_batch_norm_no_update"):
            return self._only_first(node, moving)
        return False


def _output(graph: fx.GraphModule) -> fx.Node:
    node = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    assert isinstance(node, fx.Node)
    return node


def _tensors(args: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(tuple(args), found.append)
    return found


def _is_mutating(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _shape(node: fx.Node) -> Any:
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    return getattr(value, "shape", None)


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or value.is_floating_point()


def _is_getitem(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")
