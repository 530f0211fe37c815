"""Exceedance: the share of samples on which |A| passes a threshold of the pair.

An average hides a connection that matters on a handful of samples, and a maximum does not say on
how many. The threshold is a tenth of what the target typically does, the root mean square of
y(z) - y(z0) over the first samples, positions and target features: on the samples that count, one
edge makes a tenth of that by itself. `interactgraph.top_samples` names them.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from typing_extensions import Self

from .largest_position import LargestPosition

if TYPE_CHECKING:
    from torch import Tensor

    from ...layers import PairProblem

__all__ = ["Exceedance"]

_SHARE = 0.1  # of the target's typical change


class Exceedance(LargestPosition):
    """Share of samples on which max_t |A| is above the threshold of the pair."""

    name = "exceedance"
    per_sample = True
    is_share = True
    threshold = 0.0

    def bind(self, problem: PairProblem) -> Self:
        change = (problem.y - problem.y0).double()
        if problem.mask is not None:
            change = change[problem.mask]
        bound = copy(self)
        bound.threshold = _SHARE * float(change.square().mean().sqrt())
        return bound

    def entry(self, a: Tensor) -> Tensor:
        return (a.abs() > self.threshold).to(a.dtype)

    def known(self, displacement: Tensor) -> Tensor:
        """Only a feature that moves can pass it."""
        return (displacement != 0).any(1).to(displacement.dtype)

    def value(self, mean: Tensor) -> Tensor:
        return mean.clamp_(min=0)
