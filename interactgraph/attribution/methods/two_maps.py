"""The closed form with two matrices: A = (W2 diag(g) W1 + W3) (z - z0), position by position.

g are the secant slopes of the nonlinearity between the two; A is formed for a few samples at a
time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from .closed_form import closed_form, confirmed, obstacle, slopes_at
from .method import DoesNotApply, Method, Tick, no_tick

__all__ = ["TwoMaps"]


class TwoMaps(Method):
    """d_tgt d_hid d_src products for each sample, where a pass costs (d_src + d_tgt) d_hid."""

    name = "two_maps"
    engine = "closed_form"
    definitions = ("integrated_gradients", "gradient")

    def why_not(self, problem: PairProblem) -> str | None:
        """See `Method.why_not`."""
        if reason := obstacle(self.context, problem):
            return reason
        maps = self.context.records.closed(problem).maps
        if maps is None:
            return "the maps of the closed form mix positions, or differ from batch to batch"
        if maps.one_map is not None and all(s.outer for s in self.context.strengths):
            return "one matrix will do"
        return None

    def cost(self, problem: PairProblem) -> float:
        """See `Method.cost`."""
        n_sources, n_targets = problem.n_sources, problem.n_targets
        return 1.0 + n_sources * n_targets / (n_sources + n_targets)

    @property
    def n_steps(self) -> int:
        """See `Method.n_steps`."""
        return 1

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        """See `Method.contributions`."""
        closed = closed_form(self.context, problem, by_matrices=True)
        maps = closed.maps
        if maps is None:
            raise DoesNotApply("its maps are not the same on a batch of another shape")
        if closed.y0 is not None:
            problem = problem.with_y0(closed.y0)
        slopes = maps.slopes(problem.path)
        residual = confirmed(maps.total(problem.path, slopes), problem)
        if (at := slopes_at(self.context)) is not None:
            slopes = maps.slopes(problem.path, at)
            residual = residual_of(maps.total(problem.path, slopes), problem)
        entries = problem.n_targets * problem.n_sources
        reduced = entries * len(self.context.strengths) * (16 + 2 * problem.z.element_size())
        per_sample = maps.block_bytes(problem.path, problem.n_targets) + reduced
        samples = max(1, self.context.sums.free // per_sample)
        for here, a in maps.blocks(problem.path, slopes, samples):
            yield self.context.block(a, problem, samples=here)
        yield residual
        tick(self.cost(problem))
