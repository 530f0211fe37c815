"""A tape of the tensor operations that a function executes, and its replay.

Recorded below autograd, so that module classes, hooks and composite functions have dissolved into
a few hundred kinds of basic operations. What Python decided on the way (branches, shapes) is fixed
on the tape: it describes the batch that it was recorded on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Node", "Tape", "record"]


@dataclass(eq=False)
class Node:
    """One operation, or one argument of the recorded function.

    Attributes:
        function: what is called; None for an argument.
        args: its arguments; a `Node` stands for the value of another operation.
        kwargs: its keyword arguments.
        shape: of the result, None if that is no tensor.
        floating: whether the result holds real numbers.
        inputs: nodes among the arguments.
    """

    function: Callable[..., Any] | None
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: torch.Size | None = None
    floating: bool = True
    inputs: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        """Name of the operation without overload, such as "addmm"."""
        packet = getattr(self.function, "overloadpacket", self.function)
        return str(getattr(packet, "__name__", packet)).removeprefix("aten.")


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

        for node in self._needed(goal, tables):
            assert node.function is not None
            args, kwargs = pytree.tree_map_only((Node, Tensor), look_up, (node.args, node.kwargs))
            env[node] = node.function(*args, **kwargs)
        return look_up(goal)

    def _needed(self, goal: Node, tables: Sequence[Mapping[Node, Any]]) -> list[Node]:
        """What must be computed, in order of execution."""
        found: set[Node] = set()
        stack = [goal]
        while stack:
            node = stack.pop()
            if node in found or any(node in table for table in tables):
                continue
            found.add(node)
            stack.extend(node.inputs)
        return [node for node in self.nodes if node in found]


class _Recorder(TorchDispatchMode):
    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.alive: list[Tensor] = []  # a dead tensor's identity could be given to another one
        self.of: dict[int, Node] = {}
        self.arguments = tuple(self._new(Node(None), tensor) for tensor in arguments)

    def _new(self, node: Node, tensor: Tensor) -> Node:
        node.shape, node.floating = tensor.shape, tensor.is_floating_point()
        self.of[id(tensor)] = node
        self.alive.append(tensor)
        return node

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs: list[Node] = []

        def to_node(tensor: Tensor) -> Any:
            node = self.of.get(id(tensor))
            if node is None:
                return tensor
            inputs.append(node)
            return node

        taken, named = pytree.tree_map_only(Tensor, to_node, (args, kwargs))
        node = Node(_out_of_place(func), taken, named, inputs=tuple(dict.fromkeys(inputs)))
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


def _out_of_place(func: Any) -> Callable[..., Any]:
    """The operation that gives the same result without changing its arguments."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return func
    name = schema.name.split("::")[1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overload = getattr(packet, schema.overload_name or "default", None)
    if overload is None:
        raise ValueError(f"{name} works in place")
    return overload


def record(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Tape | None:
    """Runs the function once and writes down what it does.

    Args:
        function: of tensors.
        arguments: its arguments.

    Returns:
        The tape; None if the result depends on none of the operations and arguments.
    """
    with _Recorder(arguments) as recorder:
        out = function(*arguments)
    output = recorder.of.get(id(out))
    if output is None:
        return None
    return Tape((*recorder.arguments, *recorder.nodes), recorder.arguments, output)
