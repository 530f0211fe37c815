"""Maximum: max |A|, what matters on a handful of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .largest_position import LargestPosition

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Maximum"]


class Maximum(LargestPosition):
    """max |A| over samples and positions; a lower bound where source features are drawn."""

    name = "max"
    is_mean = False
    outer = "maximum"

    def entry(self, a: Tensor) -> Tensor:
        return a.abs()

    def add_samples(self, total: Tensor, x: Tensor) -> None:
        total.clamp_(min=x.amax(0).to(total.dtype))

    def add_sampled_columns(self, total: Tensor, features: Tensor, x: Tensor) -> None:
        rows = features.expand(x.shape[1], -1)
        total.scatter_reduce_(1, rows, x.mT.contiguous(), "amax")

    def combine(self, total: Tensor, other: Tensor) -> None:
        total.clamp_(min=other)

    def pooled(self, values: Tensor, shares: Tensor) -> Tensor:
        return values.amax(0)
