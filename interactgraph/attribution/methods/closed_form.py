"""What closed forms share: the structure of the segment, and the residual that confirms them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ...calculus.structure import NoClosedForm
from ...layers import PairProblem
from ..completeness import Residual, residual_of
from ..segment_records import Closed
from .method import DoesNotApply, Method

__all__ = ["ClosedForm"]


class ClosedForm(Method):
    """A method that is exact: a residual that is no rounding shows where it does not hold."""

    engine = "closed_form"
    definitions: ClassVar[tuple[str, ...]] = ("integrated_gradients", "gradient")

    @property
    def n_steps(self) -> int:
        return 1

    @property
    def slopes_at(self) -> float | None:
        """The point u whose slopes are asked for; None: their averages over the path."""
        return 1.0 if self.context.options.definition == "gradient" else None

    def why_not(self, problem: PairProblem) -> str | None:
        if self.context.keeps_too_few(problem):
            return "the closed form takes matrices of all edges, of which few are kept"
        try:
            closed = self.context.records.closed(problem, check=True)
        except NoClosedForm as error:
            return f"no closed form: {error}"
        return self.unsuitable(closed)

    def unsuitable(self, closed: Closed) -> str | None:
        """Why it cannot serve a segment of this structure; None: it can."""
        return None

    def closed(self, problem: PairProblem, *, by_matrices: bool = False) -> Closed:
        """The closed form on a batch; with matrices, those of another batch will do.

        Raises:
            DoesNotApply: there is none.
        """
        try:
            closed = self.context.records.closed(problem, by_matrices=by_matrices)
        except NoClosedForm as error:
            raise DoesNotApply(str(error)) from error
        if by_matrices and (reason := self.unsuitable(closed)):
            raise DoesNotApply(f"on a batch of another shape {reason}")
        return closed

    def confirmed(self, total: Tensor, problem: PairProblem) -> Residual:
        """The residual of integrated gradients on a batch, which is no more than rounding.

        Args:
            total: sum_j A of integrated gradients, whatever the method, `[b, t, i]`.
            problem: the pair on the batch.

        Raises:
            DoesNotApply: it is more, so the closed form does not hold.
        """
        residual = residual_of(total, problem)
        if not residual.is_rounding:
            raise DoesNotApply(f"residual {residual.relative:.1e} on a batch")
        return residual
