"""The closed form with one matrix: A[b,t,i,j] = left[b,t,i] W[i,j] right[b,t,j].

Affine segments, pointwise functions, and either with the other one after it. Every mean of a power
of A is a matrix product over all samples (`sums.outer_products`); A itself is never formed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution, OuterProduct
from .closed_form import closed_form, confirmed, obstacle, slopes_at
from .method import DoesNotApply, Method, Tick, no_tick

__all__ = ["Affine"]


class Affine(Method):
    """One product of the size of the layer for every sum that is kept."""

    name = "affine"
    engine = "closed_form"
    definitions = ("integrated_gradients", "gradient")

    def why_not(self, problem: PairProblem) -> str | None:
        """See `Method.why_not`."""
        if reason := obstacle(self.context, problem):
            return reason
        maps = self.context.records.closed(problem).maps
        if maps is None or maps.one_map is None:
            return "the closed form takes more than one matrix"
        whole = [s.name for s in self.context.strengths if s.outer is None]
        return f"{', '.join(whole)} needs A itself" if whole else None

    def cost(self, problem: PairProblem) -> float:
        """See `Method.cost`."""
        return 1.0 + sum(1 + strength.has_error for strength in self.context.strengths)

    @property
    def n_steps(self) -> int:
        """See `Method.n_steps`."""
        return 1

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        """See `Method.contributions`."""
        closed = closed_form(self.context, problem, by_matrices=True)
        if closed.maps is None or closed.maps.one_map is None:
            raise DoesNotApply("its maps are not the same on a batch of another shape")
        if closed.y0 is not None:
            problem = problem.with_y0(closed.y0)
        factors = closed.maps.factors(problem.path)
        residual = confirmed(factors.total, problem)
        if (at := slopes_at(self.context)) is not None:
            factors = closed.maps.factors(problem.path, at)
            residual = residual_of(factors.total, problem)
        right = factors.right
        if problem.mask is not None:
            right = right * problem.mask[..., None]
        yield OuterProduct(factors.left, right, closed.maps.one_map)
        yield residual
        tick(self.cost(problem))
