"""How sure a feature's module is: the share of runs that put it there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mutual_information import contingency

__all__ = ["co_assignment", "set_apart"]


def set_apart(labels: np.ndarray) -> np.ndarray:
    """The labels with a module of its own for every item that is in none (negative)."""
    nowhere = labels < 0
    singles = labels.max(initial=-1) + 1 + np.arange(np.count_nonzero(nowhere))
    result = labels.copy()
    result[nowhere] = singles
    return result


def co_assignment(labels: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """For each item the share of its module that it is together with in other partitions, mean.

    1: always with all of them; a feature alone in its module has 1 where it is alone elsewhere.

    Args:
        labels: the partition in question, negative for items that are in no module, `[items]`.
        others: other partitions of the same items, each `[items]`; an item that is in no module
            there is together with none.

    Returns:
        float64 `[items]`, NaN where the label is negative.
    """
    result = np.full(len(labels), np.nan)
    placed = labels >= 0
    if not others or not placed.any():
        return result
    _, codes = np.unique(labels[placed], return_inverse=True)
    size = np.bincount(codes)[codes]
    total = np.zeros(len(codes))
    for other in others:
        _, there = np.unique(set_apart(other[placed]), return_inverse=True)
        table = contingency(codes, there)
        together = table[codes, there]
        alone = table.sum(0)[there] == 1
        total += np.where(size > 1, (together - 1) / np.maximum(size - 1, 1), alone)
    result[placed] = total / len(others)
    return result
