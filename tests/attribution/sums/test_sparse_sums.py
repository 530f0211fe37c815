"""Sums of few edges against those of all, and the bound of what was dropped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph.attribution.strengths import STRENGTHS
from interactgraph.attribution.sums import sparse_sums
from interactgraph.attribution.sums.sparse_sums import SparseSums
from interactgraph.attribution.sums.strength_sums import StrengthSums
from interactgraph.distributed import World

SHAPE = (5, 7)
CPU = torch.device("cpu")
NAMES = tuple(STRENGTHS)


def drawn(seed, n=3, share=0.3):
    """X_b of some samples for every strength, `[b, i, j]`, heavy-tailed and mostly zero."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64).exp()
    a = a * torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)
    a = a * (torch.rand(n, *SHAPE, generator=generator) < share)
    return {name: STRENGTHS[name].entry(a) for name in NAMES}


def add(sums, x, positions, how):
    """One batch, in one of the forms in which contributions come."""
    sums.count(positions)
    if how == "columns":
        b, j = torch.meshgrid(torch.arange(len(positions)), torch.arange(SHAPE[1]), indexing="ij")
        rows = {name: each.movedim(1, 2).flatten(0, 1) for name, each in x.items()}
        ones = torch.ones(b.numel(), dtype=torch.float64)
        sums.add_columns(rows, ones, j.flatten(), positions[b.flatten()])
        return
    for rows in (slice(0, 2), slice(2, 5)):
        sums.add({name: each[:, rows] for name, each in x.items()}, positions, rows)


def both(names, most, batches, counts):
    strengths = tuple(STRENGTHS[name] for name in names)
    dense = StrengthSums(strengths, SHAPE, CPU)
    sparse = SparseSums(strengths, SHAPE, CPU, most=most)
    for number, (x, positions) in enumerate(zip(batches, counts, strict=True)):
        how = ("columns", "entries")[number % 2]
        for sums in (dense, sparse):
            add(sums, x, torch.tensor(positions), how)
    return dense, sparse


@pytest.mark.parametrize("counts", [[[2, 2, 2]] * 4, [[2, 2, 2], [2, 1, 2], [3, 3, 3], [0, 1, 2]]])
def test_nothing_dropped_is_the_dense_run(counts):
    batches = [drawn(seed) for seed in range(4)]
    dense, sparse = both(NAMES, SHAPE[0] * SHAPE[1], batches, counts)
    for name in NAMES:
        found, expected = sparse.strength(name).to_dense(), dense.strength(name)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
        if STRENGTHS[name].is_mean:
            found = sparse.standard_error(name).to_dense()
            torch.testing.assert_close(found, dense.standard_error(name), rtol=1e-10, atol=1e-12)
        else:
            assert sparse.standard_error(name) is None
    bounds = sparse.bounds()
    assert not any(bounds["absent"].values())
    assert not any(bounds["missed"].values())


def check_bounds(dense, sparse, names):
    """What `bounds` promises, and what every edge's own bound does."""
    bounds = sparse.bounds()
    slack = 1 + 1e-9
    i, j = sparse.keys // SHAPE[1], sparse.keys % SHAPE[1]
    for name in names:
        strength, exact = STRENGTHS[name], dense.first[name]
        found, missed = sparse.tables["first", name], sparse.tables["missed", name]
        if strength.is_mean:
            assert ((exact[i, j] - found).abs() <= missed * slack + 1e-12).all()
        else:
            assert (exact[i, j] <= found.maximum(missed) * slack).all()
        gone = torch.ones(SHAPE, dtype=torch.bool)
        gone[i, j] = False
        assert (exact[gone].abs() <= sparse.lost[name] * slack).all()
        # In the results.
        held = sparse.strength(name)
        there = torch.zeros(SHAPE, dtype=torch.bool)
        there[tuple(held.indices())] = True
        value = dense.strength(name)
        assert (value[~there].abs() <= bounds["absent"][name] * slack + 1e-12).all()
        lacks = value - held.to_dense()
        if strength.degree == 2:
            lacks = (value.square() - held.to_dense().square()).clamp(min=0).sqrt()
        if strength.is_mean:
            assert (lacks[there].abs() <= bounds["missed"][name] * slack + 1e-7).all()


strengths_in_order = st.permutations(NAMES).map(lambda names: tuple(names[:3]))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 8), strengths_in_order,
    st.sampled_from([0.1, 0.4, 1.0]),
)  # fmt: skip
def test_nothing_lacks_more_than_the_bound(seed, most, n_batches, names, share):
    batches = [drawn(seed + k, share=share) for k in range(n_batches)]
    dense, sparse = both(names, most, batches, [[2, 1, 2]] * n_batches)
    assert len(sparse.strength(names[0]).values()) <= most
    assert len(sparse.keys) <= sparse.room
    check_bounds(dense, sparse, names)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), strengths_in_order)
def test_joined_bounds_hold(seed, most, names):
    """Groups, folds and processes: an edge that one part lacks may have been lost there."""
    strengths = tuple(STRENGTHS[name] for name in names)
    parts = []
    total = StrengthSums(strengths, SHAPE, CPU)
    for part in range(3):
        batches = [drawn(seed + 10 * part + k, share=0.6) for k in range(3)]
        counts = [[1, 1, 1] if part else [2, 1, 2]] * 3
        dense, sparse = both(names, most, batches, counts)
        total = StrengthSums.merged([total, dense])
        parts.append(sparse)
    joined = SparseSums.merged(parts)
    assert (joined.n_samples, joined.n_positions) == (total.n_samples, total.n_positions)
    check_bounds(total, joined, names)

    class Three(World):
        """The same three parts as three processes."""

        def gather(self, value):
            return self.values.pop(0)

    world = Three()
    shares = [sparse_sums._on_cpu(part._share(varies=True)) for part in parts]
    about = [
        (
            (p.n_samples, p.n_used, p.n_positions, p.n_positions_squared), p.per_sample, p.varies,
            p.n_dropped,
        )
        for p in parts
    ]  # fmt: skip
    object.__setattr__(world, "values", [about, shares, [1, 1, 1]])
    gathered = parts[0].gather(world)
    for name in names:
        one, other = gathered.strength(name), joined.strength(name)
        assert torch.equal(one.to_dense(), other.to_dense())
    assert gathered.bounds() == joined.bounds()
    assert gathered.n_dropped == joined.n_dropped


def test_heavy_edges_are_never_lost():
    """An edge that is strong on few samples among many weak ones, whenever it comes."""
    for place in range(12):
        batches = [drawn(seed, share=1.0) for seed in range(12)]
        for name in NAMES:
            batches[place][name][:, 3, 4] += 1e3
        _, sparse = both(("rms",), 2, batches, [[1, 1, 1]] * 12)
        held = sparse.strength("rms")
        assert held.indices().T.tolist().count([3, 4]) == 1


def test_state_goes_on_to_the_same_numbers():
    batches = [drawn(seed, share=0.5) for seed in range(6)]
    counts = [[2, 2, 2]] * 2 + [[1, 2, 2]] * 4
    _, whole = both(NAMES, 3, batches, counts)
    _, first = both(NAMES, 3, batches[:3], counts[:3])
    again = SparseSums(whole.strengths, SHAPE, CPU, most=3)
    again.restore(first.state())
    for number in range(3, 6):
        how = ("columns", "entries")[number % 2]
        add(again, batches[number], torch.tensor(counts[number]), how)
    for name in NAMES:
        assert torch.equal(again.strength(name).to_dense(), whole.strength(name).to_dense())
    assert again.bounds() == whole.bounds()
    assert again.n_dropped == whole.n_dropped > 0
