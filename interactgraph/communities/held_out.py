"""Held-out edges: part of every block is hidden, modules are found without it and judged on it.

Hidden entries are compared with e, the rank-one fit a_i b_j to the visible ones: what they would be
if weights were nothing but the product of two strengths. All is done on v = sqrt(w), which tames
the tails of the weights, or on energies v = w^2, to ask about the largest ones alone.

The modules were found from the visible entries, and so were the strengths a and b, whose errors are
therefore related to the modules: a feature whose visible entries are low by chance in one block
joins a module because of another one, and its hidden entries then exceed a_i b_j there. In layers
with few neighbours that shows (a test at 5 % would reject in 20 %). A test therefore counts hidden
entries by a contrast c = inside - x_i - y_j that any error of a alone or of b alone leaves at zero:
the sums of c e over the hidden entries of a row, and over those of a column, vanish. The choice of
a resolution or weighting is better made by the plain sum inside modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..sparse import is_sparse, map_values
from . import constants
from .hidden_cells import (
    HiddenCells,
    RankOne,
    fit_rank_one,
    hidden_cells,
    sums_of_hidden,
    visible_entries,
)
from .network import Network
from .objective import Objective, make_objective
from .runs import sweep_runs
from .threads import few_threads
from .weighting import Weighting

__all__ = [
    "Fold",
    "HeldOut",
    "Tally",
    "folds_of",
    "held_out",
    "modules_of",
    "rank_one_fit",
    "rows_and_columns",
    "searched_folds",
]

_ROUNDING = 1e-9  # contrasts below are nothing else
_UNKNOWN = -1  # in no round: never seen, never judged


class Fold(NamedTuple):
    """One round: what is hidden, and the network without it.

    Attributes:
        hidden: for each block which entries are hidden, bool `[i, j]`; of sparse ones as cells.
        values: for each block v, sqrt(w) or energies, `[i, j]`.
        expected: for each block e, the rank-one fit to the visible v, `[i, j]`; of sparse ones
            its factors.
        visible: the network with hidden entries replaced by what is expected; an empty hole would
            look like a missing edge and pull its two features apart. Sparse blocks, see
            `hidden_cells`, are without them.
    """

    hidden: list[Tensor | HiddenCells]
    values: list[Tensor]
    expected: list[Tensor | RankOne]
    visible: Network

    def of_energies(self, network: Network) -> Fold:
        """The same fold, judged by energies in place of roots."""
        energies = [
            map_values(b.weight, partial(torch.pow, exponent=b.power)) for b in network.blocks
        ]
        hidden = [
            h if isinstance(h, HiddenCells) or b.unknown is None else h | b.unknown
            for b, h in zip(network.blocks, self.hidden, strict=True)
        ]
        with few_threads(network):
            expected = [_expected(v, h) for v, h in zip(energies, hidden, strict=True)]
        return self._replace(values=energies, expected=expected)


class HeldOut(NamedTuple):
    """What hidden entries say about the modules that were found without them.

    Attributes:
        excess: sum of v - e inside modules over sum of v, of hidden entries, mean over blocks: a
            modularity that cannot overfit. Only without contrast.
        z_score: see `Tally`.
    """

    excess: float
    z_score: float


class Tally:
    """Sums over hidden entries, with residuals r = v - e.

    Args:
        contrasted: whether `total` counts entries by their `contrast`, as a test has to, or all
            that are inside modules by one.

    Attributes:
        total: sum of c r, each divided by its block's sum of v. Without contrast, and with all
            folds, it is the modularity of the hidden entries added up over blocks.
        variance: sum of the squares of these.
    """

    def __init__(self, *, contrasted: bool = False) -> None:
        self.contrasted = contrasted
        self.total = self.variance = 0.0

    def add_fold(
        self, network: Network, fold: Fold, objective: Objective, labels: np.ndarray
    ) -> None:
        """Adds the hidden entries of a fold, judged by modules found without them."""
        for block, v, e, hidden in zip(network.blocks, fold.values, fold.expected, fold.hidden,
                                       strict=True):  # fmt: skip
            into, out = (objective.layer_labels(labels, k) for k in (block.target, block.source))
            if isinstance(hidden, HiddenCells):
                assert isinstance(e, RankOne)
                sums = sums_of_hidden(v, e, hidden, into, out, contrasted=self.contrasted)
                if sums is not None:
                    self.total += sums.total
                    self.variance += sums.variance
                continue
            assert isinstance(e, Tensor)
            inside = hidden & (into[:, None] == out) & (into[:, None] >= 0)
            if not inside.any():
                continue
            if not self.contrasted:  # fits to a few entries may promise any number elsewhere
                e = e.clamp_max(float(v.max()))
            residual = (v - e) / v.sum()
            if self.contrasted:
                with few_threads(network):
                    residual *= contrast(inside, torch.where(hidden, e, 0))
            else:
                residual = residual[inside]
            self.total += float(residual.sum())
            self.variance += float(residual.square().sum())

    @property
    def z_score(self) -> float:
        """The total over the root of its variance; NaN where there is none."""
        return self.total / math.sqrt(self.variance) if self.variance else math.nan


def contrast(inside: Tensor, weight: Tensor, n_rounds: int = 30) -> Tensor:
    """What rows and columns do not explain of which entries are inside: inside - x_i - y_j.

    Args:
        inside: which entries are inside modules, bool `[i, j]`.
        weight: of the least squares that x and y solve, zero for entries that do not count;
            weight * contrast has vanishing sums over every row and column.
        n_rounds: at most, of blocks that are large both ways; each fits the rows, then the columns.

    Returns:
        `[i, j]`, zero where the weight is, and where rows and columns explain everything.
    """
    kept = inside * weight
    x, y = rows_and_columns(weight, kept.sum(1, keepdim=True), kept.sum(0)[:, None], n_rounds)
    excess = inside.to(weight) - x - y.mT
    return torch.where((weight > 0) & (excess.abs() > _ROUNDING), excess, 0)


def rows_and_columns(
    weight: Tensor, in_rows: Tensor, in_columns: Tensor, n_rounds: int = 30
) -> tuple[Tensor, Tensor]:
    """The x_i + y_j that come closest to several matrices by weighted least squares.

    Args:
        weight: of the entries, zero for those that do not count, `[i, j]`.
        in_rows: sums over each row of weight times matrix, one column for each matrix, `[i, n]`.
        in_columns: the same over each column, `[j, n]`.
        n_rounds: at most, of blocks that are large both ways; each fits the rows, then the columns.

    Returns:
        x `[i, n]` and y `[j, n]`.
    """
    if weight.shape[0] < weight.shape[1]:
        y, x = rows_and_columns(weight.mT, in_columns, in_rows, n_rounds)
        return x, y
    rows, columns = weight.sum(1)[:, None], weight.sum(0)[:, None]
    x, y = torch.zeros_like(in_rows), torch.zeros_like(in_columns)
    if (
        len(columns) <= constants.SOLVED_CONTRASTS
    ):  # with few entries in a row, rounds take long to settle
        laplacian = torch.diag(columns[:, 0]) - weight.mT @ _ratio(weight, rows)
        shares = in_columns - weight.mT @ _ratio(in_rows, rows)
        y = torch.linalg.pinv(laplacian, rtol=1e-12, hermitian=True) @ shares
        x, n_rounds = _ratio(in_rows - weight @ y, rows), 0
    for _ in range(n_rounds):
        before = x
        x = _ratio(in_rows - weight @ y, rows)
        y = _ratio(in_columns - weight.mT @ x, columns)
        if bool((x - before).abs().max() < _ROUNDING / 10):
            break
    return x, y


def folds_of(
    network: Network, n_folds: int, seed: int, rounds: Sequence[int] | None = None
) -> Iterator[Fold]:
    """Hides each entry of each block once, zero entries included, unknown ones always.

    Args:
        network: strengths, not weighted yet.
        n_folds: number of rounds that there are.
        seed: decides which entry is hidden in which round.
        rounds: those that are wanted; None: all.
    """
    draw = np.random.default_rng(seed)
    numbers: list[Tensor | list[HiddenCells]] = []
    for block in network.blocks:
        if is_sparse(block.weight):
            numbers.append(hidden_cells(block.weight, n_folds, draw))
            continue
        order = draw.permutation(np.arange(block.weight.numel(), dtype=np.int32) % n_folds)
        number = torch.as_tensor(order.astype(np.int8), device=block.weight.device)
        number = number.reshape(block.weight.shape)
        if block.unknown is not None:
            number = number.masked_fill(block.unknown, _UNKNOWN)
        numbers.append(number)
    roots = [map_values(block.weight, torch.sqrt) for block in network.blocks]
    for k in range(n_folds) if rounds is None else rounds:
        hidden = [each[k] if isinstance(each, list) else each == k for each in numbers]
        filled = [
            each[k] if isinstance(each, list) else (each == k) | (each == _UNKNOWN)
            for each in numbers
        ]
        with few_threads(network):
            expected = [_expected(v, f) for v, f in zip(roots, filled, strict=True)]
        blocks = [
            block._replace(weight=_visible(block.weight, f, e))
            for block, f, e in zip(network.blocks, filled, expected, strict=True)
        ]
        fold = Fold(hidden, roots, expected, Network(network.n_features, tuple(blocks)))
        del hidden, filled, expected, blocks  # or two rounds would be there at a time
        yield fold
        del fold


def _expected(values: Tensor, hidden: Tensor | HiddenCells) -> Tensor | RankOne:
    if isinstance(hidden, HiddenCells):
        return fit_rank_one(values, hidden)
    return rank_one_fit(values, ~hidden)


def _visible(weight: Tensor, hidden: Tensor | HiddenCells, expected: Tensor | RankOne) -> Tensor:
    if isinstance(hidden, HiddenCells):
        return visible_entries(weight, hidden)
    assert isinstance(expected, Tensor)
    return torch.where(hidden, expected.square(), weight)


def held_out(
    network: Network,
    weighting: Weighting,
    resolution: float = 1.0,
    *,
    n_folds: int,
    n_starts: int,
    seed: int,
    contrasted: bool = False,
) -> HeldOut:
    """Finds modules without the hidden entries and sums those inside them.

    Args:
        network: strengths, not weighted yet.
        weighting: that the modules are found with.
        resolution: of the layered objective the modules are found with.
        n_folds: each entry is hidden once in this many rounds.
        n_starts: random starts of the search in each round.
        seed: of the folds and the starts.
        contrasted: see `Tally`.
    """
    tally = Tally(contrasted=contrasted)
    rounds = searched_folds(
        network, weighting, resolution, n_folds=n_folds, n_starts=n_starts, seed=seed
    )
    for fold, objective, labels in rounds:
        tally.add_fold(network, fold, objective, labels)
    return HeldOut(tally.total / max(len(network.blocks), 1), tally.z_score)


def searched_folds(
    network: Network,
    weighting: Weighting,
    resolution: float,
    *,
    n_folds: int,
    n_starts: int,
    seed: int,
) -> Iterator[tuple[Fold, Objective, np.ndarray]]:
    """Every fold with the modules that are found without what it hides, see `held_out`."""
    for number, fold in enumerate(folds_of(network, n_folds, seed)):
        first = 1000 * seed + n_starts * number
        found = modules_of(fold, weighting, resolution, range(first, first + n_starts))
        if found is not None:
            yield fold, *found
        del fold, found


def modules_of(
    fold: Fold, weighting: Weighting, resolution: float, seeds: Sequence[int]
) -> tuple[Objective, np.ndarray] | None:
    """Objective and best labels of what is visible in a fold; None where nothing is.

    Args:
        fold: the fold.
        weighting: that the modules are found with.
        resolution: of the layered objective.
        seeds: of the random starts.
    """
    weighted = fold.visible.map(weighting.block)
    if not weighted.blocks:
        return None
    objective = make_objective(weighted, "layered", resolution)
    assert isinstance(objective, Objective)
    return objective, max(sweep_runs(objective, seeds), key=objective.quality)


def rank_one_fit(values: Tensor, visible: Tensor, n_rounds: int = 20) -> Tensor:
    """The matrix a_i b_j with the row and column sums of the visible entries, `[i, j]`.

    Iterative proportional fitting (Deming & Stephan, Annals of Mathematical Statistics 11, 1940),
    restricted to the visible entries.

    Args:
        values: `[i, j]`, not negative.
        visible: which entries are known, bool `[i, j]`.
        n_rounds: each fits the rows, then the columns.
    """
    mask = visible.to(values)
    known = values * mask
    rows, columns = known.sum(1), known.sum(0)
    a, b = torch.ones_like(rows), torch.ones_like(columns)
    for _ in range(n_rounds):
        a = _ratio(rows, mask @ b)
        b = _ratio(columns, a @ mask)
    return torch.outer(a, b)


def _ratio(sums: Tensor, expected: Tensor) -> Tensor:
    return torch.where(expected > 0, sums / expected, torch.zeros_like(sums))
