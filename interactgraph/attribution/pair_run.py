"""One layer pair over all batches: planned once, then batch after batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..errors import InteractGraphError
from ..layers import PairProblem
from .accumulator import Accumulator, Key
from .contributions import Contribution
from .methods import DoesNotApply, Method, PairContext
from .methods.method import Tick, no_tick
from .options import Options, Pair
from .planner import Plan, choose

__all__ = ["PairRun"]


@dataclass(frozen=True, eq=False)
class PairRun:
    """A pair, how it is computed, and what has been added.

    Attributes:
        pair: (source, target) layers.
        context: what its methods share.
        plan: its methods.
        sums: what has been added.
        max_samples: at a time, as the memory allows.
    """

    pair: Pair
    context: PairContext
    plan: Plan
    sums: Accumulator
    max_samples: int

    @staticmethod
    def planned(
        pair: Pair, problem: PairProblem, options: Options, budget: int, seed: int
    ) -> PairRun:
        """Decides how to compute a pair.

        Args:
            pair: (source, target) layers.
            problem: the pair on the first samples.
            options: of the run.
            budget: bytes of working memory.
            seed: of the pair's random draws.

        Raises:
            InteractGraphError: no method can do what is asked for, or the memory does not suffice.
        """
        strengths = tuple(strength.bind(problem) for strength in options.strength_objects)
        shape = (problem.n_targets, problem.n_sources)
        drawn = options.sources is not None and options.sampling != "signs"
        sums = Accumulator(strengths, shape, problem.z.device, budget, drawn=drawn)
        context = PairContext(pair, options, strengths, sums, seed)
        plan = choose(context, problem)
        if sums.n_bytes > budget:
            raise InteractGraphError(
                f"the sums of {context.name} ({shape[0]} x {shape[1]} features, "
                f"{', '.join(options.strengths)}) take {sums.n_bytes / 2**30:.2f} GiB, more than "
                f"the memory budget of {budget / 2**30:.2f} GiB; raise memory_budget or ask for "
                "fewer strengths"
            )
        return PairRun(pair, context, plan, sums, plan.methods[0].max_samples(problem))

    @property
    def is_drawn(self) -> bool:
        """Whether the strengths are estimates from drawn features or signs."""
        return self.plan.methods[0].is_drawn

    def add(
        self, problem: PairProblem, keys: Sequence[Key] | None = None, tick: Tick = no_tick
    ) -> None:
        """Adds a batch, by the first of the planned methods that holds on it.

        Args:
            problem: the pair on the batch.
            keys: group and fold of each sample; None: there are none.
            tick: told the number of passes done.

        Raises:
            InteractGraphError: none holds that the user allows.
        """
        self._add(problem, keys, tick, self.plan.methods, [])

    def _add(
        self,
        problem: PairProblem,
        keys: Sequence[Key] | None,
        tick: Tick,
        methods: Sequence[Method],
        failures: list[str],
    ) -> None:
        """Adds a batch in pieces that fit into memory; where a method fails, the next one goes on.

        Args:
            problem: the pair on the batch.
            keys: group and fold of each sample.
            tick: told the number of passes done.
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
        for span, piece in problem.pieces(method.max_samples(problem)):
            piece_keys = keys and keys[span]
            try:
                if failures:
                    method.confirm(piece)
                contributions = _with_first_computed(method.contributions(piece, tick))
            except DoesNotApply as error:
                self._add(piece, piece_keys, tick, fallbacks, [*failures, str(error)])
                continue
            if failures:
                self._note_fallback(method, failures[0])
            self.sums.begin(piece, piece_keys)
            for contribution in contributions:
                self.sums.add(contribution)

    def _note_fallback(self, method: Method, reason: str) -> None:
        """Notes once that another method than the planned one was used, whatever the figures."""
        first = self.plan.methods[0].engine.replace("_", " ")
        start = f"{self.context.name}: {method.name} where the planned {first} fails"
        if not any(note.startswith(start) for note in self.context.notes):
            self.context.notes.append(f"{start}, at first with a {reason}")

    def finish(self) -> None:
        """Brings everything into the sums, and what the methods have to say into the notes."""
        self.sums.flush()
        for method in self.plan.methods:
            for note in method.notes:
                self.context.note(note)

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "sums": self.sums.state(),
            "methods": [method.state() for method in self.plan.methods],
            "notes": self.context.notes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.sums.restore(state["sums"])
        for method, saved in zip(self.plan.methods, state["methods"], strict=True):
            method.restore(saved)
        self.context.notes[:] = state["notes"]


def _with_first_computed(contributions: Iterator[Contribution]) -> Iterator[Contribution]:
    """The same contributions; the first is computed now, so that what does not apply raises here.

    Raises:
        DoesNotApply: the method does not hold on the batch.
    """
    first = next(contributions, None)
    return iter(()) if first is None else chain([first], contributions)
