"""Drawn target positions: all edges at a few positions of each sample.

Positions are observations, as samples are. Of the T_b that count in a sample k are drawn without
repeats, and X_b = sum_t x[b,t] is estimated without bias by T_b / k of the sum over these; standard
errors between samples include that. What the draws alone add to the variance of X_b is

    T_b^2 / k (1 - k / T_b) s_b^2,    s_b^2 = sum_t (x[b,t] - mean x)^2 / (k - 1)

(Cochran, Sampling Techniques, 1977, theorem 2.2), from which a time budget chooses k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...layers import PairProblem
from ...notes import drivers_of_drawn
from ..sums.strength_sums import at_least_single
from .method import PairContext
from .nodes_in_time import Clock
from .target_rows import Rows, TargetRows

__all__ = ["PositionDraws"]

_FEW = 8  # source features that others draw for the same cost
_TRIED = 4  # positions that tell the time of one


class PositionDraws(TargetRows):
    """A method that draws target positions."""

    is_drawn = True
    draws_positions = True

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._of_positions = context.generator()
        self._n_drawn, self._n_there, self._n_samples = 0, 0, 0
        self._of_draws, self._n_told = 0.0, 0  # variance of X that draws add; samples that tell it
        self._available: Sequence[int] = ()  # positions of each sample at hand
        self._squares = torch.zeros(())  # sum of x^2 over the positions of samples at hand

    @property
    def notes(self) -> dict[str, str]:
        found = dict(super().notes)
        if self.is_random and self.context.options.examples:
            found["drivers"] = drivers_of_drawn(self.context.name)
        return found

    @property
    def is_random(self) -> bool:
        """See `Method`; not where all positions there are were taken."""
        return self._n_drawn < self._n_there

    def why_none_are_drawn(self) -> str | None:
        """Why positions are not to be drawn; None: they may be."""
        options = self.context.options
        if options.positions is None and options.time_budget is None:
            return "no target positions are to be drawn"
        if not all(strength.adds_positions for strength in self.context.strengths):
            return "a few positions do not tell the largest one"
        return None

    def rows_to_compare(self, problem: PairProblem) -> float:
        """Rows, for the cost: as large a share of A as the few source features that others draw."""
        n_samples, n_positions, _ = problem.y.shape
        drawn = self.context.options.positions
        few = max(1.0, n_positions * _FEW / problem.n_sources) if drawn is None else drawn
        return n_samples * min(few, n_positions)

    def drawn(
        self, problem: PairProblem, every: Rows, reading: float, trial: Callable[[Rows], None]
    ) -> Rows:
        """Some of the target positions of a batch.

        Args:
            problem: the pair on the batch.
            every: all that count.
            reading: seconds that the batch has taken until here.
            trial: computes A at some positions, to see how long that takes.
        """
        n, budget, pair = self.context.options.positions, self.context.budget, self.context.pair
        if n is None:
            each = 0.0
            if not self._n_samples:  # by this method; another one may have served before
                some = self._to_try(every)
                clock = Clock(problem.z.device)
                trial(some)
                each = clock.seconds() / max(len(some.numbers), 1)
            elif pair in budget.costs and budget.learns(pair):
                self._learn()
            of_sample = reading / problem.n_samples
            n = budget.draws(pair, problem.n_samples, max(every.counts), of_sample, each)
        chosen, weights, first = [], [], 0
        for count in every.counts:
            some_of = torch.randperm(count, generator=self._of_positions)[:n].sort().values
            chosen.append(some_of + first)
            weights.append(count / max(len(some_of), 1))
            first += count
        numbers = every.numbers[torch.cat(chosen).to(every.numbers.device)]
        self._n_drawn += len(numbers)
        self._n_there += sum(every.counts)
        self._n_samples += problem.n_samples
        self._available = every.counts
        return Rows(numbers, [len(some_of) for some_of in chosen], weights)

    def took(self, problem: PairProblem, rows: Rows, reading: float, drawing: float) -> None:
        """Tells the time budget what a batch has taken, in seconds."""
        if self.context.budget.is_set:
            mean = max(len(rows.numbers), 1) / problem.n_samples
            self.context.budget.spent(self.context.pair, problem.n_samples, mean, reading, drawing)

    @staticmethod
    def _to_try(every: Rows) -> Rows:
        """Some positions of one sample."""
        n = min(_TRIED, max(every.counts))
        sample = next(b for b, count in enumerate(every.counts) if count >= n)
        first = sum(every.counts[:sample])
        return Rows(every.numbers[first : first + n], [n], [1.0])

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
        told = [self._n_drawn, self._n_there, self._n_samples, self._of_draws, self._n_told]
        return {**super().state(), "generator": self._of_positions.get_state(), "told": told}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._of_positions.set_state(state["generator"])
        self._n_drawn, self._n_there, self._n_samples, self._of_draws, self._n_told = state["told"]
