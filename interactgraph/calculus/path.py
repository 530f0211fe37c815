"""The straight path from the baseline (u = 0) to the sample (u = 1), and nodes on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["PathRule", "StraightPath", "at_sample", "gauss_legendre"]


class PathRule(NamedTuple):
    """A quadrature rule on [0, 1]: integral of f = sum_a weights[a] f(nodes[a])."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]

    def integral(self, function: Callable[[float], Tensor]) -> Tensor:
        """The integral of a function of u, whose values are tensors of one shape."""
        (first, *others), (weight, *weights) = self
        total = function(first) * weight
        for u, weight in zip(others, weights, strict=True):
            total.add_(function(u) * weight)
        return total


@lru_cache
def gauss_legendre(n_steps: int) -> PathRule:
    """The Gauss-Legendre rule with `n_steps` nodes, exact for polynomials of degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    return PathRule(tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()))


def at_sample() -> PathRule:
    """The one-node rule of gradient x activation: the slope at the sample itself."""
    return PathRule((1.0,), (1.0,))


@dataclass(frozen=True, eq=False)
class StraightPath:
    """The points end + (u - 1) displacement.

    Attributes:
        end: the sample, `[b, s, j]`.
        displacement: sample less baseline, `[b, s, j]`; zero where a coordinate stays.
    """

    end: Tensor
    displacement: Tensor

    @property
    def start(self) -> Tensor:
        """The baseline, `[b, s, j]`."""
        return self.end - self.displacement

    def at(self, u: float) -> Tensor:
        """The point u, `[b, s, j]`."""
        if u == 1.0:
            return self.end
        # From the nearer end: at tiny u the other one would leave rounding alone.
        if u < 0.5:
            return self.start + u * self.displacement
        return self.end + (u - 1.0) * self.displacement
