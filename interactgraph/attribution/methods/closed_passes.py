"""The closed form by passes: the segment with secants in the place of its nonlinearity is affine.

For segments that mix positions, so that their maps are no matrices of features. Any one node of the
path is exact for an affine function, so that a column or a row takes one pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calculus.path import at_sample
from ...calculus.secant_lines import SecantFunction, straighten
from ...calculus.tape import tensors_of
from ...layers import PairProblem
from ..contributions import Contribution
from ..source_path import SourcePath
from .closed_form import closed_form, confirmed, obstacle, slopes_at
from .columns import Columns
from .method import VJP, PairContext, Tick, no_tick
from .rows import Rows

__all__ = ["ClosedColumns", "ClosedRows"]


def affine_function(context: PairContext, problem: PairProblem) -> SecantFunction:
    """The segment of a batch with lines in the place of its nonlinearity.

    Raises:
        DoesNotApply: it has no closed form, or that does not hold on the batch.
    """
    structure = closed_form(context, problem).structure
    inputs, _ = tensors_of(problem.segment.batch)
    secants = straighten(structure, inputs, problem.path)
    confirmed(secants(problem.z) - secants(problem.path.start), problem)
    at = slopes_at(context)
    return secants if at is None else straighten(structure, inputs, problem.path, at)


class ClosedColumns(Columns):
    """One JVP for each column."""

    name = "closed_columns"
    engine = "closed_form"

    def why_not(self, problem: PairProblem) -> str | None:
        """See `Method.why_not`."""
        return obstacle(self.context, problem)

    def cost(self, problem: PairProblem) -> float:
        """See `Method.cost`."""
        return self.context.packer.n_passes(problem) + 2.0

    @property
    def n_steps(self) -> int:
        """See `Method.n_steps`."""
        return 1

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        """See `Method.contributions`."""
        path = SourcePath.in_features(problem, affine_function(self.context, problem))
        yield from self.blocks(problem, path, at_sample(), tick)


class ClosedRows(Rows):
    """One VJP for each row."""

    name = "closed_rows"
    engine = "closed_form"

    def why_not(self, problem: PairProblem) -> str | None:
        """See `Method.why_not`."""
        return obstacle(self.context, problem)

    def cost(self, problem: PairProblem) -> float:
        """See `Method.cost`."""
        return problem.n_rows * VJP + 2.0

    @property
    def n_steps(self) -> int:
        """See `Method.n_steps`."""
        return 1

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        """See `Method.contributions`."""
        function = affine_function(self.context, problem)
        yield from self.blocks(problem, function, at_sample(), tick)
