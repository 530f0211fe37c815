"""Maximum: max |A|, what matters on a handful of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strength import Strength

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Maximum"]


class Maximum(Strength):
    """max |A| over samples and positions; a lower bound where source features are drawn."""

    name = "max"
    has_error = False
    outer = "maximum"

    def entry(self, a: Tensor) -> Tensor:
        """See `Strength.entry`."""
        return a.abs()

    def over_positions(self, entries: Tensor, dim: int) -> Tensor:
        """See `Strength.over_positions`."""
        return entries.amax(dim)

    def gather_positions(self, total: Tensor, where: Tensor, entries: Tensor) -> None:
        """See `Strength.gather_positions`."""
        total.scatter_reduce_(0, where[:, None].expand_as(entries), entries, "amax")

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """See `Strength.joined`."""
        return one.maximum(other)

    def fold(self, total: Tensor, x: Tensor) -> None:
        """See `Strength.fold`."""
        total.clamp_(min=x.amax(0).to(total.dtype))

    def fold_columns(self, total: Tensor, features: Tensor, x: Tensor) -> None:
        """See `Strength.fold_columns`."""
        rows = features.expand(x.shape[1], -1)
        total.scatter_reduce_(1, rows, x.mT.contiguous(), "amax")

    def combine(self, total: Tensor, other: Tensor) -> None:
        """See `Strength.combine`."""
        total.clamp_(min=other)
