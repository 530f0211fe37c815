"""The samples that drive every feature's strongest edge, kept while batches are read.

Which edge is a feature's strongest is known at the end only. Here it is the strongest of the sums
so far, looked up again with everything that is added to them; where another edge overtakes it, the
samples of the old one are forgotten, so that those of an edge are the best from the batch on that
made it the strongest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..distributed import World
from ..features import Drivers
from ..sparse import first_of_rows
from .strengths import Strength
from .sums.blocks import row_slices
from .top_activations import MOST_TEXTS

__all__ = ["StrongestEdges"]

_K = 3  # samples of each feature
_ENTRIES = 1 << 20  # that are looked at together


@dataclass(eq=False)
class _Side:
    """What is known of the features of one side, targets or sources.

    Attributes:
        partners: the other end of the strongest edge so far, int64 `[f]`; -1 for none.
        totals: what all samples have contributed to it, float64 `[f]`.
        samples: those that contribute most, int64 `[k, f]`; -1 where there are no more.
        amounts: what they contribute, float64 `[k, f]`, largest first.
    """

    partners: Tensor
    totals: Tensor
    samples: Tensor
    amounts: Tensor

    @staticmethod
    def empty(n: int, device: torch.device) -> _Side:
        return _Side(
            torch.full((n,), -1, device=device),
            torch.zeros(n, dtype=torch.float64, device=device),
            torch.full((_K, n), -1, device=device),
            torch.zeros(_K, n, dtype=torch.float64, device=device),
        )

    def look(self, features: Tensor, others: Tensor, totals: Tensor) -> Tensor:
        """Looks at the sums of some edges for stronger ones.

        Args:
            features: some of the features, int64 `[g]`.
            others: ascending numbers of the features at the other end, int64 `[o]`.
            totals: sums of the edges between them so far, `[g, o]`.

        Returns:
            Where in `others` the partner of each of the features is, `[g]`; -1: not there.
        """
        place = _place(self.partners[features], others)
        best, known = totals.new_zeros(2, len(features))
        at = torch.zeros_like(place)
        for rows in row_slices(totals.shape):
            sizes = totals[rows].abs()
            best[rows], at[rows] = sizes.max(1)
            known[rows] = sizes.gather(1, place[rows].clamp(min=0)[:, None])[:, 0]
        self.totals[features] = torch.where(place >= 0, known, self.totals[features])
        stronger = best > self.totals[features]
        new = features[stronger]
        self.partners[new], self.totals[new] = others[at[stronger]], best[stronger]
        self.samples[:, new], self.amounts[:, new] = -1, 0.0
        return torch.where(stronger, at, place)

    def add(self, features: Tensor, numbers: Tensor, amounts: Tensor) -> None:
        """Takes in what samples contribute to the strongest edges.

        Args:
            features: some of the features, int64 `[g]`.
            numbers: of the samples, int64 `[b]`.
            amounts: `[b, g]`, not negative; changed.
        """
        for _ in range(min(_K, len(amounts))):  # the largest, the second largest, ...
            most, at = amounts.max(0)
            larger = most > self.amounts[-1, features]
            if not bool(larger.any()):
                break
            self.insert(features[larger], numbers[at[larger]], most[larger].double())
            amounts.scatter_(0, at[None], -1.0)

    def add_some(self, features: Tensor, numbers: Tensor, amounts: Tensor) -> None:
        """Takes in single contributions, `[n]` each."""
        larger = amounts > self.amounts[-1, features]
        if bool(larger.any()):
            self.insert(features[larger], numbers[larger], amounts[larger].double())

    def insert(self, features: Tensor, numbers: Tensor, amounts: Tensor) -> None:
        """Takes in single contributions, `[n]` each, of samples that are not among the kept ones.

        Samples come again in later passes over the data; they contribute the same then, unless
        other positions of them are drawn.
        """
        fresh = ~(self.samples[:, features] == numbers).any(0)
        some, group = features[fresh].unique(return_inverse=True)
        kept = torch.arange(len(some), device=some.device).repeat(_K)
        group = torch.cat([group, kept])
        numbers = torch.cat([numbers[fresh], self.samples[:, some].flatten()])
        amounts = torch.cat([amounts[fresh], self.amounts[:, some].flatten()])
        order, rank = first_of_rows(group, amounts)
        order, rank = order[rank < _K], rank[rank < _K]
        place = rank, some[group[order]]
        self.samples[place], self.amounts[place] = numbers[order], amounts[order]


def _place(wanted: Tensor, among: Tensor) -> Tensor:
    """Where numbers are in ascending ones; -1 where they are not."""
    place = torch.searchsorted(among, wanted).clamp(max=len(among) - 1)
    return torch.where(among[place] == wanted, place, -1)


def _columns(x: Tensor, features: Tensor) -> Tensor:
    """A copy of some features of `[b, t, f]`, of which there may be one that stands for all."""
    return x.expand(-1, -1, len(features)).clone() if x.shape[2] == 1 else x[..., features]


def _rows_of(place: Tensor, features: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose source feature is the partner of a target.

    Args:
        place: where in `columns` the partner of each target is, -1 for nowhere, int64 `[i]`.
        features: source feature of each row, int64 `[n]`.
        columns: the source features that occur, ascending, int64.

    Returns:
        Rows, and their targets.
    """
    column = torch.searchsorted(columns, features)
    order = column.argsort()
    counts = column.bincount(minlength=len(columns))
    starts = counts.cumsum(0) - counts
    targets = (place >= 0).nonzero()[:, 0]
    repeats = counts[place[targets]]
    first = torch.repeat_interleave(repeats.cumsum(0) - repeats, repeats)
    target = torch.repeat_interleave(targets, repeats)
    within = torch.arange(len(target), device=target.device) - first
    return order[starts[place[target]] + within], target


@dataclass(eq=False)
class StrongestEdges:
    """Of every feature of a pair its strongest edge so far, and the samples that drive it most.

    Attributes:
        strength: whose sums say what is strong.
        shape: (target features, source features).
        device: of the sums.
    """

    strength: Strength
    shape: tuple[int, int]
    device: torch.device
    _targets: _Side = field(init=False)
    _sources: _Side = field(init=False)

    def __post_init__(self) -> None:
        self._targets, self._sources = (_Side.empty(n, self.device) for n in self.shape)

    def add(self, x: Tensor, totals: Tensor, rows: slice, columns: slice, numbers: Tensor) -> None:
        """Takes in some entries of X.

        Args:
            x: X `[b, i, j]`.
            totals: the sums of these entries over all samples so far, `[i, j]`.
            rows: which target features.
            columns: which source features.
            numbers: of the samples, int64 `[b]`.
        """
        i, j = (
            torch.arange(*some.indices(n), device=self.device)
            for some, n in zip((rows, columns), self.shape, strict=True)
        )
        for side, features, others, sums, entries in (
            (self._targets, i, j, totals, x), (self._sources, j, i, totals.mT, x.mT),
        ):  # fmt: skip
            place = side.look(features, others, sums)
            here = (place >= 0).nonzero()[:, 0]
            if len(here):
                where = place[here].expand(len(x), -1)[..., None]
                amounts = entries[:, here].gather(2, where)[..., 0]
                side.add(features[here], numbers, amounts.abs())

    def add_columns(
        self, x: Tensor, features: Tensor, totals: Tensor, columns: Tensor, numbers: Tensor
    ) -> None:
        """Takes in X of one source feature of one sample in each row.

        Args:
            x: `[n, i]`.
            features: the source features, int64 `[n]`.
            totals: sums so far of the source features that occur, `[i, columns]`.
            columns: which these are, ascending, int64.
            numbers: of the samples, int64 `[n]`.
        """
        i = torch.arange(self.shape[0], device=self.device)
        n, target = _rows_of(self._targets.look(i, columns, totals), features, columns)
        self._targets.add_some(target, numbers[n], x[n, target].abs())
        self._sources.look(columns, i, totals.mT)
        partner = self._sources.partners[features]
        n = (partner >= 0).nonzero()[:, 0]
        self._sources.add_some(features[n], numbers[n], x[n, partner[n]].abs())

    def add_products(
        self, left: Tensor, right: Tensor, matrix: Tensor, totals: Tensor, numbers: Tensor
    ) -> None:
        """Takes in all of A as left[b,t,i] W[i,j] right[b,t,j], which is not formed.

        Args:
            left: `[b, t, i]`, or `[b, t, 1]` where it is the same for all targets.
            right: `[b, t, j]`.
            matrix: W, `[i, j]`.
            totals: sums over all samples so far, `[i, j]`.
            numbers: of the samples, int64 `[b]`.
        """
        i, j = (torch.arange(n, device=self.device) for n in self.shape)
        for side, features, others, sums, own, other, weight in (
            (self._targets, i, j, totals, left, right, matrix),
            (self._sources, j, i, totals.mT, right, left, matrix.mT),
        ):  # fmt: skip
            side.look(features, others, sums)
            there = (side.partners >= 0).nonzero()[:, 0]
            partners = side.partners[there]
            size = self.strength.entry(weight[there, partners]).abs().to(own.dtype)
            step = max(1, _ENTRIES // max(1, own.shape[1] * len(there)))
            for x, y, some in zip(
                own.split(step), other.split(step), numbers.split(step), strict=True
            ):
                a = _columns(y, partners).mul_(_columns(x, there))
                side.add(there, some, self._of_positions(a).mul_(size))

    def _of_positions(self, a: Tensor) -> Tensor:
        """|X| of A `[b, t, f]`, `[b, f]`."""
        return self.strength.over_positions(self.strength.entry(a), 1).abs()

    # --- several processes, checkpoints, the result ----------------------------------------------

    def gather(self, world: World, totals: Tensor) -> None:
        """Joins what all processes have found.

        Args:
            world: the processes.
            totals: sums over the samples of all of them, `[i, j]`.
        """
        if world.size == 1:
            return
        sides = (self._targets, totals), (self._sources, totals.mT)
        for (side, sums), parts in zip(
            sides, zip(*world.gather(self.state()), strict=True), strict=True
        ):
            found = [_Side(*(x.to(self.device) for x in part)) for part in parts]
            partners = torch.stack([each.partners for each in found], 1)  # [f, processes]
            size = sums.gather(1, partners.clamp(min=0)).abs()
            best, choice = torch.where(partners >= 0, size, -1).max(1)
            side.partners, side.totals = partners.gather(1, choice[:, None])[:, 0], best.clamp(0)
            side.samples, side.amounts = torch.full_like(side.samples, -1), side.amounts * 0
            for each in found:
                same = (each.samples >= 0) & (each.partners == side.partners)
                k, features = same.nonzero(as_tuple=True)
                side.add_some(features, each.samples[k, features], each.amounts[k, features])

    def result(self, totals: Tensor, label: Callable[[int], str] | None) -> tuple[Drivers, Drivers]:
        """What was found, of the targets and of the sources.

        Args:
            totals: of X over all samples, `[i, j]`.
            label: sample -> what the data say of it; None: nothing.
        """
        shares = self.strength.is_mean and not self.strength.is_signed
        found = []
        for side, sums in ((self._targets, totals), (self._sources, totals.mT)):
            every = sums.gather(1, side.partners.clamp(min=0)[:, None])[:, 0]
            share = side.amounts / every if shares else torch.full_like(side.amounts, torch.nan)
            share = torch.where(side.samples >= 0, share, 0.0)
            samples, texts = side.samples.cpu(), {}
            if label is not None and samples.numel() <= MOST_TEXTS:
                texts = {n: label(n) for n in samples.unique().tolist() if n >= 0}
            found.append(Drivers(side.partners.cpu(), samples, share.float().cpu(), texts))
        return found[0], found[1]

    def state(self) -> list[Sequence[Tensor]]:
        """What was found, for a checkpoint."""
        return [
            [side.partners.cpu(), side.totals.cpu(), side.samples.cpu(), side.amounts.cpu()]
            for side in (self._targets, self._sources)
        ]

    def restore(self, state: list[Any]) -> None:
        """Goes back to what `state` gave."""
        self._targets, self._sources = (_Side(*(x.to(self.device) for x in part)) for part in state)
