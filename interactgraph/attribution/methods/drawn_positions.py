"""Drawn target positions: all edges at a few of them, where the closed form gives single ones.

Positions are observations, as samples are. Of the T_b that count in a sample k are drawn without
repeats, and X_b = sum_t x[b,t] is estimated without bias by T_b / k of the sum over these; standard
errors between samples include that. What the draws alone add to the variance of X_b is

    T_b^2 / k (1 - k / T_b) s_b^2,    s_b^2 = sum_t (x[b,t] - mean x)^2 / (k - 1)

(Cochran, Sampling Techniques, 1977, theorem 2.2), from which a time budget chooses k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ...calculus.position_factors import PositionFactors
from ...layers import PairProblem
from ..contributions import Contribution
from ..sums.strength_sums import at_least_single
from .factored_maps import FactoredMaps, Rows
from .method import PairContext, Tick, no_tick

__all__ = ["DrawnPositions"]

_FEW = 8  # source features that others draw for the same cost
_TRIED = 4  # positions that tell the time of one


class DrawnPositions(FactoredMaps):
    """A at a few target positions of each sample."""

    name = "drawn_positions"
    is_drawn = True
    draws_positions = True

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._generator = context.generator()
        self._n_drawn, self._n_samples = 0, 0
        self._of_draws, self._n_told = 0.0, 0  # variance of X that draws add; samples that tell it
        self._available: Sequence[int] = ()  # positions of each sample at hand
        self._squares = torch.zeros(())  # sum of x^2 over the positions of samples at hand

    def why_not(self, problem: PairProblem) -> str | None:
        options = self.context.options
        if options.positions is None and options.time_budget is None:
            return "no target positions are to be drawn"
        if not all(strength.adds_positions for strength in self.context.strengths):
            return "a few positions do not tell the largest one"
        return super().why_not(problem)

    def cost(self, problem: PairProblem) -> float:
        """What it costs to know as large a share of A as a few drawn source features tell."""
        n_samples, n_positions, _ = problem.y.shape
        drawn = self.context.options.positions
        if drawn is None:
            drawn = max(1, -(-n_positions * _FEW // problem.n_sources))
        return 3.0 + self.passes_for(problem, n_samples * min(drawn, n_positions))

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        began = perf_counter()
        factors, slopes_of_all, problem = self.factors(problem)
        every, budget = self.every_row(problem), self.context.budget
        reading = _seconds(problem, began)
        n = self.context.options.positions
        if n is None:
            trial = 0.0
            if self.context.pair not in budget.costs:
                trial = self._trial(every, factors, slopes_of_all[-1], problem)
            elif budget.learns(self.context.pair):
                self._learn()
            each = reading / problem.n_samples
            n = budget.draws(self.context.pair, problem.n_samples, max(every.counts), each, trial)
        began = perf_counter()
        rows = self._drawn(every, n)
        slopes, residual = self.confirmed_at(rows, factors, slopes_of_all, problem)
        self._n_drawn += len(rows.numbers)
        self._n_samples += problem.n_samples
        self._available = every.counts
        yield from self.entries(rows, factors, slopes, problem)
        yield residual
        if budget.is_set:
            mean = max(len(rows.numbers), 1) / problem.n_samples
            drawing = _seconds(problem, began)
            budget.spent(self.context.pair, problem.n_samples, mean, reading, drawing)
        tick(self.cost(problem))

    def _drawn(self, every: Rows, n: int) -> Rows:
        """So many of the target positions of each sample."""
        chosen, weights, first = [], [], 0
        for count in every.counts:
            some = torch.randperm(count, generator=self._generator)[:n].sort().values
            chosen.append(some + first)
            weights.append(count / max(len(some), 1))
            first += count
        numbers = every.numbers[torch.cat(chosen).to(every.numbers.device)]
        return Rows(numbers, [len(some) for some in chosen], weights)

    # --- within a time budget --------------------------------------------------------------------

    def _trial(
        self, every: Rows, factors: PositionFactors, slopes: Tensor | None, problem: PairProblem
    ) -> float:
        """Seconds that one position takes."""
        n = min(_TRIED, max(every.counts))
        sample = next(b for b, count in enumerate(every.counts) if count >= n)
        first = sum(every.counts[:sample])
        rows = Rows(every.numbers[first : first + n], [n], [1.0])
        here = None if slopes is None else slopes[rows.numbers]
        began = perf_counter()
        for _ in self.entries(rows, factors, here, problem):
            pass
        return _seconds(problem, began) / max(n, 1)

    def look(self, a: Tensor) -> None:
        if self.context.budget.is_set:
            entries = self.context.strengths[0].entry(at_least_single(a))
            self._squares = self._squares + torch.linalg.vector_norm(entries, dim=(1, 2, 3)) ** 2

    def look_at_sums(self, sums: dict[str, Tensor], rows: Rows, samples: slice) -> None:
        if not self.context.budget.is_set:
            return
        squares, self._squares = self._squares, torch.zeros(())
        n = rows.counts[samples.start]
        available = self._available[samples]
        if n < 2 or not available:  # of a trial
            return
        total = torch.linalg.vector_norm(sums[self.context.strengths[0].name], dim=(1, 2)) ** 2
        spread = ((squares - total / n) / (n - 1)).clamp(min=0).tolist()
        for count, each in zip(available, spread, strict=True):
            self._of_draws += count**2 / n * (1 - n / count) * each
            self._n_told += 1

    def _learn(self) -> None:
        """Tells the time budget what draws have added to the variance of strengths."""
        if self._n_told:
            every, _, size = self.context.sums.variance_parts()
            of_draws = self._of_draws * self._n_samples / self._n_told
            self.context.budget.learn(self.context.pair, every - of_draws, of_draws, size)

    # --- what is kept ----------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        drawn = round(self._n_drawn / max(self._n_samples, 1), 2)
        return {**super().record(), "positions_per_sample": drawn}

    def state(self) -> dict[str, Any]:
        told = [self._n_drawn, self._n_samples, self._of_draws, self._n_told]
        return {**super().state(), "generator": self._generator.get_state(), "told": told}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._generator.set_state(state["generator"])
        self._n_drawn, self._n_samples, self._of_draws, self._n_told = state["told"]


def _seconds(problem: PairProblem, began: float) -> float:
    """Since then, what runs on an accelerator included."""
    if problem.z.device.type == "cuda":
        torch.cuda.synchronize(problem.z.device)
    return perf_counter() - began
