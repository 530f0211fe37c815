"""What is known of a pair's segment, batch after batch: its record, its closed form.

A record describes the batch that it was made on. It serves another batch of the same form only
after its value there has been compared with the activation that the model itself gave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..model.structure import NoClosedForm, Structure, read_structure
from ..model.tape import NoTape, Tape, form_of, record, tensors_of
from .closed_form import check_structure
from .dense import DenseMaps, dense_maps, one_row
from .forward import agrees, is_close
from .linearized import TapedSegment
from .problem import FeatureFunction, PairProblem

__all__ = ["FAILURES", "Closed", "Records", "first_line"]

# What torch raises where it cannot record, evaluate or transform something.
FAILURES = (RuntimeError, ValueError, IndexError, TypeError)
_NEAR = 1e-4  # of the largest value


def first_line(error: Exception) -> str:
    """The first line of its message, or what kind of error it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


@dataclass(eq=False)
class Records:
    """Records of a segment by the form of the batch.

    Attributes:
        make_function: batch -> segment in feature coordinates on that batch.
    """

    make_function: Callable[[Any], FeatureFunction]
    _tapes: dict[tuple, Tape | NoTape] = field(default_factory=dict)
    _serving: dict[tuple[str, ...], bool] = field(default_factory=dict)
    _closed: dict[Tape, Closed] = field(default_factory=dict)
    _portable: dict[int, Closed] = field(default_factory=dict)

    @property
    def one_map(self) -> Tensor:
        """The matrix of the closed form with one map."""
        maps = next(closed.maps for closed in self._closed.values())
        assert maps is not None
        assert maps.one_map is not None
        return maps.one_map

    def closed(
        self, problem: PairProblem, batch: Any, *, check: bool = False, by_matrices: bool = False
    ) -> Closed:
        """The closed form on batches of this form.

        Args:
            problem: the pair on the batch.
            batch: the batch.
            check: compare it with forward mode.
            by_matrices: matrices that serve batches of every form will do.

        Raises:
            NoClosedForm: there is none.
        """
        positions = problem.z.shape[1]
        if by_matrices and positions in self._portable:
            return self._portable[positions]
        try:
            tape = self._tape(problem, batch)
        except NoTape as error:
            raise NoClosedForm(str(error)) from error
        if tape not in self._closed:
            try:
                closed = self._closed[tape] = _close(tape, problem, batch, check=check)
            except FAILURES as error:
                raise NoClosedForm(f"it cannot be evaluated ({first_line(error)})") from error
            lasts = not tape.decides and (closed.y0 is None or len(closed.y0) == 1)
            if closed.maps is not None and closed.maps.portable and lasts:
                self._portable[positions] = closed
        return self._closed[tape]

    def taped(
        self, problem: PairProblem, batch: Any, *, at_end: bool = False, again: bool = False
    ) -> PairProblem:
        """The same problem with the recorded segment to differentiate, where there is one.

        Args:
            problem: the pair on the batch.
            batch: the batch.
            at_end: it will be linearised at the samples anyway.
            again: the record is of this very batch.
        """
        try:
            tape = self._tape(problem, batch)
            segment = TapedSegment.on(tape, tensors_of(batch)[0])
        except (NoTape, *FAILURES):
            return problem
        # Differentiated once for batches of every size that run through the same operations.
        operations = tuple(node.name for node in tape.nodes)
        if operations not in self._serving:
            self._serving[operations] = TapedSegment.serves(tape) and agrees(segment, problem)
        if not self._serving[operations]:
            return problem
        # What Python read from another batch unseen (lists of lengths, for one) shows in the value.
        with contextlib.suppress(*FAILURES):
            value = (
                segment.value_and_derivative(problem.z)[0] if at_end else segment.value(problem.z)
            )
            near = is_close(value, problem.y, _NEAR)
            if near or is_close(value, problem.function(problem.z), _NEAR):
                return replace(problem, taped=segment)
        if again:
            return problem
        self._tapes.clear()
        return self.taped(problem, batch, at_end=at_end, again=True)

    def _tape(self, problem: PairProblem, batch: Any) -> Tape:
        """The record of batches of this form.

        Raises:
            NoTape: there is none.
        """
        key = (tuple(problem.z.shape), form_of(batch))
        found = self._tapes.get(key)
        if isinstance(found, Tape) and found.decides:  # it was another batch's
            self._closed.pop(found, None)
            found = None
        if found is None:
            inputs, rebuild = tensors_of(batch)
            try:
                found = record(
                    lambda z, *tensors: self.make_function(rebuild(tensors))(z),
                    [problem.z, *inputs],
                )
            except NoTape as error:
                found = error
            self._tapes[key] = found
        if isinstance(found, NoTape):
            raise found
        return found


def _close(tape: Tape, problem: PairProblem, batch: Any, *, check: bool) -> Closed:
    structure = read_structure(tape)
    inputs, _ = tensors_of(batch)
    if check:
        check_structure(structure, inputs, problem, problem.function)
    maps = dense_maps(structure, inputs, problem)
    y0 = one_row(problem.y0) if problem.fixed_baseline and maps is not None else None
    return Closed(structure, maps, y0)
