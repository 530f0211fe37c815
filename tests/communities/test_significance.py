import numpy as np
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph.communities.held_out import rank_one_fit
from interactgraph.communities.network import Network
from interactgraph.communities.significance import held_out_test


def test_rank_one_fit_matches_the_visible_sums():
    generator = np.random.default_rng(0)
    values = torch.as_tensor(generator.lognormal(size=(12, 9)))
    visible = torch.as_tensor(generator.random((12, 9)) < 0.8)
    fit = rank_one_fit(values, visible)
    assert torch.linalg.matrix_rank(fit) == 1
    for axis in (0, 1):
        expected, got = ((x * visible).sum(axis) for x in (values, fit))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=0)


def test_rank_one_fit_of_a_rank_one_matrix_is_exact():
    values = torch.outer(torch.arange(1.0, 8), torch.arange(2.0, 7)).double()
    visible = torch.as_tensor(np.random.default_rng(1).random((7, 5)) < 0.8)
    torch.testing.assert_close(rank_one_fit(values, visible), values, rtol=1e-6, atol=0)


def test_level_on_unstructured_heavy_tailed_graphs():
    """Standard normal where there is no structure: mean, spread and tails."""
    scores = []
    for seed in range(60):
        graph, _ = planted(seed, contrast=1.0, sizes=(20, 32, 24))
        scores.append(held_out_test(Network.from_graph(graph), n_starts=2, seed=seed).z_score)
    assert abs(np.mean(scores)) < 3 / 60**0.5
    assert 0.75 < np.std(scores) < 1.3
    assert np.mean(np.array(scores) > 1.645) <= 0.12


def test_power_on_planted_modules():
    for seed in range(5):
        graph, _ = planted(seed, contrast=3.0)
        assert held_out_test(Network.from_graph(graph), seed=seed).p_value < 1e-3


def test_nothing_to_test():
    result = held_out_test(Network.from_graph(graph_of(np.zeros((3, 3)))))
    assert np.isnan(result).all()
