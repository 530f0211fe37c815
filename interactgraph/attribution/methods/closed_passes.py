"""The closed form by passes: the segment with secants in the place of its nonlinearity is affine.

For segments that mix positions, so that their maps are no matrices of features. Any one node of the
path is exact for an affine function, so that a column or a row takes one pass, drawn or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...calculus.path import PathRule, at_sample
from ...calculus.secant_lines import SecantFunction, straighten
from ...calculus.tape import tensors_of
from ...layers import PairProblem
from ..contributions import Contribution
from ..source_path import SourcePath
from .closed_form import ClosedForm
from .columns import Columns
from .method import VJP, Tick, no_tick
from .rows import Rows
from .sampled_columns import SampledColumns

__all__ = ["ClosedColumns", "ClosedRows", "SampledClosedColumns"]


class _Straightened(ClosedForm):
    """A closed form that replaces the nonlinearity by lines."""

    def affine_function(self, problem: PairProblem) -> SecantFunction:
        """The segment of a batch with lines in the place of its nonlinearity.

        Raises:
            DoesNotApply: it has no closed form, or that does not hold on the batch.
        """
        structure = self.closed(problem).structure
        inputs, _ = tensors_of(problem.segment.batch)
        secants = straighten(structure, inputs, problem.path)
        self.confirmed(secants(problem.z) - secants(problem.path.start), problem)
        if self.slopes_at is None:
            return secants
        return straighten(structure, inputs, problem.path, self.slopes_at)


class ClosedColumns(_Straightened, Columns):
    """One JVP for each column."""

    name = "closed_columns"

    def cost(self, problem: PairProblem) -> float:
        return self.context.packer.n_passes(problem) + 2.0

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        path = SourcePath.in_features(problem, self.affine_function(problem))
        yield from self.blocks(problem, path, at_sample(), tick)


class ClosedRows(_Straightened, Rows):
    """One VJP for each row."""

    name = "closed_rows"

    def cost(self, problem: PairProblem) -> float:
        return problem.n_rows * VJP + 2.0

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        yield from self.blocks(problem, self.affine_function(problem), at_sample(), tick)


class SampledClosedColumns(_Straightened, SampledColumns):
    """One JVP for each column that is drawn."""

    name = "sampled_closed_columns"

    def why_not(self, problem: PairProblem) -> str | None:
        return SampledColumns.why_not(self, problem) or super().why_not(problem)

    def cost(self, problem: PairProblem) -> float:
        return self.draws_to_compare(problem) + 3.0

    def path_of(self, problem: PairProblem) -> SourcePath:
        return SourcePath.in_features(problem, self.affine_function(problem))

    def rule_for(self, problem: PairProblem, path: SourcePath) -> PathRule:
        self.n_batches_seen += 1
        return at_sample()
