"""How well two partitions of the same items agree, corrected for chance.

Unadjusted scores flatter partitions into many small modules; these are zero on average for
independent partitions with the same sizes.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, xlogy

__all__ = ["adjusted_mutual_information", "adjusted_rand_index", "contingency"]


def contingency(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of items with each pair of labels, `[labels of a, labels of b]`."""
    _, a = np.unique(np.asarray(a), return_inverse=True)
    _, b = np.unique(np.asarray(b), return_inverse=True)
    shape = (a.max(initial=-1) + 1, b.max(initial=-1) + 1)
    return np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape)


def adjusted_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information, adjusted for chance: 1 for equal partitions, 0 on average by chance.

    (I - E[I]) / (mean of both entropies - E[I]), with the expectation over random partitions of
    the same sizes (Vinh, Epps & Bailey, JMLR 11, 2010, eq. 24a).

    Args:
        a: a label for each item, `[items]`.
        b: another one, `[items]`.
    """
    table = contingency(a, b)
    rows, columns = table.sum(1), table.sum(0)
    if len(rows) == len(columns) and len(rows) in (0, 1, table.sum()):
        return 1.0  # both are one module, or both are all singletons
    n = table.sum()
    information = float(
        (xlogy(table, table) - xlogy(table, rows[:, None]) - xlogy(table, columns)).sum() / n
        + np.log(n)
    )
    expected = _expected_information(rows, columns)
    bound = (_entropy(rows) + _entropy(columns)) / 2
    difference = bound - expected
    # The bound minus the expectation can vanish by rounding; keep its sign, never divide by zero.
    tiny = np.finfo(float).eps
    difference = min(difference, -tiny) if difference < 0 else max(difference, tiny)
    return float((information - expected) / difference)


def _entropy(sizes: np.ndarray) -> float:
    n = sizes.sum()
    return float(np.log(n) - xlogy(sizes, sizes).sum() / n)


def _expected_information(rows: np.ndarray, columns: np.ndarray) -> float:
    """E[I] under the hypergeometric model; equal sizes are summed once and counted."""
    n = int(rows.sum())
    a, a_count = np.unique(rows, return_counts=True)
    b, b_count = np.unique(columns, return_counts=True)
    a, b = (x.ravel() for x in np.meshgrid(a, b, indexing="ij"))
    count = np.outer(a_count, b_count).ravel()
    low, high = np.maximum(1, a + b - n), np.minimum(a, b)
    lengths = high - low + 1
    starts = np.cumsum(lengths) - lengths
    k = np.arange(lengths.sum()) - np.repeat(starts - low, lengths)  # every overlap n_ij in turn
    fixed = gammaln(a + 1) + gammaln(b + 1) + gammaln(n - a + 1) + gammaln(n - b + 1)
    a, b, count, fixed = (np.repeat(x, lengths) for x in (a, b, count, fixed))
    log_probability = (
        fixed
        - gammaln(n + 1)
        - gammaln(k + 1)
        - gammaln(a - k + 1)
        - gammaln(b - k + 1)
        - gammaln(n - a - b + k + 1)
    )
    gain = k / n * (np.log(n) + np.log(k) - np.log(a) - np.log(b))
    return float((count * gain * np.exp(log_probability)).sum())


def adjusted_rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Share of item pairs both partitions treat alike, adjusted for chance.

    Hubert & Arabie, Journal of Classification 2, 1985, eq. 5.

    Args:
        a: a label for each item, `[items]`.
        b: another one, `[items]`.
    """
    table = contingency(a, b).astype(float)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_a, in_b = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    every = pairs(table.sum())
    expected = in_a * in_b / every if every else 0.0
    if (in_a + in_b) / 2 == expected:
        return 1.0  # both trivial in the same way: one module, or all singletons
    return (together - expected) / ((in_a + in_b) / 2 - expected)
