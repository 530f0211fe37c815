"""Mean absolute value: mean |A|."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strength import Strength

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MeanAbs"]


class MeanAbs(Strength):
    """Mean |A|."""

    name = "mean_abs"
    outer = "powers"
    powers = (-1, 2)

    def entry(self, a: Tensor) -> Tensor:
        return a.abs()

    def value(self, mean: Tensor) -> Tensor:
        """See `Strength.value`; estimates from drawn features may fall below zero."""
        return mean.clamp_(min=0)
