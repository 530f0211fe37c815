"""Where nodes are drawn and how large: layers are columns, modules are blocks within a column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["column_order", "column_positions", "node_sizes"]

_PITCH = 12.0  # distance between neighbours in the fullest layer
_HEIGHT = 600.0  # smallest height of a column
_ASPECT = 1.5  # width of the whole drawing, in heights
_LARGEST, _SMALLEST = 10.0, 2.0  # radius


def column_positions(
    n_features: Sequence[int], module: np.ndarray, strength: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places layers side by side, each spread over the same height and centred on zero.

    Within a layer the first module is on top and its strongest feature first; features in no
    module are at the bottom.

    Args:
        n_features: number of features of each layer, in order.
        module: module of each node, -1 for none, `[nodes]`.
        strength: strength of each node, `[nodes]`.

    Returns:
        x and y, float64 `[nodes]`; y grows upwards, as in Gephi.
    """
    sizes = np.array(n_features, dtype=np.int64)
    height = max(_HEIGHT, _PITCH * sizes.max(initial=0))
    distance = _ASPECT * height / max(len(sizes) - 1, 1)
    layer = np.repeat(np.arange(len(sizes)), sizes)
    order = column_order(sizes, module, strength)
    # Sorting by layer first leaves the layers where they are, so ranks count within each of them.
    rank = np.empty(len(layer))
    rank[order] = np.arange(len(layer)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    x = (layer - (len(sizes) - 1) / 2) * distance
    y = height * (0.5 - (rank + 0.5) / sizes[layer])
    return x, y


def column_order(
    n_features: Sequence[int] | np.ndarray, module: np.ndarray, strength: np.ndarray
) -> np.ndarray:
    """Nodes layer by layer, from the top of each column down, int64 `[nodes]`.

    Args:
        n_features: number of features of each layer, in order.
        module: module of each node, -1 for none, `[nodes]`.
        strength: strength of each node, `[nodes]`.
    """
    layer = np.repeat(np.arange(len(n_features)), n_features)
    block = np.where(module < 0, np.iinfo(np.int64).max, module)
    return np.lexsort((-strength, block, layer))


def node_sizes(strength: np.ndarray) -> np.ndarray:
    """Radii that make the area proportional to the strength, never too small to be seen."""
    largest = strength.max(initial=0.0)
    share = strength / largest if largest > 0 else np.zeros(len(strength))
    return np.maximum(_LARGEST * np.sqrt(share), _SMALLEST)
