"""Attention patterns and scales of normalisations held at the values that a sample gives them.

A transformer block in which both are held fixed is linear but for the nonlinearity of its
perceptron: attention moves values by a fixed pattern, and a normalisation takes off the mean and
divides by a number. Attribution graphs of language models are computed so (Ameisen et al. 2025,
"Circuit tracing"); what decides where to attend and how large a vector is stays out of the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import ModelError

__all__ = ["FrozenValues"]

_SCALES = {
    "rsqrt",
    "rsqrt_",
    "sqrt",
    "sqrt_",
    "std",
    "norm",
    "vector_norm",
    "linalg_norm",
    "linalg_vector_norm",
}
_POWERS = {"pow", "__pow__"}


class FrozenValues(TorchFunctionMode):
    """Writes down the values of a forward pass, then gives the same in place of new ones.

    - "attention": the softmax over the last axis of a tensor of three or more axes, in
      `softmax`, `scaled_dot_product_attention` and `multi_head_attention_forward`. A router of
      experts, whose softmax has two axes, is left as it is.
    - "layernorm": the scale in `layer_norm`, `rms_norm`, `group_norm` and `normalize`, and the
      root (`rsqrt`, `sqrt`, a power of 1/2 or -1/2, `std`, `norm`) that has one number for each
      position, as in normalisations that are written by hand. The mean that a layer norm takes off
      is linear, and is differentiated.

    Attributes:
        what: which of them.
        counts: name -> how many values were written down.
    """

    def __init__(self, what: Sequence[str]) -> None:
        super().__init__()
        self.what = what
        self.counts = dict.fromkeys(what, 0)
        self._values: list[Tensor] = []
        self._left: Iterator[Tensor] | None = None  # None: values are written down

    def replayed(self) -> FrozenValues:
        """The mode that gives the values back, in the order in which they were written down."""
        replayed = FrozenValues(self.what)
        replayed._left = iter(self._values)
        return replayed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Functions of torch, methods of tensors and operations of exported programs alike.
        name = getattr(func, "__name__", "").split(".")[0]
        if name == "multi_head_attention_forward":
            with self:
                return _without_override(func)(*args, **kwargs)
        if "attention" in self.what:
            if name in ("softmax", "_softmax", "_safe_softmax", "special_softmax"):
                return self._softmax(func, args, kwargs)
            if name == "scaled_dot_product_attention":
                return self._attention(*args, **kwargs)
        if "layernorm" in self.what:
            if name in _NORMS:
                return _NORMS[name](self._scale, *args, **kwargs)
            if name in _SCALES or (name in _POWERS and _power(args, kwargs) in (0.5, -0.5)):
                value = func(*args, **kwargs)
                if isinstance(value, Tensor) and value.ndim > 1 and value.shape[-1] == 1:
                    return self._value("layernorm", lambda: value, value.shape)
                return value
        return func(*args, **kwargs)

    def _value(self, about: str, compute: Callable[[], Tensor], shape: Sequence[int]) -> Tensor:
        """A value that is written down, or the one that was."""
        if self._left is None:
            self.counts[about] += 1
            self._values.append(compute().detach())
            return self._values[-1].clone()  # which the model may work on in place
        value = next(self._left, None)
        if value is None or value.shape != torch.Size(shape):
            raise self._other_operations()
        return value.clone()

    def check_all_used(self) -> None:
        """Checks that as many values were given back as were written down.

        Raises:
            ModelError: they were not.
        """
        if self._left is not None and next(self._left, None) is not None:
            raise self._other_operations()

    def _other_operations(self) -> ModelError:
        return ModelError(
            f"freeze={list(self.what)}: the model executes other operations when a layer is "
            "replaced than on the batch (what it does depends on values); leave freeze out"
        )

    def _scale(self, compute: Callable[[], Tensor], shape: Sequence[int]) -> Tensor:
        return self._value("layernorm", compute, shape)

    def _softmax(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        scores = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if scores.ndim < 3 or dim not in (-1, scores.ndim - 1):
            return func(*args, **kwargs)
        pattern = self._value("attention", lambda: func(*args, **kwargs), scores.shape)
        dtype = kwargs.get("dtype")
        return pattern if dtype is None else pattern.to(dtype)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            groups = query.shape[-3] // value.shape[-3]
            value = value.repeat_interleave(groups, -3)
            key = key.repeat_interleave(groups, -3)
        shared = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        shape = (*shared, query.shape[-2], key.shape[-2])

        def pattern() -> Tensor:
            # The values are the unit vectors, so that what comes out is the pattern itself.
            unit = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
            return F.scaled_dot_product_attention(
                query, key, unit.expand(*shared, -1, -1), attn_mask=attn_mask,
                is_causal=is_causal, scale=scale,
            )  # fmt: skip

        return self._value("attention", pattern, shape) @ value


def _power(args: tuple, kwargs: dict[str, Any]) -> Any:
    exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
    if isinstance(exponent, Tensor):
        return float(exponent) if exponent.numel() == 1 and not exponent.is_meta else None
    return exponent


def _without_override(func: Any) -> Any:
    """A composite function of `torch.nn.functional` that runs its own operations at once.

    It asks whether somebody overrides it before it does anything, and a mode always does.
    """
    names = {**func.__globals__, "has_torch_function": lambda _: False}
    same = FunctionType(func.__code__, names, func.__name__, func.__defaults__)
    same.__kwdefaults__ = func.__kwdefaults__
    return same


_Scale = Callable[[Callable[[], Tensor], Sequence[int]], Tensor]


def _standardised(
    scale: _Scale,
    x: Tensor,
    n_axes: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool = True,
) -> Tensor:
    axes = tuple(range(x.ndim - n_axes, x.ndim))
    if centred:
        x = x - x.mean(axes, keepdim=True)
    shape = (*x.shape[: x.ndim - n_axes], *[1] * n_axes)
    y = x * scale(lambda: (x.square().mean(axes, keepdim=True) + eps).rsqrt(), shape)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_norm(
    scale: _Scale,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _standardised(scale, input, len(normalized_shape), weight, bias, eps)


def _rms_norm(
    scale: _Scale,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _standardised(scale, input, len(normalized_shape), weight, None, eps, centred=False)


def _group_norm(
    scale: _Scale,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    y = _standardised(scale, input.reshape(len(input), num_groups, -1), 1, None, None, eps)
    y = y.reshape(input.shape)
    shape = (1, -1, *[1] * (input.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _normalize(
    scale: _Scale, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    shape = list(input.shape)
    shape[dim] = 1
    return input / scale(lambda: input.norm(p, dim, keepdim=True).clamp_min(eps), shape)


_NORMS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
