"""What strengths share that look at the target position where an edge is strongest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strength import Strength

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LargestPosition"]


class LargestPosition(Strength):
    """X_b is the largest entry over the target positions of a sample, where others add them."""

    adds_positions = False

    def over_positions(self, entries: Tensor, dim: int) -> Tensor:
        return entries.amax(dim)

    def scatter_positions(self, total: Tensor, where: Tensor, entries: Tensor) -> None:
        total.scatter_reduce_(0, where[:, None].expand_as(entries), entries, "amax")

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        return one.maximum(other)
