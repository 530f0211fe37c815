"""Completeness of integrated gradients: what the strengths add up to, against what they should."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.structure import NoClosedForm
from .problem import PairProblem
from .strengths import at_least_single

__all__ = ["Completeness"]

# A residual that is rounding: relative to the change of the target, and to its value.
_ROUNDING = {torch.float64: (1e-5, 1e-9), torch.float32: (1e-4, 1e-5)}
_BLOCK = 1 << 18  # numbers at a time that stay in the cache


@dataclass(eq=False)
class Completeness:
    """Relative residual of sum_j A[b,t,i,j] = y(z) - y(z0), root mean square over b, t and i."""

    residual: float = 0.0
    change: float = 0.0

    def add(self, total: Tensor, problem: PairProblem, *, exact: bool = False) -> None:
        """Adds a batch.

        Args:
            total: sum_j A, `[b, t, i]`.
            problem: the pair on the batch.
            exact: of a closed form, where more than rounding means that it does not hold.

        Raises:
            NoClosedForm: the residual is larger; the batch has not been added.
        """
        missed = moved = size = 0.0
        rows = max(1, _BLOCK // max(1, total[:1].numel()))
        y0 = problem.y0.expand_as(problem.y)
        for start in range(0, len(total), rows):
            here = slice(start, start + rows)
            change = problem.y[here] - y0[here]
            residual = total[here] - change
            if problem.mask is not None:
                change *= problem.mask[here, :, None]
                residual *= problem.mask[here, :, None]
            missed += _square(residual)
            moved += _square(change)
            size += _square(problem.y[here])
        if exact:
            of_change, of_value = _ROUNDING.get(total.dtype, (3e-2, 1e-2))
            allowed = of_change * math.sqrt(moved) + of_value * math.sqrt(size)
            if not math.sqrt(missed) <= allowed:
                raise NoClosedForm(f"residual {_ratio(missed, moved):.1e} on a batch")
        self.residual += missed
        self.change += moved

    @property
    def relative(self) -> float:
        """Over all samples so far."""
        return _ratio(self.residual, self.change)


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(at_least_single(x))) ** 2


def _ratio(residual: float, change: float) -> float:
    if change == 0:
        return 0.0 if residual == 0 else math.inf
    return math.sqrt(residual / change)
