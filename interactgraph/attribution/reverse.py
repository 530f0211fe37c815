"""Reverse mode: one VJP for every target feature and target position gives a row of A."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .problem import PairProblem
from .quadrature import PathRule

__all__ = ["pull_back", "row_blocks"]


def row_blocks(
    problem: PairProblem,
    rule: PathRule,
    chunk: int,
    tick: Callable[[float], None] = lambda passes: None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A[b, t, i, j] for a few target features and target positions at a time.

    Target positions run fastest, so that the positions of one feature come one after another.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        chunk: VJPs at a time.
        tick: told the number of passes done.

    Yields:
        Target features, target positions and their `[b, t, i, j]`.
    """
    _, n_positions, n_targets = problem.y.shape
    features = max(1, chunk // n_positions)
    positions = min(chunk, n_positions)
    for i in range(0, n_targets, features):
        rows = slice(i, min(i + features, n_targets))
        for t in range(0, n_positions, positions):
            where = slice(t, min(t + positions, n_positions))
            total: Tensor | None = None
            for u, weight in zip(*rule, strict=True):
                gradients = _gradients(problem, problem.at(u), rows, where)
                part = (gradients * problem.dz).sum(-2) * weight
                total = part if total is None else total.add_(part)
                tick((rows.stop - rows.start) * (where.stop - where.start))
            assert total is not None
            block = total.unflatten(0, (rows.stop - rows.start, where.stop - where.start))
            yield rows, where, block.permute(2, 1, 0, 3)


def pull_back(problem: PairProblem, point: Tensor) -> Callable[[Tensor], Tensor]:
    """Vector-Jacobian products at a point: cotangents `[c, b, t, i] -> [c, b, s, j]`."""
    if problem.vmapped:
        vjp = torch.func.vjp(problem.function, point)[1]
        return torch.vmap(lambda cotangent: vjp(cotangent)[0])
    # By plain autograd, which crosses everything that can be trained.
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        out = problem.function(leaf)
    if not out.requires_grad:  # the target does not depend on the source
        return lambda cotangents: point.new_zeros(len(cotangents), *point.shape)

    def one(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(out, leaf, cotangent, retain_graph=True, materialize_grads=True)[
            0
        ]

    return lambda cotangents: torch.stack([one(cotangent) for cotangent in cotangents])


def _gradients(problem: PairProblem, point: Tensor, rows: slice, positions: slice) -> Tensor:
    """dy[b,t,i]/dz[b,s,j] for some i and t, `[i*t, b, s, j]`."""
    y = problem.y
    n_i, n_t = rows.stop - rows.start, positions.stop - positions.start
    cotangents = y.new_zeros(n_i, n_t, *y.shape)
    feature = torch.arange(n_i, device=y.device)[:, None]
    position = torch.arange(n_t, device=y.device)[None, :]
    cotangents[feature, position, :, position + positions.start, feature + rows.start] = 1
    return pull_back(problem, point)(cotangents.flatten(0, 1))
