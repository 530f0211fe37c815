"""Running sums over samples: what every strength is made of in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...distributed import World
from ..strengths import Strength
from .blocks import row_slices
from .drawn_sums import DrawnSums
from .repeated_passes import RepeatedPasses
from .running_sums import RunningSums

__all__ = ["StrengthSums", "at_least_single", "reduce_positions"]


def at_least_single(x: Tensor) -> Tensor:
    """Half precision cast to single, in which squares and sums keep within the range."""
    return x.float() if x.element_size() == 2 else x


def reduce_positions(
    a: Tensor, mask: Tensor | None, strengths: Sequence[Strength]
) -> dict[str, Tensor]:
    """A `[b, t, i, j]` -> X_b of each strength, `[b, i, j]`."""
    a = at_least_single(a)
    if mask is not None:
        a = a * mask[:, :, None, None]
    single = a.shape[1] == 1
    return {
        s.name: s.entry(a[:, 0]) if single else s.over_positions(s.entry(a), 1) for s in strengths
    }


@dataclass(eq=False)
class StrengthSums(RunningSums):
    """Running sums over samples from which strengths and standard errors follow, float64.

    Attributes:
        first: name -> sum_b X_b, of a maximum the maximum; `[i, j]`.
        second: name -> sum_b X_b^2 of strengths that have an error, `[i, j]`.
        cross: name -> sum_b X_b n_b, `[i, j]`; empty while every sample has as many positions.
        passes: what differs between passes over the same samples with new draws.
        draws: what is kept besides where source features are drawn; nothing where all of them
            are computed.
    """

    first: dict[str, Tensor] = field(init=False)
    second: dict[str, Tensor] = field(init=False)
    cross: dict[str, Tensor] = field(default_factory=dict)
    passes: RepeatedPasses = field(default_factory=RepeatedPasses)
    draws: DrawnSums = field(init=False)

    def __post_init__(self) -> None:
        self.first = {strength.name: self._zeros() for strength in self.strengths}
        self.second = {s.name: self._zeros() for s in self.strengths if s.is_mean}
        self.draws = DrawnSums(self.strengths, self.shape, self.device)

    @staticmethod
    def bytes_for(strengths: Sequence[Strength], shape: tuple[int, int]) -> int:
        """Memory that the sums take."""
        return 8 * shape[0] * shape[1] * sum(1 + strength.is_mean for strength in strengths)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.float64, device=self.device)

    # --- adding samples --------------------------------------------------------------------------

    @property
    def varies(self) -> bool:
        """See `RunningSums.varies`."""
        return bool(self.cross)

    def _open_cross(self) -> None:
        each = self.per_sample or 0
        self.cross = {name: self.first[name] * each for name in self.second}

    def add(
        self,
        sums: Mapping[str, Tensor],
        positions: Tensor,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """Adds what `reduce_positions` gave, `[b, i, j]`, for some target and source features.

        Args:
            sums: strength -> X_b.
            positions: as for `count`.
            rows: the target features.
            columns: the source features.
        """
        for strength in self.strengths:
            name = strength.name
            x = sums[name]
            if strength.is_mean:
                x = x.to(torch.float64)
                self.second[name][rows, columns] += x.square().sum(0)
                if self.cross:
                    counts = positions.to(torch.float64)
                    self.cross[name][rows, columns] += torch.einsum("bij,b->ij", x, counts)
            strength.add_samples(self.first[name][rows, columns], x)

    def add_columns(
        self, sums: Mapping[str, Tensor], weights: Tensor, features: Tensor, positions: Tensor
    ) -> None:
        """Adds one source feature for each sample, weighted as the draws were.

        Args:
            sums: strength -> X_b, `[n, i]`.
            weights: one over the probability of each draw, `[n]`.
            features: the source feature of each sample, int64 `[n]`.
            positions: as for `count`.
        """
        for strength in self.strengths:
            name = strength.name
            x = sums[name].to(torch.float64)
            weighted = x * weights[:, None]
            if strength.is_mean:
                self.second[name].index_add_(1, features, (x * weighted).mT)
                if self.cross:
                    self.cross[name].index_add_(1, features, (weighted * positions[:, None]).mT)
            x = weighted if strength.is_mean else x
            strength.add_sampled_columns(self.first[name], features, x)

    def end_pass(self, number: int) -> None:
        """Notes what one of several passes over the same samples, drawn anew, has added.

        Args:
            number: of the pass, from 1.
        """
        if self.draws.any:  # which tell their part of the error themselves
            self.passes.number = number
        else:
            self.passes.end({name: self.first[name] for name in self.second}, number)

    # --- joining ---------------------------------------------------------------------------------

    @staticmethod
    def merged(parts: Sequence[StrengthSums]) -> StrengthSums:
        """The sums over all samples of several ones over disjoint samples, at least one."""
        total = StrengthSums(parts[0].strengths, parts[0].shape, parts[0].device)
        parts = [part for part in parts if part.n_samples]
        vary = any(part.cross for part in parts) or len({p.per_sample for p in parts}) > 1
        if vary:
            total.cross = {name: total._zeros() for name in total.second}
        for part in parts:
            for strength in total.strengths:
                strength.combine(total.first[strength.name], part.first[strength.name])
            for name in total.second:
                total.second[name] += part.second[name]
                if vary:
                    each = part.per_sample or 0
                    total.cross[name] += part.cross[name] if part.cross else part.first[name] * each
            total._count_those_of(part)
            total.passes.add(part.passes)
            total.draws.merge(part.draws)
        return total

    def gather(self, world: World) -> StrengthSums:
        """The sums over the samples of all processes; all of them call it. May change these."""
        counts = (self.n_samples, self.n_used, self.n_positions, self.n_positions_squared)
        parts = world.gather((counts, self.per_sample, bool(self.cross)))
        each = {per_sample for (n, *_), per_sample, _ in parts if n}
        if (len(each) > 1 or any(cross for *_, cross in parts)) and not self.cross:
            self._open_cross()
        for strength in self.strengths:
            world.add(self.first[strength.name], largest=not strength.is_mean)
        for table in (self.second, self.cross):
            for total in table.values():
                world.add(total)
        self.n_samples, self.n_used, self.n_positions, self.n_positions_squared = (
            sum(part[0][k] for part in parts) for k in range(4)
        )
        self.per_sample = next(iter(each), None)
        self.passes.gather(world, self.second)
        self.draws.gather(world)
        return self

    # --- results ---------------------------------------------------------------------------------

    def strength(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """The strength, `[i, j]`."""
        strength = self._strength(name)
        result = torch.empty(self.shape, dtype=dtype, device=self.device)
        for rows in row_slices(self.shape):
            result[rows] = strength.value(self._mean(strength, rows))
        return result

    def sample_totals(self, name: str) -> Tensor:
        """Sum over samples of X, `[i, j]`; an estimate where source features are drawn."""
        strength, first = self._strength(name), self.first[name]
        drawn = self.draws.any and strength.is_mean
        return self.draws.total(strength, first, slice(None)) if drawn else first

    def standard_error(
        self, name: str, dtype: torch.dtype = torch.float64, *, of_draws: bool = True
    ) -> Tensor | None:
        """Its standard error over samples, `[i, j]`; None where it has none.

        Not a number with fewer than two samples; infinite for source features that were never
        drawn, of which nothing is known.

        Args:
            name: the strength.
            dtype: of the result.
            of_draws: with what draws add to it; without is what infinitely many passes would leave.
        """
        strength = self._strength(name)
        if not strength.is_mean:
            return None
        result = torch.empty(self.shape, dtype=dtype, device=self.device)
        signs_tell = self.passes.number > 1 and not self.draws.any
        share = self._share_of_draws(strength) if signs_tell else None
        errors = self._drawn_errors if self.draws.any else self._errors
        for rows, error in errors(strength, of_draws=of_draws):
            if share is not None:
                draws = self.passes.squared_error(name, self._total(strength), rows)
                error *= self.passes.factor(error, draws, share, of_draws=of_draws)
            result[rows] = strength.error(self._mean(strength, rows), error)
        if of_draws and self.draws.any:
            result *= self.draws.factor(name).to(result)
            if strength.is_share:
                result = torch.maximum(result, self.draws.least_of_share(name).to(result))
            result[:, self.draws.unknown] = torch.inf
        return result

    def _errors(self, strength: Strength, *, of_draws: bool) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and the standard errors of their means, as if all samples were different ones."""
        for rows in row_slices(self.shape):
            yield rows, self._mean_error(strength, rows)

    def _drawn_errors(
        self, strength: Strength, *, of_draws: bool
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and the standard errors of their means, where source features are drawn."""
        name, total = strength.name, self._total(strength)
        _, n_squared = self._counts(strength)
        per_pass = math.sqrt(self.passes.number)  # the samples of every pass are the same ones
        many = self.n_samples / (self.n_samples - 1) if self.n_samples > 1 else float("nan")

        def variance(rows: slice) -> Tensor:
            mean, first = self._mean(strength, rows), self.first[name]
            cross = first[rows] if strength.per_sample else self._cross(name, rows)
            between = self.draws.between_samples(
                mean, self.second[name][rows], cross, n_squared, per_sample=strength.per_sample
            )
            between *= many * per_pass**2
            if of_draws:
                between += self.draws.variance(strength, first, rows)
            return between / total**2

        typical = self.draws.typical(
            (variance(rows), self._mean(strength, rows)) for rows in row_slices(self.shape)
        )
        for rows in row_slices(self.shape):
            mean = self._mean(strength, rows)
            yield rows, self.draws.moderated(variance(rows), mean, typical).sqrt_()

    def variance_parts(self, strength: Strength) -> tuple[float, float, float]:
        """Of the sum of X over samples, summed over all edges: variances, and the sum's square.

        Returns:
            The variance between samples, what draws of source features add to it, and the squared
            sum.
        """
        name = strength.name
        if not self.draws.any:
            total, all_of_it, size = self._total(strength), 0.0, 0.0
            for rows in row_slices(self.shape):
                all_of_it += float((self._mean_error(strength, rows) * total).square().sum())
                size += float(self.first[name][rows].square().sum())
            return all_of_it, 0.0, max(size, 1e-300)
        _, n_squared = self._counts(strength)
        between = of_draws = size = 0.0
        for rows in row_slices(self.shape):
            first = self.first[name]
            cross = first[rows] if strength.per_sample else self._cross(name, rows)
            spread = self.draws.between_samples(
                self._mean(strength, rows), self.second[name][rows], cross, n_squared,
                per_sample=strength.per_sample,
            )  # fmt: skip
            between += float(spread.sum())
            of_draws += float(self.draws.variance(strength, first, rows).sum())
            size += float(self.draws.total(strength, first, rows).square().sum())
        return between, of_draws, max(size, 1e-300)

    def _mean(self, strength: Strength, rows: slice) -> Tensor:
        """The mean of X over samples and positions; of what is no mean the total."""
        first = self.first[strength.name][rows]
        if not strength.is_mean:
            return first / 1
        if self.draws.any:
            first = self.draws.total(strength, self.first[strength.name], rows)
        return first / self._total(strength)

    def _cross(self, name: str, rows: slice) -> Tensor:
        each = self.per_sample or 0
        return self.cross[name][rows] if self.cross else self.first[name][rows] * each

    def _mean_error(self, strength: Strength, rows: slice) -> Tensor:
        """The standard error of the mean of X, as if all samples were different ones."""
        first = self.first[strength.name][rows]
        cross = first if strength.per_sample else self._cross(strength.name, rows)
        return self._error_of_mean(strength, first, self.second[strength.name][rows], cross)

    def _share_of_draws(self, strength: Strength) -> Tensor:
        """The share of the draws in the squared error of one pass, `[j]`.

        A few passes tell little about a single edge; the edges from one source, which are drawn
        together, tell more.
        """
        of_draws, of_all = (torch.zeros(self.shape[1], device=self.device) for _ in range(2))
        total = max(self._counts(strength)[0], 1)
        for rows in row_slices(self.shape):
            draws = self.passes.squared_error(strength.name, total, rows)
            of_draws = of_draws + draws.sum(0)
            error = self._mean_error(strength, rows)
            of_all = of_all + error.square().sum(0) * self.passes.number
        return (of_draws / of_all).nan_to_num(0.0).clamp(max=1)

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "tables": [self.first, self.second, self.cross],
            "counts": [self.n_samples, self.n_used, self.n_positions, self.n_positions_squared],
            "per_sample": self.per_sample,
            "draws": self.draws.state(),
            "passes": self.passes.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.first, self.second, self.cross = (
            {name: total.to(self.device) for name, total in table.items()}
            for table in state["tables"]
        )
        self.n_samples, self.n_used, self.n_positions, self.n_positions_squared = state["counts"]
        self.per_sample = state["per_sample"]
        self.draws.restore(state["draws"])
        self.passes.restore(state["passes"], self.device)
