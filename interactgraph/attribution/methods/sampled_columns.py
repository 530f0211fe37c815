"""Drawn source features: k JVPs for each sample instead of one for every feature.

Estimates of every mean, with errors that include the draws; see `source_sampler` for the
probabilities and `sums.drawn_sums` for what is known of all samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, Displacements, Draws
from ..packing import packed_columns
from ..source_sampler import SourceSampler
from ..sums.drawn_sums import known_parts
from .columns import Columns
from .method import PairContext, Tick, no_tick

__all__ = ["SampledColumns"]


class SampledColumns(Columns):
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
        if options.sources is None or options.sampling == "signs":
            return "no source features are to be drawn"
        if options.sources >= problem.n_sources:
            return "as many source features are to be drawn as there are"
        return None

    def cost(self, problem: PairProblem) -> float:
        return self.n_steps * ((self.context.options.sources or 0) + 1.0)

    def confirm(self, problem: PairProblem) -> None:
        self.confirm_either_way(problem)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        n_draws = self.context.options.sources
        assert n_draws is not None
        path = self.path_of(problem)
        rule = self.rule_for(problem, path)
        packing, weights, chances = self._sampler.draw(problem, n_draws)
        known = known_parts(problem.displacement, self.context.strengths)
        yield Displacements(known, problem.displacement.abs().sum(1), chances)
        chunk = self.chunk(problem, n_draws, problem.y)
        everyone = torch.arange(problem.n_samples, device=problem.z.device)
        whole = torch.zeros_like(problem.y) if self.sums_columns else None
        for start in range(0, n_draws, chunk):
            some = packing.passes(start, start + chunk)
            total = whole if start == 0 else None
            a = packed_columns(
                path, problem.y, rule, some, self.at_once(problem), tick, total=total
            )  # fmt: skip
            for j, weight, column in zip(some.features[..., 0], weights[start:], a, strict=False):
                entries = self.context.reduce(column[..., None], problem)
                sums = {name: x[..., 0] for name, x in entries.items()}
                yield Draws(sums, weight, j, everyone)
                first = sums[self.context.strengths[0].name]
                self._sampler.learn(problem, j, first.abs().sum(1), weight)
        if whole is not None:
            yield residual_of(whole, problem)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "sampler": self._sampler.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._sampler.restore(state["sampler"])
