"""What methods by quadrature share: path nodes, and a trial of derivatives."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from ...calculus.derivatives import ANY_FAILURES, FAILURES
from ...calculus.path import PathRule, at_sample, gauss_legendre
from ...calculus.rounding import is_close
from ...distributed import World
from ...errors import InteractGraphError, first_line
from ...layers import PairProblem
from ...notes import path_off
from ..derivative_check import check_derivatives
from ..path_nodes import nodes_for
from ..source_path import SourcePath
from .method import INTEGRAL, DoesNotApply, PairContext
from .pass_method import PassMethod

__all__ = ["Differentiating"]

_COMPLETENESS_EVERY = 4  # batches


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
        self.n_batches_seen = 0
        self.worst_error = 0.0
        self._last_rule: PathRule | None = None
        self._steps: tuple[tuple[PathRule, float], ...] = ()  # on the way to it

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
        """Path nodes for a batch: as many as the tolerance needs, where the path bends.

        See `path_nodes`.
        """
        options, tolerance = self.context.options, self.tolerance
        self.n_batches_seen += 1
        if tolerance is None or not self.integrates:
            return self.rule
        if self._last_rule is not None and not self.looks_again:
            return self._last_rule
        problem, path = self.looked_at(problem, path)
        seed = self.context.seed
        placed = nodes_for(problem, path, tolerance, options.n_steps, seed, self.time_left)
        if self._last_rule is not None and placed.error > tolerance and not self.time_left():
            return self._last_rule  # what was placed in time is better than what was broken off
        self._last_rule, self._steps = placed.rule, placed.steps
        self.n_steps_used = max(len(placed.rule.nodes), self.n_steps_used)
        self.worst_error = max(placed.error, self.worst_error)
        return placed.rule

    @property
    def tolerance(self) -> float | None:
        """Of the nodes that are placed next; None: there are exactly `n_steps`."""
        return self.context.options.tolerance

    @property
    def looks_again(self) -> bool:
        """Whether nodes are placed anew on this batch."""
        return True

    def time_left(self) -> bool:
        """Whether there is time to look for more nodes."""
        return True

    def looked_at(self, problem: PairProblem, path: SourcePath) -> tuple[PairProblem, SourcePath]:
        """The samples of a batch that the nodes are placed by, and their path."""
        return problem, path

    @property
    def notes(self) -> dict[str, str]:
        """What the user should know of the nodes that were used."""
        context, tolerance = self.context, self.context.options.tolerance
        if tolerance is None or self.worst_error <= tolerance:
            return {}
        used, most = self.n_steps_used, context.options.n_steps
        note = path_off(context.name, self.worst_error, tolerance, used, most, self.help)
        return {INTEGRAL: note}

    @property
    def help(self) -> str:
        """What would make the integral better, as a note ends."""
        return self.context.help()

    def record(self) -> dict[str, Any]:
        return {"n_steps_used": self.n_steps_used} if self.n_steps_used else {}

    def state(self) -> dict[str, Any]:
        rule = None if self._last_rule is None else [list(part) for part in self._last_rule]
        return {
            "nodes": [self.n_steps_used, self.n_batches_seen, self.worst_error, rule]
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.n_steps_used, self.n_batches_seen, self.worst_error, rule = state["nodes"]
        self._last_rule = None if rule is None else PathRule(*map(tuple, rule))

    def gather(self, world: World) -> None:
        self.n_steps_used = max(world.gather(self.n_steps_used))
        self.worst_error = max(world.gather(self.worst_error))

    @property
    def sums_columns(self) -> bool:
        """Whether a method that draws looks at completeness on this batch: it takes more passes."""
        return (self.n_batches_seen - 1) % _COMPLETENESS_EVERY == 0

    # --- the trial -------------------------------------------------------------------------------

    @abstractmethod
    def two_derivatives(self, problem: PairProblem, *, vmapped: bool) -> Tensor:
        """The first two columns or rows of A at the samples, without any record."""

    def confirm(self, problem: PairProblem) -> None:
        """Takes two derivatives. Where many at a time give other numbers, one by one is right.

        Raises:
            DoesNotApply: torch cannot take them, or not so many at a time.
        """
        try:
            derivatives = self.two_derivatives(problem, vmapped=self.vmapped)
        except InteractGraphError:
            raise
        except ANY_FAILURES as error:
            raise DoesNotApply(
                f"{self.engine} mode cannot differentiate the segment ({first_line(error)})"
            ) from error
        records = self.context.records
        if records.look_at_operations(problem).unusual and self.engine not in records.right_engines:
            check_derivatives(problem, self.context.name, reverse=self.engine == "reverse")
            records.right_engines.add(self.engine)
        alone = None
        if self.vmapped:
            with contextlib.suppress(*FAILURES):
                alone = self.two_derivatives(problem, vmapped=False)
        if alone is not None and not is_close(derivatives, alone):
            raise DoesNotApply(f"{self.engine} mode many at a time differs from one at a time")

    def confirm_either_way(self, problem: PairProblem) -> None:
        """As `confirm`, one at a time where many at a time do not serve."""
        try:
            Differentiating.confirm(self, problem)
        except DoesNotApply:
            self.vmapped = False
            Differentiating.confirm(self, problem)
