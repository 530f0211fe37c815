"""The path nodes that a batch needs: its derivatives as `adaptive_rule` looks at them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..calculus.adaptive_path import AdaptiveRule, adaptive_rule
from ..calculus.derivatives import FAILURES
from ..layers import PairProblem
from .source_path import SourcePath

__all__ = ["nodes_for"]

_PROBES = 2  # sets of random signs
_STEP = 1e-3  # along a tangent, of differences
_ENTRIES = 1 << 16  # of y that are looked at


def nodes_for(
    problem: PairProblem,
    path: SourcePath,
    tolerance: float,
    most: int,
    seed: int,
    time_left: Callable[[], bool] = lambda: True,
) -> AdaptiveRule:
    """Path nodes for a batch: as many as the tolerance needs, where the path bends.

    Looks at the derivative along the path, whose integral is y(z) - y(z0), and at those along its
    features with random signs, which see the errors of single edges.

    Args:
        problem: the pair on the batch.
        path: of its source.
        tolerance: of the relative error of the integral.
        most: nodes that may be used.
        seed: of the signs.
        time_left: whether there is time to look at more nodes.
    """
    b, _, j = path.displacement.shape
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (_PROBES, b, 1, j), generator=generator).to(path.displacement)
    features = torch.cat([path.displacement[None], (2 * signs - 1) * path.displacement])
    tangents = features if path.entry is None else path.entry.spread(features)
    counts = torch.ones_like(problem.y, dtype=torch.bool)
    if problem.mask is not None:
        counts = counts & problem.mask[..., None]
    entries = counts.flatten().nonzero()[:, 0]
    if len(entries) > _ENTRIES:
        chosen = torch.randperm(len(entries), generator=generator)[:_ENTRIES]
        entries = entries[chosen.to(entries.device)]

    def exact(u: float) -> Tensor:
        return path.linearize(u)(tangents)

    def by_differences(u: float) -> Tensor:
        point = path.path.at(u)
        ends = [
            torch.stack([path.function(point + step * tangent) for tangent in tangents])
            for step in (_STEP, -_STEP)
        ]
        return (ends[0] - ends[1]) / (2 * _STEP)

    differentiate = exact

    def derivative(u: float) -> Tensor:
        nonlocal differentiate
        try:
            slopes = differentiate(u)
        except FAILURES:  # where torch has reverse mode only
            differentiate = by_differences
            slopes = differentiate(u)
        if not slopes.isfinite().all():  # zero times an infinite slope, which reverse mode skips
            slopes = torch.where(slopes.isfinite(), slopes, by_differences(u))
        return slopes.flatten(1)[:, entries]

    change = (problem.y - problem.y0.expand_as(problem.y)).flatten()[entries]
    return adaptive_rule(derivative, change, tolerance, most, time_left)
