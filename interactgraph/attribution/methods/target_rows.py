"""Target positions as rows: all edges at each, reduced to sums over the positions of a sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...layers import PairProblem
from ..contributions import Entries
from ..sums.strength_sums import reduce_positions
from .method import Method

__all__ = ["Rows", "TargetRows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some target positions of a batch.

    Attributes:
        numbers: t + T b, ascending, int64 `[n]`.
        counts: how many there are of each sample.
        weights: what the sum over these of each sample counts.
    """

    numbers: Tensor
    counts: Sequence[int]
    weights: Sequence[float]

    def parts(self, span: slice) -> Iterator[tuple[slice, slice, bool]]:
        """Samples some of whose positions are among a few rows, as many of each together.

        Yields:
            The samples, their rows counted from the first of the span, and whether these are the
            last ones of the samples.
        """
        sample, end = 0, 0
        while sample < len(self.counts) and end <= span.start:
            end += self.counts[sample]
            sample += 1
        start = span.start
        while start < span.stop:
            first, stop = sample - 1, min(end, span.stop)
            n = stop - start
            whole = n == self.counts[first]
            while (
                whole
                and sample < len(self.counts)
                and self.counts[sample] == n
                and stop + n <= span.stop
            ):
                stop, end, sample = stop + n, end + n, sample + 1
            yield slice(first, sample), slice(start - span.start, stop - span.start), stop == end
            start = stop
            while start == end and sample < len(self.counts):
                end += self.counts[sample]
                sample += 1


class TargetRows(Method):
    """A method that gives A at single target positions."""

    def every_row(self, problem: PairProblem) -> Rows:
        """All target positions that count."""
        n_samples, n_positions, _ = problem.y.shape
        if problem.mask is None:
            numbers = torch.arange(n_samples * n_positions, device=problem.y.device)
            counts = [n_positions] * n_samples
        else:
            numbers = problem.mask.flatten().nonzero()[:, 0]
            counts = problem.mask.sum(1).tolist()
        return Rows(numbers, counts, [1.0] * n_samples)

    def at_rows(self, rows: Rows, problem: PairProblem) -> PairProblem:
        """The problem in which these target positions count and no others."""
        n_samples, n_positions, _ = problem.y.shape
        mask = torch.zeros(n_samples * n_positions, dtype=torch.bool, device=problem.y.device)
        mask[rows.numbers] = True
        return replace(problem, mask=mask.view(n_samples, n_positions)).with_y0(problem.y0)

    def on_rows(self, values: Tensor, rows: Rows, problem: PairProblem) -> Tensor:
        """Values at some target positions `[n, i]` among zeros, `[b, t, i]`."""
        found = problem.y.new_zeros(problem.y.shape)
        found.flatten(0, 1)[rows.numbers] = values
        return found

    def entries(self, blocks: Iterable[tuple[slice, Tensor]], rows: Rows) -> Iterator[Entries]:
        """X_b of all edges from some target positions.

        Args:
            blocks: which of the rows, ascending, and A `[n, i, j]` there.
            rows: all of them.
        """
        pending: dict[str, Tensor] = {}
        for span, a in blocks:
            for samples, where, ends in rows.parts(span):
                n = samples.stop - samples.start
                part = a[where].unflatten(0, (n, -1))
                sums = reduce_positions(part, None, self.context.strengths)
                self.look(part)
                if pending:
                    sums = self.context.joined(pending, sums)
                if ends:
                    self.look_at_sums(sums, rows, samples)
                # A of one position is a view of what the next block overwrites.
                pending = {} if ends else {name: x.clone() for name, x in sums.items()}
                if ends:
                    by = None
                    if any(weight != 1.0 for weight in rows.weights[samples]):
                        by = torch.tensor(rows.weights[samples], dtype=torch.float64)
                        sums = {name: x * by[:, None, None].to(x) for name, x in sums.items()}
                    yield Entries(sums, samples, weights=by)

    def look(self, a: Tensor) -> None:
        """Looks at A of some positions of samples at hand, `[b, n, i, j]`."""
        return

    def look_at_sums(self, sums: dict[str, Tensor], rows: Rows, samples: slice) -> None:
        """Looks at the sums over all rows of some samples, which ends them."""
        return
