"""Matrices of edges, dense or sparse: what every reader of them asks for, in one place.

A sparse one is a coalesced `torch.sparse_coo` tensor without zeros, its entries row by row. An
entry that it does not hold is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InteractGraphError

__all__ = [
    "NonZero",
    "absolute_sums",
    "at_ends",
    "column_of",
    "dense_for",
    "first_of_rows",
    "is_sparse",
    "kept_at",
    "largest",
    "lookup",
    "map_values",
    "n_nonzero",
    "nonzero",
    "row_of",
    "sparse_matrix",
    "sums",
    "tidy",
    "union",
    "values_of",
    "with_values",
]

_MOST_DENSE = 1 << 26  # entries of a matrix that is made dense where nothing else serves


class NonZero(NamedTuple):
    """The entries of a matrix that are not zero, row by row.

    Attributes:
        rows: int64 `[entries]`.
        columns: int64 `[entries]`.
        values: `[entries]`.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor


def is_sparse(matrix: Tensor) -> bool:
    """Whether it holds its entries only."""
    return matrix.layout != torch.strided


def tidy(matrix: Tensor) -> Tensor:
    """A sparse matrix of any layout as the one that is used here; a dense one as it is."""
    if not is_sparse(matrix):
        return matrix
    coo = matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()
    coo = coo.coalesce()
    kept = coo.values() != 0
    if bool(kept.all()):
        return coo
    rows, columns = coo.indices()[:, kept]
    return sparse_matrix(rows, columns, coo.values()[kept], coo.shape)


def sparse_matrix(
    rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...] | torch.Size
) -> Tensor:
    """A sparse matrix of entries that come row by row, each once, none of them zero."""
    indices = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(
        indices, values, tuple(shape), is_coalesced=True, check_invariants=False
    )


def nonzero(matrix: Tensor) -> NonZero:
    """The entries that are not zero."""
    if is_sparse(matrix):
        rows, columns = matrix.indices()
        return NonZero(rows, columns, matrix.values())
    rows, columns = matrix.nonzero(as_tuple=True)
    return NonZero(rows, columns, matrix[rows, columns])


def n_nonzero(matrix: Tensor) -> int:
    """How many entries are not zero."""
    return len(matrix.values()) if is_sparse(matrix) else int(matrix.count_nonzero())


def values_of(matrix: Tensor) -> Tensor:
    """Entries, `[entries]` of a sparse matrix and `[i, j]` of a dense one, zeros included."""
    return matrix.values() if is_sparse(matrix) else matrix


def largest(matrix: Tensor) -> float:
    """The largest absolute value, not a number where one is none; 0 of nothing."""
    values = values_of(matrix)
    return float(values.abs().max()) if values.numel() else 0.0


def map_values(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The matrix with other values, by a function of them that leaves zero at zero."""
    if not is_sparse(matrix):
        return function(matrix)
    return with_values(matrix, function(matrix.values()))


def with_values(matrix: Tensor, values: Tensor) -> Tensor:
    """The matrix with other values in the order of `values_of`; a sparse one without zeros."""
    if not is_sparse(matrix):
        return values
    rows, columns = matrix.indices()
    return tidy(sparse_matrix(rows, columns, values, matrix.shape))


def at_ends(matrix: Tensor, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to rows and to columns, in shapes that go with `values_of`.

    Args:
        matrix: `[i, j]`.
        of_rows: `[i]`.
        of_columns: `[j]`.
    """
    if not is_sparse(matrix):
        return of_rows[:, None], of_columns
    rows, columns = matrix.indices()
    return of_rows[rows], of_columns[columns]


def sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of every row, `[i]`, and of every column, `[j]`."""
    if not is_sparse(matrix):
        return matrix.sum(1), matrix.sum(0)
    rows, columns, values = nonzero(matrix)
    of_rows, of_columns = (values.new_zeros(n) for n in matrix.shape)
    return of_rows.index_add_(0, rows, values), of_columns.index_add_(0, columns, values)


def lookup(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Entries at places, same shape as `rows`."""
    if not is_sparse(matrix):
        return matrix[rows, columns]
    there, places = _found(matrix, rows, columns)
    if not len(matrix.values()):
        return torch.zeros(rows.shape, dtype=matrix.dtype, device=matrix.device)
    return torch.where(there, matrix.values()[places], 0)


def _found(matrix: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a sparse matrix holds places, and where in its entries."""
    (own_rows, own_columns), width = matrix.indices(), matrix.shape[1]
    keys, wanted = own_rows * width + own_columns, rows * width + columns
    places = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
    if not len(keys):
        return torch.zeros_like(wanted, dtype=torch.bool), places
    return keys[places] == wanted, places


def kept_at(matrix: Tensor, kept: Tensor) -> Tensor:
    """The matrix with zeros elsewhere.

    Args:
        matrix: `[i, j]`.
        kept: which entries are kept: bool `[i, j]`, or a sparse matrix whose entries are.
    """
    if not is_sparse(kept):
        if not is_sparse(matrix):
            # Not a product: NaN and infinity times zero are not zero.
            return matrix.where(kept, 0)
        rows, columns, values = nonzero(matrix)
        inside = kept[rows, columns]
    elif is_sparse(matrix):
        rows, columns, values = nonzero(matrix)
        inside, _ = _found(kept, rows, columns)
    else:
        rows, columns, _ = nonzero(kept)
        values = matrix[rows, columns]
        inside = values != 0
    return sparse_matrix(rows[inside], columns[inside], values[inside], matrix.shape)


def row_of(matrix: Tensor, number: int) -> Tensor:
    """One row, dense."""
    return _line(matrix, number, 0)


def column_of(matrix: Tensor, number: int) -> Tensor:
    """One column, dense."""
    return _line(matrix, number, 1)


def _line(matrix: Tensor, number: int, dim: int) -> Tensor:
    if not is_sparse(matrix):
        return matrix.select(dim, number)
    rows, columns, values = nonzero(matrix)
    ends, others = (rows, columns) if dim == 0 else (columns, rows)
    inside = ends == number
    line = values.new_zeros(matrix.shape[1 - dim])
    line[others[inside]] = values[inside]
    return line


def absolute_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of absolute values in float64: of every row, `[i]`, and of every column, `[j]`."""
    if not is_sparse(matrix):
        size = matrix.abs().to(torch.float64)
        return size.sum(1), size.sum(0)
    return sums(map_values(matrix, lambda values: values.abs().to(torch.float64)))


def first_of_rows(rows: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts entries by their row and, within it, by their score from the largest down.

    Args:
        rows: int64 `[entries]`.
        scores: `[entries]`.

    Returns:
        Their order, int64 `[entries]`, and the rank of each in its row from 0, in that order.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    _, counts = torch.unique_consecutive(rows[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=rows.device) - starts.repeat_interleave(counts)
    return order, rank


def union(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the places where either matrix of one shape is not zero."""
    width = one.shape[1]
    keys = [rows * width + columns for rows, columns, _ in (nonzero(one), nonzero(other))]
    both = torch.unique(torch.cat(keys))
    return both // width, both % width


def dense_for(matrix: Tensor, what: str) -> Tensor:
    """The matrix as a dense one, for what needs all entries.

    Args:
        matrix: dense or sparse.
        what: needs them, as the message begins.

    Raises:
        InteractGraphError: it is too large for that.
    """
    if not is_sparse(matrix):
        return matrix
    if matrix.numel() > _MOST_DENSE:
        n, m = matrix.shape
        raise InteractGraphError(
            f"{what} needs the matrix of all {n} x {m} edges, which is too large "
            f"({matrix.numel() * 8 / 2**30:.1f} GiB); take fewer features, such as "
            "top_features=2000"
        )
    return matrix.to_dense()
