import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import (
    Partition,
    adjusted_rand_index,
    bootstrap,
    co_assignment,
    mean_graph,
)


def test_co_assignment_is_the_mean_share_of_the_own_module():
    draw = np.random.default_rng(0)
    labels = draw.integers(-1, 3, 20)
    others = [draw.integers(0, 4, 20) for _ in range(5)]
    got = co_assignment(labels, others)
    for i in range(20):
        mates = [k for k in range(20) if labels[k] == labels[i] and k != i]
        if labels[i] < 0:
            assert np.isnan(got[i])
        else:
            expected = np.mean([[o[k] == o[i] for k in mates] for o in others])
            assert got[i] == pytest.approx(expected)


def test_co_assignment_of_a_feature_alone():
    alone = co_assignment(np.array([0, 0, 1]), [np.array([0, 0, 1]), np.array([0, 0, 0])])
    assert alone[2] == 0.5
    assert np.isnan(co_assignment(np.array([-1, -1]), [])).all()


def test_runs_give_confidence(tmp_path):
    graph, _ = planted(0, 8.0)
    partition = find_modules(graph, n_runs=3, significance=False)
    assert set(partition.confidence) == set(graph.layers)
    assert np.concatenate(list(partition.confidence.values())).min() > 0.99
    partition.save(tmp_path / "p.json")
    again = Partition.load(tmp_path / "p.json").confidence
    np.testing.assert_array_equal(again["l0"], partition.confidence["l0"])


def folds(n: int = 6) -> tuple:
    """Parts of the data: the same modules, other noise; the last feature of l0 wanders."""
    graph, truth = planted(0, 6.0)
    first, second = (graph.weights(*pair).numpy() for pair in graph.pairs)
    draw = np.random.default_rng(1)
    parts = []
    for k in range(n):
        noisy = first * np.exp(0.3 * draw.normal(size=first.shape))
        noisy[:, -1] = np.where(truth[24:72] == k % 4, 30.0, 1.0)
        parts.append(graph_of(noisy, second * np.exp(0.3 * draw.normal(size=second.shape))))
    return parts, truth


# What is chosen for a graph is not asked again for every sample.
FIXED = {"n_runs": 3, "resolution": 1.0, "weighting": "root_normalised", "significance": False}


def test_bootstrap_finds_the_feature_that_wanders():
    parts, truth = folds()
    partition = bootstrap(parts, n_samples=12, **FIXED)
    assert adjusted_rand_index(np.delete(partition.labels, 23), np.delete(truth, 23)) > 0.9
    confidence = partition.confidence["l0"]
    assert confidence[-1] == confidence.min()
    assert confidence[-1] < 0.8 < np.median(confidence)
    assert partition.details["bootstrap_samples"] == 12
    again = bootstrap(parts, n_samples=12, **FIXED)
    np.testing.assert_array_equal(again.confidence["l0"], confidence)


def test_mean_graph_combines_each_strength_its_own_way():
    a, b = np.full((2, 2), 3.0), np.full((2, 2), 4.0)
    for strength, expected in (("rms", 12.5**0.5), ("mean", 3.5), ("mean_abs", 3.5), ("max", 4.0)):
        mean = mean_graph([graph_of(x, strength=strength) for x in (a, b)])
        torch.testing.assert_close(
            mean.weights("l0", "l1"), torch.full((2, 2), expected, dtype=torch.float64)
        )


def test_folds_have_to_fit():
    with pytest.raises(InteractGraphError, match="at least 2 folds"):
        bootstrap([graph_of(np.ones((2, 2)))])
    with pytest.raises(InteractGraphError, match="same layers, features and strengths"):
        bootstrap([graph_of(np.ones((2, 2))), graph_of(np.ones((2, 3)))])


def test_a_feature_in_no_module_is_together_with_none():
    labels = np.array([0, 0, 0, 1, 1, 1])
    nowhere = np.array([-1, -1, -1, 1, 1, 1])
    assert co_assignment(labels, [nowhere, labels]).tolist() == [0.5, 0.5, 0.5, 1, 1, 1]


def test_bootstrap_of_features_that_lose_their_edges():
    parts, _ = folds()
    bare = [part.replace(blocks={p: {"rms": part.weights(*p).clone()} for p in part.pairs})
            for part in parts]  # fmt: skip
    for part in bare[1:]:
        part.weights("l0", "l1")[:, :2] = 0
    confidence = bootstrap(bare, n_samples=10, **FIXED).confidence["l0"]
    assert confidence[:2].max() < 0.9
    assert confidence[2:-1].min() > 0.9
