"""Matrices some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["row_slices"]

_BLOCK = 1 << 16  # entries at a time


def row_slices(shape: tuple[int, ...] | torch.Size) -> Iterator[slice]:
    """Some rows of a matrix at a time, so that temporary values stay in the cache."""
    step = max(1, _BLOCK // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
