"""Whether the derivatives that torch takes of a function are those of its values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["contradicts"]

_STEPS = (0.2, 0.1, 0.05)  # as shares of the tangent
_SHARE = 0.05  # by which a derivative has to be wrong


def contradicts(
    function: Callable[[Tensor], Tensor], point: Tensor, tangent: Tensor, derivative: Tensor
) -> bool:
    """Whether differences agree with each other and not with a derivative.

    So that a kink, a jump or rounding, where they do not agree with each other either, is no
    contradiction.

    Args:
        function: of the point.
        point: where.
        tangent: a direction, about as long as the point is.
        derivative: along the tangent, as torch takes it.
    """
    slopes = []
    for step in _STEPS:
        ends = function(point + step * tangent), function(point - step * tangent)
        slopes.append((ends[0] - ends[1]).double() / (2 * step))
    wrong = min(_norm(slope - derivative.double()) for slope in slopes)
    apart = max(_norm(slope - slopes[0]) for slope in slopes[1:])
    size = max(_norm(slopes[0]), _norm(derivative.double()))
    rounding = 1e3 * torch.finfo(point.dtype).eps * _norm(function(point).double())
    return wrong > max(_SHARE * size, 3 * apart, rounding)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
