"""Drawn source features: k JVPs for each sample instead of one for every feature.

Estimates of every mean, with errors that include the draws; see `source_sampler` for the
probabilities and `sums.drawn_sums` for what is known of all samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...calculus.path import PathRule
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, Displacements, Draws
from ..packing import Packing, packed_columns
from ..source_path import SourcePath
from ..source_sampler import SourceSampler
from ..sums.drawn_sums import known_parts
from ..sums.strength_sums import reduce_positions
from .columns import Columns
from .method import PairContext, Tick, no_tick
from .nodes_in_time import Clock, NodesInTime

__all__ = ["SampledColumns"]

_ROWS = 512  # draws that are summed together
_FEW = 8  # draws of a sample; an exact method that costs less is taken in their place
_TRIED = 4  # passes that tell the time of one


class SampledColumns(NodesInTime, Columns):
    """A few columns of each sample, drawn by how much they are likely to be worth."""

    name = "sampled_columns"
    is_drawn = True
    most_samples = 256  # draws learn from earlier ones

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._sampler = SourceSampler(
            context.sums.shape[1],
            context.options.sampling,
            context.strengths[0].degree,
            context.generator(),
        )

    def why_not(self, problem: PairProblem) -> str | None:
        options = self.context.options
        if not options.draws_sources:
            return "no source features are to be drawn"
        if options.sources is not None and options.sources >= problem.n_sources:
            return "as many source features are to be drawn as there are"
        return None

    def cost(self, problem: PairProblem) -> float:
        return self.n_steps * (self.draws_to_compare(problem) + 1.0)

    def draws_to_compare(self, problem: PairProblem) -> int:
        """Draws of each sample, for the cost; within a time budget, few that are worth it."""
        return self.context.options.sources or min(problem.n_sources, _FEW)

    def confirm(self, problem: PairProblem) -> None:
        self.confirm_either_way(problem)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        clock = Clock(problem.z.device)
        path = self.path_of(problem)
        reading = clock.seconds()
        rule, placing = self.placed(problem, path)
        n_draws = self.context.options.sources
        if n_draws is None:
            n_draws = self._draws_in_time(problem, path, rule, reading)
        packing, weights, chances = self._sampler.draw(problem, n_draws)
        known = known_parts(problem.displacement, self.context.strengths)
        yield Displacements(known, problem.displacement.abs().sum(1), chances)
        chunk = self.chunk(problem, n_draws, problem.y)
        together = max(1, _ROWS // problem.n_samples)
        whole = torch.zeros_like(problem.y) if self.sums_columns else None
        for start in range(0, n_draws, chunk):
            some = packing.passes(start, start + chunk)
            total = whole if start == 0 else None
            a = packed_columns(
                path, problem.y, rule, some, self.at_once(problem), tick, total=total
            )  # fmt: skip
            for first in range(0, len(a), together):
                span = slice(first, first + together)
                features, w = some.features[span, :, 0], weights[start : start + chunk][span]
                draws = self._draws(problem, a[span], features, w)
                yield draws
                worth = draws.sums[self.context.strengths[0].name].abs().sum(1)
                self._sampler.learn(problem, draws, worth)
        if whole is not None:
            yield residual_of(whole, problem)
        drawing = clock.seconds() - reading - placing
        if self.context.budget.is_set:
            self.context.budget.spent(
                self.context.pair, problem.n_samples, n_draws, reading, drawing, problem.z.shape[1]
            )

    def _draws(self, problem: PairProblem, a: Tensor, features: Tensor, weights: Tensor) -> Draws:
        """A of several draws of each sample as a contribution, one row for each draw.

        Args:
            problem: the pair on a batch.
            a: `[c, b, t, i]`.
            features: that were drawn, int64 `[c, b]`.
            weights: of the draws, `[c, b]`.
        """
        n = len(a)
        mask = None if problem.mask is None else problem.mask.repeat(n, 1)
        entries = reduce_positions(a.flatten(0, 1)[..., None], mask, self.context.strengths)
        samples = torch.arange(problem.n_samples, device=a.device).repeat(n)
        sums = {name: x[..., 0] for name, x in entries.items()}
        return Draws(sums, weights.flatten(), features.flatten(), samples)

    def _draws_in_time(
        self, problem: PairProblem, path: SourcePath, rule: PathRule, reading: float
    ) -> int:
        """How many features to draw on each sample of a batch, as the time budget wants it."""
        budget, pair, n = self.context.budget, self.context.pair, problem.n_samples
        each = 0.0
        if pair not in budget.costs:  # a trial
            clock = Clock(problem.z.device)
            several = min(self.at_once(problem), _TRIED, problem.n_sources)
            features = torch.arange(several, device=problem.z.device)[:, None, None]
            features = features.expand(-1, n, 1)
            packing = Packing(features, torch.ones_like(features, dtype=torch.bool))
            packed_columns(path, problem.y, rule, packing, several)
            each = clock.seconds() / several / n
        elif budget.learns(pair):
            budget.learn(pair, *self.context.sums.variance_parts())
        positions = problem.z.shape[1]
        return budget.draws(pair, n, problem.n_sources, reading / n, each, positions)

    def record(self) -> dict[str, Any]:
        budget = self.context.budget
        if not budget.is_set:
            return super().record()
        drawn = round(budget.sources_per_sample(self.context.pair), 2)
        return {**super().record(), "sources_per_sample": drawn}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "sampler": self._sampler.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._sampler.restore(state["sampler"])
