"""A tape of the tensor operations that a function executes, and its replay.

Recorded below autograd, so that module classes, hooks and composite functions have dissolved into
a few hundred kinds of basic operations. What Python decided on the way (branches, shapes) is fixed
on the tape: it describes the batch that it was recorded on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import InteractGraphError, first_line

__all__ = [
    "COPIES", "VIEWS", "NoTape", "Node", "Tape", "fill", "form_of", "record", "tensors_of",
]  # fmt: skip

# Operations that give the same numbers: as they are, and in another shape.
COPIES = ("clone", "contiguous", "alias", "_to_copy", "lift_fresh_copy")
VIEWS = ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze")


# Of operations whose values Python reads, or that decide about the shape of their result.
_DECIDING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_DECIDED_BY_SECOND = {"index", "index_put", "masked_select", "_pack_padded_sequence"}


@dataclass(eq=False, repr=False)
class Node:
    """One operation, or one argument of the recorded function.

    Attributes:
        function: what is called; None for an argument.
        args: its arguments; a `Node` stands for the value of another operation.
        kwargs: its keyword arguments.
        shape: of the result, None if that is no tensor.
        dtype: of the result, None if that is no tensor.
        inputs: nodes among the arguments.
    """

    function: Callable[..., Any] | None
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: torch.Size | None = None
    dtype: torch.dtype | None = None
    inputs: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """Name of the operation without overload, such as "addmm"."""
        packet = getattr(self.function, "overloadpacket", self.function)
        return str(getattr(packet, "__name__", packet)).removeprefix("aten.")

    @property
    def differentiable(self) -> bool:
        """Whether the result can have a derivative: real or complex numbers, and not detached."""
        numbers = self.dtype is None or self.dtype.is_floating_point or self.dtype.is_complex
        return numbers and self.name != "detach"

    @property
    def decides(self) -> bool:
        """Whether Python, or the shape of the result, depends on values that it is given."""
        if self.name in ("index", "index_put"):  # by masks
            return any(
                isinstance(index, (Node, Tensor)) and index.dtype in (torch.bool, torch.uint8)
                for index in self.args[1] or ()
            )
        tags = getattr(self.function, "tags", ())
        return not _DECIDING.isdisjoint(tags) or self.name == "_pack_padded_sequence"

    @property
    def deciders(self) -> tuple[Node, ...]:
        """The inputs whose values decide, where any do."""
        if not self.decides:
            return ()
        if self.name in _DECIDED_BY_SECOND:
            leaves = pytree.tree_leaves(self.args[1])
            return tuple(leaf for leaf in leaves if isinstance(leaf, Node))
        return self.inputs

    def on(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation gives for these arguments."""
        if self.function is None:
            raise ValueError("an argument of the tape is no operation")
        return self.function(*args, **kwargs)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def axis(self, place: int, n_axes: int) -> int:
        """The argument "dim", counted from the first of so many axes."""
        axis: int = self.argument(place, "dim", 0) % n_axes
        return axis

    def axes(self, n_axes: int) -> list[int]:
        """The axes that a sum or mean goes along."""
        axes = self.argument(1, "dim")
        axes = range(n_axes) if axes is None or axes == [] else axes
        return sorted({axis % n_axes for axis in ([axes] if isinstance(axes, int) else axes)})

    def order(self, n_axes: int) -> list[int]:
        """Which axis goes where, of "permute", "transpose" and "t"."""
        if self.name == "permute":
            return [axis % n_axes for axis in self.args[1]]
        order = list(range(n_axes))
        if n_axes > 1:
            a, b = (0, 1) if self.name == "t" else (axis % n_axes for axis in self.args[1:3])
            order[a], order[b] = order[b], order[a]
        return order

    def fill(self, values: Mapping[Node, Any]) -> tuple[Any, Any]:
        """Arguments and keyword arguments with the values of nodes in place of these."""
        return fill(self.args, values), fill(self.kwargs, values)


def fill(args: Any, values: Mapping[Node, Any]) -> Any:
    """Arguments of an operation with the values of nodes in place of these."""
    if isinstance(args, Node):
        return values[args]
    if isinstance(args, (tuple, list)):
        return type(args)(fill(arg, values) for arg in args)
    if isinstance(args, dict):
        return {name: fill(arg, values) for name, arg in args.items()}
    return args


@dataclass(frozen=True, eq=False)
class Tape:
    """Operations in order of execution, arguments first.

    Attributes:
        nodes: all of them.
        arguments: those of the function.
        output: the node of its result.
    """

    nodes: tuple[Node, ...]
    arguments: tuple[Node, ...]
    output: Node

    def value(
        self,
        goal: Node,
        known: Mapping[Node, Any],
        *more: Mapping[Node, Any],
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Evaluates one node: only what it needs and what is not known.

        Args:
            goal: the node.
            known: values of nodes.
            *more: further values of nodes.
            dtype: what every real argument is cast to; None: left as it is.
        """
        env: dict[Node, Any] = {}
        tables = (env, known, *more)

        def look_up(leaf: Node | Tensor) -> Any:
            if isinstance(leaf, Node):
                leaf = next(table[leaf] for table in tables if leaf in table)
            if dtype is not None and isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaf = leaf.to(dtype)
            return leaf

        for node in self.needed(goal, tables):
            args, kwargs = pytree.tree_map_only((Node, Tensor), look_up, (node.args, node.kwargs))
            if dtype is not None and node.name == "_to_copy" and node.differentiable:
                # A cast would round what is evaluated in another dtype.
                env[node] = args[0] if args[0].is_floating_point() else args[0].to(dtype)
            else:
                env[node] = node.on(*args, **kwargs)
        return look_up(goal)

    @cached_property
    def decides(self) -> bool:
        """Whether values of the batch decided what was recorded: it describes this batch only."""
        return any(node.decides for node in self.nodes)

    @cached_property
    def source_decides(self) -> bool:
        """Whether the first argument decided what was recorded: it describes this point only."""
        dependent = self.depending(self.arguments[0])
        return any(not dependent.isdisjoint(node.deciders) for node in self.nodes)

    def depending(self, source: Node) -> frozenset[Node]:
        """What is computed from a node, and the node itself."""
        dependent = {source}
        for node in self.nodes:
            if not dependent.isdisjoint(node.inputs):
                dependent.add(node)
        return frozenset(dependent)

    def constants(self, dependent: frozenset[Node], inputs: Sequence[Tensor]) -> dict[Node, Any]:
        """Values that do not depend on the first argument, where dependent nodes meet them.

        Args:
            dependent: what depends on the first argument.
            inputs: values of the other arguments.
        """
        known: dict[Node, Any] = dict(zip(self.arguments[1:], inputs, strict=True))
        met = {source for node in self.nodes if node in dependent for source in node.inputs}
        wanted = [node for node in self.nodes if node in met and node not in dependent]
        # What several of them need is computed once, and kept until the last one has it.
        every = self._needed([node for node in wanted if node not in known], [known])
        last = {source: node for node in every for source in node.inputs}
        values = dict(known)
        for node in every:
            args, kwargs = node.fill(values)
            values[node] = node.on(*args, **kwargs)
            for source in node.inputs:
                if last[source] is node and source not in met:
                    values.pop(source, None)
        return known | {node: values[node] for node in wanted}

    def needed(self, goal: Node, tables: Sequence[Mapping[Node, Any]]) -> list[Node]:
        """What must be computed for a node where the tables' nodes are known, in order."""
        return self._needed([goal], tables)

    def _needed(self, goals: Sequence[Node], tables: Sequence[Mapping[Node, Any]]) -> list[Node]:
        nodes: set[Node] = set()
        stack = list(goals)
        while stack:
            node = stack.pop()
            if node in nodes or any(node in table for table in tables):
                continue
            nodes.add(node)
            stack.extend(node.inputs)
        return [node for node in self.nodes if node in nodes]


class _Recorder(TorchDispatchMode):
    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.alive: list[Tensor] = []  # a dead tensor's identity could be given to another one
        self.sharing: dict[int, set[int]] = {}  # storage -> tensors in it
        self.of: dict[int, Node] = {}
        self.arguments = tuple(self._new(Node(None), tensor) for tensor in arguments)

    def _new(self, node: Node, tensor: Tensor) -> Node:
        node.shape, node.dtype = tensor.shape, tensor.dtype
        self.of[id(tensor)] = node
        self.alive.append(tensor)
        self._shares(tensor)
        return node

    def _shares(self, tensor: Tensor) -> bool:
        """Whether other tensors have been seen in the same storage; from now on, this one too."""
        others = self.sharing.setdefault(tensor.untyped_storage()._cdata, set())
        others.add(id(tensor))
        return len(others) > 1

    def _refuse_shared(self, func: Any, args: tuple, kwargs: dict) -> None:
        """Raises if an operation changes a tensor that other tensors are views of."""
        schema = getattr(func, "_schema", None)
        if schema is None or not schema.is_mutable:
            return
        for place, argument in enumerate(schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            for tensor in pytree.tree_leaves(value):
                if isinstance(tensor, Tensor) and (self._shares(tensor) or _is_part(tensor)):
                    raise _SharedStorage("a tensor is changed in place that others are views of")

    def _written_out(self, func: Any, args: tuple) -> Callable[..., Tensor] | None:
        """The same operation by others that are recorded in its place."""
        if func is torch.ops.aten.index.Tensor:
            chosen = [index for index in args[1] if index is not None]
            few = len(chosen) == 1 and chosen[0].ndim == 1 and len(chosen[0]) <= _FEW
            if few and chosen[0].dtype == torch.long and self._is_constant(chosen[0]):
                return _index_of_few
        return _WRITTEN_OUT.get(func)

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is the same whatever the arguments are."""
        seen: set[Node] = set()
        left = [self.of[id(tensor)]] if id(tensor) in self.of else []
        while left:
            node = left.pop()
            if node in self.arguments:
                return False
            left.extend(each for each in node.inputs if each not in seen)
            seen.update(node.inputs)
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written_out = self._written_out(func, args)
        if written_out is not None:
            with self:
                return written_out(*args, **kwargs)
        self._refuse_shared(func, args, kwargs)
        out = func(*args, **kwargs)
        inputs: list[Node] = []

        def to_node(tensor: Tensor) -> Any:
            node = self.of.get(id(tensor))
            if node is None:
                self.alive.append(tensor)
                self._shares(tensor)
                return tensor
            inputs.append(node)
            return node

        taken, named = pytree.tree_map_only(Tensor, to_node, (args, kwargs))
        node = Node(_replayable(func), taken, named, inputs=tuple(dict.fromkeys(inputs)))
        self.nodes.append(node)
        if isinstance(out, Tensor):
            # An operation in place gives its argument a new meaning from here on.
            self._new(node, out)
        elif isinstance(out, (tuple, list)):
            for index, part in enumerate(out):
                if isinstance(part, Tensor):
                    item = Node(operator.getitem, (node, index), inputs=(node,))
                    self.nodes.append(self._new(item, part))
        return out


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


def _mv(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.mm(matrix, vector[:, None])[:, 0]


def _baddbmm(added: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.bmm(a, b)
    product = product if alpha == 1 else product * alpha
    if beta == 0:  # what is not finite counts for nothing then
        return product
    return (added if beta == 1 else added * beta) + product


def _index_of_few(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """By a constant list of numbers along one axis."""
    ((axis, index),) = ((k, index) for k, index in enumerate(indices) if index is not None)
    numbers = [number % x.shape[axis] for number in index.tolist()]
    parts = [torch.ops.aten.slice(x, axis, number, number + 1) for number in numbers]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


# Operations that are recorded as others, so that there are fewer kinds to know.
_WRITTEN_OUT: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.stack.default: _stack,
    torch.ops.aten.mv.default: _mv,
    torch.ops.aten.baddbmm.default: _baddbmm,
}
_FEW = 8  # numbers of a list by which a tensor is indexed

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


def _replayable(func: Any) -> Callable[..., Any]:
    """The operation that gives the same result, whatever the strides, changing no argument."""
    if func in _VIEWS:
        reshape: Callable[..., Any] = torch.ops.aten.reshape.default
        return reshape
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return func
    name = schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overload = getattr(packet, schema.overload_name or "default", None)
    if overload is None:
        raise ValueError(f"{name} works in place")
    return overload


def _is_part(tensor: Tensor) -> bool:
    """Whether the storage holds more than the tensor, in which a view of it may be hidden."""
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


class _SharedStorage(BaseException):
    """An operation in place changes a tensor whose values other tensors see as well.

    Not an Exception, so that no model and no wrapper around one takes it for a failure.
    """


class NoTape(Exception):
    """A function cannot be recorded; the message says why."""


def tensors_of(batch: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a batch and the way back from such tensors to a batch."""
    leaves, spec = pytree.tree_flatten(batch)
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def rebuild(tensors: Sequence[Tensor]) -> Any:
        changed = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            changed[place] = tensor
        return pytree.tree_unflatten(changed, spec)

    return [leaves[place] for place in places], rebuild


def form_of(batch: Any) -> tuple:
    """What a record made on one batch depends on, besides the values of its tensors.

    Raises:
        NoTape: the batch holds objects that may hide further values.
    """
    leaves, spec = pytree.tree_flatten(batch)
    form: list[Any] = [repr(spec)]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            form.append((tuple(leaf.shape), leaf.dtype))
        elif leaf is None or isinstance(leaf, (bool, int, float, str)):
            form.append(leaf)
        else:
            raise NoTape(f"a {type(leaf).__name__} in the batch may hide values")
    return tuple(form)


def record(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Tape:
    """Runs the function once and writes down what it does.

    Args:
        function: of tensors.
        arguments: its arguments.

    Raises:
        NoTape: it cannot be recorded, or its result depends on none of the arguments.
    """
    try:
        try:
            with _Recorder(arguments) as recorder:
                out = function(*arguments)
        except _SharedStorage:
            # The same function with every change in place rewritten as an operation on the whole.
            function = torch.func.functionalize(function)
            with _Recorder(arguments) as recorder:
                out = function(*arguments)
    except InteractGraphError:
        raise
    except (Exception, _SharedStorage) as error:
        reason = first_line(error)
        raise NoTape(f"the segment cannot be recorded ({reason})") from error
    output = recorder.of.get(id(out))
    if output is None:
        raise NoTape("the target does not depend on the source")
    return Tape((*recorder.arguments, *recorder.nodes), recorder.arguments, output)
