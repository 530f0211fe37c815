"""Forward mode: one JVP whose tangent is (z - z0) of feature j gives column j for all targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .linearized import TapedSegment
from .problem import FeatureFunction, PairProblem
from .quadrature import PathRule

__all__ = ["agrees", "along_path", "column_blocks", "is_close", "jvps", "linearize"]


def jvps(
    function: FeatureFunction, point: Tensor, tangents: Tensor, *, vmapped: bool = True
) -> Tensor:
    """Jacobian-vector products for many tangents at one point; the primal runs once.

    Args:
        function: `[b, s, j] -> [b, t, i]`.
        point: `[b, s, j]`.
        tangents: `[c, b, s, j]`.
        vmapped: all tangents together; else one after the other.

    Returns:
        `[c, b, t, i]`.
    """

    def one(tangent: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(function, (point,), (tangent,))[1]
        return result

    if not vmapped:
        return torch.stack([one(tangent) for tangent in tangents])
    result: Tensor = torch.vmap(one)(tangents)
    return result


def linearize(problem: PairProblem, u: float) -> Callable[[Tensor], Tensor]:
    """The derivative at the point u of the path: tangents `[c, b, s, j] -> [c, b, t, i]`."""
    point = problem.at(u)
    if problem.taped is not None:
        return problem.taped.linearize(point)
    return lambda tangents: jvps(problem.function, point, tangents, vmapped=problem.vmapped)


def agrees(taped: TapedSegment, problem: PairProblem, seed: int = 0) -> bool:
    """Whether a recorded segment has the value and derivative that torch finds for it.

    At a random point of the path, along a random tangent.
    """
    generator = torch.Generator().manual_seed(seed)
    point = problem.at(float(torch.rand((), generator=generator)))
    tangents = torch.randn(2, *problem.z.shape, generator=generator).to(problem.z)
    try:
        expected = torch.func.jvp(problem.function, (point,), (tangents[1],))
        value, linear = taped.value_and_derivative(point)
        found = value, linear(tangents)[1]
    except Exception:  # whatever fails here is no way to go
        return False
    return all(is_close(a, b) for a, b in zip(found, expected, strict=True))


def is_close(found: Tensor, expected: Tensor, tolerance: float | None = None) -> bool:
    """Whether two computations of the same values differ by rounding at most."""
    if tolerance is None or expected.element_size() == 2:
        tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-3
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max() + 1e-30)


def along_path(problem: PairProblem, rule: PathRule) -> Tensor:
    """sum_j A[b,t,i,j], `[b, t, i]`: the derivative along the path itself, one JVP per node."""
    total = torch.zeros_like(problem.y)
    for u, weight in zip(*rule, strict=True):
        total += weight * linearize(problem, u)(problem.dz[None])[0]
    return total


def column_blocks(
    problem: PairProblem,
    rule: PathRule,
    chunk: int,
    at_once: int,
    tick: Callable[[float], None] = lambda passes: None,
) -> Iterator[tuple[slice, Tensor]]:
    """A[b, t, i, j] for a few source features at a time.

    A[b,t,i,j] = sum_a weight_a sum_s (z - z0)[b,s,j] dy[b,t,i]/dz[b,s,j] (z(u_a)): the sum over s
    is the JVP itself.

    Args:
        problem: the pair on a batch.
        rule: path nodes.
        chunk: source features whose columns are held together.
        at_once: tangents that go through the segment together.
        tick: told the number of passes done.

    Yields:
        Source features, and their `[b, t, i, j]`.
    """
    n_sources = problem.steps.shape[2]
    alone = linearize(problem, rule.nodes[0]) if len(rule.nodes) == 1 else None
    for start in range(0, n_sources, chunk):
        stop = min(start + chunk, n_sources)
        total = problem.y.new_zeros(stop - start, *problem.y.shape)
        for u, weight in zip(*rule, strict=True):
            linear = alone or linearize(problem, u)
            for first in range(start, stop, at_once):
                last = min(first + at_once, stop)
                part = linear(problem.columns(first, last))
                total[first - start : last - start].add_(part, alpha=weight)
                tick(last - first)
        yield slice(start, stop), total.movedim(0, -1)
