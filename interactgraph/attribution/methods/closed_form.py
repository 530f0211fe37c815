"""What the closed forms share: the structure of the segment, and the residual that confirms them.

A closed form is exact, so that a residual of its completeness that is no rounding means that it
does not hold on a batch.
"""

from __future__ import annotations

from torch import Tensor

from ...calculus.structure import NoClosedForm
from ...layers import PairProblem
from ..completeness import Residual, residual_of
from ..segment_records import Closed
from .method import DoesNotApply, PairContext

__all__ = ["closed_form", "confirmed", "obstacle", "slopes_at"]


def obstacle(context: PairContext, problem: PairProblem) -> str | None:
    """Why the segment has no closed form, from its first samples; None: it has one."""
    try:
        context.records.closed(problem, check=True)
    except NoClosedForm as error:
        return f"no closed form: {error}"
    return None


def closed_form(context: PairContext, problem: PairProblem, *, by_matrices: bool = False) -> Closed:
    """The closed form on a batch.

    Raises:
        DoesNotApply: there is none.
    """
    try:
        return context.records.closed(problem, by_matrices=by_matrices)
    except NoClosedForm as error:
        raise DoesNotApply(str(error)) from error


def confirmed(total: Tensor, problem: PairProblem) -> Residual:
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


def slopes_at(context: PairContext) -> float | None:
    """The point u whose slopes the option `method` asks for; None: averages over the path."""
    return 1.0 if context.options.definition == "gradient" else None
