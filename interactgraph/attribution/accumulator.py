"""What a run adds up for one layer pair: sums for every group and fold, and the completeness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_never

from ..distributed import World
from ..errors import InteractGraphError
from ..features import Drivers
from ..layers import PairProblem
from .completeness import Completeness, Residual
from .contributions import Contribution, Displacements, Draws, Entries, OuterProduct
from .memory import MemoryBudget
from .strengths import Strength
from .strongest_edges import StrongestEdges
from .sums.drawn_sums import DrawnSums
from .sums.outer_products import OuterSums
from .sums.sparse_sums import SparseSums
from .sums.strength_sums import StrengthSums

__all__ = ["Accumulator", "Key"]

# (group, fold); None where there are no groups or folds.
Key = tuple[str | None, int | None]
_EVERYTHING: Key = (None, None)
Sums = StrengthSums | SparseSums


@dataclass(eq=False)
class Accumulator:
    """Adds contributions of batches to one `StrengthSums` for every group and fold that occurs.

    Attributes:
        strengths: which, bound to the pair.
        shape: (target features, source features).
        device: of the sums.
        memory: that the sums of all pairs share.
        drawn: source features may be drawn, which takes memory of its own.
        strongest: the samples that drive every feature's strongest edge; None: nobody asks.
        most: edges of which sums are kept, sparsely; None: of all, in dense tables.
        tables: by group and fold, in order of appearance.
        completeness: of everything that was added.
    """

    strengths: tuple[Strength, ...]
    shape: tuple[int, int]
    device: torch.device
    memory: MemoryBudget
    drawn: bool = False
    most: int | None = None
    strongest: StrongestEdges | None = None
    tables: dict[Key, Sums] = field(default_factory=dict)
    completeness: Completeness = field(default_factory=Completeness)
    _outer: dict[Key, OuterSums] = field(default_factory=dict)
    _auxiliaries: dict[Key, dict[str, Tensor]] = field(default_factory=dict)  # of the batch
    _moves: Tensor | None = None
    _members: list[tuple[Key, Tensor | None]] = field(default_factory=list)
    _positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    _numbers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        self.memory.users.append(self)

    @property
    def n_bytes(self) -> int:
        """Memory that the sums take."""
        if self.most is not None:
            each = SparseSums.bytes_for(self.strengths, self.shape, self.most)
            return each * max(1, len(self.tables))
        each = StrengthSums.bytes_for(self.strengths, self.shape)
        if self.drawn:
            each += DrawnSums.bytes_for(self.strengths, self.shape)
        return each * max(1, len(self.tables))

    @property
    def free(self) -> int:
        """Working memory beside the sums."""
        return self.memory.free

    @property
    def draws(self) -> DrawnSums:
        """Of source features, over all groups and folds."""
        total = DrawnSums(self.strengths, self.shape, self.device)
        for table in self.tables.values():
            total.merge(table.draws)
        return total

    # --- one batch -------------------------------------------------------------------------------

    def begin(
        self, problem: PairProblem, keys: Sequence[Key] | None, first_sample: int = 0
    ) -> None:
        """Starts a batch; what is added from here on belongs to its samples.

        Args:
            problem: the pair on the batch.
            keys: group and fold of each sample; None: there are none.
            first_sample: number of the first of them, along the data.

        Raises:
            InteractGraphError: the sums of so many groups do not fit into the memory budget.
        """
        if problem.mask is None:
            positions = torch.full((problem.n_samples,), problem.y.shape[1], dtype=torch.int64)
        else:
            positions = problem.mask.sum(1).cpu()
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
        self._numbers = first_sample + torch.arange(len(positions), device=self.device)
        self._auxiliaries, self._moves = {}, None
        for key, samples in self._members:
            if key not in self.tables:
                self._open(key)
                self._check_memory()
            counts = positions if samples is None else positions[samples.cpu()]
            if self.tables[key].begins_to_vary(counts):
                self._flush(key)
            self.tables[key].count(counts)

    def add(self, contribution: Contribution) -> None:
        """Adds a contribution of the batch that was begun."""
        match contribution:
            case Entries():
                self._add_entries(contribution)
            case OuterProduct():
                self._add_outer(contribution)
            case Draws():
                self._add_draws(contribution)
            case Displacements():
                self._expect(contribution)
            case Residual():
                self.completeness.add(contribution)
            case _:
                assert_never(contribution)

    def _add_entries(self, entries: Entries) -> None:
        for key, take in self._parts(entries.samples):
            sums = {name: take(x) for name, x in entries.sums.items()}
            positions = take(self._positions[entries.samples])
            if len(positions):
                self.tables[key].add(sums, positions, entries.rows, entries.columns)
        if self.strongest is not None:
            x, numbers = entries.sums[self.strengths[0].name], self._numbers[entries.samples]
            if entries.weights is not None:
                # What was seen of a sample is less than all of it. The largest of estimates would
                # be those that are furthest off.
                x = x / entries.weights[:, None, None].to(x)
            totals = self._totals(entries.rows, entries.columns)
            self.strongest.add(x, totals, entries.rows, entries.columns, numbers)

    def _add_draws(self, draws: Draws) -> None:
        used = draws.weights > 0
        weights, features, samples = (
            x[used] for x in (draws.weights, draws.features, draws.samples)
        )
        sums = {name: x[used] for name, x in draws.sums.items()}
        for key, members in self._members:
            own = torch.ones_like(samples, dtype=torch.bool)
            own = own if members is None else torch.isin(samples, members)
            part = {name: x[own] for name, x in sums.items()}
            j, b, w = features[own], samples[own], weights[own]
            table, positions = self.tables[key], self._positions[b]
            table.add_columns(part, w, j, positions)
            if self._moves is not None:
                z = {name: x[:, b, j] for name, x in self._auxiliaries[key].items()}
                table.draws.add(part, w, j, positions, z, self._moves[b, j])
        if self.strongest is not None and len(features):
            x, columns = sums[self.strengths[0].name], features.unique()
            totals = self._totals(slice(None), columns)
            self.strongest.add_columns(x, features, totals, columns, self._numbers[samples])

    def _add_outer(self, product: OuterProduct) -> None:
        for key, take in self._parts(slice(None)):
            table = self.tables[key]
            assert isinstance(table, StrengthSums)  # `Affine` does not serve sparse sums
            if key not in self._outer:
                self._outer[key] = OuterSums(table, product.matrix, self._flushed)
            left = None if product.left is None else take(product.left)
            own = take(self._positions), take(self._numbers)
            self._outer[key].add(left, take(product.right), *own)

    def _flushed(self, left: Tensor, right: Tensor, matrix: Tensor, numbers: Tensor) -> None:
        """Looks at outer products that have come into the sums."""
        if self.strongest is not None:
            totals = self._totals(slice(None), slice(None))
            self.strongest.add_products(left, right, matrix, totals, numbers)

    def _totals(self, rows: slice, columns: slice | Tensor) -> Tensor:
        """The sums of the first strength so far, over all groups and folds."""
        strength = self.strengths[0]
        tables = [table for table in self.tables.values() if isinstance(table, StrengthSums)]
        parts = [table.first[strength.name][rows, columns] for table in tables]
        total = parts[0] if len(parts) == 1 else parts[0].clone()
        for part in parts[1:]:
            strength.combine(total, part)
        return total

    def _expect(self, displacements: Displacements) -> None:
        """Takes in how far the features of the batch move, before any are drawn."""
        known = {name: x.to(self.device) for name, x in displacements.known.items()}
        lengths = displacements.lengths.to(self.device)
        chances = displacements.chances.to(self.device)
        self._moves = lengths > 0
        for key, members in self._members:
            own = slice(None) if members is None else members
            found = self.tables[key].draws.expect(
                {name: x[own] for name, x in known.items()}, lengths[own], chances[own],
                self._positions[own],
            )  # fmt: skip
            whole = {
                name: z.new_zeros(len(z), *lengths.shape) for name, z in found.items()
            }  # numbered as the samples of the batch
            for name, z in found.items():
                whole[name][:, own] = z
            self._auxiliaries[key] = whole

    def _parts(self, samples: slice) -> list[tuple[Key, Callable[[Tensor], Tensor]]]:
        """For each group the function that takes its rows out of a tensor over the samples."""
        parts: list[tuple[Key, Callable[[Tensor], Tensor]]] = []
        for key, members in self._members:
            if members is None:
                return [(key, lambda x: x)]
            start, stop, _ = samples.indices(len(self._positions))
            inside = members[(members >= start) & (members < stop)] - start
            if len(inside):
                parts.append((key, partial(torch.index_select, dim=0, index=inside)))
        return parts

    def _open(self, key: Key) -> None:
        self.tables[key] = self._empty()

    def _empty(self) -> Sums:
        """Sums of nothing."""
        if self.most is None:
            return StrengthSums(self.strengths, self.shape, self.device)
        return SparseSums(self.strengths, self.shape, self.device, most=self.most)

    def _check_memory(self) -> None:
        if len(self.tables) > 1 and self.memory.taken > self.memory.total:
            names = ", ".join(strength.name for strength in self.strengths)
            raise InteractGraphError(
                f"the sums of {len(self.tables)} groups and folds ({self.shape[0]} x "
                f"{self.shape[1]} features, {names}) take {self.n_bytes / 2**30:.2f} GiB and "
                f"those of all pairs {self.memory.taken / 2**30:.2f} GiB, more than the memory "
                f"budget of {self.memory.total / 2**30:.2f} GiB; raise memory_budget or take fewer "
                "groups"
            )

    # --- all batches -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Brings everything into `tables`; more batches may follow."""
        for key in self.tables:
            self._flush(key)

    def _flush(self, key: Key) -> None:
        if key in self._outer:
            self._outer[key].flush()

    def end_pass(self, number: int) -> None:
        """Ends one of several passes over the same samples, with new draws in each."""
        self.flush()
        for table in self.tables.values():
            table.end_pass(number)

    def total(self, wanted: Callable[[Key], bool] = lambda key: True) -> Sums:
        """The sums over the groups and folds that are wanted; valid after `flush`."""
        chosen = [sums for key, sums in self.tables.items() if wanted(key)]
        if len(chosen) == 1:
            return chosen[0]
        chosen = chosen or [self._empty()]
        if self.most is None:
            return StrengthSums.merged([each for each in chosen if isinstance(each, StrengthSums)])
        return SparseSums.merged([each for each in chosen if isinstance(each, SparseSums)])

    def drivers(
        self, label: Callable[[int], str] | None, n_passes: int = 1
    ) -> tuple[Drivers, Drivers] | None:
        """The samples that drive the strongest edges of the targets, and of the sources.

        Args:
            label: sample -> what the data say of it; None: nothing.
            n_passes: how often every sample was added.
        """
        if self.strongest is None:
            return None
        totals = self._totals(slice(None), slice(None))
        if self.drawn:
            total = self.total()
            assert isinstance(total, StrengthSums)
            totals = total.sample_totals(self.strengths[0].name)
        return self.strongest.result(totals / max(n_passes, 1), label)

    def variance_parts(self) -> tuple[float, float, float]:
        """Of the first strength, over all edges; see `StrengthSums.variance_parts`."""
        self.flush()
        total = self.total()
        assert isinstance(total, StrengthSums)  # of which features are drawn
        return total.variance_parts(self.strengths[0])

    def gather(self, world: World) -> None:
        """Adds what all processes have, which then all of them have; valid after `flush`."""
        if world.size == 1:
            return
        keys_by_process = world.gather(list(self.tables))
        for key in dict.fromkeys(key for keys in keys_by_process for key in keys):
            if key not in self.tables:
                self._open(key)
            self.tables[key].gather(world)
        if self.strongest is not None:
            self.strongest.gather(world, self._totals(slice(None), slice(None)))
        completeness = self.completeness
        parts = world.gather((completeness.missed, completeness.change))
        completeness.missed, completeness.change = (
            sum(part[k] for part in parts) for k in range(2)
        )

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {
            "completeness": [self.completeness.missed, self.completeness.change],
            "strongest": None if self.strongest is None else self.strongest.state(),
            "tables": [
                [
                    *key,
                    sums.state(),
                    self._outer[key].state() if key in self._outer else None,
                ]
                for key, sums in self.tables.items()
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.completeness = Completeness(*state["completeness"])
        if self.strongest is not None:
            self.strongest.restore(state["strongest"])
        for group, fold, sums, outer in state["tables"]:
            key = (group, fold)
            self._open(key)
            self.tables[key].restore(sums)
            table = self.tables[key]
            if outer is not None and isinstance(table, StrengthSums):
                self._outer[key] = OuterSums.restored(table, outer, self._flushed)
