"""`target_error`: whether the strongest edges are known well enough."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..distributed import World
from ..notes import ended_early, error_above_target
from ..sparse import values_of
from .accumulator import Sums
from .options import Options
from .pair_run import PairRun
from .sums.sparse_sums import SparseSums

__all__ = ["Precision"]

_STRONGEST = 100  # edges of each pair that target_error is about


@dataclass(frozen=True, eq=False)
class Precision:
    """Relative standard errors of the strongest edges, over all processes.

    Attributes:
        options: of the run.
        world: its processes, all of which ask at the same time.
    """

    options: Options
    world: World

    def reached(self, runs: Iterable[PairRun]) -> bool:
        """Whether each of the strongest edges of every pair has a small relative error."""
        target = self.options.target_error
        return target is not None and all(self.error(run) < target for run in runs)

    def error(self, run: PairRun, *, of_draws: bool = True) -> float:
        """The largest relative standard error among the strongest edges of a pair.

        Args:
            run: of the pair.
            of_draws: with what the draws of source features add to it.
        """
        run.sums.flush()
        sums, name = run.sums.total(), self.options.strengths[0]
        if self.world.size > 1:  # of a copy: every process goes on with its own
            sums = _copy(sums).gather(self.world)
        strength = values_of(sums.strength(name)).abs().flatten()
        found = sums.standard_error(name, of_draws=of_draws)
        assert found is not None
        error = values_of(found)
        top = strength.topk(min(_STRONGEST, len(strength))).indices
        top = top[strength[top] > 0]
        worst = (error.flatten()[top] / strength[top]).max() if len(top) else torch.tensor(0.0)
        # Decisions depend on it: one number for all.
        return self.world.gather(math.inf if worst.isnan() else float(worst))[0]

    def note(self, runs: Iterable[PairRun], n_batches: int, *, stopped_early: bool) -> None:
        """Notes in every pair what was reached, where that is not simply the target."""
        target = self.options.target_error
        if target is None:
            return
        for run in runs:
            error, name = self.error(run), run.context.name
            if error >= target:
                run.context.note("target_error", error_above_target(name, error, target))
            elif stopped_early:
                run.context.note("target_error", ended_early(name, error, n_batches))


def _copy(sums: Sums) -> Sums:
    return SparseSums.merged([sums]) if isinstance(sums, SparseSums) else sums.merged([sums])
