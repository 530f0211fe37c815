"""Heights of features in their columns: modules are blocks with gaps between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["column_heights"]

_GAP = 0.018  # of the column's height, between two modules
_GAPS = 0.22  # of all gaps of a column together, at most


def column_heights(
    n_features: Sequence[int], order: np.ndarray, module: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heights from 0, the top of every column, to 1, its bottom.

    Args:
        n_features: number of features of each layer, in order.
        order: nodes layer by layer, from the top down, as `column_order` gives them.
        module: module of each node, -1 for none, `[nodes]`.

    Returns:
        The height of each node, float64 `[nodes]`, and the distance between neighbours in each
        layer, `[layers]`.
    """
    heights = np.zeros(len(order))
    steps = np.zeros(len(n_features))
    start = 0
    for layer, n in enumerate(n_features):
        nodes = order[start : start + n]
        start += n
        if not n:
            continue
        new = np.append(False, np.diff(module[nodes]) != 0)
        n_gaps = int(new.sum())
        gap = min(_GAP, _GAPS / n_gaps) if n_gaps else 0.0
        steps[layer] = (1 - gap * n_gaps) / n
        heights[nodes] = steps[layer] * (np.arange(n) + 0.5) + gap * np.cumsum(new)
    return heights, steps
