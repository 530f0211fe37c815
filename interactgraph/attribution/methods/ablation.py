"""Ablation: A[b,t,i,j] = y(z) - y(z with feature j at its baseline), d_src forward passes.

A feature is moved at all its positions at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...calculus.derivatives import ANY_FAILURES
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from ..source_path import SourcePath
from .method import Tick, no_tick
from .pass_method import PassMethod

__all__ = ["Ablation"]


class Ablation(PassMethod):
    """The effect of each source feature alone."""

    name = "ablation"
    engine = "perturbation"
    definitions = ("ablation",)

    def cost(self, problem: PairProblem) -> float:
        return float(problem.n_sources)

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        path = SourcePath.in_features(problem)
        chunk = self.chunk(problem, problem.n_sources, problem.y)
        total = torch.zeros_like(problem.y)
        for start in range(0, problem.n_sources, chunk):
            stop = min(start + chunk, problem.n_sources)
            without = problem.z - path.columns(start, stop)
            effect = (problem.y - _at_each(problem, without)).movedim(0, -1)
            tick(stop - start)
            total += effect.sum(-1)
            yield self.context.block(effect, problem, columns=slice(start, stop))
        yield residual_of(total, problem)


def _at_each(problem: PairProblem, points: Tensor) -> Tensor:
    """The segment at many points `[c, b, s, j]`, `[c, b, t, i]`.

    One after the other where its shapes depend on values, as where tokens choose experts.
    """
    try:
        result: Tensor = torch.vmap(problem.segment)(points)
    except ANY_FAILURES:
        return torch.stack([problem.segment(point) for point in points])
    return result
