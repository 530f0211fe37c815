"""Nodes and weights on the straight path from the baseline (u = 0) to the sample (u = 1)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["PathRule", "at_sample", "gauss_legendre"]


class PathRule(NamedTuple):
    """A quadrature rule on [0, 1]: integral of f = sum_a weights[a] f(nodes[a])."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


@lru_cache
def gauss_legendre(n_steps: int) -> PathRule:
    """The Gauss-Legendre rule with `n_steps` nodes, exact for polynomials of degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    return PathRule(tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()))


def at_sample() -> PathRule:
    """The one-node rule of gradient x activation: the slope at the sample itself."""
    return PathRule((1.0,), (1.0,))
