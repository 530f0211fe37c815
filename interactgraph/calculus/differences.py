"""Whether the derivatives that torch takes of a function are those of its values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .derivatives import jvps, pull_back

__all__ = ["reverse_mode_agrees", "wrong_derivative"]

_STEPS = (0.2, 0.1, 0.05)  # as shares of the values: above the rounding of eight bits
_SHARE = 0.05  # by which a derivative has to be wrong
_COTANGENTS = 16


def wrong_derivative(function: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    """Whether differences agree with each other and not with the derivative that torch takes.

    So that a kink, a jump or rounding, where they do not agree with each other either, is no
    contradiction. Steps are large, for functions that round: not for functions that are steep or
    oscillate, on which differences agree and are wrong.

    Args:
        function: of the point.
        point: where; the direction is random.
    """
    tangent, slopes = _slopes(function, point)
    derivative = jvps(function, point, tangent[None], vmapped=False)[0].double()
    if not derivative.isfinite().all():
        return False
    wrong = min(_norm(slope - derivative) for slope in slopes)
    apart = max(_norm(slope - slopes[0]) for slope in slopes[1:])
    size = max(_norm(slopes[0]), _norm(derivative))
    rounding = 1e3 * torch.finfo(point.dtype).eps * _norm(function(point).double())
    return wrong > max(_SHARE * size, 3 * apart, rounding)


def reverse_mode_agrees(function: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    """Whether differences agree with the derivative of reverse mode, for random cotangents."""
    tangent, slopes = _slopes(function, point)
    value, slope = function(point), slopes[-1]
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, (_COTANGENTS, *value.shape), generator=generator).to(value) * 2 - 1
    back = pull_back(function, point, vmapped=False)(signs)
    expected = (signs * slope).flatten(1).double().sum(1)
    found = (back * tangent).flatten(1).double().sum(1)
    return _norm(expected) > 0 and _norm(found - expected) <= _SHARE * _norm(expected)


def _slopes(function: Callable[[Tensor], Tensor], point: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A random direction, and the slopes of a function along it by differences."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, point.shape, generator=generator).to(point) * 2 - 1
    spread = point.double().square().mean().sqrt().to(point)
    tangent = signs * torch.maximum(point.abs(), 0.1 * spread)
    slopes = []
    for step in _STEPS:
        ends = function(point + step * tangent), function(point - step * tangent)
        slopes.append((ends[0] - ends[1]).double() / (2 * step))
    return tangent, slopes


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
