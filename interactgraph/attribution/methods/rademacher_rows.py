"""Random signs over target positions: all positions of a target feature in one VJP, for `rms`.

With independent Rademacher signs e_t, the gradient of sum_t e_t y[b,t,i] gives
sum_t e_t A[b,t,i,j], and the mean of its square is sum_t A[b,t,i,j]^2 (Hutchinson's estimator,
1990): one VJP for each target feature instead of one for each target feature and position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...calculus.path import PathRule
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, Entries
from ..source_path import SourcePath
from ..sums.strength_sums import at_least_single
from .method import VJP, PairContext, Tick, no_tick
from .rows import Rows, integrated_products

__all__ = ["RademacherRows"]


class RademacherRows(Rows):
    """A few sets of signs for every target feature."""

    name = "rademacher_rows"
    is_drawn = True

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._generator = context.generator()

    def why_not(self, problem: PairProblem) -> str | None:
        options = self.context.options
        if options.sources is None or options.sampling != "signs":
            return "no random signs are asked for"
        return None

    def cost(self, problem: PairProblem) -> float:
        passes = problem.n_targets * VJP * (self.context.options.sources or 0)
        return self.n_steps * (passes + 1.0)

    def confirm(self, problem: PairProblem) -> None:
        self.confirm_either_way(problem)

    @property
    def looks_again(self) -> bool:
        """After 1, 2, 4, ... batches: signs cost less than looking."""
        return not self.n_batches_seen & (self.n_batches_seen - 1)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        n_probes = self.context.options.sources
        assert n_probes is not None
        path = SourcePath.in_features(problem, vmapped=self.vmapped)
        rule = self.rule_for(problem, path)
        if self.sums_columns:
            yield residual_of(path.along(rule), problem)
        chunk = max(1, self.row_chunk(problem, problem.n_targets * n_probes) // n_probes)
        (strength,) = self.context.strengths
        for rows, squares in self._squares(problem, rule, n_probes, chunk, tick):
            yield Entries({strength.name: squares}, rows=rows)

    def _squares(
        self, problem: PairProblem, rule: PathRule, n_probes: int, chunk: int, tick: Tick
    ) -> Iterator[tuple[slice, Tensor]]:
        """Target features, and estimates of sum_t A[b,t,i,j]^2, `[b, i, j]`."""
        n_samples, n_positions, n_targets = problem.y.shape
        bits = torch.randint(0, 2, (n_probes, n_samples, n_positions), generator=self._generator)
        signs = (2 * bits - 1).to(problem.y)
        if problem.mask is not None:
            signs *= problem.mask
        for start in range(0, n_targets, chunk):
            rows = slice(start, min(start + chunk, n_targets))
            n_rows = rows.stop - rows.start
            cotangents = problem.y.new_zeros(n_rows, n_probes, *problem.y.shape)
            number = torch.arange(n_rows, device=signs.device)
            cotangents[number, ..., number + rows.start] = signs
            total = integrated_products(
                problem, problem.segment, rule, cotangents.flatten(0, 1), tick, vmapped=self.vmapped
            )
            squares = at_least_single(total).unflatten(0, (n_rows, n_probes)).square()
            yield rows, squares.mean(1).movedim(0, 1)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._generator.set_state(state["generator"])
