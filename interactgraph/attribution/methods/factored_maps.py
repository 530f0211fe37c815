"""The closed form where positions mix: A from factors of positions and of features.

See `calculus.position_factors`. All edges at one target position take one product of
d_tgt d_hid d_src, where passes take a JVP of the whole segment for every source feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...calculus.factored_tangents import NotFactored
from ...calculus.position_factors import (
    FeatureFactors,
    PositionFactors,
    check_factors,
    factor_sizes,
    factors_of,
    products_of_pass,
)
from ...calculus.secant_lines import at_point, straighten
from ...calculus.tape import tensors_of
from ...layers import PairProblem
from ..completeness import Residual, residual_of
from ..contributions import Contribution, Entries
from ..segment_records import Closed
from ..sums.strength_sums import reduce_positions
from .closed_form import ClosedForm
from .method import DoesNotApply, PairContext, Tick, no_tick

__all__ = ["FactoredMaps", "Rows"]

_BLOCK = 1 << 25  # bytes of A at a time, on a CPU
_COPIES = 3  # of A, while it is reduced


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


class FactoredMaps(ClosedForm):
    """A at every target position that counts."""

    name = "factored_maps"

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._features: FeatureFactors | None = None
        self._seen: dict[tuple[int, ...], tuple[FeatureFactors, float]] = {}

    def why_not(self, problem: PairProblem) -> str | None:
        obstacle = super().why_not(problem)
        if obstacle is not None:
            return obstacle
        try:
            sizes, _ = self._sizes(problem)
        except NotFactored as error:
            return f"no factors of positions and features: {error}"
        hidden = 0 if sizes.after is None else sizes.after.shape[0] ** 2
        needed = 2 * sizes.n_bytes + problem.z.element_size() * (problem.n_sources**2 + hidden)
        if needed > self.context.sums.free:
            return (
                f"the factors of positions and features take {needed / 2**30:.2g} GiB, and "
                f"{self.context.sums.free / 2**30:.2g} GiB are free"
            )
        return None

    def unsuitable(self, closed: Closed) -> str | None:
        return None if closed.maps is None else "matrices of features will do"

    def _sizes(self, problem: PairProblem) -> tuple[FeatureFactors, float]:
        """What factors there are, without numbers, and multiplications of a pass for each sample.

        Raises:
            NotFactored: there are none.
        """
        key = (*problem.z.shape[1:], *problem.y.shape[1:])
        if key not in self._seen:
            structure = self.closed(problem).structure
            sizes = factor_sizes(structure, problem.z.shape, problem.y.shape)
            self._seen[key] = sizes, products_of_pass(structure) / problem.n_samples
        return self._seen[key]

    def cost(self, problem: PairProblem) -> float:
        return 2.0 + self.passes_for(problem, problem.y.shape[0] * problem.y.shape[1])

    def passes_for(self, problem: PairProblem, n_rows: int) -> float:
        """What A at some target positions costs, in passes."""
        sizes, of_pass = self._sizes(problem)
        return n_rows * sizes.products / max(of_pass * problem.n_samples, 1.0)

    def confirm(self, problem: PairProblem) -> None:
        structure = self.closed(problem).structure
        inputs, _ = tensors_of(problem.segment.batch)
        constants = structure.constants(inputs)
        # The scale of z - z0 where it moves, a little everywhere, so that every factor is seen.
        scale = problem.displacement.abs().mean() + 1e-3
        noise = torch.randn(problem.z.shape, generator=torch.Generator().manual_seed(0))
        tangent = noise.to(problem.z) * scale
        try:
            factors = factors_of(structure, tangent, problem.y.shape, constants)
            straight = at_point(structure, problem.z, constants)
            derivative = torch.func.jvp(straight, (problem.z,), (tangent,))[1]
            check_factors(factors, derivative, factors.slopes(straight))
        except NotFactored as error:
            raise DoesNotApply(str(error)) from error
        self._features = factors.features

    def working_bytes(self, problem: PairProblem) -> int:
        try:
            sizes, _ = self._sizes(problem)
        except (NotFactored, DoesNotApply):
            return 0  # which it says where it is asked for A
        terms = sum(x.shape[1] for x in (sizes.before, sizes.skip) if x is not None)
        hidden = 0 if sizes.before is None else sizes.before.shape[2]
        positions = problem.y.shape[0] * max(problem.y.shape[1], problem.z.shape[1])
        each = 3 * terms * problem.n_sources + 8 * hidden + 4 * problem.n_targets
        return positions * each * problem.z.element_size()

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        factors, every, problem = self.factors(problem)
        rows = self.every_row(problem)
        slopes, residual = self.confirmed_at(rows, factors, every, problem)
        yield from self.entries(rows, factors, slopes, problem)
        yield residual
        tick(self.cost(problem))

    # --- for those who take some positions -------------------------------------------------------

    def factors(
        self, problem: PairProblem
    ) -> tuple[PositionFactors, tuple[Tensor | None, ...], PairProblem]:
        """The factors of a batch, slopes, and the problem with its value at the baseline.

        The slopes `[b t, k]` are averages over the path, then those that are asked for. The value
        is that of the record, without the model before the source; the residual compares it with
        the value of the model at the sample.

        Raises:
            DoesNotApply: there are none.
        """
        structure = self.closed(problem).structure
        inputs, _ = tensors_of(problem.segment.batch)
        constants = structure.constants(inputs)
        try:
            factors = factors_of(
                structure, problem.displacement, problem.y.shape, constants, self._features
            )
        except NotFactored as error:
            raise DoesNotApply(str(error)) from error
        self._features = factors.features
        at = dict.fromkeys((None, self.slopes_at))
        slopes = tuple(
            factors.slopes(straighten(structure, inputs, problem.path, u, constants=constants))
            for u in at
        )
        y0 = structure.value(problem.path.start, constants)
        return factors, slopes, problem.with_y0(y0)

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

    def confirmed_at(
        self,
        rows: Rows,
        factors: PositionFactors,
        slopes: Sequence[Tensor | None],
        problem: PairProblem,
    ) -> tuple[Tensor | None, Residual]:
        """The slopes that are asked for, at some target positions `[n, k]`, and the residual there.

        Raises:
            DoesNotApply: the residual of integrated gradients is more than rounding.
        """
        n_samples, n_positions, n_targets = problem.y.shape
        mask = torch.zeros(n_samples * n_positions, dtype=torch.bool, device=problem.y.device)
        mask[rows.numbers] = True
        some = replace(problem, mask=mask.view(n_samples, n_positions)).with_y0(problem.y0)

        def total(slopes: Tensor | None) -> Tensor:
            found = problem.y.new_zeros(n_samples * n_positions, n_targets)
            found[rows.numbers] = factors.total(rows.numbers, slopes)
            return found.view(problem.y.shape)

        here = [None if each is None else each[rows.numbers] for each in slopes]
        residual = self.confirmed(total(here[0]), some)
        if len(here) > 1:
            residual = residual_of(total(here[-1]), some)
        return here[-1], residual

    def entries(
        self, rows: Rows, factors: PositionFactors, slopes: Tensor | None, problem: PairProblem
    ) -> Iterator[Entries]:
        """X_b of all edges from some target positions."""
        n_sources, n_targets = problem.n_sources, problem.n_targets
        each = n_sources * n_targets * problem.z.element_size()
        hidden = 0 if slopes is None else slopes.shape[1] * n_sources * problem.z.element_size()
        free = self.context.sums.free // (_COPIES * each + hidden)
        most = free if problem.z.device.type != "cpu" else min(free, _BLOCK // each)
        pending: dict[str, Tensor] = {}
        for span, a in factors.blocks(rows.numbers, slopes, n_targets, max(1, most)):
            for samples, where, ends in rows.parts(span):
                n = samples.stop - samples.start
                part = a[:, where].unflatten(1, (n, -1)).permute(1, 2, 3, 0)
                sums = reduce_positions(part, None, self.context.strengths)
                self.look(part)
                if pending:
                    sums = self.context.joined(pending, sums)
                if ends:
                    self.look_at_sums(sums, rows, samples)
                # A of one position is a view of what the next block overwrites.
                pending = {} if ends else {name: x.clone() for name, x in sums.items()}
                if ends:
                    weights = rows.weights[samples]
                    if any(weight != 1.0 for weight in weights):
                        by = torch.tensor(weights, dtype=torch.float64)[:, None, None]
                        sums = {name: x * by.to(x) for name, x in sums.items()}
                    yield Entries(sums, samples)

    def look(self, a: Tensor) -> None:
        """Looks at A of some positions of samples at hand, `[b, n, i, j]`."""
        return

    def look_at_sums(self, sums: dict[str, Tensor], rows: Rows, samples: slice) -> None:
        """Looks at the sums over all rows of some samples, which ends them."""
        return
