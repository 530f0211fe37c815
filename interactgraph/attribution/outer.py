"""Sums over samples of A = left[b,t,i] W[i,j] right[b,t,j], without ever forming A.

Every mean of a power of A is a matrix product over samples and positions:
sum_bt |A|^p = |W|^p * (|left|^p)' (|right|^p). For samples with one position the squares that the
standard error needs are the next power; for sequences they need the product of each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .strengths import StrengthSums

__all__ = ["OuterSums", "max_products"]

_ROWS = 4096  # samples x positions that are gathered before they are multiplied
_SCALED = 256  # samples that the common scale is taken from
_SAMPLE_BYTES = 1 << 28  # working memory of the products per sample of sequences


@dataclass(eq=False)
class OuterSums:
    """Gathers rows of left and right and adds them to `StrengthSums` in large products.

    Attributes:
        sums: where the strengths are accumulated; valid after `finish`.
        matrix: W, `[i, j]`.
    """

    sums: StrengthSums
    matrix: Tensor
    _rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _first: dict[str, Tensor] = field(default_factory=dict)
    _second: dict[str, Tensor] = field(default_factory=dict)
    _cross: dict[str, Tensor] = field(default_factory=dict)
    _scale: float | None = None

    def add(self, left: Tensor | None, right: Tensor, positions: Tensor) -> None:
        """Adds a batch.

        Args:
            left: `[b, t, i]`, zero at positions that do not count; None: one.
            right: `[b, t, j]`, zero at positions that do not count.
            positions: how many positions of each sample count, int64 `[b]`.
        """
        if left is None:
            left = right.new_ones(*right.shape[:2], 1)
        if self._rows and self._rows[0][0].shape[1] != left.shape[1]:
            self.flush()
        self._rows.append((left, right, positions))
        if sum(l.shape[0] * l.shape[1] for l, _, _ in self._rows) >= _ROWS:  # noqa: E741
            self.flush()

    def state(self) -> dict[str, Any]:
        """Everything that is not in `sums` yet, for a checkpoint."""
        return {
            "rows": self._rows,
            "first": self._first,
            "second": self._second,
            "cross": self._cross,
            "scale": self._scale,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        device = self.matrix.device
        self._rows = [(a.to(device), b.to(device), c.to(device)) for a, b, c in state["rows"]]
        for name in ("first", "second", "cross"):
            table = {key: tensor.to(device) for key, tensor in state[name].items()}
            setattr(self, f"_{name}", table)
        self._scale = state["scale"]

    def flush(self) -> None:
        """Multiplies what has been gathered."""
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
        left = left * self._scale
        single = left.shape[1] == 1
        if single:
            self._flush_single(left[:, 0], right[:, 0])
        else:
            self._flush_sequences(left, right, positions)
        if "max" in self.sums.names:
            size_l, size_r = left.flatten(0, 1).abs(), right.flatten(0, 1).abs()
            best = self._first.get("max")
            if best is None:
                best = self.matrix.new_zeros(left.shape[-1], right.shape[-1])
            self._first["max"] = max_products(size_l, size_r, best)

    def _flush_single(self, left: Tensor, right: Tensor) -> None:
        """One position for each sample: X_b is a power of A, its square the next one."""
        names = self.sums.names
        left2, right2 = left.square(), right.square()
        squares = left2.mT @ right2
        first, second = {}, {"mean_abs": squares, "mean": squares}
        if "rms" in names:
            first["rms"] = squares
            second["rms"] = left2.square().mT @ right2.square()
        if "mean_abs" in names:
            first["mean_abs"] = left.abs().mT @ right.abs()
        if "mean" in names:
            first["mean"] = left.mT @ right
        for name, part in first.items():
            _accumulate(self._first, name, part)
            _accumulate(self._second, name, second[name])
            if self.sums.cross:
                # A sample without a position that counts has X_b = 0, so that X_b n_b = X_b.
                _accumulate(self._cross, name, part)

    def _flush_sequences(self, left: Tensor, right: Tensor, positions: Tensor) -> None:
        powers = {
            "rms": lambda x: x.square(),
            "mean_abs": lambda x: x.abs(),
            "mean": lambda x: x,
        }
        bytes_per_sample = 2 * left.element_size() * left.shape[2] * right.shape[2]
        chunk = max(1, _SAMPLE_BYTES // bytes_per_sample)
        weights = positions.to(left.dtype)
        for name in self.sums.names:
            if name == "max":
                continue
            l, r = powers[name](left), powers[name](right)  # noqa: E741
            _accumulate(self._first, name, l.flatten(0, 1).mT @ r.flatten(0, 1))
            for start in range(0, len(l), chunk):
                x = l[start : start + chunk].mT @ r[start : start + chunk]
                _accumulate(self._second, name, x.square_().sum(0))
            if self.sums.cross:
                weighted = (l * weights[:, None, None]).flatten(0, 1)
                _accumulate(self._cross, name, weighted.mT @ r.flatten(0, 1))

    def finish(self) -> None:
        """Brings everything into `sums`."""
        self.flush()
        matrix = self.matrix.to(torch.float64) / (self._scale or 1.0)
        power = {"rms": matrix.square(), "mean_abs": matrix.abs(), "mean": matrix}
        for name in self._first:
            if name == "max":
                found = matrix.abs() * self._first[name]
                torch.maximum(self.sums.first[name], found, out=self.sums.first[name])
                continue
            self.sums.first[name] += power[name] * self._first[name]
            self.sums.second[name] += power[name].square() * self._second[name]
            if name in self._cross:
                self.sums.cross[name] += power[name] * self._cross[name]
        self._first.clear()
        self._second.clear()
        self._cross.clear()


def _accumulate(table: dict[str, Tensor], name: str, part: Tensor) -> None:
    if name in table:
        table[name] += part
    else:
        table[name] = part.to(torch.float64)


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
