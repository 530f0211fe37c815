"""The closed form with one matrix: A[b,t,i,j] = left[b,t,i] W[i,j] right[b,t,j].

Affine segments, pointwise functions, and either with the other one after it. Every mean of a power
of A is a matrix product over all samples (`sums.outer_products`); A itself is never formed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calculus.matrices import DenseMaps
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, OuterProduct
from ..segment_records import Closed
from .closed_form import ClosedForm
from .method import Tick, no_tick

__all__ = ["Affine"]


class Affine(ClosedForm):
    """One product of the size of the layer for every sum that is kept."""

    name = "affine"

    def unsuitable(self, closed: Closed) -> str | None:
        if self.context.sums.most is not None:
            return "its products are of all edges, of which few are kept"
        if closed.maps is None or closed.maps.one_map is None:
            return "the closed form takes more than one matrix"
        whole = [s.name for s in self.context.strengths if s.outer is None]
        return f"{', '.join(whole)} needs A itself" if whole else None

    def cost(self, problem: PairProblem) -> float:
        return 1.0 + sum(1 + strength.is_mean for strength in self.context.strengths)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        closed = self.closed(problem, by_matrices=True)
        maps: DenseMaps | None = closed.maps
        assert maps is not None
        assert maps.one_map is not None
        problem = closed.known(problem)
        factors = maps.factors(problem.path)
        residual = self.confirmed(factors.total, problem)
        if self.slopes_at is not None:
            factors = maps.factors(problem.path, self.slopes_at)
            residual = residual_of(factors.total, problem)
        mask = problem.mask
        right = factors.right if mask is None else factors.right * mask[..., None]
        yield OuterProduct(factors.left, right, maps.one_map)
        yield residual
        tick(self.cost(problem))
