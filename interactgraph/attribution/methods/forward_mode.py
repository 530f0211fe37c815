"""Forward mode: the path that a pair's source features are moved along, and blocks of columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from ...calculus.path import PathRule, at_sample
from ...layers import PairProblem
from ..source_path import SourcePath
from .differentiating import Differentiating
from .method import Tick, no_tick

__all__ = ["ForwardMode", "column_blocks"]


class ForwardMode(Differentiating):
    """A method that moves source features."""

    engine = "forward"

    def two_derivatives(self, problem: PairProblem, *, vmapped: bool) -> Tensor:
        path = SourcePath.of(problem, vmapped=vmapped)
        return next(column_blocks(path, problem.y, at_sample(), 2, 2))[-1]

    def _measured(self, problem: PairProblem) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        path = SourcePath.of(problem)
        return path.function, path.path.end

    def path_of(self, problem: PairProblem) -> SourcePath:
        """The path to differentiate along, recorded where that serves."""
        path = SourcePath.of(problem, vmapped=self.vmapped)
        at_end = self.rule == at_sample()
        return self.context.records.recorded(path, problem, at_end=at_end)


def column_blocks(
    path: SourcePath, like: Tensor, rule: PathRule, chunk: int, at_once: int, tick: Tick = no_tick
) -> Iterator[tuple[slice, Tensor]]:
    """A[b, t, i, j] for a few source features at a time.

    Args:
        path: of the source on a batch.
        like: target features `[b, t, i]`, for shape and dtype.
        rule: path nodes.
        chunk: source features whose columns are held together.
        at_once: tangents that go through the segment together.
        tick: told the number of passes done.

    Yields:
        Source features, and their `[b, t, i, j]`.
    """
    n_sources = path.displacement.shape[2]
    alone = path.linearize(rule.nodes[0]) if len(rule.nodes) == 1 else None
    for start in range(0, n_sources, chunk):
        stop = min(start + chunk, n_sources)
        total = like.new_zeros(stop - start, *like.shape)
        for u, weight in zip(*rule, strict=True):
            linear = alone or path.linearize(u)
            for first in range(start, stop, at_once):
                last = min(first + at_once, stop)
                part = linear(path.columns(first, last))
                total[first - start : last - start].add_(part, alpha=weight)
                tick(last - first)
        yield slice(start, stop), total.movedim(0, -1)
