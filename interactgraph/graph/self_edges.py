"""Edges from a feature to the feature of the same number, as a skip connection gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sparse import first_of_rows, is_sparse, nonzero

__all__ = ["self_edges_dominate"]

# What they do to untrained networks: benchmarks/communities/README.md, "Residual networks".
_SHARE = 0.5  # of the features, above which it is a skip connection
_NARROWEST = 8  # features of a layer where that is no chance


def self_edges_dominate(weight: Tensor) -> bool:
    """Whether most features of a source have the target of their own number as their strongest one.

    Args:
        weight: strengths, signed or not, `[i, j]`.
    """
    n = len(weight)
    if weight.shape != (n, n) or n < _NARROWEST:
        return False
    if is_sparse(weight):
        rows, columns, values = nonzero(weight)
        order, rank = first_of_rows(columns, values.abs())
        first = order[rank == 0]  # the strongest edge of each feature that has any
        return int((rows[first] == columns[first]).sum()) > _SHARE * len(first)
    size = weight.abs()
    connected = size.amax(0) > 0
    own = size.argmax(0) == torch.arange(n, device=weight.device)
    return int((own & connected).sum()) > _SHARE * int(connected.sum())
