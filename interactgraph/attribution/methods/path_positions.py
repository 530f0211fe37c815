"""Drawn target positions by forward mode, whatever bends; see `position_draws`.

See `calculus.row_tangents`: all edges at one target position and one node of the path, for about
what its share of as many JVPs as there are source features would cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...calculus.derivatives import ANY_FAILURES
from ...calculus.factors import NotFactored
from ...calculus.path import PathRule
from ...calculus.position_factors import products_of_pass
from ...calculus.rounding import is_close, tolerance
from ...calculus.row_tangents import NotRowwise, RowTangents
from ...calculus.tape import Tape
from ...errors import InteractGraphError, first_line
from ...layers import PairProblem
from ..completeness import residual_of
from ..contributions import Contribution
from ..source_path import SourcePath
from .method import DoesNotApply, PairContext, Tick, no_tick
from .nodes_in_time import Clock, NodesInTime
from .position_draws import PositionDraws
from .target_rows import Rows

__all__ = ["PathPositions"]

_SOMEWHERE = PathRule((0.7,), (1.0,))  # a point that is neither end
_CACHE, _BUSY = 1 << 22, 1 << 28  # bytes of rows together: on a CPU, on an accelerator
_BYTES = 1 << 28  # of what is summed over the path at a time
_COMPARED = 4  # positions, with forward mode


class PathPositions(PositionDraws, NodesInTime):
    """A at a few target positions of each sample, by tangents of all source features there."""

    name = "drawn_positions_on_path"

    def __init__(self, context: PairContext) -> None:
        super().__init__(context)
        self._last: tuple[Tape, RowTangents] | None = None
        self._compared: RowTangents | None = None  # with forward mode

    def why_not(self, problem: PairProblem) -> str | None:
        obstacle = self.why_none_are_drawn()
        if obstacle is not None:
            return obstacle
        if self.context.keeps_too_few(problem):
            return "target positions take matrices of all edges, of which few are kept"
        try:
            self._taken_apart(problem, self.path_of(problem))
        except DoesNotApply as error:
            return str(error)
        return None

    def _taken_apart(self, problem: PairProblem, path: SourcePath) -> RowTangents:
        """What single target positions take on a batch of this form.

        Raises:
            DoesNotApply: they do not come apart.
        """
        if path.entry is not None:
            raise DoesNotApply("source features outnumber the coordinates that they move")
        if path.recorded is None:
            raise DoesNotApply("the segment cannot be recorded")
        tape = path.recorded.tape
        if self._last is None or self._last[0] is not tape:
            try:
                self._last = tape, RowTangents(tape, problem.y.shape)
            except NotRowwise as error:
                raise DoesNotApply(
                    f"single target positions are not computed alone: {error}"
                ) from error
        return self._last[1]

    def cost(self, problem: PairProblem) -> float:
        return self._cost(problem, self._taken_apart(problem, self.path_of(problem)))

    def _cost(self, problem: PairProblem, apart: RowTangents) -> float:
        of_pass = max(products_of_pass(apart.moving), 1.0)
        rows = self.rows_to_compare(problem)
        along = self.n_steps * (1.0 + rows * apart.products / of_pass)
        return 1.0 + along + rows * apart.products_at_end / of_pass

    def working_bytes(self, problem: PairProblem) -> int:
        held = int(self.segment_footprint(problem).total * problem.n_samples)
        return held + (self._bytes_of_row(problem, self._last[1]) if self._last else 0)

    @staticmethod
    def _bytes_of_row(problem: PairProblem, apart: RowTangents) -> int:
        """Memory of the sums at one target position."""
        numbers = (apart.n_sums + problem.n_targets) * problem.n_sources
        return numbers * problem.z.element_size()

    def confirm(self, problem: PairProblem) -> None:
        """Compares what single target positions give with forward mode.

        Raises:
            DoesNotApply: they disagree, or torch cannot differentiate the segment.
        """
        super().confirm_either_way(problem)
        self._compare(problem, self.path_of(problem))

    def _compare(self, problem: PairProblem, path: SourcePath) -> None:
        """Compares a few target positions with forward mode, once for every record.

        Along a random direction: two linear maps that agree on it are equal with probability one.

        Raises:
            DoesNotApply: they disagree.
        """
        apart = self._taken_apart(problem, path)
        every = self.every_row(problem).numbers
        if self._compared is apart or not len(every):
            return
        places = torch.linspace(0, len(every) - 1, min(_COMPARED, len(every))).long()
        numbers = every[places.to(every.device)]
        scale = problem.displacement.abs().mean() + 1e-3
        noise = torch.randn(problem.z.shape, generator=torch.Generator().manual_seed(0))
        tangent = noise.to(problem.z) * scale
        found = self._at(numbers, problem, path, _SOMEWHERE, apart, tangent).sum(-1)
        (u,) = _SOMEWHERE.nodes
        along = path.linearize(u)(tangent[None])[0].flatten(0, 1)[numbers]
        single = tolerance("segment", torch.float32)  # which a part of a wider model may be in
        if not is_close(found, along, single):
            raise DoesNotApply("single target positions disagree with forward mode")
        self._compared = apart

    def contributions(self, problem: PairProblem, tick: Tick = no_tick) -> Iterator[Contribution]:
        clock = Clock(problem.z.device)
        path = self.path_of(problem)
        apart = self._taken_apart(problem, path)
        self._compare(problem, path)
        reading = clock.seconds()
        rule, _ = self.placed(problem, path)

        def trial(rows: Rows) -> None:
            for _ in self.entries(self._blocks(rows, problem, path, rule, apart), rows):
                pass

        rows = self.drawn(problem, self.every_row(problem), reading, trial)
        clock = Clock(problem.z.device)
        total = problem.y.new_zeros(len(rows.numbers), problem.n_targets)
        cost = self._cost(problem, apart)

        def blocks() -> Iterator[tuple[slice, Tensor]]:
            for span, a in self._blocks(rows, problem, path, rule, apart):
                total[span] = a.sum(-1)
                yield span, a
                tick(cost * (span.stop - span.start) / len(total))

        yield from self.entries(blocks(), rows)
        some = self.at_rows(rows, problem)
        yield residual_of(self.on_rows(total, rows, problem), some)
        self.took(problem, rows, reading, clock.seconds())
        if not len(total):
            tick(cost)

    def _blocks(
        self,
        rows: Rows,
        problem: PairProblem,
        path: SourcePath,
        rule: PathRule,
        apart: RowTangents,
    ) -> Iterator[tuple[slice, Tensor]]:
        """A `[n, i, j]` at a few of some target positions at a time."""
        each = self._bytes_of_row(problem, apart)
        most = max(1, min(self.context.sums.free, _BYTES) // each)
        for start in range(0, len(rows.numbers), most):
            span = slice(start, min(start + most, len(rows.numbers)))
            yield span, self._at(rows.numbers[span], problem, path, rule, apart)

    @staticmethod
    def _at(
        numbers: Tensor,
        problem: PairProblem,
        path: SourcePath,
        rule: PathRule,
        apart: RowTangents,
        displacement: Tensor | None = None,
    ) -> Tensor:
        """A `[n, i, j]` at target positions with these numbers; of another displacement if given.

        Raises:
            DoesNotApply: an operation does otherwise than expected.
        """
        assert path.recorded is not None
        n_positions = problem.y.shape[1]
        points = ((weight, path.path.at(u)) for u, weight in zip(*rule, strict=True))
        at_once = _CACHE if problem.z.device.type == "cpu" else _BUSY
        together = max(1, at_once // PathPositions._bytes_of_row(problem, apart))
        moved = path.displacement if displacement is None else displacement
        try:
            return apart.at(
                numbers // n_positions, numbers % n_positions, points, moved, path.recorded,
                together,
            )  # fmt: skip
        except InteractGraphError:
            raise
        except (NotFactored, NotRowwise, *ANY_FAILURES) as error:
            raise DoesNotApply(f"single target positions fail ({first_line(error)})") from error

    @property
    def looks_again(self) -> bool:
        """See `NodesInTime`; on every batch, where no time is set: a look takes few products."""
        return not self.context.budget.is_set or super().looks_again
