"""Forward mode: one JVP whose tangent is (z - z0) of feature j gives column j for all targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .problem import FeatureFunction, PairProblem
from .quadrature import PathRule

__all__ = ["along_path", "column_blocks", "jvps"]


def jvps(function: FeatureFunction, point: Tensor, tangents: Tensor) -> Tensor:
    """Jacobian-vector products for many tangents at one point; the primal runs once.

    Args:
        function: `[b, s, j] -> [b, t, i]`.
        point: `[b, s, j]`.
        tangents: `[c, b, s, j]`.

    Returns:
        `[c, b, t, i]`.
    """

    def one(tangent: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(function, (point,), (tangent,))[1]
        return result

    return torch.vmap(one)(tangents)


def along_path(problem: PairProblem, rule: PathRule) -> Tensor:
    """sum_j A[b,t,i,j], `[b, t, i]`: the derivative along the path itself, one JVP per node."""
    total = torch.zeros_like(problem.y)
    for u, weight in zip(*rule, strict=True):
        total += weight * jvps(problem.function, problem.at(u), problem.dz[None])[0]
    return total


def column_blocks(
    problem: PairProblem,
    rule: PathRule,
    chunk: int,
    tick: Callable[[float], None] = lambda passes: None,
) -> Iterator[tuple[slice, Tensor]]:
    """A[b, t, i, j] for a few source features at a time.

    A[b,t,i,j] = sum_a weight_a sum_s (z - z0)[b,s,j] dy[b,t,i]/dz[b,s,j] (z(u_a)): the sum over s
    is the JVP itself.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        chunk: source features at a time.
        tick: told the number of passes done.

    Yields:
        Source features, and their `[b, t, i, j]`.
    """
    n_sources = problem.z.shape[2]
    for start in range(0, n_sources, chunk):
        stop = min(start + chunk, n_sources)
        tangents = problem.columns(start, stop)
        total: Tensor | None = None
        for u, weight in zip(*rule, strict=True):
            part = jvps(problem.function, problem.at(u), tangents) * weight
            total = part if total is None else total.add_(part)
            tick(stop - start)
        assert total is not None
        yield slice(start, stop), total.movedim(0, -1)
