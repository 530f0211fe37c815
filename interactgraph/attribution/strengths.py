"""Strengths: averages of A over samples and target positions, with standard errors over samples.

rms = sqrt(mean A^2), mean_abs = mean |A|, mean = mean A, max = max |A|, the mean over all samples b
and all target positions t that count. Samples are independent, positions within one are not, so
the unit of the standard error is the sample: with X_b the sum over the positions of sample b, n_b
their number and N = sum n_b, the mean m = sum X_b / N is a ratio of sums and
SE(m)^2 = B / (B - 1) * sum_b (X_b - m n_b)^2 / N^2 (Cochran, Sampling Techniques, eq. 6.9).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InteractGraphError

__all__ = [
    "STRENGTHS",
    "StrengthSums",
    "at_least_single",
    "check_strengths",
    "merge_positions",
    "row_slices",
    "sum_positions",
]

# What a checkpoint of the sums holds.
_SAVED = (
    "first", "second", "cross", "n_samples", "n_positions", "n_positions_squared", "per_sample",
    "n_passes", "passes_end", "passes_mean", "passes_spread",
)  # fmt: skip

_BLOCK = 1 << 16  # entries at a time
STRENGTHS = ("rms", "mean_abs", "mean", "max")


def check_strengths(names: Sequence[str] | str) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        InteractGraphError: an unknown or repeated name, or none.
    """
    names = (names,) if isinstance(names, str) else tuple(names or ())
    unknown = [name for name in names if name not in STRENGTHS]
    if unknown or not names or len(set(names)) < len(names):
        raise InteractGraphError(
            f"strengths={list(names)}; choose one or more, each once, of {', '.join(STRENGTHS)}"
        )
    return names


def at_least_single(x: Tensor) -> Tensor:
    """Half precision cast to single, in which squares and sums keep within the range."""
    return x.float() if x.element_size() == 2 else x


def sum_positions(a: Tensor, mask: Tensor | None, names: Sequence[str]) -> dict[str, Tensor]:
    """A `[b, t, i, j]` -> for each strength its sum (or maximum) over positions, `[b, i, j]`."""
    a = at_least_single(a)
    if mask is not None:
        a = a * mask[:, :, None, None]
    single = a.shape[1] == 1
    result = {}
    for name in names:
        if name == "mean":
            result[name] = a[:, 0] if single else a.sum(1)
            continue
        size = a.square() if name == "rms" else a.abs()
        result[name] = size[:, 0] if single else size.amax(1) if name == "max" else size.sum(1)
    return result


def merge_positions(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins what `sum_positions` gave for two sets of positions of the same samples."""
    return {
        name: torch.maximum(one[name], other[name]) if name == "max" else one[name] + other[name]
        for name in one
    }


@dataclass(eq=False)
class StrengthSums:
    """Running sums over samples from which strengths and standard errors follow, float64.

    Attributes:
        names: the strengths.
        shape: (target features, source features).
        first: name -> sum_b X_b, for `max` the maximum; `[i, j]`.
        second: name -> sum_b X_b^2, `[i, j]`.
        cross: name -> sum_b X_b n_b, `[i, j]`; empty while every sample has as many positions.
        n_samples: number of samples B.
        n_positions: sum_b n_b.
        n_positions_squared: sum_b n_b^2.
        per_sample: n_b while it is the same for all samples.
        n_passes: passes over the same samples with new draws that have ended, one at least.
        passes_end: name -> `first` when the last pass ended, where there are several.
        passes_mean: name -> mean over passes of what a pass adds to `first`.
        passes_spread: name -> sum over passes of its squared deviation from that mean.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    device: torch.device
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)
    cross: dict[str, Tensor] = field(default_factory=dict)
    n_samples: int = 0
    n_positions: int = 0
    n_positions_squared: int = 0
    per_sample: int | None = None
    n_passes: int = 1
    passes_end: dict[str, Tensor] = field(default_factory=dict)
    passes_mean: dict[str, Tensor] = field(default_factory=dict)
    passes_spread: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = {name: self._zeros() for name in self.names}
        self.second = {name: self._zeros() for name in self.names if name != "max"}

    @staticmethod
    def n_bytes(names: Sequence[str], shape: tuple[int, int]) -> int:
        """Memory that the sums take."""
        return 8 * shape[0] * shape[1] * sum(1 if name == "max" else 2 for name in names)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.float64, device=self.device)

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {name: getattr(self, name) for name in _SAVED}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        for name in _SAVED:
            value = state[name]
            if isinstance(value, dict):
                value = {key: tensor.to(self.device) for key, tensor in value.items()}
            setattr(self, name, value)

    def end_pass(self, number: int) -> None:
        """Notes what one of several passes over the same samples, drawn anew, has added.

        Args:
            number: of the pass, from 1.
        """
        self.n_passes = number
        for name in self.second:
            for table in (self.passes_mean, self.passes_spread, self.passes_end):
                table.setdefault(name, self._zeros())
            added = self.first[name] - self.passes_end[name]
            self.passes_end[name] += added
            step = added - self.passes_mean[name]
            self.passes_mean[name] += step / number
            self.passes_spread[name].addcmul_(step, added - self.passes_mean[name])

    def begins_to_vary(self, positions: Tensor) -> bool:
        """Whether these samples are the first whose number of positions differs from the others.

        What has been added until then must be in `first` before `count` is called.
        """
        here = set(positions.tolist()) | ({self.per_sample} if self.n_samples else set())
        return not self.cross and len(here) > 1

    def count(self, positions: Tensor) -> None:
        """Counts the samples of a batch; to be called before they are added.

        Args:
            positions: number of target positions that count in each sample, int64 `[b]`.
        """
        if self.begins_to_vary(positions):
            self.cross = {
                name: total * (self.per_sample or 0)
                for name, total in self.first.items()
                if name != "max"
            }
        elif not self.n_samples and len(positions):
            self.per_sample = int(positions[0])
        self.n_samples += len(positions)
        self.n_positions += int(positions.sum())
        self.n_positions_squared += int(positions.square().sum())

    def add(
        self,
        sums: dict[str, Tensor],
        positions: Tensor,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """Adds what `sum_positions` gave, `[b, i, j]`, for some target and source features.

        Args:
            sums: strength -> sums over positions.
            positions: as for `count`.
            rows: the target features.
            columns: the source features.
        """
        for name, x in sums.items():
            if name == "max":
                view = self.first[name][rows, columns]
                torch.maximum(view, x.amax(0).to(torch.float64), out=view)
                continue
            x = x.to(torch.float64)
            self.first[name][rows, columns] += x.sum(0)
            if self.cross:
                self.cross[name][rows, columns] += torch.einsum(
                    "bij,b->ij", x, positions.to(torch.float64)
                )
            self.second[name][rows, columns] += x.square().sum(0)

    def add_drawn(
        self,
        sums: Mapping[str, Tensor],
        weights: Tensor,
        features: Tensor,
        positions: Tensor,
        expected: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adds one source feature for each sample, an unbiased estimate of all of them.

        Args:
            sums: strength -> sums over positions, `[b, i]`.
            weights: of the samples' contributions, `[b]`.
            features: the source feature of each sample, int64 `[b]`.
            positions: as for `count`.
            expected: what is added for these samples besides, whatever is drawn, `[b, i]`; the
                contributions are the differences from it.
        """
        used = weights > 0
        features, weights, positions = features[used], weights[used, None], positions[used]
        for name, x in sums.items():
            x = x[used].to(torch.float64)
            if name == "max":
                rows = features.expand(x.shape[1], -1)
                self.first[name].scatter_reduce_(1, rows, x.mT.contiguous(), "amax")
                continue
            if expected:
                known = expected[name][used].to(torch.float64)
                x = (x - known) * weights
                squares = x * (x + 2 * known)
            else:
                x = x * weights
                squares = x.square()
            self.first[name].index_add_(1, features, x.mT)
            self.second[name].index_add_(1, features, squares.mT)
            if self.cross:
                self.cross[name].index_add_(1, features, (x * positions[:, None]).mT)

    @staticmethod
    def merged(
        names: tuple[str, ...],
        shape: tuple[int, int],
        device: torch.device,
        parts: Sequence[StrengthSums],
    ) -> StrengthSums:
        """The sums over all samples of several ones over disjoint samples."""
        total = StrengthSums(names, shape, device)
        parts = [part for part in parts if part.n_samples]
        vary = any(part.cross for part in parts) or len({p.per_sample for p in parts}) > 1
        if vary:
            total.cross = {name: total._zeros() for name in total.second}
        for part in parts:
            for name in names:
                if name == "max":
                    torch.maximum(total.first[name], part.first[name], out=total.first[name])
                    continue
                total.first[name] += part.first[name]
                total.second[name] += part.second[name]
                if vary:
                    each = part.per_sample or 0
                    total.cross[name] += part.cross[name] if part.cross else part.first[name] * each
            total.n_samples += part.n_samples
            total.n_positions += part.n_positions
            total.n_positions_squared += part.n_positions_squared
            total.per_sample = part.per_sample
            total.n_passes = part.n_passes
            for name, spread in part.passes_spread.items():  # draws of different samples
                total.passes_spread[name] = total.passes_spread.get(name, 0) + spread
        return total

    def strength(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """The strength, `[i, j]`."""
        if name == "max":
            return self.first[name].to(dtype, copy=True)
        result = torch.empty(self.shape, dtype=dtype, device=self.device)
        for rows in row_slices(self.shape):
            mean = self.first[name][rows] / max(self.n_positions, 1)
            if name != "mean":
                mean.clamp_(min=0)  # estimates from draws may fall below
            result[rows] = mean.sqrt_() if name == "rms" else mean
        return result

    def standard_error(
        self, name: str, dtype: torch.dtype = torch.float64, *, of_draws: bool = True
    ) -> Tensor | None:
        """Its standard error over samples, `[i, j]`; None for `max`.

        Not a number with fewer than two samples.

        Args:
            name: the strength.
            dtype: of the result.
            of_draws: with what the draws of source features add to it, where several passes tell;
                without is what infinitely many passes would leave.
        """
        if name == "max":
            return None
        result = torch.empty(self.shape, dtype=dtype, device=self.device)
        share = self._share_of_draws(name) if self.n_passes > 1 else None
        for rows in row_slices(self.shape):
            error = self._mean_error(name, rows)
            if share is not None:
                # The samples are the same in every pass: the share of the draws alone is averaged.
                own = self._of_draws(name, rows) / (error.square() * self.n_passes)
                own = own.nan_to_num_(0.0).clamp_(max=1)
                own = torch.lerp(
                    share.expand_as(own), own, (self.n_passes - 1) / (self.n_passes + 7)
                )
                kept = 1 - own + (own / self.n_passes if of_draws else 0)
                error *= (kept * self.n_passes).sqrt()
            if name == "rms":
                # d sqrt(m) = dm / (2 sqrt(m)), and hardly above sqrt(dm) where m is less than dm,
                # as estimates from draws can be. An edge that is zero on every sample has no error.
                mean = self.first[name][rows] / max(self.n_positions, 1)
                most = error.sqrt()
                error = torch.where(mean > 0, error / mean.sqrt().mul_(2), most).minimum(most)
            result[rows] = error
        return result

    def _mean_error(self, name: str, rows: slice) -> Tensor:
        """The standard error of the mean of X, as if all samples were different ones."""
        total = max(self.n_positions, 1)
        first = self.first[name][rows]
        mean = first / total
        cross = self.cross[name][rows] if self.cross else first * (self.per_sample or 0)
        spread = self.second[name][rows].addcmul(mean, cross, value=-2)
        spread.addcmul_(mean, mean, value=self.n_positions_squared)
        factor = self.n_samples / (self.n_samples - 1) if self.n_samples > 1 else float("nan")
        return spread.clamp_(min=0).mul_(factor).sqrt_().div_(total)

    def _of_draws(self, name: str, rows: slice) -> Tensor:
        """What the draws add to the squared error of one pass, from the differences of passes."""
        per_pass = max(self.n_positions, 1) / self.n_passes
        return self.passes_spread[name][rows] / ((self.n_passes - 1) * per_pass**2)

    def _share_of_draws(self, name: str) -> Tensor:
        """The share of the draws in the squared error of one pass, `[j]`.

        A few passes tell little about a single edge; the edges from one source, which are drawn
        together, tell more.
        """
        of_draws, of_all = (torch.zeros(self.shape[1], device=self.device) for _ in range(2))
        for rows in row_slices(self.shape):
            of_draws = of_draws + self._of_draws(name, rows).sum(0)
            of_all = of_all + self._mean_error(name, rows).square().sum(0) * self.n_passes
        return (of_draws / of_all).nan_to_num(0.0).clamp(max=1)


def row_slices(shape: tuple[int, ...] | torch.Size) -> Iterator[slice]:
    """Some rows of a matrix at a time, so that temporary values stay in the cache."""
    step = max(1, _BLOCK // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
