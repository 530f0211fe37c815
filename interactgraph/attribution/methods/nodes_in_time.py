"""Path nodes where draws share the time: no more of them than the draws can tell apart."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from ...calculus.path import PathRule
from ...layers import PairProblem
from ...notes import no_time
from ..source_path import SourcePath
from .forward_mode import ForwardMode
from .method import PairContext

__all__ = ["Clock", "NodesInTime"]

_LOOKED_AT = 4  # samples that place the nodes of all
_PLACING_FIRST = 0.1  # of a time budget, for nodes where there were none
_PLACING = 0.05  # beyond which they stay where they are
_BESIDE_DRAWS = 1 / 3  # of the error of draws, below which more nodes tell next to nothing


class Clock:
    """Seconds since it was made, what runs on an accelerator included."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._started = device, time.perf_counter()

    def seconds(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._started


class NodesInTime(ForwardMode):
    """A method that draws, and places its nodes now and then."""

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._placing = 0.0  # seconds, on batches before
        self._drawn_error = math.nan, 1  # and the nodes that there were
        self._clock: Clock | None = None  # since nodes are placed on the batch at hand

    def placed(self, problem: PairProblem, path: SourcePath) -> tuple[PathRule, float]:
        """The path nodes of a batch, and the seconds that they took."""
        self._clock = Clock(problem.z.device)
        rule = self.rule_for(problem, path)
        seconds = self._clock.seconds()
        self._placing += seconds
        return rule, seconds

    def rule_for(self, problem: PairProblem, path: SourcePath) -> PathRule:
        """See `Differentiating`; in a time budget, of the rules that were tried the best for all.

        Every node takes time from the draws. With d the error that draws leave where there are n
        nodes and e that of the integral, 4 e(m)^2 + d^2 m / n is smallest for the best m of them: e
        counts twice, as no standard error holds it.
        """
        drawn = self.context.budget.drawn_errors.get(self.context.pair)
        if drawn is not None and drawn != self._drawn_error[0]:  # which is looked at now and then
            before = self._last_rule
            self._drawn_error = drawn, 1 if before is None else len(before.nodes)
        rule = super().rule_for(problem, path)
        if drawn is None or not self._steps:
            return rule
        drawn, n = self._drawn_error
        best, error = min(
            self._steps, key=lambda step: 4 * step[1] ** 2 + drawn**2 * len(step[0].nodes) / n
        )
        self._last_rule, self.n_steps_used = best, len(best.nodes)
        self.worst_error = max(error, self.worst_error)
        return best

    @property
    def looks_again(self) -> bool:
        """After 1, 2, 4, ... batches, as draws cost less; in a time budget while that is cheap."""
        seen = self.n_batches_seen
        return not seen & (seen - 1) and self._placing <= self._time_to_place

    @property
    def tolerance(self) -> float | None:
        """See `Differentiating`; in a time budget, no better than what its draws can tell.

        Every node takes time from the draws, whose error is the larger one: squares add up.
        """
        asked, budget = super().tolerance, self.context.budget
        if asked is None or self.context.pair not in budget.errors:
            return asked
        return max(asked, _BESIDE_DRAWS * budget.errors[self.context.pair])

    @property
    def _time_to_place(self) -> float:
        """Seconds for the nodes of this pair, on all batches together."""
        budget = self.context.budget
        share = _PLACING if self.n_batches_seen > 1 else _PLACING_FIRST
        return share * budget.seconds / max(len(budget.pairs), 1)

    def time_left(self) -> bool:
        """See `Differentiating`: where draws are few, more nodes make no better graph."""
        here = 0.0 if self._clock is None else self._clock.seconds()
        return self._placing + here <= self._time_to_place

    @property
    def help(self) -> str:
        """See `Differentiating`."""
        return no_time() if self.context.budget.is_set else super().help

    def state(self) -> dict[str, Any]:
        steps = [[*map(list, rule), error] for rule, error in self._steps]
        placing = [self._placing, *self._drawn_error]
        return {**super().state(), "steps": steps, "placing": placing}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._placing, *drawn = state["placing"]
        self._drawn_error = drawn[0], drawn[1]
        self._steps = tuple(
            (PathRule(tuple(nodes), tuple(weights)), error)
            for nodes, weights, error in state["steps"]
        )

    def looked_at(self, problem: PairProblem, path: SourcePath) -> tuple[PairProblem, SourcePath]:
        if problem.n_samples <= _LOOKED_AT:
            return problem, path
        few = next(problem.pieces(_LOOKED_AT))[1]  # looking at all costs more than drawing
        return few, self.path_of(few)
