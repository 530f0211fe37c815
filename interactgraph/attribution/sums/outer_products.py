"""Sums over samples of A = left[b,t,i] W[i,j] right[b,t,j], without ever forming A.

Every mean of a power of A is a matrix product over samples and positions:
sum_bt |A|^p = |W|^p * (|left|^p)' (|right|^p). For samples with one position the squares that the
standard error needs are the next power; for sequences they need the product of each sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..strengths import Strength
from .blocks import row_slices
from .strength_sums import StrengthSums, at_least_single

__all__ = ["OuterSums", "max_products"]

_ROWS = 4096  # samples x positions that are gathered before they are multiplied
_SCALED = 256  # samples that the common scale is taken from
_BLOCK = 512  # rows at a time: what is computed from them stays in the cache
_CLOSE = 1e-3  # (relative spread of X_b)^2 below which single precision is not enough
_START = 64  # what an entry of a sparse product costs, in products, before its first one
_DENSE = 1 << 24  # products at a time where there is no sparse reduction
_SAMPLE_BYTES = 1 << 28  # working memory of the products per sample of sequences


Flushed = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class _Sums(NamedTuple):
    """Sums over samples, `[i, j]`: X_b, X_b^2, and X_b n_b where the samples differ in n_b."""

    first: Tensor
    second: Tensor
    cross: Tensor


@dataclass(eq=False)
class OuterSums:
    """Gathers rows of left and right and adds them to `StrengthSums` in large products.

    Attributes:
        sums: where the strengths are accumulated; valid after `flush`.
        matrix: W, `[i, j]`.
        flushed: told left, right, W and the numbers of the samples when they are in `sums`; None:
            nobody is.
    """

    sums: StrengthSums
    matrix: Tensor
    flushed: Flushed | None = None
    _rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    _scales: tuple[Tensor, Tensor] | None = None
    _best: Tensor | None = None

    def add(self, left: Tensor | None, right: Tensor, positions: Tensor, numbers: Tensor) -> None:
        """Adds a batch.

        Args:
            left: `[b, t, i]`, zero at positions that do not count; None: one.
            right: `[b, t, j]`, zero at positions that do not count.
            positions: how many positions of each sample count, int64 `[b]`.
            numbers: of the samples, int64 `[b]`.
        """
        if left is None:
            left = right.new_ones(*right.shape[:2], 1)  # the sums are the same for every target
        if self._rows and self._rows[0][0].shape[1] != left.shape[1]:
            self.flush()
        self._rows.append((at_least_single(left), at_least_single(right), positions, numbers))
        if sum(rows.shape[0] * rows.shape[1] for rows, *_ in self._rows) >= _ROWS:
            self.flush()

    def state(self) -> dict[str, Any]:
        """Everything that is not in `sums` yet, for a checkpoint."""
        return {
            "matrix": self.matrix, "rows": self._rows, "scales": self._scales, "best": self._best,
        }  # fmt: skip

    @staticmethod
    def restored(sums: StrengthSums, state: dict[str, Any], flushed: Flushed | None) -> OuterSums:
        """What `state` was taken of, adding to its sums again."""
        device = sums.device
        outer = OuterSums(sums, state["matrix"].to(device), flushed)
        outer._rows = [
            (left.to(device), right.to(device), positions.to(device), numbers.to(device))
            for left, right, positions, numbers in state["rows"]
        ]
        scales = state["scales"]
        outer._scales = None if scales is None else (scales[0].to(device), scales[1].to(device))
        outer._best = None if state["best"] is None else state["best"].to(device)
        return outer

    def flush(self) -> None:
        """Multiplies what has been gathered and adds it to `sums`."""
        if not self._rows:
            return
        left, right, positions, numbers = (
            torch.cat(parts) if len(parts) > 1 else parts[0]
            for parts in zip(*self._rows, strict=True)
        )
        self._rows.clear()
        if self._scales is None:
            # Fourth powers of single precision leave its range; a scale per feature keeps them in.
            self._scales = _scale_of(left[:_SCALED]), _scale_of(right[:_SCALED])
        means = [strength for strength in self.sums.strengths if strength.outer == "powers"]
        found = self._sums_of(means, left, right, positions, self._scales)
        for strength in means:
            self._add(strength, found[strength.name], left, right, positions)
        for strength in self.sums.strengths:
            if strength.outer == "maximum":
                self._add_maximum(strength, left.flatten(0, 1), right.flatten(0, 1))
        if self.flushed is not None:
            self.flushed(left, right, self.matrix, numbers)

    def _add_maximum(self, strength: Strength, left: Tensor, right: Tensor) -> None:
        """Takes rows of left and right into a maximum."""
        if self._best is None:
            self._best = left.new_zeros(left.shape[-1], right.shape[-1])
        self._best = max_products(left, right, self._best, self._scales)
        best = self._best.expand(self.sums.shape)
        for samples, weight in self._weights():
            strength.combine(self.sums.first[strength.name][samples], weight.abs_() * best[samples])

    def _sums_of(
        self,
        strengths: Sequence[Strength],
        left: Tensor,
        right: Tensor,
        positions: Tensor,
        scales: tuple[Tensor, Tensor],
    ) -> dict[str, _Sums]:
        if left.shape[1] == 1:
            return _of_single(strengths, left[:, 0], right[:, 0], scales)
        counts = positions if self.sums.cross else None
        return _of_sequences(strengths, left * scales[0], right * scales[1], counts)

    def _add(
        self, strength: Strength, sums: _Sums, left: Tensor, right: Tensor, positions: Tensor
    ) -> None:
        """Adds sums over samples of powers of left x right, times the powers of the matrix."""
        narrow = len(sums.first) == 1  # the same for every target
        if narrow:
            sums = self._precise(strength, sums, slice(1), left, right, positions)
        name = strength.name
        for rows, weight in self._weights():
            part = sums if narrow else self._precise(strength, sums, rows, left, right, positions)
            power = strength.entry(weight)
            self.sums.first[name][rows].addcmul_(power, part.first)
            if self.sums.cross:
                self.sums.cross[name][rows].addcmul_(power, part.cross)
            self.sums.second[name][rows].addcmul_(power.square_(), part.second)

    def _precise(
        self,
        strength: Strength,
        sums: _Sums,
        rows: slice,
        left: Tensor,
        right: Tensor,
        positions: Tensor,
    ) -> _Sums:
        """Some rows of the sums in float64, computed again where X_b hardly varies.

        There the spread that makes the standard error is a small difference of large sums.
        """
        precise = _Sums(*(x[rows].double() for x in sums))
        if left.dtype == torch.float64:
            return precise
        total, squares = int(positions.sum()), int(positions.square().sum())
        mean = precise.first / max(total, 1)
        cross = precise.cross if self.sums.cross else precise.first * (squares / max(total, 1))
        spread = precise.second.addcmul(mean, cross, value=-2).addcmul_(mean, mean, value=squares)
        close = (spread < _CLOSE * precise.second).any(0)
        if bool(close.any()):
            assert self._scales is not None
            some = left[..., rows].double(), right[..., close].double()
            scales = self._scales[0][rows], self._scales[1][close]
            again = self._sums_of([strength], *some, positions, scales)[strength.name]
            for x, y in zip(precise, again, strict=True):
                x[:, close] = y
        return precise

    def _weights(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of W / scales at a time, float64, so that temporary values stay small."""
        assert self._scales is not None
        of_rows, of_columns = (scale.double() for scale in self._scales)
        for rows in row_slices(self.matrix.shape):
            across = of_rows if len(of_rows) == 1 else of_rows[rows]
            yield rows, self.matrix[rows].double() / (across[:, None] * of_columns)


def _scale_of(x: Tensor) -> Tensor:
    """A power of two for each feature of `[b, t, i]` that brings it to about 1."""
    size = x.abs().flatten(0, 1).amax(0)
    size = torch.where((size > 0) & size.isfinite(), size, size.nan_to_num(0, 0, 0).max())
    exponent = torch.frexp(size).exponent.clamp(-100, 100)
    return torch.ldexp(torch.ones_like(size), -exponent)


def _of_single(
    strengths: Sequence[Strength], left: Tensor, right: Tensor, scales: tuple[Tensor, Tensor]
) -> dict[str, _Sums]:
    """One position for each sample: X_b is a power of A, its square the next one."""
    # Sums of A (1, signed), |A| (-1), A^2 (2) and A^4 (4), as far as they are needed.
    needed = {power for strength in strengths for power in strength.powers}
    products = {power: left.new_zeros(left.shape[1], right.shape[1]) for power in needed}
    for lhs, rhs in zip(left.split(_BLOCK), right.split(_BLOCK), strict=True):
        lhs, rhs = lhs * scales[0], rhs * scales[1]
        if 1 in needed:
            products[1].addmm_(lhs.mT, rhs)
        if -1 in needed:
            products[-1].addmm_(lhs.abs().mT, rhs.abs())
        if needed & {2, 4}:
            lhs, rhs = lhs.square(), rhs.square()
            if 2 in needed:
                products[2].addmm_(lhs.mT, rhs)
            if 4 in needed:
                products[4].addmm_(lhs.square_().mT, rhs.square_())
    # A sample without a position that counts has X_b = 0, so that X_b n_b = X_b.
    sums = {}
    for strength in strengths:
        first, second = (products[power] for power in strength.powers)
        sums[strength.name] = _Sums(first, second, first)
    return sums


def _of_sequences(
    strengths: Sequence[Strength], left: Tensor, right: Tensor, positions: Tensor | None
) -> dict[str, _Sums]:
    """Several positions; `positions` None: the cross sums are not needed."""
    bytes_per_sample = 2 * left.element_size() * left.shape[2] * right.shape[2]
    chunk = max(1, _SAMPLE_BYTES // bytes_per_sample)
    sums = {}
    for strength in strengths:
        lhs, rhs = strength.entry(left), strength.entry(right)
        first = lhs.flatten(0, 1).mT @ rhs.flatten(0, 1)
        second = torch.zeros_like(first)
        for start in range(0, len(lhs), chunk):
            x = lhs[start : start + chunk].mT @ rhs[start : start + chunk]
            second += x.square_().sum(0)
        cross = first
        if positions is not None:
            weighted = lhs * positions.to(lhs.dtype)[:, None, None]
            cross = weighted.flatten(0, 1).mT @ rhs.flatten(0, 1)
        sums[strength.name] = _Sums(first, second, cross)
    return sums


def max_products(
    left: Tensor, right: Tensor, best: Tensor, scales: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Max over rows r of |left[r, i] right[r, j]|: a matrix product with (max, x) for (+, x).

    An entry left[r, i] of a block of rows that is below best[i, j] / max_r right[r, j] for every j
    cannot win any more, and likewise an entry of right. What is found in the first blocks removes
    most entries of the later ones this way; those of the side that loses more are multiplied
    exactly, as a sparse matrix.

    Args:
        left: `[r, i]`.
        right: `[r, j]`.
        best: `[i, j]`, a lower bound to improve on, not negative.
        scales: positive factors of left, `[i]`, and right, `[j]`; None: one.

    Returns:
        `[i, j]`, at least `best`.
    """
    if left.shape[1] == 1 or right.shape[1] == 1:
        products = (left * right).abs_().amax(0).view_as(best)
        return torch.maximum(best, products if scales is None else products * torch.outer(*scales))
    best = best.clone()
    # Nothing can be left out of the first rows, so that these are few.
    for start, end in pairwise((0, *range(_BLOCK // 4, len(left), _BLOCK), len(left))):
        lhs, rhs = left[start:end].abs(), right[start:end].abs()
        if scales is not None:
            lhs, rhs = lhs.mul_(scales[0]), rhs.mul_(scales[1])
        needed_lhs, needed_rhs = _needed(best, rhs.amax(0)), _needed(best.mT, lhs.amax(0))
        n_left, n_right = (
            int((lhs > needed_lhs).count_nonzero()),
            int((rhs > needed_rhs).count_nonzero()),
        )
        if n_left * (rhs.shape[1] + _START) <= n_right * (lhs.shape[1] + _START):
            torch.maximum(best, _max_product(lhs, needed_lhs, rhs), out=best)
        else:
            torch.maximum(best, _max_product(rhs, needed_rhs, lhs).mT, out=best)
    return best


def _needed(best: Tensor, largest: Tensor) -> Tensor:
    """What an entry must pass to win anywhere: min over j of best[i, j] / largest[j]."""
    return (best / largest).masked_fill_(largest == 0, float("inf")).amin(1)


def _max_product(left: Tensor, needed: Tensor, right: Tensor) -> Tensor:
    """Max over r of left[r, i] right[r, j] where left[r, i] > needed[i]; zero where none is."""
    left = left.mT.contiguous()
    if left.device.type != "cpu":  # the sparse reduction exists on the CPU only
        rows = max(1, _DENSE // (left.shape[1] * right.shape[1]))
        return torch.cat([(part[:, :, None] * right).amax(1) for part in left.split(rows)])
    used = ~(left <= needed[:, None])  # what is not a number stays
    starts = torch.zeros(len(left) + 1, dtype=torch.int64)
    torch.cumsum(used.sum(1), 0, out=starts[1:])
    places = used.flatten().nonzero()[:, 0]
    entries = left.flatten()[places]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")
        sparse = torch.sparse_csr_tensor(
            starts, places % left.shape[1], entries, left.shape, check_invariants=False
        )
    result: Tensor = torch.sparse.mm(sparse, right.contiguous(), "amax")
    return result
