"""How far two computations of the same numbers may differ: the only tolerances of that kind.

A tolerance is a share of the largest number. Half precision is compared as single precision, in
which its sums are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_close", "tolerance"]

_LEVELS = {
    # name: (float64, float32)
    "products": (1e-11, 1e-5),  # the same products, summed in another order
    "maps": (1e-10, 1e-4),  # linear maps that were put together from several passes
    "segment": (1e-9, 1e-3),  # values and derivatives of a whole segment, computed another way
    "model": (1e-7, 1e-3),  # activations of two runs of the model, other samples beside them
}


def tolerance(level: str, dtype: torch.dtype) -> float:
    """The tolerance of a level for numbers that were computed in a dtype.

    Args:
        level: "products", "maps", "segment" or "model", the later the looser.
        dtype: what was computed in.
    """
    return _LEVELS[level][0 if dtype == torch.float64 else 1]


def is_close(found: Tensor, expected: Tensor, share: float | None = None) -> bool:
    """Whether two computations of the same values differ by rounding at most.

    Args:
        found: one of them.
        expected: the other one.
        share: of the largest value that they may differ by; None: as two computations of a segment.
            It does not bind half precision, which cannot keep it.
    """
    if share is None or expected.element_size() == 2:
        share = tolerance("segment", expected.dtype)
    return bool((found - expected).abs().max() <= share * expected.abs().max() + 1e-30)
