import numpy as np
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import find_modules
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


def unstructured(*sizes):
    """z of 60 graphs without modules."""
    graphs = [planted(seed, contrast=1.0, sizes=sizes)[0] for seed in range(60)]
    return [
        held_out_test(Network.from_graph(graph), n_starts=2, seed=seed).z_score
        for seed, graph in enumerate(graphs)
    ]


def test_level_on_unstructured_heavy_tailed_graphs():
    """Standard normal where there is no structure: mean, spread and tails."""
    scores = unstructured(20, 32, 24)
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


def test_level_where_a_wide_layer_lies_between_narrow_ones():
    """Modules are then found from the errors that strengths have, too."""
    scores = unstructured(6, 50, 6)
    assert abs(np.nanmean(scores)) < 3 / 60**0.5
    assert np.mean(np.array(scores) > 1.645) <= 0.12


def test_what_cannot_be_tested_is_said():
    """A bottleneck: no module holds an edge that was hidden when it was found."""
    draw = np.random.default_rng(0)
    owner = np.repeat(np.arange(8), 10)
    first = np.where(np.arange(8)[:, None] == owner, 5.0, 1.0)
    first *= np.exp(0.3 * draw.normal(size=first.shape))
    partition = find_modules(graph_of(first, first.T.copy()), n_runs=2)
    assert np.isnan(partition.p_value)
    assert partition.significant is None
    assert "could not be tested" in partition.summary()
    assert "tested" not in find_modules(graph_of(first), n_runs=2, significance=False).summary()


def test_pairs_too_narrow_to_test_are_said():
    """A single feature behind a wide pair: its strengths explain every edge to it."""
    draw = np.random.default_rng(0)
    owner = np.arange(24) % 3
    wide = np.exp(0.3 * draw.normal(size=(24, 24))) * np.where(owner[:, None] == owner, 5.0, 1.0)
    narrow = np.exp(0.3 * draw.normal(size=(1, 24)))
    partition = find_modules(graph_of(wide, narrow), n_runs=2, resolution=1.0)
    assert partition.significant
    assert partition.details["untested_pairs"] == ["l1 -> l2"]
    assert "without l1 -> l2: too narrow to test" in partition.summary()
    clean = find_modules(graph_of(wide, wide), n_runs=2, resolution=1.0)
    assert "untested_pairs" not in clean.details
