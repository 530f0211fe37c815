"""Slopes of a pointwise function, averaged over a straight path.

Along p(u) = p0 + u dp the integral of phi'(p(u)) over u is (phi(p0 + dp) - phi(p0)) / dp, the
secant, and phi'(p0) where the pre-activation does not move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["derivative", "secant_slope"]

Pointwise = Callable[[Tensor], Tensor]

# Below this share of the distance to zero the difference of two float32 values loses digits.
_SHORT = 0.04
# Rounding error of a float64 secant above which the derivative in its middle is closer.
_WORST = 1e-9


def derivative(phi: Pointwise, p: Tensor) -> Tensor:
    """phi'(p), elementwise."""
    result: Tensor = torch.func.jvp(phi, (p,), (torch.ones_like(p),))[1]
    return result


def secant_slope(phi: Pointwise, p0: Tensor, dp: Tensor, *, scalar: bool = True) -> Tensor:
    """The mean slope of phi between p0 and p0 + dp, elementwise, accurate to rounding.

    Args:
        phi: an elementwise function.
        p0: start, broadcastable to `dp`.
        dp: step.
        scalar: phi is one function for all elements, so it can be evaluated on any subset of them.

    Returns:
        The slopes, shape and dtype of `dp`.
    """
    if dp.dtype == torch.float64:
        return _accurate(phi, p0.expand_as(dp), dp)
    slope = phi(p0 + dp).sub_(phi(p0)).div_(dp)
    short = dp.abs() < _SHORT * (1 + p0.abs())
    p0 = p0.expand_as(dp)
    if scalar:
        # Few elements: numbers of the flat array are faster than coordinates or masks.
        where = short.view(-1).nonzero()[:, 0]
        starts = p0.reshape(-1)[where] if p0.is_contiguous() else p0[short]
        exact = _accurate(phi, starts.double(), dp.reshape(-1)[where].double())
        slope.view(-1).index_put_((where,), exact.to(slope.dtype))
        return slope
    exact = _accurate(lambda p: phi(p.to(dp.dtype)).double(), p0.double(), dp.double())
    return torch.where(short, exact.to(slope.dtype), slope)


def _accurate(phi: Pointwise, p0: Tensor, dp: Tensor) -> Tensor:
    p1 = p0 + dp
    h0, h1 = phi(p0), phi(p1)
    slope = (h1 - h0) / dp
    # Rounding of the difference, in units of the step. A kink crossed by a short step near zero
    # keeps its secant, because there the values are as small as the step.
    rounding = torch.finfo(dp.dtype).eps * (h0.abs() + h1.abs() + p0.abs() + p1.abs())
    steep = (dp == 0) | (rounding > _WORST * dp.abs())
    if steep.any():
        slope = torch.where(steep, derivative(phi, torch.where(dp == 0, p0, p0 + dp / 2)), slope)
    return slope
