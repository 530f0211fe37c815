"""Held-out edges of sparse blocks, whose pairs are too many to be listed one by one.

Rows and columns are dealt into classes at random, a *cell* is a class of rows with a class of
columns, and a fold hides a part of the cells: about as many in every row of cells, each cell once.
So every pair of features is hidden once, by chance, and sums over hidden pairs of what is a
product of something of the row and something of the column are sums over cells: `held_out` needs no
others but those over the edges that are there. Blocks with fewer features than classes have each
feature in a class of its own, as if pairs were drawn one by one.

A hole is left as it is: what is expected of a pair without an edge is next to nothing there, and
features of a module are spread over all classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..sparse import nonzero, sparse_matrix

__all__ = [
    "HiddenCells",
    "RankOne",
    "Sums",
    "fit_rank_one",
    "hidden_cells",
    "sums_of_hidden",
    "visible_entries",
]

_CLASSES = 128
_ROUNDING = 1e-9  # contrasts below are nothing else
_NOTHING = 1e-12  # share of the variance without contrast below which rows and columns explain all


class RankOne(NamedTuple):
    """The matrix a_i b_j.

    Attributes:
        a: `[i]`.
        b: `[j]`.
    """

    a: Tensor
    b: Tensor


class Sums(NamedTuple):
    """Of the hidden entries of one block and fold, see `held_out.Tally`."""

    total: float
    variance: float


@dataclass(frozen=True, eq=False)
class HiddenCells:
    """Which pairs of a block are hidden in one fold.

    Attributes:
        cells: whether a cell is hidden, 0 or 1, float64 `[row class, column class]`.
        rows: class of every row, int64 `[i]`.
        columns: class of every column, int64 `[j]`.
    """

    cells: Tensor
    rows: Tensor
    columns: Tensor

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether pairs are hidden, bool `[pairs]`."""
        return self.cells[self.rows[rows], self.columns[columns]] > 0

    def over_columns(self, values: Tensor) -> Tensor:
        """Of every row the sum of values `[j]` over the columns that are hidden there, `[i]`."""
        n = self.cells.shape[1]
        return (self.cells @ values.new_zeros(n).index_add_(0, self.columns, values))[self.rows]

    def over_rows(self, values: Tensor) -> Tensor:
        """Of every column the sum of values `[i]` over the rows that are hidden there, `[j]`."""
        return self.swapped.over_columns(values)

    @property
    def swapped(self) -> HiddenCells:
        """Of the transposed block."""
        return HiddenCells(self.cells.mT, self.columns, self.rows)

    def inside(self, values: Tensor, into: Tensor, out: Tensor) -> Tensor:
        """As `over_columns`, over columns of the row's own module.

        Args:
            values: `[j]`.
            into: module of every row, `[i]`; negative ones are in none.
            out: module of every column, `[j]`.
        """
        n_modules, n = int(max(into.max(), out.max())) + 1, self.cells.shape[1]
        placed = out >= 0
        table = values.new_zeros(max(n_modules, 1) * n)
        table.index_add_(0, (out * n + self.columns)[placed], values[placed])
        found = table.view(-1, n) @ self.cells.mT
        return torch.where(into >= 0, found[into.clamp_min(0), self.rows], 0)


def hidden_cells(weight: Tensor, n_folds: int, draw: np.random.Generator) -> list[HiddenCells]:
    """The pairs of a sparse block that each fold hides.

    Args:
        weight: of the block, for its shape and place.
        n_folds: each pair is hidden in one of so many.
        draw: of the classes and the cells.
    """
    device = weight.device
    sides = [draw.permutation(n) % min(n, _CLASSES) for n in weight.shape]
    n_rows, n_columns = (min(n, _CLASSES) for n in weight.shape)
    fold = np.stack(
        [(draw.permutation(n_columns) + draw.integers(n_folds)) % n_folds for _ in range(n_rows)]
    )
    rows, columns = (torch.as_tensor(side, device=device) for side in sides)
    return [
        HiddenCells(torch.as_tensor((fold == k).astype(np.float64), device=device), rows, columns)
        for k in range(n_folds)
    ]


def fit_rank_one(roots: Tensor, hidden: HiddenCells, n_rounds: int = 20) -> RankOne:
    """As `held_out.rank_one_fit`, of a sparse block."""
    rows, columns, values = nonzero(roots)
    known = torch.where(hidden.at(rows, columns), 0, values)
    of_rows, of_columns = (values.new_zeros(n) for n in roots.shape)
    of_rows.index_add_(0, rows, known)
    of_columns.index_add_(0, columns, known)
    a, b = torch.ones_like(of_rows), torch.ones_like(of_columns)
    for _ in range(n_rounds):
        a = _ratio(of_rows, b.sum() - hidden.over_columns(b))
        b = _ratio(of_columns, a.sum() - hidden.over_rows(a))
    return RankOne(a, b)


def visible_entries(weight: Tensor, hidden: HiddenCells) -> Tensor:
    """The block without what is hidden."""
    rows, columns, values = nonzero(weight)
    seen = ~hidden.at(rows, columns)
    return sparse_matrix(rows[seen], columns[seen], values[seen], weight.shape)


def sums_of_hidden(
    roots: Tensor,
    expected: RankOne,
    hidden: HiddenCells,
    into: Tensor,
    out: Tensor,
    *,
    contrasted: bool,
) -> Sums | None:
    """What a block's hidden entries add to a `Tally`; None: none of them is inside a module.

    Args:
        roots: sqrt(w), sparse `[i, j]`.
        expected: the fit to the visible ones.
        hidden: what is hidden.
        into: module of every row, `[i]`; negative ones are in none.
        out: module of every column, `[j]`.
        contrasted: whether entries count by a contrast.
    """
    a, b = expected
    rows, columns, values = nonzero(roots)
    places = hidden.at(rows, columns)
    rows, columns, v = rows[places], columns[places], values[places]
    inside = ((into[rows] == out[columns]) & (into[rows] >= 0)).to(v.dtype)
    e = a[rows] * b[columns]
    if not bool((hidden.inside(torch.ones_like(b), into, out) > 0).any()):
        return None
    in_rows = hidden.inside(b, into, out)
    all_inside = float(a @ in_rows)
    squares = float(a.square() @ hidden.inside(b.square(), into, out))
    scale = float(values.sum())
    if not contrasted:
        total = float(inside @ v) - all_inside
        variance = squares + float(inside @ (v.square() - 2 * v * e))
        return Sums(total / scale, max(variance, 0.0) / scale**2)
    x, y = _contrast_parts(expected, hidden, into, out)
    c = inside - x[rows] - y[columns]
    c = torch.where((e > 0) & (c.abs() > _ROUNDING), c, 0)
    total = float(c @ v) - (
        all_inside - float((a * x) @ hidden.over_columns(b)) - float(a @ hidden.over_columns(b * y))
    )
    # (inside - x - y)^2 = inside (1 - 2 x - 2 y) + x^2 + 2 x y + y^2, summed over hidden cells.
    a2, b2 = a.square(), b.square()
    in_b2, in_b2y = hidden.inside(b2, into, out), hidden.inside(b2 * y, into, out)
    alone = (a2 * (1 - 2 * x)) @ in_b2 - 2 * (a2 @ in_b2y)
    both = (
        (a2 * x.square()) @ hidden.over_columns(b2)
        + 2 * (a2 * x) @ hidden.over_columns(b2 * y)
        + a2 @ hidden.over_columns(b2 * y.square())
    )
    rest = float(alone + both)
    if rest <= _NOTHING * float(a2 @ hidden.over_columns(b2)):
        return Sums(0.0, 0.0)
    variance = rest + float(c.square() @ (v.square() - 2 * v * e))
    return Sums(total / scale, max(variance, 0.0) / scale**2)


def _contrast_parts(
    expected: RankOne, hidden: HiddenCells, into: Tensor, out: Tensor, n_rounds: int = 60
) -> tuple[Tensor, Tensor]:
    """X and y of `held_out.contrast`, whose weights are the expected values of hidden entries.

    There the row's own factor cancels: x_i is a mean over its hidden columns with weights b.
    """
    a, b = expected
    swapped = hidden.swapped
    rows, columns = hidden.over_columns(b), swapped.over_columns(a)
    in_rows, in_columns = hidden.inside(b, into, out), swapped.inside(a, out, into)
    x, y = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(n_rounds):
        before = x
        x = torch.where(a > 0, _ratio(in_rows - hidden.over_columns(b * y), rows), 0)
        y = torch.where(b > 0, _ratio(in_columns - swapped.over_columns(a * x), columns), 0)
        if bool((x - before).abs().max() < _ROUNDING / 10):
            break
    return x, y


def _ratio(sums: Tensor, expected: Tensor) -> Tensor:
    # Differences of sums that cancel are zero up to rounding.
    some = expected > 1e-12 * expected.max().clamp_min(1e-300)
    return torch.where(some, sums / expected, torch.zeros_like(sums))
