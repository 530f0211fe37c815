"""Sparse matrices against the same dense ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph import InteractGraphError, sparse


def matrix(seed, rows, columns, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return dense * (torch.rand(rows, columns, generator=generator) < share)


sizes = st.integers(0, 6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, sizes)
def test_readers_see_the_same(seed, rows, columns):
    dense = matrix(seed, rows, columns)
    held = sparse.tidy(dense.to_sparse_csr() if rows and columns else dense.to_sparse())
    assert held.is_coalesced()
    for a, b in zip(sparse.nonzero(dense), sparse.nonzero(held), strict=True):
        assert torch.equal(a, b)
    assert sparse.n_nonzero(dense) == sparse.n_nonzero(held)
    assert sparse.largest(dense) == sparse.largest(held)
    for function in (sparse.sums, sparse.absolute_sums):
        for a, b in zip(function(dense), function(held), strict=True):
            torch.testing.assert_close(a, b)
    for i in range(rows):
        assert torch.equal(sparse.row_of(dense, i), sparse.row_of(held, i))
    for j in range(columns):
        assert torch.equal(sparse.column_of(dense, j), sparse.column_of(held, j))
    if dense.numel():
        i = torch.arange(dense.numel()) // columns
        j = torch.arange(dense.numel()) % columns
        assert torch.equal(sparse.lookup(held, i, j), dense.flatten())
    other = matrix(seed + 1, rows, columns)
    i, j = sparse.union(held, other)
    assert torch.equal(i * columns + j, ((dense != 0) | (other != 0)).flatten().nonzero()[:, 0])
    into, out = torch.randn(rows).double(), torch.randn(columns).double()
    a, b = sparse.at_ends(held, into, out)
    product = sparse.with_values(held, sparse.values_of(held) * a * b)
    torch.testing.assert_close(product.to_dense(), dense * into[:, None] * out)


@pytest.mark.parametrize("forms", ["dense sparse", "sparse dense", "sparse sparse"])
def test_kept_at(forms):
    dense, kept = matrix(0, 5, 7), matrix(1, 5, 7) > 0
    expected = torch.where(kept, dense, 0)
    one, other = forms.split()
    values = dense.to_sparse() if one == "sparse" else dense
    places = kept.double().to_sparse() if other == "sparse" else kept
    assert torch.equal(sparse.kept_at(sparse.tidy(values), places).to_dense(), expected)


def test_zeros_and_repeats_are_no_entries():
    indices = torch.tensor([[1, 0, 1, 0], [2, 1, 2, 0]])
    held = sparse.tidy(torch.sparse_coo_tensor(indices, torch.tensor([1.0, 0, 2, 5]), (2, 3)))
    rows, columns, values = sparse.nonzero(held)
    assert (rows.tolist(), columns.tolist(), values.tolist()) == ([0, 1], [0, 2], [5, 3])


def test_first_of_rows():
    rows, scores = torch.tensor([1, 0, 1, 1, 3]), torch.tensor([2.0, 5, 9, 4, 1])
    order, rank = sparse.first_of_rows(rows, scores)
    assert order.tolist() == [1, 2, 3, 0, 4]
    assert rank.tolist() == [0, 0, 1, 2, 0]


def test_what_is_too_large_is_not_made_dense():
    held = torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (30000, 30000))
    with pytest.raises(InteractGraphError, match="the ranking needs the matrix of all 30000 x"):
        sparse.dense_for(sparse.tidy(held), "the ranking")
