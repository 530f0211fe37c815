"""P-values of one-sided tests, and of several together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

__all__ = ["holm", "one_sided"]


def one_sided(z_scores: np.ndarray, n_scores: int = 0) -> np.ndarray:
    """Probability of a number above each; NaN stays NaN.

    Args:
        z_scores: statistics.
        n_scores: that mean and spread were told by: Student's t of one more; 0 and 1: standard
            normal.
    """
    degrees = n_scores - 1 if n_scores > 1 else math.inf
    return np.asarray(student.sf(z_scores, degrees), dtype=np.float64)


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
