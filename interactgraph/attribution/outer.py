"""Sums over samples of A = left[b,t,i] W[i,j] right[b,t,j], without ever forming A.

Every mean of a power of A is a matrix product over samples and positions:
sum_bt |A|^p = |W|^p * (|left|^p)' (|right|^p). For samples with one position the squares that the
standard error needs are the next power; for sequences they need the product of each sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .strengths import StrengthSums, row_slices

__all__ = ["OuterSums", "max_products"]

_ROWS = 4096  # samples x positions that are gathered before they are multiplied
_SCALED = 256  # samples that the common scale is taken from
_BLOCK = 512  # rows at a time: their powers stay in the cache
_FIRST = {"rms": 2, "mean_abs": -1, "mean": 1}
_SECOND = {"rms": 4, "mean_abs": 2, "mean": 2}
_SAMPLE_BYTES = 1 << 28  # working memory of the products per sample of sequences


@dataclass(eq=False)
class OuterSums:
    """Gathers rows of left and right and adds them to `StrengthSums` in large products.

    Attributes:
        sums: where the strengths are accumulated; valid after `flush`.
        matrix: W, `[i, j]`.
    """

    sums: StrengthSums
    matrix: Tensor
    _rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _scale: float | None = None
    _best: Tensor | None = None

    def add(self, left: Tensor | None, right: Tensor, positions: Tensor) -> None:
        """Adds a batch.

        Args:
            left: `[b, t, i]`, zero at positions that do not count; None: one.
            right: `[b, t, j]`, zero at positions that do not count.
            positions: how many positions of each sample count, int64 `[b]`.
        """
        if left is None:
            left = right.new_ones(*right.shape[:2], 1)  # the sums are the same for every target
        if self._rows and self._rows[0][0].shape[1] != left.shape[1]:
            self.flush()
        self._rows.append((left, right, positions))
        if sum(l.shape[0] * l.shape[1] for l, _, _ in self._rows) >= _ROWS:  # noqa: E741
            self.flush()

    def state(self) -> dict[str, Any]:
        """Everything that is not in `sums` yet, for a checkpoint."""
        return {"rows": self._rows, "scale": self._scale, "best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        device = self.matrix.device
        self._rows = [(a.to(device), b.to(device), c.to(device)) for a, b, c in state["rows"]]
        self._scale = state["scale"]
        self._best = None if state["best"] is None else state["best"].to(device)

    def flush(self) -> None:
        """Multiplies what has been gathered and adds it to `sums`."""
        if not self._rows:
            return
        left, right, positions = (
            torch.cat(parts) if len(parts) > 1 else parts[0]
            for parts in zip(*self._rows, strict=True)
        )
        self._rows.clear()
        if self._scale is None:
            # Fourth powers of single precision leave its range; a common scale keeps them inside.
            size = float(left[:_SCALED].abs().max() * right[:_SCALED].abs().max())
            self._scale = 1 / size if 0 < size < float("inf") else 1.0
        if left.shape[1] == 1:
            self._flush_single(left[:, 0], right[:, 0])
        else:
            self._flush_sequences(left, right, positions)
        if "max" in self.sums.names:
            size_l = (left * (self._scale or 1.0)).flatten(0, 1).abs_()
            size_r = right.flatten(0, 1).abs()
            if self._best is None:
                self._best = self.matrix.new_zeros(left.shape[-1], right.shape[-1])
            self._best = max_products(size_l, size_r, self._best)
            best = self._best.expand(self.sums.shape)
            for rows, weight in self._weights():
                found = weight.abs_() * best[rows]
                view = self.sums.first["max"][rows]
                torch.maximum(view, found, out=view)

    def _flush_single(self, left: Tensor, right: Tensor) -> None:
        """One position for each sample: X_b is a power of A, its square the next one."""
        names = [name for name in self.sums.names if name != "max"]
        # Sums of A (1, signed), |A| (-1), A^2 (2) and A^4 (4), as far as they are needed.
        needed = {power for name in names for power in (_FIRST[name], _SECOND[name])}
        products = {power: left.new_zeros(left.shape[1], right.shape[1]) for power in needed}
        scale = self._scale or 1.0
        for l, r in zip(left.split(_BLOCK), right.split(_BLOCK), strict=True):  # noqa: E741
            l = l * scale  # noqa: E741
            if 1 in needed:
                products[1].addmm_(l.mT, r)
            if -1 in needed:
                products[-1].addmm_(l.abs().mT, r.abs())
            if needed & {2, 4}:
                l, r = l.square(), r.square()  # noqa: E741
                if 2 in needed:
                    products[2].addmm_(l.mT, r)
                if 4 in needed:
                    products[4].addmm_(l.square_().mT, r.square_())
        for name in names:
            first, second = products[_FIRST[name]], products[_SECOND[name]]
            # A sample without a position that counts has X_b = 0, so that X_b n_b = X_b.
            self._add(name, first, second, first if self.sums.cross else None)

    def _flush_sequences(self, left: Tensor, right: Tensor, positions: Tensor) -> None:
        powers = {
            "rms": lambda x: x.square(),
            "mean_abs": lambda x: x.abs(),
            "mean": lambda x: x,
        }
        left = left * (self._scale or 1.0)
        bytes_per_sample = 2 * left.element_size() * left.shape[2] * right.shape[2]
        chunk = max(1, _SAMPLE_BYTES // bytes_per_sample)
        weights = positions.to(left.dtype)
        for name in self.sums.names:
            if name == "max":
                continue
            l, r = powers[name](left), powers[name](right)  # noqa: E741
            first = l.flatten(0, 1).mT @ r.flatten(0, 1)
            second = torch.zeros_like(first)
            for start in range(0, len(l), chunk):
                x = l[start : start + chunk].mT @ r[start : start + chunk]
                second += x.square_().sum(0)
            cross = None
            if self.sums.cross:
                cross = (l * weights[:, None, None]).flatten(0, 1).mT @ r.flatten(0, 1)
            self._add(name, first, second, cross)

    def _add(self, name: str, first: Tensor, second: Tensor, cross: Tensor | None) -> None:
        """Adds sums over samples of powers of left x right, times the powers of the matrix."""
        first, second = first.expand(self.sums.shape), second.expand(self.sums.shape)
        cross = None if cross is None else cross.expand(self.sums.shape)
        for rows, weight in self._weights():
            power = weight.square_() if name == "rms" else weight
            power = power.abs_() if name == "mean_abs" else power
            self.sums.first[name][rows].addcmul_(power, first[rows].double())
            if cross is not None:
                self.sums.cross[name][rows].addcmul_(power, cross[rows].double())
            self.sums.second[name][rows].addcmul_(power.square_(), second[rows].double())

    def _weights(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of W / scale at a time, float64, so that temporary values stay small."""
        for rows in row_slices(self.matrix.shape):
            yield rows, self.matrix[rows].double() / (self._scale or 1.0)


def max_products(left: Tensor, right: Tensor, best: Tensor) -> Tensor:
    """Max over rows r of left[r, i] right[r, j], exactly, looking at few of the rows.

    A row that is neither among the k rows with the largest left[:, i] nor among the k with the
    largest right[:, j] has a product of at most (k-th largest left) x (k-th largest right). Once
    the best product found is at least that, no other row can win. For independent rows that
    happens at k of about sqrt(rows); the pairs left over are searched in full.

    Args:
        left: `[r, i]`, not negative.
        right: `[r, j]`, not negative.
        best: `[i, j]`, a lower bound to improve on, not negative.

    Returns:
        `[i, j]`, at least `best`.
    """
    n_rows = left.shape[0]
    if left.shape[1] == 1:
        return torch.maximum(best, (left * right).amax(0))
    k_max = min(n_rows, max(32, int(3 * n_rows**0.5)))
    left_t, right_t = left.mT.contiguous(), right.mT.contiguous()
    by_left, by_right = left_t.topk(k_max, dim=1), right_t.topk(k_max, dim=1)
    best, best_t = best.clone(), torch.zeros_like(best.mT).contiguous()
    buffer, buffer_t = torch.empty_like(best), torch.empty_like(best_t)
    done, step = 0, 16
    while True:
        for k in range(done, min(done + step, k_max)):
            torch.index_select(right, 0, by_left.indices[:, k], out=buffer)
            torch.maximum(best, buffer.mul_(by_left.values[:, k, None]), out=best)
            torch.index_select(left, 0, by_right.indices[:, k], out=buffer_t)
            torch.maximum(best_t, buffer_t.mul_(by_right.values[:, k, None]), out=best_t)
        done = min(done + step, k_max)
        torch.maximum(best, best_t.mT, out=best)
        if done == n_rows:
            return best
        open_pairs = by_left.values[:, done - 1, None] * by_right.values[:, done - 1] > best
        # A pair searched in full costs n_rows scattered reads, a further step two cached ones.
        if done == k_max or int(open_pairs.sum()) * 30 * n_rows < 4 * step * best.numel():
            break
    i, j = open_pairs.nonzero(as_tuple=True)
    chunk = max(1, (1 << 22) // n_rows)
    for start in range(0, len(i), chunk):
        a, b = i[start : start + chunk], j[start : start + chunk]
        best[a, b] = torch.maximum(best[a, b], (left_t[a] * right_t[b]).amax(1))
    return best
