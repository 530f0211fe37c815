"""Slopes of a pointwise function, averaged over a straight path.

Along p(u) = p0 + u dp the integral of phi'(p(u)) over u is (phi(p0 + dp) - phi(p0)) / dp, the
secant, and phi'(p0) where the pre-activation does not move.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .path import gauss_legendre

__all__ = ["derivative", "secant_slope"]

Pointwise = Callable[[Tensor], Tensor]

# Elements at a time: the float64 intermediates stay in the cache.
_BLOCK = 1 << 17


def derivative(phi: Pointwise, p: Tensor) -> Tensor:
    """phi'(p), elementwise."""
    result: Tensor = torch.func.jvp(phi, (p,), (torch.ones_like(p),))[1]
    return result


def secant_slope(phi: Pointwise, p0: Tensor, dp: Tensor, *, scalar: bool = True) -> Tensor:
    """The mean slope of phi between p0 and p0 + dp, elementwise, accurate to rounding.

    The difference of two values loses what rounding takes, relative to the step; it is taken in
    float64 whatever the dtype of the step.

    Args:
        phi: an elementwise function of float64 values.
        p0: start, `[1 or b, ...]`.
        dp: step, `[b, ...]`.
        scalar: phi is one function for all elements, so it can be evaluated on any subset of them.

    Returns:
        The slopes, shape and dtype of `dp`.
    """
    slope = torch.empty_like(dp, memory_format=torch.contiguous_format)
    worst = 1e-9 if dp.dtype == torch.float64 else 1e-7
    if not scalar:
        whole = p0.double().expand_as(dp)
        return slope.copy_(_secant(phi, whole, phi(whole), dp, worst, scalar=False))
    rows = max(1, _BLOCK // max(1, dp[:1].numel()))
    common = p0.shape[0] == 1
    p0 = p0.double()
    h0 = phi(p0) if common else None
    for start in range(0, len(dp), rows):
        span = slice(start, start + rows)
        begin = p0 if common else p0[span]
        value = phi(begin) if h0 is None else h0
        slope[span] = _secant(phi, begin, value, dp[span], worst, scalar=True)
    return slope


def _secant(
    phi: Pointwise, p0: Tensor, h0: Tensor, dp: Tensor, worst: float, *, scalar: bool
) -> Tensor:
    """In float64; where rounding takes more than `worst` of the slope, phi' averaged instead."""
    dp = dp.double()
    p1 = p0 + dp
    h1 = phi(p1)
    slope = (h1 - h0).div_(dp)
    # Rounding of h1 - h0, in units of the largest share of the step that it may make up.
    unit = torch.finfo(torch.float64).eps / worst
    length = dp.abs()
    sizes = (h0.abs().max(), *h1.aminmax(), 2 * p0.abs().max() + length.max())
    if float(length.min()) > 2 * unit * float(sum(size.abs() for size in sizes)):
        return slope
    noise = (h1.abs() + h0.abs() + (p0.abs() + p1.abs()) * slope.abs()).mul_(unit)
    # A kink crossed by a short step near zero keeps its secant: the values are as small as the
    # step. So does a flat part, where the noise is small beside the slopes at the ends.
    doubtful = ~((h1 - h0).abs() >= noise)
    if not scalar:
        return torch.where(doubtful, _mean_slope(phi, p0.expand_as(dp), dp, noise, slope), slope)
    where = doubtful.nonzero(as_tuple=True)
    p0 = p0.expand_as(dp)
    slope[where] = _mean_slope(phi, p0[where], dp[where], noise[where], slope[where])
    return slope


def _mean_slope(phi: Pointwise, p0: Tensor, dp: Tensor, noise: Tensor, secant: Tensor) -> Tensor:
    """Phi' averaged over a short step, or the secant where its noise does not matter."""
    steepest = torch.maximum(derivative(phi, p0).abs(), derivative(phi, p0 + dp).abs())
    mean = sum(
        derivative(phi, p0 + u * dp) * weight for u, weight in zip(*gauss_legendre(4), strict=True)
    )
    return torch.where(noise < dp.abs() * steepest, secant, mean)
