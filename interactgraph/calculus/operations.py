"""Operations of a function that derivatives do not tell the whole of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .derivatives import ANY_FAILURES

__all__ = ["Operations", "operations_of"]

_JUMPING = frozenset((
    "argmax", "argmin", "argsort", "bucketize", "ceil", "eq", "fix", "floor", "floor_divide",
    "fmod", "frac", "ge", "gt", "hardshrink", "heaviside", "histc", "kthvalue", "le", "lt", "ne",
    "nonzero", "quantize_per_tensor", "remainder", "round", "searchsorted", "sgn", "sign", "sort",
    "threshold", "topk", "trunc", "fake_quantize_per_tensor_affine", "linear_dynamic",
))  # fmt: skip
_FIXING = ("detach", "detach_", "item", "numpy", "tolist")
_KNOWN = ("aten", "prim", "prims", "profiler")  # where derivatives are complete, or raise


class Operations(NamedTuple):
    """What a function does with what depends on its point.

    Attributes:
        jumping: names of operations that may jump, in order. A comparison that only masks, or a
            threshold that passes on what it compares with (ReLU), is among them: the names explain
            a jump and do not prove one.
        holds_fixed: whether something is detached.
        unusual: whether operations are run that are not torch's own (quantised and custom kernels),
            which it may take for constant without a word.
    """

    jumping: tuple[str, ...] = ()
    holds_fixed: bool = False
    unusual: bool = False


def operations_of(function: Callable[[Tensor], Tensor], point: Tensor) -> Operations:
    """Watches one evaluation; nothing is seen where it cannot be followed."""
    with torch.enable_grad():
        start = point.detach().requires_grad_() * 1  # no leaf, which could not be written to
        try:
            with _Kernels() as kernels, _Calls() as calls:
                function(start)
        except ANY_FAILURES:
            return Operations()
    return Operations(tuple(kernels.jumping), calls.detach, kernels.unusual)


class _Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.jumping: dict[str, None] = {}
        self.unusual = False
        self._followed: dict[int, Tensor] = {}  # values that depend on the point without a graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__.strip("_")
        depends = _depends(args) or any(
            id(leaf) in self._followed for leaf in pytree.tree_leaves(args)
        )
        if name in _JUMPING and depends:
            self.jumping[name] = None
        if func.namespace not in _KNOWN or name.startswith(("quantize", "dequantize")):
            self.unusual = True
        out = func(*args, **(kwargs or {}))
        if depends and not torch.is_grad_enabled():  # as in a Function of autograd
            self._followed.update(
                (id(leaf), leaf) for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)
            )
        return out


class _Calls(TorchFunctionMode):
    """Below, autograd detaches what it saves."""

    def __init__(self) -> None:
        super().__init__()
        self.detach = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _FIXING or func is torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            self.detach = self.detach or _depends(args)
        return func(*args, **(kwargs or {}))


def _depends(args: tuple) -> bool:
    leaves = pytree.tree_leaves(args)
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
