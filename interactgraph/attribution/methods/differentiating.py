"""What methods by quadrature share: path nodes, and a trial of derivatives."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from torch import Tensor

from ...calculus.derivatives import FAILURES
from ...calculus.path import PathRule, at_sample, gauss_legendre
from ...calculus.rounding import is_close
from ...errors import InteractGraphError
from ...layers import PairProblem
from ..completeness import residual_of
from ..segment_records import first_line
from ..source_path import SourcePath
from .method import DoesNotApply, PairContext
from .pass_method import PassMethod

__all__ = ["MAX_STEPS", "Differentiating"]

MAX_STEPS = 512  # where doubling the path nodes gives up


class Differentiating(PassMethod):
    """A method that differentiates the segment at the nodes of the path.

    Args:
        context: of the pair.
        vmapped: many derivatives at a time; else one after the other, where torch has no rule for
            many or they differ.
    """

    definitions: ClassVar[tuple[str, ...]] = ("integrated_gradients", "gradient")

    def __init__(self, context: PairContext, *, vmapped: bool = True) -> None:
        super().__init__(context)
        self.vmapped = vmapped
        self.n_steps_used = 0

    # --- path nodes ------------------------------------------------------------------------------

    @property
    def rule(self) -> PathRule:
        """The path nodes, as long as none are added."""
        if self.context.options.definition == "gradient":
            return at_sample()
        return gauss_legendre(self.context.options.n_steps)

    @property
    def n_steps(self) -> int:
        """Path nodes, for the plan."""
        return len(self.rule.nodes)

    @property
    def integrates(self) -> bool:
        """Whether nodes stand for an integral, which more of them approach."""
        return self.context.options.definition != "gradient"

    def rule_for(self, problem: PairProblem, path: SourcePath) -> PathRule:
        """Path nodes for a batch: doubled until its residual is below the tolerance.

        sum_j A needs one JVP for each node, whatever the number of features, so that the residual
        is known before the expensive part.
        """
        options = self.context.options
        if options.tolerance is None or not self.integrates:
            return self.rule
        n_steps = max(options.n_steps, self.n_steps_used // 2)
        while True:
            rule = gauss_legendre(n_steps)
            relative = residual_of(path.along(rule), problem).relative
            if relative <= options.tolerance or 2 * n_steps > MAX_STEPS:
                break
            n_steps *= 2
        self.n_steps_used = max(n_steps, self.n_steps_used)
        if relative > options.tolerance:
            self.context.note(
                f"the residual stays above tolerance={options.tolerance:g} with {n_steps} path "
                "nodes on some batches"
            )
        return rule

    def record(self) -> dict[str, Any]:
        return {"n_steps_used": self.n_steps_used} if self.n_steps_used else {}

    def state(self) -> dict[str, Any]:
        return {"n_steps_used": self.n_steps_used}

    def restore(self, state: dict[str, Any]) -> None:
        self.n_steps_used = state["n_steps_used"]

    # --- the trial -------------------------------------------------------------------------------

    def two_derivatives(self, problem: PairProblem, *, vmapped: bool) -> Tensor:
        """The first two columns or rows of A at the samples, without any record."""
        raise NotImplementedError

    def confirm(self, problem: PairProblem) -> None:
        """Takes two derivatives. Where many at a time give other numbers, one by one is right.

        Raises:
            DoesNotApply: torch cannot take them, or not so many at a time.
        """
        try:
            found = self.two_derivatives(problem, vmapped=self.vmapped)
        except InteractGraphError:
            raise
        except FAILURES as error:
            raise DoesNotApply(
                f"{self.engine} mode cannot differentiate the segment ({first_line(error)})"
            ) from error
        alone = None
        if self.vmapped:
            with contextlib.suppress(*FAILURES):
                alone = self.two_derivatives(problem, vmapped=False)
        if alone is not None and not is_close(found, alone):
            raise DoesNotApply(f"{self.engine} mode many at a time differs from one at a time")

    def confirm_either_way(self, problem: PairProblem) -> None:
        """As `confirm`, one at a time where many at a time do not serve."""
        try:
            Differentiating.confirm(self, problem)
        except DoesNotApply:
            self.vmapped = False
            Differentiating.confirm(self, problem)
