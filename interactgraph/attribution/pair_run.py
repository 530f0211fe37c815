"""One layer pair over all batches: planned once, then batch after batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any

from ..distributed import World
from ..errors import InteractGraphError
from ..layers import PairProblem
from ..notes import (
    does_not_add_up,
    edges_dropped,
    fallback,
    large_residual,
    never_drawn,
    no_residual,
)
from .accumulator import Accumulator, Key
from .contributions import Contribution
from .memory import MemoryBudget
from .methods import DoesNotApply, Method, PairContext
from .methods.method import INTEGRAL, LARGE_RESIDUAL, Tick, no_tick
from .options import Options, Pair
from .planner import Plan, choose
from .strongest_edges import StrongestEdges
from .sums.sparse_sums import SparseSums
from .time_budget import TimeBudget

__all__ = ["PairRun"]

_NEED_BASELINE = ("integrated_gradients", "shapley", "expected_shapley")  # a value there


@dataclass(frozen=True, eq=False)
class PairRun:
    """A pair, how it is computed, and what has been added.

    Attributes:
        pair: (source, target) layers.
        context: what its methods share.
        plan: its methods.
        sums: what has been added.
        max_samples: at a time, as the memory allows.
        pass_seconds: what one forward pass of the first samples took.
    """

    pair: Pair
    context: PairContext
    plan: Plan
    sums: Accumulator
    max_samples: int
    pass_seconds: float = 1.0

    @staticmethod
    def planned(
        problems: Mapping[Pair, PairProblem],
        options: Options,
        budget: int,
        seed: int,
        time_budget: TimeBudget,
    ) -> dict[Pair, PairRun]:
        """Decides how to compute every pair.

        Args:
            problems: the pairs on the first samples.
            options: of the run.
            budget: bytes of working memory, for all pairs together.
            seed: of the first pair's random draws; the others count on from there.
            time_budget: of the run.

        Raises:
            InteractGraphError: no method can do what is asked for, or the memory does not suffice.
        """
        memory = MemoryBudget(budget)
        drawn = options.draws_sources
        contexts = []
        for number, (pair, problem) in enumerate(problems.items()):
            strengths = tuple(strength.bind(problem) for strength in options.strength_objects)
            shape = (problem.n_targets, problem.n_sources)
            device = problem.z.device
            few = options.max_edges
            asked = options.examples and few is None
            strongest = StrongestEdges(strengths[0], shape, device) if asked else None
            sums = Accumulator(
                strengths, shape, device, memory, drawn=drawn, most=few, strongest=strongest
            )
            contexts.append(
                PairContext(pair, options, strengths, sums, seed + number, budget=time_budget)
            )
        if memory.taken > budget:
            shapes = ", ".join("{} x {}".format(*context.sums.shape) for context in contexts)
            raise InteractGraphError(
                f"the sums of {len(contexts)} pairs ({shapes} features, "
                f"{', '.join(options.strengths)}) take {memory.taken / 2**30:.2f} GiB, more than "
                f"the memory budget of {budget / 2**30:.2f} GiB; raise memory_budget or ask for "
                "fewer pairs or strengths"
                + (", or for fewer edges" if options.max_edges else "; max_edges keeps few edges")
            )
        runs = {}
        for context in contexts:
            problem = problems[context.pair]
            plan = choose(context, problem)
            most = plan.methods[0].max_samples(problem)
            began = perf_counter()
            problem.segment(problem.z)
            seconds = perf_counter() - began
            runs[context.pair] = PairRun(context.pair, context, plan, context.sums, most, seconds)
            if time_budget.is_set and plan.methods[0].is_drawn:
                time_budget.pairs.append(context.pair)
        return runs

    @property
    def is_drawn(self) -> bool:
        """Whether the strengths are estimates from drawn features or signs."""
        return self.plan.methods[0].is_drawn

    @property
    def is_random(self) -> bool:
        """Whether anything was left to chance so far."""
        return self.is_drawn and self.plan.methods[0].is_random

    @property
    def share_of_nodes(self) -> float | None:
        """Of the path nodes that were planned so many were needed; None: it is not known yet."""
        method = self.plan.methods[0]
        if method.n_steps <= 1:
            return 1.0
        used = method.record().get("n_steps_used")
        return used / method.n_steps if used else None

    def add(
        self,
        problem: PairProblem,
        keys: Sequence[Key] | None = None,
        tick: Tick = no_tick,
        first_sample: int = 0,
    ) -> bool:
        """Adds a batch, by the first of the planned methods that holds on it.

        Args:
            problem: the pair on the batch.
            keys: group and fold of each sample; None: there are none.
            tick: told the number of passes done.
            first_sample: number of the batch's first sample, along the data.

        Returns:
            Whether all of A of some samples had to be computed where others were drawn.

        Raises:
            InteractGraphError: none holds that the user allows.
        """
        return self._add(problem, keys, tick, first_sample, self.plan.methods, [])

    def _add(
        self,
        problem: PairProblem,
        keys: Sequence[Key] | None,
        tick: Tick,
        first_sample: int,
        methods: Sequence[Method],
        failures: list[str],
    ) -> bool:
        """Adds a batch in pieces that fit into memory; where a method fails, the next one goes on.

        Args:
            problem: the pair on the batch.
            keys: group and fold of each sample.
            tick: told the number of passes done.
            first_sample: number of the batch's first sample.
            methods: those that may be used, the first one first.
            failures: why those before them do not hold on the batch.
        """
        if not methods:
            first = self.plan.methods[0]
            raise InteractGraphError(
                f"the {first.engine.replace('_', ' ')} of {self.context.name} does not hold on "
                f"every batch: {failures[0]}. Use engine='auto' or 'forward'"
            )
        method, *fallbacks = methods
        whole = self.is_drawn and not method.is_drawn
        for span, piece in problem.pieces(method.max_samples(problem)):
            piece_keys, first = keys and keys[span], first_sample + span.start
            try:
                if failures:
                    method.confirm(piece)
                contributions = _with_first_computed(method.contributions(piece, tick))
            except DoesNotApply as error:
                reasons = [*failures, str(error)]
                whole |= self._add(piece, piece_keys, tick, first, fallbacks, reasons)
                continue
            if failures:
                self._note_fallback(method, failures[0])
            self.sums.begin(piece, piece_keys, first)
            for contribution in contributions:
                self.sums.add(contribution)
            self._check_finite()
        return whole

    def _check_finite(self) -> None:
        """Stops at sums that are not finite.

        Raises:
            InteractGraphError: the target is not finite at the baseline, or a derivative is not.
        """
        completeness, context = self.sums.completeness, self.context
        if math.isfinite(completeness.missed):
            return
        if not math.isfinite(completeness.change):
            if context.options.definition not in _NEED_BASELINE:
                return  # that need no value at the baseline
            raise InteractGraphError(
                f"the target of {context.name} is not finite at the baseline (0 / 0 as in "
                "h / h.norm(), or log 0), so that there is no path from it; give another one, such "
                "as baseline='mean'"
            )
        raise InteractGraphError(
            f"derivatives of {context.name} are not finite although its values are: a slope is "
            "infinite (sqrt, norm or log at 0, say behind a ReLU), or overflows. Add a small "
            "number inside, give a baseline away from there, compute in a wider dtype, or use "
            "method='ablation', which needs none"
        )

    def _note_fallback(self, method: Method, reason: str) -> None:
        """Notes once that another method than the planned one was used, whatever the figures."""
        planned = self.plan.methods[0].engine.replace("_", " ")
        note = fallback(self.context.name, method.name, planned, reason)
        self.context.note(f"fallback to {method.name}", note)

    def finish(self, world: World) -> None:
        """Brings everything into the sums, and what the methods have to say into the notes."""
        self.sums.flush()
        for method in self.plan.methods:
            method.gather(world)
            for about, note in method.notes.items():
                self.context.note(about, note)

    def remark(self) -> None:
        """Notes what the sums over all samples tell; after those of all processes are joined."""
        context, residual = self.context, self.sums.completeness.relative
        if self.sums.most is not None:
            self._note_dropped()
        unknown = self.sums.draws.unknown
        if unknown.any():
            share, number = self.sums.draws.unknown_share, int(unknown.sum())
            context.note("draws", never_drawn(context.name, number, len(unknown), share))
        if math.isnan(residual):
            context.note(INTEGRAL, no_residual(context.name))
        if context.integral_misses(residual):
            context.note(INTEGRAL, large_residual(context.name, residual, context.help()))
        if context.options.definition == "captum" and residual > LARGE_RESIDUAL:
            method = context.options.method.__name__
            context.note(INTEGRAL, does_not_add_up(context.name, method, residual))

    def _note_dropped(self) -> None:
        """Notes what edges may lack where sums of few of them are kept."""
        total = self.sums.total()
        assert isinstance(total, SparseSums)
        if total.n_dropped:
            bounds, name = total.bounds(), total.strengths[0].name
            absent, missed = (bounds[what][name] for what in ("absent", "missed"))
            self.context.note("dropped", edges_dropped(self.context.name, name, absent, missed))

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "sums": self.sums.state(),
            "names": [method.name for method in self.plan.methods],
            "methods": [method.state() for method in self.plan.methods],
            "notes": self.context.notes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave.

        Raises:
            InteractGraphError: other methods are planned now.
        """
        names = [method.name for method in self.plan.methods]
        if names != state["names"]:
            raise InteractGraphError(
                f"the checkpoint belongs to another run: it computed {self.context.name} by "
                f"{', '.join(state['names'])}, and now that would be {', '.join(names)}, so the "
                "model has changed; use another folder"
            )
        self.sums.restore(state["sums"])
        for method, saved in zip(self.plan.methods, state["methods"], strict=True):
            method.restore(saved)
        self.context.notes.update(state["notes"])


def _with_first_computed(contributions: Iterator[Contribution]) -> Iterator[Contribution]:
    """The same contributions; the first is computed now, so that what does not apply raises here.

    Raises:
        DoesNotApply: the method does not hold on the batch.
    """
    first = next(contributions, None)
    return iter(()) if first is None else chain([first], contributions)
