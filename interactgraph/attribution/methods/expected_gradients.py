"""Expected gradients: integrated gradients whose baseline is another sample, drawn anew.

A[b,t,i,j] = sum_s (z - z')[b,s,j] integral_0^1 dy/dz (z' + u (z - z')) du for z' of a random other
sample (Erion et al., arXiv 1906.10670, eq. 3, between two layers). `mean` estimates their
expectation over z'; `rms` and the others average over samples and drawn baselines together.
Standard errors include the draw, because every sample has one of its own. Completeness is against
the drawn baseline, sum_j A = y(z) - y(z').
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...layers import PairProblem
from ..contributions import Contribution
from .columns import Columns
from .differentiating import Differentiating
from .method import PairContext, Tick, no_tick
from .rows import Rows

__all__ = ["ExpectedColumns", "ExpectedRows"]

_KEPT = 256  # samples of earlier batches that baselines are drawn from


class Reservoir:
    """Source features of earlier samples, each equally likely to be kept (Vitter 1985).

    One for every number of positions. A baseline comes from the kept samples and the other ones of
    the batch; the first sample of all, alone in its batch, has none and keeps its own values.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.kept: dict[str, Tensor] = {}
        self.seen: dict[str, int] = {}

    def draw(self, z: Tensor, counts: Tensor, *, keep: bool = True) -> Tensor:
        """Features of a random other sample for each of a batch, then takes the batch in.

        Args:
            z: source features, `[b, s, j]`.
            counts: which of them count, bool `[b, s]`.
            keep: take the batch in; not where it is drawn for again.

        Returns:
            `[b, s, j]`, NaN at positions that do not count in the other sample.
        """
        key, n = str(z.shape[1]), len(z)
        points = torch.where(counts[..., None], z, torch.nan)
        pool = torch.cat([points, self.kept.get(key, points[:0]).to(points)])
        if len(pool) == 1:
            drawn = torch.zeros(1, dtype=torch.int64)
        else:  # not itself: one of the others, which are numbered past it
            drawn = torch.randint(len(pool) - 1, (n,), generator=self.generator)
            drawn += drawn >= torch.arange(n)
        baseline = pool[drawn.to(z.device)]
        if keep:
            self._take(key, points)
        return baseline

    def _take(self, key: str, points: Tensor) -> None:
        kept, seen = self.kept.get(key, points[:0]).to(points), self.seen.get(key, 0)
        room = max(0, _KEPT - len(kept))
        kept, rest = torch.cat([kept, points[:room]]), points[room:]
        for number, sample in enumerate(rest, seen + room + 1):
            place = int(torch.randint(number, (), generator=self.generator))
            if place < _KEPT:
                kept[place] = sample
        self.kept[key], self.seen[key] = kept, seen + len(points)

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [self.kept, self.seen, self.generator.get_state()]

    def restore(self, state: list[Any]) -> None:
        """Goes back to what `state` gave."""
        self.kept, self.seen = dict(state[0]), dict(state[1])
        self.generator.set_state(state[2])


def rebased(problem: PairProblem, reservoir: Reservoir, *, keep: bool = True) -> PairProblem:
    """The problem with drawn baselines; positions that do not count on both sides stay.

    Args:
        problem: the pair on a batch.
        reservoir: to draw from.
        keep: whether it takes the batch in.
    """
    counts = torch.ones(problem.z.shape[:2], dtype=torch.bool, device=problem.z.device)
    if problem.source_mask is not None:
        counts = problem.source_mask
    displacement = problem.z - reservoir.draw(problem.z, counts, keep=keep)
    stays = displacement.isnan() | ~counts[..., None]
    return replace(problem, displacement=displacement.masked_fill(stays, 0.0), fixed_baseline=False)


class _DrawnBaselines(Differentiating):
    """A method by quadrature that goes from a drawn baseline to the sample."""

    definitions = ("expected_gradients",)
    most_samples = 256  # whatever the memory: the draws are the same

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._reservoir = Reservoir(context.generator())

    def why_not(self, problem: PairProblem) -> str | None:
        baseline = self.context.options.baseline
        if not (isinstance(baseline, str) and baseline == "zero"):
            return "expected_gradients draws its baselines from the data; leave baseline out"
        return None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "reservoir": self._reservoir.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._reservoir.restore(state["reservoir"])


class ExpectedColumns(_DrawnBaselines, Columns):
    """Every column by a JVP at every node."""

    name = "expected_columns"

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        yield from Columns.contributions(self, rebased(problem, self._reservoir), tick)


class ExpectedRows(_DrawnBaselines, Rows):
    """Every row by a VJP at every node."""

    name = "expected_rows"

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        yield from Rows.contributions(self, rebased(problem, self._reservoir), tick)
