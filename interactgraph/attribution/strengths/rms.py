"""Root mean square: sqrt(mean A^2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strength import Strength

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RMS"]


class RMS(Strength):
    """sqrt(mean A^2)."""

    name = "rms"
    degree = 2
    outer = "powers"
    powers = (2, 4)

    def entry(self, a: Tensor) -> Tensor:
        return a.square()

    def pooled(self, values: Tensor, shares: Tensor) -> Tensor:
        return (values.square() * shares).sum(0).sqrt()

    def value(self, mean: Tensor) -> Tensor:
        """See `Strength.value`; estimates from drawn features may fall below zero."""
        return mean.clamp_(min=0).sqrt_()

    def error(self, mean: Tensor, error: Tensor) -> Tensor:
        """D sqrt(m) = dm / (2 sqrt(m)), and hardly above sqrt(dm) where m is less than dm.

        Estimates from drawn features can be so small. An edge that is zero on every sample has no
        error.
        """
        most = error.sqrt()
        return (error / mean.sqrt().mul_(2)).where(mean > 0, most).minimum(most)
