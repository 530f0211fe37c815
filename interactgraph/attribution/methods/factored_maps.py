"""The closed form where positions mix: A from factors of positions and of features.

See `calculus.position_factors`. All edges at one target position take one product of
d_tgt d_hid d_src, where passes take a JVP of the whole segment for every source feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...calculus.factors import NotFactored
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
from ..contributions import Contribution
from ..segment_records import Closed
from .closed_form import ClosedForm
from .method import DoesNotApply, PairContext, Tick, no_tick
from .target_rows import Rows, TargetRows

__all__ = ["FactoredMaps"]

_BLOCK = 1 << 25  # bytes of A at a time, on a CPU
_COPIES = 3  # of A, while it is reduced


class FactoredMaps(TargetRows, ClosedForm):
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
            self._seen[key] = sizes, products_of_pass(structure.dependent) / problem.n_samples
        return self._seen[key]

    def cost(self, problem: PairProblem) -> float:
        return 2.0 + self.passes_for(problem, problem.y.shape[0] * problem.y.shape[1])

    def passes_for(self, problem: PairProblem, n_rows: float) -> float:
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
        self._keep(factors.features)

    def _keep(self, features: FeatureFactors) -> None:
        """Keeps the factors of all batches, which the memory of the run then lacks."""
        if self._features is None:
            self.context.sums.memory.users.append(features)
        self._features = features

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
        yield from self.entries(self.blocks(rows, factors, slopes, problem), rows)
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
        self._keep(factors.features)
        at = dict.fromkeys((None, self.slopes_at))
        slopes = tuple(
            factors.slopes(straighten(structure, inputs, problem.path, u, constants=constants))
            for u in at
        )
        y0 = structure.value(problem.path.start, constants)
        return factors, slopes, problem.with_y0(y0)

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
        some = self.at_rows(rows, problem)

        def total(slopes: Tensor | None) -> Tensor:
            return self.on_rows(factors.total(rows.numbers, slopes), rows, problem)

        here = [None if each is None else each[rows.numbers] for each in slopes]
        residual = self.confirmed(total(here[0]), some)
        if len(here) > 1:
            residual = residual_of(total(here[-1]), some)
        return here[-1], residual

    def blocks(
        self, rows: Rows, factors: PositionFactors, slopes: Tensor | None, problem: PairProblem
    ) -> Iterator[tuple[slice, Tensor]]:
        """A `[n, i, j]` at a few of some target positions at a time."""
        n_sources, n_targets = problem.n_sources, problem.n_targets
        each = n_sources * n_targets * problem.z.element_size()
        hidden = 0 if slopes is None else slopes.shape[1] * n_sources * problem.z.element_size()
        free = self.context.sums.free // (_COPIES * each + hidden)
        most = free if problem.z.device.type != "cpu" else min(free, _BLOCK // each)
        for span, a in factors.blocks(rows.numbers, slopes, n_targets, max(1, most)):
            yield span, a.permute(1, 2, 0)
