"""P-values of one-sided tests, and of several together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["holm", "one_sided"]


def one_sided(z_scores: np.ndarray) -> np.ndarray:
    """Probability of a standard normal number above each; NaN stays NaN."""
    return np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in z_scores])


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values of several tests together: at 5 % one of all that is false is below in 5 % at most.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979: the k-th smallest of n times n - k + 1, not below those before it.

    Args:
        p_values: of single tests; NaN where nothing was tested, which counts for no test.
    """
    p = np.array(p_values, dtype=np.float64)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    several = p[order] * np.arange(len(order), 0, -1)
    p[order] = np.minimum(np.maximum.accumulate(several), 1.0)
    return p
