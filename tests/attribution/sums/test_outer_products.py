"""Largest products without looking at all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph.attribution.strengths import check_strengths
from interactgraph.attribution.sums.outer_products import OuterSums, max_products
from interactgraph.attribution.sums.strength_sums import StrengthSums


def by_hand(left, right, best):
    products = left.abs()[:, :, None] * right.abs()[:, None, :]
    return torch.maximum(products.amax(0), best)


@pytest.mark.parametrize("kind", ["uniform", "switch", "rare", "heavy", "same", "zero"])
@pytest.mark.parametrize("rows", [1, 7, 300, 3000])
def test_finds_the_largest_product(kind, rows):
    torch.manual_seed(0)
    left, right = torch.rand(rows, 12), torch.rand(rows, 9)
    if kind == "switch":
        left = (left > 0.5).float()
    elif kind == "rare":
        left = (left > 0.999).float()
    elif kind == "heavy":
        left, right = left**-3, right**-3
    elif kind == "same":
        left, right = torch.ones(rows, 12), torch.ones(rows, 9)
    elif kind == "zero":
        left = torch.zeros(rows, 12)
    best = torch.rand(12, 9) * 0.1
    assert torch.equal(max_products(left, right, best), by_hand(left, right, best))


def test_one_column():
    left, right, best = torch.rand(50, 1), torch.rand(50, 4), torch.rand(1, 4)
    assert torch.equal(max_products(left, right, best), by_hand(left, right, best))
    assert torch.equal(max_products(right, left, best.mT), by_hand(right, left, best.mT))


def test_signs_and_scale():
    torch.manual_seed(0)
    left, right, best = torch.randn(700, 6), torch.randn(700, 40), torch.zeros(6, 40)
    rows, columns = 2.0 ** torch.arange(6), 2.0 ** -torch.arange(40)
    expected = by_hand(left, right, best) * torch.outer(rows, columns)
    assert torch.equal(max_products(left, right, best, (rows, columns)), expected)
    assert torch.equal(max_products(right, left, best.mT, (columns, rows)), expected.mT)


def test_what_is_not_a_number_is_not_lost():
    left, right = torch.rand(700, 3), torch.rand(700, 4)
    left[650, 1] = torch.nan
    found = max_products(left, right, torch.zeros(3, 4))
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 5), st.integers(1, 5))
def test_any_shape(seed, rows, i, j):
    generator = torch.Generator().manual_seed(seed)
    left = torch.rand(rows, i, generator=generator) ** 4
    right = torch.rand(rows, j, generator=generator) ** 4
    best = torch.zeros(i, j)
    assert torch.equal(max_products(left, right, best), by_hand(left, right, best))


@pytest.mark.parametrize("positions", ["one", "all", "some"])
@pytest.mark.parametrize("narrow", [False, True])
def test_standard_error_of_what_hardly_varies(positions, narrow):
    torch.manual_seed(0)
    n_positions = 1 if positions == "one" else 5
    left = 1 + 1e-3 * torch.randn(4500, n_positions, 4)
    right = 1 + 1e-3 * torch.randn(4500, n_positions, 6)
    left[..., 0] = torch.randn(4500, n_positions)
    matrix = torch.randn(4, 6)
    counts = torch.full((4500,), n_positions)
    if positions == "some":
        counts = torch.randint(1, 6, (4500,))
        mask = torch.arange(5) < counts[:, None]
        left, right = left * mask[..., None], right * mask[..., None]
    errors = []
    for dtype in (torch.float32, torch.float64):
        sums = StrengthSums(
            check_strengths(("rms", "mean_abs", "mean")), (4, 6), torch.device("cpu")
        )
        if positions == "some":
            sums.begins_to_vary(counts)
        sums.count(counts)
        outer = OuterSums(sums, matrix.to(dtype))
        for part in range(0, 4500, 900):
            here = slice(part, part + 900)
            given = None if narrow else left[here].to(dtype)
            outer.add(given, right[here].to(dtype), counts[here], torch.arange(900))
        outer.flush()
        errors.append({name: sums.standard_error(name) for name in sums.second})
    for name in errors[0]:
        torch.testing.assert_close(errors[0][name], errors[1][name], rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e10])
@pytest.mark.parametrize("positions", [1, 4])
def test_range_of_single_precision(size, positions):
    torch.manual_seed(0)
    left, right = torch.rand(500, positions, 4) / size, torch.rand(500, positions, 6) * size
    right[..., 0] *= 1e-9
    counts = torch.full((500,), positions)
    found = []
    for dtype in (torch.float32, torch.float64):
        sums = StrengthSums(check_strengths(("rms", "mean", "max")), (4, 6), torch.device("cpu"))
        sums.count(counts)
        outer = OuterSums(sums, torch.ones(4, 6, dtype=dtype))
        outer.add(left.to(dtype), right.to(dtype), counts, torch.arange(500))
        outer.flush()
        found.append(
            [sums.strength(name) for name in sums.first]
            + [sums.standard_error(name) for name in ("rms", "mean")]
        )
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-4, atol=0)
