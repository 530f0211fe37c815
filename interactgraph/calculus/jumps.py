"""Operations that may jump, which no derivative sees, or whose derivative torch may not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HELD_FIXED", "has_unusual_operations", "jumping_operations"]

HELD_FIXED = "detach"  # what torch calls it

_JUMPING = frozenset((
    "argmax", "argmin", "argsort", "bucketize", "ceil", "eq", "fix", "floor", "floor_divide",
    "fmod", "frac", "ge", "gt", "hardshrink", "heaviside", "histc", "kthvalue", "le", "lt", "ne",
    "nonzero", "quantize_per_tensor", "remainder", "round", "searchsorted", "sgn", "sign", "sort",
    "threshold", "topk", "trunc", "fake_quantize_per_tensor_affine", "linear_dynamic",
))  # fmt: skip


_KNOWN = ("aten", "prim", "prims", "profiler")  # where derivatives are complete, or raise


class _Watcher(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}
        self.unusual = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        real = any(
            isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim
            for leaf in pytree.tree_leaves(args)
        )
        if (name in _JUMPING or name == HELD_FIXED) and real:  # masks are compared as whole numbers
            self.names[name] = None
        if func.namespace not in _KNOWN or name.startswith(("quantize", "dequantize")):
            self.unusual = True
        return func(*args, **(kwargs or {}))


def jumping_operations(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[str, ...]:
    """Names of the operations on real numbers in a function that may jump, in order.

    "detach" is among them: what is held fixed is not seen by derivatives either. A comparison
    that only masks, or a threshold that passes on what it compares with (ReLU), is, too, so that
    the names explain a jump and do not prove one.
    """
    with _Watcher() as watcher:
        function(point)
    return tuple(watcher.names)


def has_unusual_operations(function: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    """Whether a function runs operations that torch may take for constant without a word.

    Those outside its own library, which quantised and custom kernels are.
    """
    with _Watcher() as watcher:
        function(point)
    return watcher.unusual
