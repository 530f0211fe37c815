"""Drawn target positions where the closed form gives single ones; see `position_draws`."""

from __future__ import annotations

from collections.abc import Iterator

from ...layers import PairProblem
from ..contributions import Contribution
from .factored_maps import FactoredMaps
from .method import Tick, no_tick
from .nodes_in_time import Clock
from .position_draws import PositionDraws
from .target_rows import Rows

__all__ = ["DrawnPositions"]


class DrawnPositions(PositionDraws, FactoredMaps):
    """A at a few target positions of each sample, by products of factors."""

    name = "drawn_positions"

    def why_not(self, problem: PairProblem) -> str | None:
        return self.why_none_are_drawn() or super().why_not(problem)

    def cost(self, problem: PairProblem) -> float:
        return 3.0 + self.passes_for(problem, self.rows_to_compare(problem))

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        clock = Clock(problem.z.device)
        factors, slopes_of_all, problem = self.factors(problem)
        reading = clock.seconds()

        def trial(rows: Rows) -> None:
            slopes = slopes_of_all[-1]
            here = None if slopes is None else slopes[rows.numbers]
            for _ in self.entries(self.blocks(rows, factors, here, problem), rows):
                pass

        rows = self.drawn(problem, self.every_row(problem), reading, trial)
        clock = Clock(problem.z.device)
        slopes, residual = self.confirmed_at(rows, factors, slopes_of_all, problem)
        yield from self.entries(self.blocks(rows, factors, slopes, problem), rows)
        yield residual
        self.took(problem, rows, reading, clock.seconds())
        tick(self.cost(problem))
