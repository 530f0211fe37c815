"""Running sums of the strongest edges only, where a table of all of them would not fit.

Sums are kept by edge, for those that were ever added to. Where they outgrow their room, the edges
of the smallest sums are dropped, as in lossy counting (Manku and Motwani, VLDB 2002) and
space-saving (Metwally et al., ICDT 2005). Each edge carries a bound of what it may have lost: that
is `lost`, the most that any dropped edge may have had, at the time when it came (again), and zero
for edges that came before anything was dropped. So an edge whose sum is above `lost` at the end is
certainly kept, and what a kept edge lacks is at most its bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...distributed import World
from ...sparse import sparse_matrix
from ..strengths import Strength
from .drawn_sums import DrawnSums
from .repeated_passes import RepeatedPasses
from .running_sums import RunningSums

__all__ = ["SparseSums"]

_ROOM = 4  # times as many edges as are asked for are kept on the way
_ENTRIES = 1 << 22  # of a contribution that are looked through at a time


@dataclass(eq=False)
class SparseSums(RunningSums):
    """The same sums as `StrengthSums` for the edges that matter.

    An edge's key is its target feature times the number of source features plus its source feature.

    Attributes:
        most: edges that the results hold, those of the largest first strength.
        keys: of the edges, ascending, int64 `[edges]`.
        tables: (what, strength) -> float64 `[edges]`: "first", "second" and "cross" as of
            `StrengthSums`, "missed": a bound of what the edge lost of "first".
        lost: strength -> the most that an edge which is not kept may have of "first".
        n_dropped: edges dropped so far, each time that they were.
        passes: of drawn features, of which there are none.
        draws: the same.
    """

    most: int = 0
    keys: Tensor = field(init=False)
    tables: dict[tuple[str, str], Tensor] = field(init=False)
    lost: dict[str, float] = field(init=False)
    n_dropped: int = 0
    passes: RepeatedPasses = field(default_factory=RepeatedPasses)
    draws: DrawnSums = field(init=False)
    _varies: bool = False
    _new: list[tuple[Tensor, dict[tuple[str, str], Tensor]]] = field(default_factory=list)
    _kept: Tensor | None = None  # places of the edges that results hold

    def __post_init__(self) -> None:
        self.keys = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.tables = {name: self._empty() for name in self._names}
        self.lost = {strength.name: 0.0 for strength in self.strengths}
        self.draws = DrawnSums(self.strengths, self.shape, self.device)

    def _empty(self) -> Tensor:
        return torch.zeros(0, dtype=torch.float64, device=self.device)

    @property
    def room(self) -> int:
        """Edges that are kept on the way."""
        return min(_ROOM * self.most, self.shape[0] * self.shape[1])

    @property
    def _names(self) -> list[tuple[str, str]]:
        """The tables there are."""
        of_means = ("second", "cross") if self._varies else ("second",)
        return [
            (part, strength.name)
            for strength in self.strengths
            for part in ("first", "missed", *(of_means if strength.is_mean else ()))
        ]

    @staticmethod
    def bytes_for(strengths: Sequence[Strength], shape: tuple[int, int], most: int) -> int:
        """Memory that the sums take, with what came last and what sorting takes."""
        room = min(_ROOM * most, shape[0] * shape[1])
        return 3 * 8 * room * (1 + sum(2 + 2 * strength.is_mean for strength in strengths))

    @property
    def varies(self) -> bool:
        """See `RunningSums.varies`."""
        return self._varies

    def _open_cross(self) -> None:
        self._settle()
        self._varies = True
        for strength in self.strengths:
            if strength.is_mean:
                first = self.tables["first", strength.name]
                self.tables["cross", strength.name] = first * (self.per_sample or 0)

    # --- adding samples --------------------------------------------------------------------------

    def add(
        self,
        sums: Mapping[str, Tensor],
        positions: Tensor,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """See `StrengthSums.add`."""
        tables: dict[tuple[str, str], Tensor] = {}
        for strength in self.strengths:
            name = strength.name
            x = sums[name]
            first = torch.zeros(x.shape[1:], dtype=torch.float64, device=self.device)
            if strength.is_mean:
                x = x.to(torch.float64)
                tables["second", name] = x.square().sum(0)
                if self._varies:
                    counts = positions.to(torch.float64)
                    tables["cross", name] = torch.einsum("bij,b->ij", x, counts)
            strength.add_samples(first, x)
            tables["first", name] = first
        some = torch.stack([table != 0 for table in tables.values()]).any(0)
        i, j = some.nonzero(as_tuple=True)
        if len(i):
            first_row, first_column = rows.start or 0, columns.start or 0
            keys = (i + first_row) * self.shape[1] + j + first_column
            self._append(keys, {what: table[i, j] for what, table in tables.items()})

    def add_columns(
        self, sums: Mapping[str, Tensor], weights: Tensor, features: Tensor, positions: Tensor
    ) -> None:
        """See `StrengthSums.add_columns`; no feature is drawn, so that all weights are one."""
        step = max(1, _ENTRIES // max(1, self.shape[0]))
        for start in range(0, len(features), step):
            span = slice(start, start + step)
            some = torch.stack([x[span] != 0 for x in sums.values()]).any(0)
            n, i = some.nonzero(as_tuple=True)
            if not len(n):
                continue
            tables: dict[tuple[str, str], Tensor] = {}
            for strength in self.strengths:
                name = strength.name
                x = sums[name][span][n, i].to(torch.float64)
                tables["first", name] = x
                if strength.is_mean:
                    tables["second", name] = x.square()
                    if self._varies:
                        tables["cross", name] = x * positions[span][n]
            self._append(i * self.shape[1] + features[span][n], tables)

    def _append(self, keys: Tensor, tables: dict[tuple[str, str], Tensor]) -> None:
        self._kept = None
        self._new.append((keys, tables))
        if sum(len(keys) for keys, _ in self._new) > self.room:
            self._settle()

    def _settle(self) -> None:
        """Takes in what was added, and drops what there is no room for."""
        if not self._new:
            return
        keys = torch.cat([self.keys, *(keys for keys, _ in self._new)])
        unique, places = torch.unique(keys, return_inverse=True)
        for what, name in self._names:
            old = self.tables[what, name]
            if what == "missed":
                joined = old.new_full((len(unique),), self.lost[name])
                joined[places[: len(old)]] = old
            else:
                new = (tables[what, name] for _, tables in self._new)
                joined = self._add_up(what, name, torch.cat([old, *new]), places, len(unique))
            self.tables[what, name] = joined
        self.keys = unique
        self._new.clear()
        self._drop(self.room)

    def _add_up(self, what: str, name: str, values: Tensor, places: Tensor, n: int) -> Tensor:
        """Values that belong to the same edge, joined."""
        total = values.new_zeros(n)
        if what == "first" and not self._strength(name).is_mean:
            return total.scatter_reduce_(0, places, values, "amax")
        return total.index_add_(0, places, values)

    def _most(self, name: str) -> Tensor:
        """The most that each edge may have of "first", `[edges]`."""
        return _with_missed(self._strength(name), *self._bounded(name))

    def _bounded(self, name: str) -> tuple[Tensor, Tensor]:
        return self.tables["first", name].abs(), self.tables["missed", name]

    def _drop(self, room: int) -> None:
        """Keeps so many edges: those that may have most of the first strength."""
        if len(self.keys) <= room:
            return
        kept = torch.zeros(len(self.keys), dtype=torch.bool, device=self.device)
        kept[self._most(self.strengths[0].name).topk(room).indices] = True
        for name in self.lost:
            self.lost[name] = max(self.lost[name], float(self._most(name)[~kept].max()))
        self.n_dropped += int((~kept).sum())
        self.keys = self.keys[kept]
        self.tables = {what: table[kept] for what, table in self.tables.items()}

    def end_pass(self, number: int) -> None:
        """Notes that one of several passes over the same samples has ended."""
        self.passes.number = number

    # --- joining ---------------------------------------------------------------------------------

    @staticmethod
    def merged(parts: Sequence[SparseSums]) -> SparseSums:
        """The sums over all samples of several ones over disjoint samples, at least one."""
        first = parts[0]
        total = SparseSums(first.strengths, first.shape, first.device, most=first.most)
        parts = [part for part in parts if part.n_samples]
        if not parts:
            return total
        for part in parts:
            part._settle()
        total._varies = (
            any(part._varies for part in parts) or len({part.per_sample for part in parts}) > 1
        )
        for part in parts:
            total._count_those_of(part)
            total.n_dropped += part.n_dropped
            total.passes.add(part.passes)
        total._join([part._share(varies=total._varies) for part in parts])
        return total

    def _share(self, *, varies: bool) -> dict[str, Any]:
        """What `_join` takes of each part."""
        tables = dict(self.tables)
        if varies and not self._varies:
            for strength in self.strengths:
                if strength.is_mean:
                    first = tables["first", strength.name]
                    tables["cross", strength.name] = first * (self.per_sample or 0)
        return {"keys": self.keys, "tables": tables, "lost": self.lost}

    def _join(self, shares: Sequence[dict[str, Any]]) -> None:
        """Takes the edges of all parts; one that a part does not have may have been lost there."""
        keys = torch.cat([self.keys[:0], *(share["keys"].to(self.device) for share in shares)])
        self.keys, places = torch.unique(keys, return_inverse=True)
        own = places.split([len(share["keys"]) for share in shares])
        for what, name in self._names:
            strength, n = self._strength(name), len(self.keys)
            values = [share["tables"][what, name].to(self.device) for share in shares]
            if what == "missed":
                bound = torch.zeros(n, dtype=torch.float64, device=self.device)
                for share, where, missed in zip(shares, own, values, strict=True):
                    of_part = torch.full_like(bound, share["lost"][name])
                    of_part[where] = missed
                    bound = _with_missed(strength, bound, of_part)
                self.tables[what, name] = bound
            else:
                every = torch.cat([self._empty(), *values])
                self.tables[what, name] = self._add_up(what, name, every, places, n)
        for strength in self.strengths:
            each = [share["lost"][strength.name] for share in shares]
            self.lost[strength.name] = sum(each) if strength.is_mean else max(each, default=0.0)
        self._kept = None
        self._drop(self.room)

    def gather(self, world: World) -> SparseSums:
        """The sums over the samples of all processes; all of them call it. May change these."""
        self._settle()
        counts = (self.n_samples, self.n_used, self.n_positions, self.n_positions_squared)
        about = world.gather((counts, self.per_sample, self._varies, self.n_dropped))
        each = {per_sample for (n, *_), per_sample, _, _ in about if n}
        varies = len(each) > 1 or any(part[2] for part in about)
        shares = world.gather(_on_cpu(self._share(varies=varies)))
        self._varies = varies
        self.n_samples, self.n_used, self.n_positions, self.n_positions_squared = (
            sum(part[0][k] for part in about) for k in range(4)
        )
        self.per_sample = next(iter(each), None)
        self.n_dropped = sum(part[3] for part in about)
        self.passes.number = max(world.gather(self.passes.number))
        self._join(shares)
        return self

    # --- results ---------------------------------------------------------------------------------

    def strength(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """The strength of the strongest edges, sparse `[i, j]`; the same places for every name."""
        strength, kept = self._strength(name), self._strongest()
        return self._matrix(strength.value(self._mean(strength)[kept]), dtype)

    def standard_error(
        self, name: str, dtype: torch.dtype = torch.float64, *, of_draws: bool = True
    ) -> Tensor | None:
        """Its standard error over samples, sparse `[i, j]`; None where it has none.

        Not a number with fewer than two samples.
        """
        strength = self._strength(name)
        if not strength.is_mean:
            return None
        kept = self._strongest()
        first = self.tables["first", name][kept]
        cross = first * (self.per_sample or 0)
        if self._varies:
            cross = self.tables["cross", name][kept]
        if strength.per_sample:
            cross = first
        error = self._error_of_mean(strength, first, self.tables["second", name][kept], cross)
        return self._matrix(strength.error(self._mean(strength)[kept], error), dtype)

    def bounds(self) -> dict[str, dict[str, float]]:
        """What is known of the edges that were dropped, in units of each strength.

        Returns:
            "absent": the strongest that an edge may be which the results do not hold; "missed":
            the most that an edge which they hold may lack: of an rms the root of what its mean
            square may lack.
        """
        kept = self._strongest()
        cut = torch.ones(len(self.keys), dtype=torch.bool, device=self.device)
        cut[kept] = False
        absent, missed = {}, {}
        for strength in self.strengths:
            name = strength.name
            most = float(self._most(name)[cut].max()) if bool(cut.any()) else 0.0
            lacks = self.tables["missed", name][kept]
            absent[name] = self._in_units(strength, max(most, self.lost[name]))
            missed[name] = self._in_units(strength, float(lacks.max()) if len(lacks) else 0.0)
        return {"absent": absent, "missed": missed}

    def _in_units(self, strength: Strength, first: float) -> float:
        mean = first / self._total(strength) if strength.is_mean else first
        return float(strength.value(torch.tensor(mean, dtype=torch.float64)))

    def _strongest(self) -> Tensor:
        """Places of the edges that results hold, ascending."""
        self._settle()
        if self._kept is None:
            strength = self.strengths[0]
            size = strength.value(self._mean(strength)).abs()
            top = size.topk(min(self.most, len(size))).indices
            self._kept = top.sort().values
        return self._kept

    def _mean(self, strength: Strength) -> Tensor:
        """The mean of X over samples and positions; of what is no mean the total."""
        first = self.tables["first", strength.name]
        return first / (self._total(strength) if strength.is_mean else 1)

    def _matrix(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        keys, n = self.keys[self._strongest()], self.shape[1]
        return sparse_matrix(keys // n, keys % n, values.to(dtype), self.shape)

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "keys": self.keys,
            "tables": [[*what, table] for what, table in self.tables.items()],
            "new": [[keys, [[*what, x] for what, x in new.items()]] for keys, new in self._new],
            "lost": [self.lost, self.n_dropped],
            "counts": [self.n_samples, self.n_used, self.n_positions, self.n_positions_squared],
            "per_sample": [self.per_sample, self._varies],
            "passes": self.passes.number,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""

        def tables(saved: list[Any]) -> dict[tuple[str, str], Tensor]:
            return {(what, name): table.to(self.device) for what, name, table in saved}

        self.keys, self.tables = state["keys"].to(self.device), tables(state["tables"])
        self._new = [(keys.to(self.device), tables(new)) for keys, new in state["new"]]
        self.lost, self.n_dropped = state["lost"]
        self.n_samples, self.n_used, self.n_positions, self.n_positions_squared = state["counts"]
        self.per_sample, self._varies = state["per_sample"]
        self.passes.number = state["passes"]
        self._kept = None


def _with_missed(strength: Strength, first: Tensor, missed: Tensor) -> Tensor:
    return first + missed if strength.is_mean else first.maximum(missed)


def _on_cpu(share: dict[str, Any]) -> dict[str, Any]:
    tables = {what: table.cpu() for what, table in share["tables"].items()}
    return {**share, "keys": share["keys"].cpu(), "tables": tables}
