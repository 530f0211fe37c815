"""The interface of a method: one way to compute A, and what every way is given."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...distributed import World
from ...layers import PairProblem
from ...notes import held_fixed, jumps
from ..accumulator import Accumulator
from ..contributions import Contribution, Entries
from ..options import Options, Pair
from ..packing import Packer
from ..segment_records import SegmentRecords
from ..strengths import Strength
from ..sums.strength_sums import reduce_positions
from ..time_budget import TimeBudget

__all__ = [
    "INTEGRAL",
    "LARGE_RESIDUAL",
    "PATH_INTEGRALS",
    "VJP",
    "DoesNotApply",
    "Method",
    "PairContext",
    "Tick",
    "no_tick",
]

Tick = Callable[[float], None]  # told the number of passes done

INTEGRAL = "integral"  # what a note about its error is about
LARGE_RESIDUAL = 0.1  # of the completeness, above which the result carries a note
PATH_INTEGRALS = ("integrated_gradients", "expected_gradients")

_SHARE = 8  # of the free memory that a matrix of all edges may take where few are kept

VJP = 2.0  # forward passes that a VJP costs; a JVP costs about one


def no_tick(passes: float) -> None:
    """Tells nobody."""


class DoesNotApply(Exception):
    """A method cannot serve a batch; nothing of it has been added. The message says why."""


@dataclass(frozen=True, eq=False)
class PairContext:
    """What all methods of a pair share.

    Attributes:
        pair: (source, target) layers.
        options: of the run.
        strengths: bound to the pair.
        sums: what will be added up, which says how much memory is free.
        seed: of random draws.
        records: of the segment.
        packer: of source features that do not move everywhere.
        budget: of time.
        notes: what they are about -> what the user should know; methods add to them.
    """

    pair: Pair
    options: Options
    strengths: tuple[Strength, ...]
    sums: Accumulator
    seed: int
    records: SegmentRecords = field(default_factory=SegmentRecords)
    packer: Packer = field(default_factory=Packer)
    budget: TimeBudget = field(default_factory=TimeBudget)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pair, for messages."""
        return " -> ".join(self.pair)

    def keeps_too_few(self, problem: PairProblem) -> bool:
        """Whether so few edges are kept that a matrix of all of them is not to be made."""
        every = problem.n_sources * problem.n_targets * problem.z.element_size()
        return self.sums.most is not None and every > self.sums.free // _SHARE

    def note(self, about: str, note: str) -> None:
        """Notes something about the pair, once whatever the figures."""
        self.notes.setdefault(about, note)

    def integral_misses(self, residual: float) -> bool:
        """Whether a completeness residual is more than the integral may have."""
        limit = max(self.options.tolerance or 0.0, LARGE_RESIDUAL)
        integral = self.options.definition in PATH_INTEGRALS
        return integral and limit < residual < math.inf  # infinite: of a change of zero

    def help(self) -> str:
        """What would make the integral better, as a note ends."""
        operations = self.records.operations
        causes = (jumps(operations.jumping) if operations.jumping else "") + (
            held_fixed() if operations.holds_fixed else ""
        )
        if causes:
            return causes
        ways = ["raise n_steps" if self.options.tolerance else "raise n_steps or set tolerance"]
        if self.budget.is_set:  # nodes may be few because time is short
            ways.insert(0, "raise time_budget")
        if self.options.definition == "integrated_gradients":
            entry = self.options.baselines()[self.pair[0]]
            if not (isinstance(entry, str) and entry == "mean"):
                ways.append("take a baseline away from where the segment bends (baseline='mean')")
        return "; " + ", or ".join(ways)

    def generator(self) -> torch.Generator:
        """Random numbers of the pair, from the beginning."""
        return torch.Generator().manual_seed(self.seed)

    def reduce(
        self,
        a: Tensor,
        problem: PairProblem,
        samples: slice = slice(None),
        positions: slice = slice(None),
    ) -> dict[str, Tensor]:
        """A `[b, t, i, j]` of some samples and positions -> X_b of each strength, `[b, i, j]`."""
        mask = None if problem.mask is None else problem.mask[samples, positions]
        return reduce_positions(a, mask, self.strengths)

    def joined(self, one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
        """Joins what `reduce` gave for two sets of positions of the same samples."""
        return {s.name: s.joined(one[s.name], other[s.name]) for s in self.strengths}

    def block(
        self,
        a: Tensor,
        problem: PairProblem,
        *,
        samples: slice = slice(None),
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Entries:
        """A `[b, t, i, j]` of some samples, target and source features as a contribution."""
        return Entries(self.reduce(a, problem, samples), samples, rows, columns)


class Method(ABC):
    """One way to compute A for a layer pair, kept over all batches.

    Costs are counted in forward passes of the segment on a batch.

    Attributes:
        name: of the method, in plans; every class has one, as it has an engine and definitions.
        engine: the value of the option `engine` that asks for it.
        definitions: values of the option `method` that it computes.
        is_drawn: whether strengths are estimates from drawn features, positions or signs.
        draws_positions: whether what is drawn are target positions.
        most_samples: at a time, whatever the memory; None: any number.
    """

    name: ClassVar[str]
    engine: ClassVar[str]
    definitions: ClassVar[tuple[str, ...]]
    is_drawn: ClassVar[bool] = False
    draws_positions: ClassVar[bool] = False
    most_samples: ClassVar[int | None] = None

    def __init__(self, context: PairContext) -> None:
        self.context = context

    def why_not(self, problem: PairProblem) -> str | None:
        """Why it cannot serve the pair, from its first samples; None: it may.

        May look at the segment, but runs no derivative: see `confirm`.
        """
        return None

    @property
    def is_random(self) -> bool:
        """Whether anything that was drawn could have been drawn otherwise."""
        return self.is_drawn

    @abstractmethod
    def cost(self, problem: PairProblem) -> float:
        """Predicted cost of a batch."""

    def confirm(self, problem: PairProblem) -> None:
        """Tries on the first samples what the method relies on.

        Raises:
            DoesNotApply: it does not hold.
        """
        return

    def working_bytes(self, problem: PairProblem) -> int:
        """Working memory of the problem; 0: it finds its own way through any number of samples."""
        return 0

    @abstractmethod
    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        """All that a batch adds.

        Args:
            problem: the pair on the batch.
            tick: told the number of passes done.

        Yields:
            Entries of A, products or draws, in any order, and one `Residual`.

        Raises:
            DoesNotApply: only before the first yield.
        """

    @property
    def n_steps(self) -> int:
        """Path nodes, for the plan."""
        return 0

    @property
    def notes(self) -> dict[str, str]:
        """What the user should know of how it went, by what it is about."""
        return {}

    def record(self) -> dict[str, Any]:
        """JSON values that the recipe keeps of how it went."""
        return {}

    def state(self) -> dict[str, Any]:
        """What it carries from batch to batch, for a checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        return

    def gather(self, world: World) -> None:
        """Joins what notes and recipe say of all processes; all of them call it."""
        return

    def max_samples(self, problem: PairProblem) -> int:
        """Samples at a time that the free memory allows, from a problem with some."""
        most = self.most_samples or 1 << 62
        needed = self.working_bytes(problem)
        if not needed:
            return most
        return min(most, max(1, self.context.sums.free // max(1, needed // problem.n_samples)))
