"""Surrogates keep strengths and spectrum, and lose modules."""

import numpy as np
import pytest
import torch
from communities.planted_graphs import planted
from scipy import stats

from interactgraph.communities.held_out import rank_one_fit
from interactgraph.communities.network import Block, Network
from interactgraph.communities.significance import NullScores, held_out_test, spectral_null_scores
from interactgraph.communities.spectral_null import _orthonormal, surrogate


def block_of(contrast, seed=0, unknown=False):
    graph, _ = planted(seed, contrast=contrast, sizes=(40, 40))
    network = Network.from_graph(graph)
    if not unknown:
        return network
    eye = torch.eye(40, dtype=torch.bool)
    return Network(network.n_features, (network.blocks[0]._replace(unknown=eye),))


def residual(block: Block):
    root = block.weight.sqrt()
    known = torch.ones_like(root, dtype=torch.bool) if block.unknown is None else ~block.unknown
    expected = rank_one_fit(root, known)
    return torch.where(known, root / expected - 1, 0)


@pytest.mark.parametrize("unknown", [False, True])
def test_strengths_values_and_spectrum_stay(unknown):
    network = block_of(3.0, unknown=unknown)
    (before,), (after,) = network.blocks, surrogate(network, 1).blocks
    r, other = residual(before), residual(after)
    assert not torch.allclose(r, other)
    for axis in (0, 1):
        sums = [block.weight.sqrt().sum(axis) for block in (before, after)]
        assert float((sums[0] / sums[1]).log().abs().max()) < 0.6
    values = [torch.linalg.svdvals(matrix) for matrix in (r, other)]
    assert torch.allclose(*values, rtol=0, atol=0.15 * float(values[0].max()))
    if unknown:
        assert torch.equal(before.weight.diagonal(), after.weight.diagonal())
    else:
        assert torch.equal(surrogate(network, 1).blocks[0].weight, after.weight)


def test_vectors_are_orthonormal():
    q = _orthonormal(9, 4, torch.Generator().manual_seed(0))
    assert torch.allclose(q.T @ q, torch.eye(4, dtype=torch.float64))


def test_z_is_held_against_scores_without_modules():
    scores = [0.5, 2.5, -1.0, 1.0]
    null = NullScores.of([*scores, np.nan])
    variance = np.var(scores, ddof=1) * 1.25
    assert (null.mean, null.variance) == (0.75, pytest.approx(variance))
    test = null.test(3.0)
    assert test.z_score == pytest.approx(2.25 / variance**0.5)
    assert test.p_value == pytest.approx(stats.t.sf(test.z_score, 3))
    assert NullScores.of([0.8]).test(2.0).p_value == pytest.approx(stats.norm.sf(1.2 / 2**0.5))
    assert NullScores().test(2.0) == (2.0, pytest.approx(stats.norm.sf(2.0)))
    assert np.isnan(NullScores.of([np.nan]).test(2.0)).all()


@pytest.mark.parametrize("spread", [0.8, 1.0, 1.5])
def test_the_level_is_held_whatever_the_spread(spread):
    """One more score of the same kind is above 5 % of the time at most."""
    draw = np.random.default_rng(0)
    scores = 0.4 + spread * draw.normal(size=(4000, 9))
    p = np.array([NullScores.of(row[1:]).test(row[0]).p_value for row in scores])
    level = np.mean(p <= 0.05)
    assert (0.005 if spread < 1 else 0.015) < level < 0.05 + 4 * (0.05 * 0.95 / 4000) ** 0.5


@pytest.mark.slow
def test_modules_are_lost():
    graph, _ = planted(0, contrast=4.0)
    network = Network.from_graph(graph)
    shift = spectral_null_scores(network, n_surrogates=2, n_starts=1).mean
    assert held_out_test(network, n_starts=1).z_score > 3 * abs(shift) + 3
    values = [
        spectral_null_scores(Network.from_graph(planted(seed, contrast=1.0)[0]), n_surrogates=1,
                             n_starts=1, seed=seed).mean
        for seed in range(8)
    ]  # fmt: skip
    assert abs(np.mean(values)) < 3 / 8**0.5
