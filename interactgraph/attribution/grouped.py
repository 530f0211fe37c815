"""Strengths of groups of samples, kept apart in one pass: classes, clusters, folds of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InteractGraphError
from .control_variate import ControlVariate
from .outer import OuterSums
from .strengths import StrengthSums

__all__ = ["GroupedSums", "Key"]

# (group, fold); None where there are no groups or folds.
Key = tuple[str | None, int | None]
_EVERYTHING: Key = (None, None)


@dataclass(eq=False)
class GroupedSums:
    """One `StrengthSums` for every group and fold that occurs.

    Attributes:
        names: the strengths.
        shape: (target features, source features).
        device: of the sums.
        budget: bytes that all of them may take.
        drawn: source features are drawn, and `expect` is called for every batch.
        tables: by group and fold, in order of appearance.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    device: torch.device
    budget: int
    drawn: bool = False
    tables: dict[Key, StrengthSums] = field(default_factory=dict)
    _outer: dict[Key, OuterSums] = field(default_factory=dict)
    _variates: dict[Key, ControlVariate] = field(default_factory=dict)
    _steps: Mapping[str, Tensor] = field(default_factory=dict)
    _members: list[tuple[Key, Tensor | None]] = field(default_factory=list)
    _positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @property
    def n_bytes(self) -> int:
        """Memory that the sums take."""
        each = StrengthSums.n_bytes(self.names, self.shape)
        if self.drawn:
            each += ControlVariate.n_bytes(self.names, self.shape)
        return each * max(1, len(self.tables))

    def begin(self, keys: Sequence[Key] | None, positions: Tensor) -> None:
        """Starts a batch; what is added from here on belongs to its samples.

        Args:
            keys: group and fold of each sample; None: there are none.
            positions: number of target positions that count in each sample, int64 `[b]`.

        Raises:
            InteractGraphError: the sums of so many groups do not fit into the memory budget.
        """
        if keys is None:
            self._members = [(_EVERYTHING, None)]
        else:
            members: dict[Key, list[int]] = {}
            for number, key in enumerate(keys):
                members.setdefault(key, []).append(number)
            self._members = [
                (key, torch.tensor(numbers, device=self.device)) for key, numbers in members.items()
            ]
        self._positions = positions.to(self.device)
        self._steps = {}
        for key, here in self._members:
            if key not in self.tables:
                self._open(key)
                if len(self.tables) > 1 and self.n_bytes > self.budget:
                    raise InteractGraphError(
                        f"the sums of {len(self.tables)} groups and folds ({self.shape[0]} x "
                        f"{self.shape[1]} features, {', '.join(self.names)}) take "
                        f"{self.n_bytes / 2**30:.2f} GiB, more than the memory budget of "
                        f"{self.budget / 2**30:.2f} GiB; raise memory_budget or take fewer groups"
                    )
            counts = positions if here is None else positions[here.cpu()]
            if self.tables[key].begins_to_vary(counts):
                self._flush(key)
            self.tables[key].count(counts)

    def _open(self, key: Key) -> None:
        self.tables[key] = StrengthSums(self.names, self.shape, self.device)
        if self.drawn:
            self._variates[key] = ControlVariate(self.tables[key])

    def expect(self, steps: Mapping[str, Tensor]) -> None:
        """Says how far the features of the batch move, before any are drawn: see `step_sizes`."""
        self._steps = {name: x.to(self.device) for name, x in steps.items()}
        for key, here in self._members:
            own = self._steps, self._positions
            if here is not None:
                own = {name: x[here] for name, x in self._steps.items()}, self._positions[here]
            self._variates[key].expect(*own)

    def add(
        self,
        sums: dict[str, Tensor],
        *,
        rows: slice = slice(None),
        columns: slice = slice(None),
        samples: slice = slice(None),
    ) -> None:
        """Adds sums over positions `[b, i, j]` of some samples, target and source features."""
        for key, take in self._parts(samples):
            parts = {name: take(x) for name, x in sums.items()}
            positions = take(self._positions[samples])
            if len(positions):
                self.tables[key].add(parts, positions, rows, columns)

    def add_drawn(
        self, sums: dict[str, Tensor], weights: Tensor, features: Tensor, samples: Tensor
    ) -> None:
        """Adds one source feature of one sample in each row, sums over positions `[row, i]`.

        Args:
            sums: strength -> sums over positions.
            weights: of the rows, `[row]`.
            features: source features, int64 `[row]`.
            samples: numbers of the samples in the batch, int64 `[row]`.
        """
        steps = {name: x[samples, features] for name, x in self._steps.items()}
        positions = self._positions[samples]
        for key, here in self._members:
            own = slice(None) if here is None else torch.isin(samples, here)
            part = {name: x[own] for name, x in sums.items()}, weights[own], features[own]
            if self._steps:
                moved = {name: x[own] for name, x in steps.items()}
                self._variates[key].add(*part, moved, positions[own])
            else:
                self.tables[key].add_drawn(*part, positions[own])

    def add_outer(self, left: Tensor | None, right: Tensor, matrix: Tensor) -> None:
        """Adds A = left[b,t,i] W[i,j] right[b,t,j]; see `OuterSums`."""
        for key, take in self._parts(slice(None)):
            if key not in self._outer:
                self._outer[key] = OuterSums(self.tables[key], matrix)
            part = None if left is None else take(left)
            self._outer[key].add(part, take(right), take(self._positions))

    def _parts(self, samples: slice) -> list[tuple[Key, Callable[[Tensor], Tensor]]]:
        """For each group the function that takes its rows out of a tensor over the samples."""
        parts: list[tuple[Key, Callable[[Tensor], Tensor]]] = []
        for key, here in self._members:
            if here is None:
                return [(key, lambda x: x)]
            start, stop, _ = samples.indices(len(self._positions))
            inside = here[(here >= start) & (here < stop)] - start
            if len(inside):
                parts.append((key, partial(torch.index_select, dim=0, index=inside)))
        return parts

    def flush(self) -> None:
        """Brings everything into `tables`; more batches may follow."""
        for key in self.tables:
            self._flush(key)

    def _flush(self, key: Key) -> None:
        if key in self._outer:
            self._outer[key].flush()
        if key in self._variates:
            self._variates[key].flush()

    def end_pass(self, number: int) -> None:
        """Ends one of several passes over the same samples, with new draws in each."""
        self.flush()
        for table in self.tables.values():
            table.end_pass(number)

    def total(self, wanted: Callable[[Key], bool] = lambda key: True) -> StrengthSums:
        """The sums over the groups and folds that are wanted; valid after `flush`."""
        chosen = [sums for key, sums in self.tables.items() if wanted(key)]
        if len(chosen) == 1:
            return chosen[0]
        return StrengthSums.merged(self.names, self.shape, self.device, chosen)

    def state(self) -> list[Any]:
        """Everything that was added, for a checkpoint."""
        return [
            [
                *key,
                sums.state(),
                self._outer[key].state() if key in self._outer else None,
                self._variates[key].state() if key in self._variates else None,
            ]
            for key, sums in self.tables.items()
        ]

    def restore(self, state: list[Any], matrix: Callable[[], Tensor]) -> None:
        """Goes back to what `state` gave; `matrix` gives W where outer products are summed."""
        for group, fold, sums, outer, variate in state:
            key = (group, fold)
            self._open(key)
            self.tables[key].restore(sums)
            if variate is not None:
                self._variates[key].restore(variate)
            if outer is not None:
                self._outer[key] = OuterSums(self.tables[key], matrix())
                self._outer[key].restore(outer)
