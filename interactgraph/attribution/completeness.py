"""Completeness of integrated gradients: what the strengths add up to, against what they should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..layers import PairProblem
from .sums.strength_sums import at_least_single

__all__ = ["Completeness", "Residual", "joined", "residual_of"]

# A residual that is rounding: relative to the change of the target, and to its value.
_ROUNDING = {torch.float64: (1e-5, 1e-9), torch.float32: (1e-4, 1e-5)}
_BLOCK = 1 << 18  # numbers at a time that stay in the cache


class Residual(NamedTuple):
    """Sums of squares over samples, positions and targets of a batch.

    Attributes:
        missed: of sum_j A - (y(z) - y(z0)).
        change: of y(z) - y(z0).
        size: of y(z).
        dtype: what it was computed in.
    """

    missed: float
    change: float
    size: float
    dtype: torch.dtype

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than rounding explains, as that of a closed form has to be."""
        of_change, of_value = _ROUNDING.get(self.dtype, (3e-2, 1e-2))
        allowed = of_change * math.sqrt(self.change) + of_value * math.sqrt(self.size)
        return math.sqrt(self.missed) <= allowed

    @property
    def relative(self) -> float:
        """The relative residual of the batch."""
        return _ratio(self.missed, self.change)


def residual_of(total: Tensor, problem: PairProblem) -> Residual:
    """The residual of a batch.

    Args:
        total: sum_j A, `[b, t, i]`.
        problem: the pair on the batch.
    """
    missed = moved = size = 0.0
    rows = max(1, _BLOCK // max(1, total[:1].numel()))
    y0 = problem.y0.expand_as(problem.y)
    for start in range(0, len(total), rows):
        span = slice(start, start + rows)
        change = problem.y[span] - y0[span]
        residual = total[span] - change
        if problem.mask is not None:
            change *= problem.mask[span, :, None]
            residual *= problem.mask[span, :, None]
        missed += _square(residual)
        moved += _square(change)
        size += _square(problem.y[span])
    return Residual(missed, moved, size, total.dtype)


def joined(residuals: Sequence[Residual]) -> Residual:
    """The residual of several ways to the same samples, one or more."""
    return Residual(
        sum(each.missed for each in residuals),
        sum(each.change for each in residuals),
        sum(each.size for each in residuals),
        residuals[0].dtype,
    )


@dataclass(eq=False)
class Completeness:
    """Relative residual of sum_j A[b,t,i,j] = y(z) - y(z0), root mean square over b, t and i."""

    missed: float = 0.0
    change: float = 0.0

    def add(self, residual: Residual) -> None:
        """Adds a batch."""
        self.missed += residual.missed
        self.change += residual.change

    @property
    def relative(self) -> float:
        """Over all samples so far."""
        return _ratio(self.missed, self.change)


def _square(x: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(at_least_single(x)))
    if norm == 0 and x.any():  # squares below the range
        norm = float(torch.linalg.vector_norm(x.double()))
    return norm**2


def _ratio(missed: float, change: float) -> float:
    if change == 0:
        return 0.0 if missed == 0 else math.inf
    return math.sqrt(missed / change)
