"""The interface of a strength, with what most of them share.

A strength reduces A in two steps: X[b,i,j] over the target positions t of a sample, then over the
samples b. Samples are independent and positions within one are not, so the unit of the standard
error is the sample: with n_b the number of positions of sample b and N = sum n_b, the mean
m = sum X_b / N is a ratio of sums, and SE(m)^2 = B / (B - 1) * sum_b (X_b - m n_b)^2 / N^2
(Cochran, Sampling Techniques, eq. 6.9).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import Self

if TYPE_CHECKING:
    from torch import Tensor

    from ...layers import PairProblem

__all__ = ["Strength"]


class Strength(ABC):
    """A mean over samples, unless a subclass says otherwise.

    Attributes:
        name: what it is called.
        is_mean: whether it is a mean, which has a standard error; else it is a maximum, over
            samples and over processes.
        degree: 2 where squares of A are averaged, else 1: the power of displacements that draws go
            by.
        is_signed: whether X may be negative.
        per_sample: whether the mean is over samples instead of over samples and positions.
        adds_positions: whether X is a sum over the positions of a sample, so that a few of them
            tell it, with an error.
        is_share: whether X is 0 or 1, so that few draws may all be the same.
        outer: how it is found for A = left W right without forming A: "powers": it is a sum of
            products of powers; "maximum"; None: it is not.
        powers: of A whose sums make X_b and X_b^2 then: 1 signed, -1 of the absolute value.
    """

    name: ClassVar[str]
    is_mean: ClassVar[bool] = True
    degree: ClassVar[int] = 1
    is_signed: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    adds_positions: ClassVar[bool] = True
    is_share: ClassVar[bool] = False
    outer: ClassVar[Literal["powers", "maximum"] | None] = None
    powers: ClassVar[tuple[int, int]] = (1, 2)

    def bind(self, problem: PairProblem) -> Self:
        """The strength, fixed to a pair as its first samples show it.

        Every process and every resumed run sees the same samples.
        """
        return self

    # --- over the positions of a sample ----------------------------------------------------------

    @abstractmethod
    def entry(self, a: Tensor) -> Tensor:
        """What counts of every entry of A, same shape."""

    def over_positions(self, entries: Tensor, dim: int) -> Tensor:
        """X_b from what `entry` gave."""
        return entries.sum(dim)

    def scatter_positions(self, total: Tensor, where: Tensor, entries: Tensor) -> None:
        """As `over_positions`, of entries `[n, i]` that belong to rows `where` of the total."""
        total.index_add_(0, where, entries)

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """X_b over two sets of positions of the same samples."""
        return one + other

    def known(self, displacement: Tensor) -> Tensor:
        """x[b, j] that X[b, i, j] is about proportional to, from displacements `[b, s, j]`."""
        return self.over_positions(self.entry(displacement), 1)

    # --- over samples ----------------------------------------------------------------------------

    def add_samples(self, total: Tensor, x: Tensor) -> None:
        """Adds X_b of samples `[b, i, j]` to the total `[i, j]`, in place."""
        total += x.sum(0)

    def add_sampled_columns(self, total: Tensor, features: Tensor, x: Tensor) -> None:
        """Adds X_b `[n, i]` of one source feature each, int64 `[n]`, to the total, in place."""
        total.index_add_(1, features, x.mT)

    def combine(self, total: Tensor, other: Tensor) -> None:
        """Adds the total over other samples, in place."""
        total += other

    def pooled(self, values: Tensor, shares: Tensor) -> Tensor:
        """The strength over disjoint parts of the data.

        Args:
            values: of every part, `[parts, i, j]`.
            shares: of the samples in every part, `[parts, 1, 1]`.
        """
        return (values * shares).sum(0)

    def value(self, mean: Tensor) -> Tensor:
        """The strength, from the mean (or the total of what is no mean); may overwrite it."""
        return mean

    def error(self, mean: Tensor, error: Tensor) -> Tensor:
        """Its standard error, from the mean and the standard error of the mean."""
        return error
