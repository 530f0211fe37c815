"""The closed form with two matrices: A = (W2 diag(g) W1 + W3) (z - z0), position by position.

g are the secant slopes of the nonlinearity between the two; A is formed for a few samples at a
time, in `calculus.matrices.DenseMaps.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calculus.matrices import DenseMaps
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from ..segment_records import Closed
from .closed_form import ClosedForm
from .method import Tick, no_tick

__all__ = ["TwoMaps"]

_CACHE = 1 << 21  # bytes


class TwoMaps(ClosedForm):
    """d_tgt d_hid d_src products for each sample, where a pass costs (d_src + d_tgt) d_hid."""

    name = "two_maps"

    def unsuitable(self, closed: Closed) -> str | None:
        if closed.maps is None:
            return "the maps of the closed form mix positions, or differ from batch to batch"
        dense = self.context.sums.most is None
        if (
            dense
            and closed.maps.one_map is not None
            and all(s.outer for s in self.context.strengths)
        ):
            return "one matrix will do"
        return None

    def cost(self, problem: PairProblem) -> float:
        n_sources, n_targets = problem.n_sources, problem.n_targets
        return 1.0 + n_sources * n_targets / (n_sources + n_targets)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        closed = self.closed(problem, by_matrices=True)
        maps: DenseMaps | None = closed.maps
        assert maps is not None
        problem = closed.known(problem)
        slopes = maps.slopes(problem.path)
        residual = self.confirmed(maps.total(problem.path, slopes), problem)
        if self.slopes_at is not None:
            slopes = maps.slopes(problem.path, self.slopes_at)
            residual = residual_of(maps.total(problem.path, slopes), problem)
        entries = problem.n_targets * problem.n_sources
        reduced = entries * len(self.context.strengths) * (16 + 2 * problem.z.element_size())
        per_sample = maps.block_bytes(problem.path, problem.n_targets) + reduced
        # On a CPU, what is computed of a few samples stays in the cache.
        most = self.context.sums.free if problem.z.device.type != "cpu" else _CACHE
        samples = max(1, min(most, self.context.sums.free) // per_sample)
        for span, a in maps.blocks(problem.path, slopes, samples):
            yield self.context.block(a, problem, samples=span)
        yield residual
        tick(self.cost(problem))
