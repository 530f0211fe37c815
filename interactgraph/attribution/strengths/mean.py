"""Signed mean: mean A."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strength import Strength

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Mean"]


class Mean(Strength):
    """Mean A, signed."""

    name = "mean"
    is_signed = True
    outer = "powers"
    powers = (1, 2)

    def entry(self, a: Tensor) -> Tensor:
        return a
