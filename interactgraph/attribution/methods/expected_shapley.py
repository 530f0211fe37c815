"""Expected Shapley values: features step in random orders, from random baselines, anew everywhere.

For a sample z, a start z' and an order of the features that differ between them,

    A[b,t,i,j] = y(z' with j and those before it as in z) - y(z' with those before it as in z)

(Strumbelj and Kononenko 2010, "An efficient explanation of individual classifications using game
theory", algorithm 1; random baseline Shapley values, Sundararajan and Najmi, arXiv 1908.08474,
between two layers). A step is the exact integral over its edge of the cube between z' and z, so
there is no quadrature, and sum_j A = y(z) - y(z') on every path.

Where one order for a whole batch shows an edge in one context only, every sample has orders of its
own here, and starts from the baseline as well as from other samples: few passes see many contexts.
As for expected gradients, strengths are over samples and drawn paths together (the mean of A^2, not
the square of a mean), and errors include the draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...layers import PairProblem
from ..completeness import joined, residual_of
from ..contributions import Contribution, Entries
from .expected_gradients import Reservoir, rebased
from .method import PairContext, Tick, no_tick
from .pass_method import PassMethod

__all__ = ["ExpectedShapley"]

_STEPS_A_PATH = 8  # of n_steps: what an order of Shapley values takes is spent on samples instead


class ExpectedShapley(PassMethod):
    """`n_steps` / 8 paths for each sample, every second one the reverse of the one before it."""

    name = "expected_shapley"
    engine = "perturbation"
    definitions = ("expected_shapley",)
    most_samples = 256  # whatever the memory: the draws are the same

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._generator = context.generator()
        self._reservoir = Reservoir(self._generator)
        self._n_passes = 0
        self._n_samples = 0

    @property
    def n_paths(self) -> int:
        """Paths of each sample."""
        return max(1, self.context.options.n_steps // _STEPS_A_PATH)

    @property
    def n_steps(self) -> int:
        """Paths, for the plan."""
        return self.n_paths

    def cost(self, problem: PairProblem) -> float:
        return float(self.n_paths * problem.n_sources)

    def working_bytes(self, problem: PairProblem) -> int:
        """All columns grow side by side."""
        return super().working_bytes(problem) * problem.n_sources

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        sums: dict[str, Tensor] = {}
        residuals = []
        for path in self._paths(problem):
            a = path.a(tick)
            self._n_passes += path.n_steps * problem.n_samples
            for strength in self.context.strengths:
                x = self.context.reduce(a, problem)[strength.name]
                if strength.is_mean:
                    x = x / self.n_paths
                before = sums.get(strength.name)
                sums[strength.name] = x if before is None else strength.joined(before, x)
            residuals.append(residual_of(a.sum(-1), path.problem))
        self._n_samples += problem.n_samples
        yield Entries(sums)
        yield joined(residuals)

    def _paths(self, problem: PairProblem) -> Iterator[_Path]:
        """One path of each sample after the other; every second one is a reverse."""
        number = torch.arange(problem.n_samples) + self._n_samples
        n_pairs = (self.n_paths + 1) // 2
        for pair in range(n_pairs):
            # Taken in once and last: kept samples would be their own starts.
            drawn = rebased(problem, self._reservoir, keep=pair == n_pairs - 1)
            from_baseline = (number + pair) % 2 == 0  # the others start from another sample
            keys = torch.rand(problem.n_samples, problem.n_sources, generator=self._generator)
            moved = torch.where(
                from_baseline[:, None, None].to(problem.z.device),
                problem.displacement,
                drawn.displacement,
            )
            path = _Path(replace(drawn, displacement=moved), keys.to(moved.device))
            yield path
            if 2 * pair + 1 < self.n_paths:
                yield path.reverse()

    def record(self) -> dict[str, Any]:
        if not self._n_samples:
            return {}
        return {"passes_per_sample": round(self._n_passes / self._n_samples, 3)}

    def state(self) -> dict[str, Any]:
        counts = [self._n_passes, self._n_samples]
        return {"reservoir": self._reservoir.state(), "counts": counts}

    def restore(self, state: dict[str, Any]) -> None:
        self._reservoir.restore(state["reservoir"])
        self._n_passes, self._n_samples = state["counts"]


@dataclass(frozen=True, eq=False)
class _Path:
    """One path of every sample, along which one feature steps after the other.

    Attributes:
        problem: its displacement goes from the start to the sample.
        keys: features step in the order of these, `[b, j]`.
    """

    problem: PairProblem
    keys: Tensor

    def reverse(self) -> _Path:
        """From the same start in the reverse order."""
        return replace(self, keys=-self.keys)

    @cached_property
    def differs(self) -> Tensor:
        """Which features step at all, bool `[b, j]`."""
        return (self.problem.displacement != 0).any(1)

    @property
    def n_steps(self) -> int:
        """Steps: of the sample with the most."""
        return int(self.differs.sum(1).max())

    def a(self, tick: Tick) -> Tensor:
        """A of the path, `[b, t, i, j]`."""
        problem = self.problem
        order = self.keys.masked_fill(~self.differs, torch.inf).argsort(1)[:, : self.n_steps]
        a = problem.y.new_zeros(*problem.y.shape, problem.n_sources)
        rows = torch.arange(problem.n_samples, device=problem.z.device)
        z, before = problem.path.start, problem.y0
        for features in order.T:
            z = z.clone()
            z[rows, :, features] = problem.z[rows, :, features]
            after = problem.segment(z)
            a[rows, :, :, features] = after - before
            before = after
            tick(1)
        return a
