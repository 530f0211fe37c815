"""What is known of a pair's segment, batch after batch: its record, its closed form.

A record describes the batch that it was made on. It serves another batch of the same form only
after its value there has been compared with the activation that the model itself gave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..calculus.derivatives import FAILURES
from ..calculus.linearization import RecordedFunction
from ..calculus.matrices import DenseMaps, dense_maps, one_row
from ..calculus.operations import Operations, operations_of
from ..calculus.rounding import is_close
from ..calculus.secant_lines import check_structure
from ..calculus.structure import NoClosedForm, Structure, read_structure
from ..calculus.tape import NoTape, Tape, form_of, record, tensors_of
from ..errors import first_line
from ..layers import FeatureSegment, PairProblem
from .source_path import SourcePath

__all__ = ["Closed", "SegmentRecords"]

_NEAR = 1e-4  # of the largest value


@dataclass(frozen=True, eq=False)
class Closed:
    """The closed form on batches of one shape.

    Attributes:
        structure: what the segment computes.
        maps: its matrices; None: it has none.
        y0: target features at the baseline, where they are the same for every batch.
    """

    structure: Structure
    maps: DenseMaps | None
    y0: Tensor | None

    def known(self, problem: PairProblem) -> PairProblem:
        """The problem with what is known of its baseline."""
        return problem if self.y0 is None else problem.with_y0(self.y0)


@dataclass(eq=False)
class SegmentRecords:
    """Records of a pair's segment by the form of the batch.

    Attributes:
        operations: of the segment, as far as they were looked at.
        right_engines: those whose derivatives were compared with differences.
    """

    operations: Operations = field(default_factory=Operations)
    right_engines: set[str] = field(default_factory=set)
    _looked: bool = False
    _tapes: dict[tuple, Tape | NoTape] = field(default_factory=dict)
    _batches: dict[tuple, Any] = field(default_factory=dict)  # on which they were made
    _serving: dict[tuple[str, ...], bool] = field(default_factory=dict)
    _closed: dict[Tape, Closed] = field(default_factory=dict)
    _portable: dict[int, Closed] = field(default_factory=dict)

    def look_at_operations(self, problem: PairProblem) -> Operations:
        """The operations of the segment, looked at once."""
        if not self._looked:
            self._looked = True
            self.operations = operations_of(problem.segment, problem.z)
        return self.operations

    def closed(
        self, problem: PairProblem, *, check: bool = False, by_matrices: bool = False
    ) -> Closed:
        """The closed form on batches of this form.

        Args:
            problem: the pair on the batch.
            check: compare it with forward mode.
            by_matrices: matrices that serve batches of every form will do.

        Raises:
            NoClosedForm: there is none.
        """
        positions = problem.z.shape[1]
        if by_matrices and positions in self._portable:
            return self._portable[positions]
        try:
            tape = self._tape(problem.z, problem.segment, entered=False)
        except NoTape as error:
            raise NoClosedForm(str(error)) from error
        if tape not in self._closed:
            try:
                closed = self._closed[tape] = _close(tape, problem, check=check)
            except FAILURES as error:
                raise NoClosedForm(f"it cannot be evaluated ({first_line(error)})") from error
            lasts = not tape.decides and (closed.y0 is None or len(closed.y0) == 1)
            if closed.maps is not None and closed.maps.portable and lasts:
                self._portable[positions] = closed
        return self._closed[tape]

    def recorded(
        self, path: SourcePath, problem: PairProblem, *, at_end: bool = False, again: bool = False
    ) -> SourcePath:
        """The same path with the recorded segment to differentiate, where there is one.

        Args:
            path: of the problem's source.
            problem: the pair on the batch.
            at_end: it will be linearised at the samples anyway.
            again: the record is of this very batch.
        """
        point = path.path.end
        entered = path.entry is not None
        try:
            tape = self._tape(point, problem.segment, entered=entered)
            function = RecordedFunction.on(tape, tensors_of(problem.segment.batch)[0])
        except (NoTape, *FAILURES):
            return path
        # Compared once for batches of every size that run through the same operations.
        operations = (str(entered), *(node.name for node in tape.nodes))
        if operations not in self._serving:
            self._serving[operations] = RecordedFunction.serves(tape) and function.agrees_with(
                path.function, path.path
            )
        if not self._serving[operations]:
            return path
        # What Python read from another batch unseen (lists of lengths, for one) shows in the value.
        with contextlib.suppress(*FAILURES):
            value = function.value_and_derivative(point)[0] if at_end else function.value(point)
            near = is_close(value, problem.y, _NEAR)
            if near or is_close(value, path.function(point), _NEAR):
                return path.with_record(function)
        if again:
            return path
        self._tapes.clear()
        return self.recorded(path, problem, at_end=at_end, again=True)

    def _tape(self, point: Tensor, segment: FeatureSegment, *, entered: bool) -> Tape:
        """The record of batches of this form.

        Raises:
            NoTape: there is none.
        """
        key = (entered, tuple(point.shape), form_of(segment.batch))
        tape = self._tapes.get(key)
        same = self._batches.get(key) is segment.batch
        if isinstance(tape, Tape) and tape.decides and not same:  # it was another batch's
            self._closed.pop(tape, None)
            tape = None
        if tape is None:
            inputs, rebuild = tensors_of(segment.batch)

            def function(z: Tensor, *tensors: Tensor) -> Tensor:
                return _function(segment.on(rebuild(tensors)), entered=entered)(z)

            try:
                tape = record(function, [point, *inputs])
            except NoTape as error:
                tape = error
            self._tapes[key] = tape
            if isinstance(tape, Tape) and tape.decides:
                self._batches[key] = segment.batch
        if isinstance(tape, NoTape):
            raise tape
        return tape


def _function(segment: FeatureSegment, *, entered: bool) -> Callable[[Tensor], Tensor]:
    entry = segment.in_activation() if entered else None
    return segment if entry is None else entry.function


def _close(tape: Tape, problem: PairProblem, *, check: bool) -> Closed:
    structure = read_structure(tape)
    inputs, _ = tensors_of(problem.segment.batch)
    if check:
        check_structure(structure, inputs, problem.path, problem.segment)
    maps = dense_maps(
        structure, inputs, problem.path, problem.y.shape, common_start=problem.fixed_baseline
    )
    y0 = one_row(problem.y0) if problem.fixed_baseline and maps is not None else None
    return Closed(structure, maps, y0)
