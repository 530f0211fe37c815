"""Random signs: one pass for all features at once, their contributions told apart on average.

Over source features: with independent signs e_j, the derivative along sum_j e_j (z - z0)_j is
sum_j e_j A[b,t,i,j], and e_j times it is an unbiased estimate of A[b,t,i,j]. It averages to `mean`;
its square does not average to A^2.

Over target positions: with signs e_t, the gradient of sum_t e_t y[b,t,i] gives
sum_t e_t A[b,t,i,j], and the mean of its square is sum_t A[b,t,i,j]^2. That is what `rms` needs, at
one VJP for each target feature instead of one for each target feature and position.

Both are the classical estimators of Hutchinson (1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .forward import linearize
from .problem import PairProblem
from .quadrature import PathRule
from .reverse import pull_back
from .strengths import at_least_single

__all__ = ["signed_columns", "signed_rows"]


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=generator)
    return (2 * bits - 1).to(like)


def signed_columns(
    problem: PairProblem,
    rule: PathRule,
    n_probes: int,
    at_once: int,
    generator: torch.Generator,
    tick: Callable[[float], None] = lambda passes: None,
) -> tuple[Tensor, Tensor]:
    """Sums over source features with random signs.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        n_probes: number of sets of signs.
        at_once: tangents that go through the segment together.
        generator: of the signs.
        tick: told the number of passes done.

    Returns:
        sum_t sum_j e_j A[b,t,i,j] over the positions that count, `[probe, b, i]`, and e
        `[probe, b, j]`.
    """
    n_samples, _, n_sources = problem.steps.shape
    signs = _signs((n_probes, n_samples, n_sources), problem.z, generator)
    total = problem.y.new_zeros(n_probes, *problem.y.shape)
    for u, weight in zip(*rule, strict=True):
        linear = linearize(problem, u)
        for start in range(0, n_probes, at_once):
            here = slice(start, min(start + at_once, n_probes))
            tangents = problem.spread(signs[here, :, None, :] * problem.steps)
            total[here].add_(linear(tangents), alpha=weight)
            tick(here.stop - here.start)
    if problem.mask is not None:
        total *= problem.mask[..., None]
    return total.sum(2), signs


def signed_rows(
    problem: PairProblem,
    rule: PathRule,
    n_probes: int,
    chunk: int,
    generator: torch.Generator,
    tick: Callable[[float], None] = lambda passes: None,
) -> Iterator[tuple[slice, Tensor]]:
    """Estimates of sum_t A[b,t,i,j]^2 by random signs over target positions.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        n_probes: number of sets of signs.
        chunk: target features at a time.
        generator: of the signs.
        tick: told the number of passes done.

    Yields:
        Target features, and their estimates `[b, i, j]`.
    """
    n_samples, n_positions, n_targets = problem.y.shape
    signs = _signs((n_probes, n_samples, n_positions), problem.y, generator)
    if problem.mask is not None:
        signs *= problem.mask
    for start in range(0, n_targets, chunk):
        rows = slice(start, min(start + chunk, n_targets))
        n_rows = rows.stop - rows.start
        cotangents = problem.y.new_zeros(n_rows, n_probes, *problem.y.shape)
        number = torch.arange(n_rows, device=signs.device)
        cotangents[number, ..., number + rows.start] = signs
        total: Tensor | None = None
        for u, weight in zip(*rule, strict=True):
            gradients = pull_back(problem, problem.at(u))(cotangents.flatten(0, 1))
            part = (gradients * problem.dz).sum(-2) * weight
            total = part if total is None else total.add_(part)
            tick(n_rows * n_probes)
        assert total is not None
        yield (
            rows,
            at_least_single(total).unflatten(0, (n_rows, n_probes)).square().mean(1).movedim(0, 1),
        )
