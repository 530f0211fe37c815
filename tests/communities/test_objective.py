import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError
from interactgraph.communities.network import Network
from interactgraph.communities.objective import make_objective


def barber(block: np.ndarray, into: np.ndarray, out: np.ndarray, gamma: float) -> float:
    """Bipartite modularity, Phys. Rev. E 76, 066102, eq. 16, term by term."""
    total, result = block.sum(), 0.0
    for i in range(block.shape[0]):
        for j in range(block.shape[1]):
            if into[i] == out[j]:
                expected = block[i].sum() * block[:, j].sum() / total
                result += (block[i, j] - gamma * expected) / total
    return result


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.7])
def test_layered_quality_is_the_mean_of_barbers_formula(gamma):
    graph, _ = planted(0, sizes=(7, 11, 5))
    labels = np.random.default_rng(1).integers(0, 3, 23)
    objective = make_objective(Network.from_graph(graph), "layered", gamma)
    parts = np.split(labels, [7, 18])
    expected = [
        barber(graph.weights(a, b).numpy(), parts[k + 1], parts[k], gamma)
        for k, (a, b) in enumerate(graph.pairs)
    ]
    assert objective.quality(labels) == pytest.approx(np.mean(expected), abs=1e-12)
    by_total = make_objective(Network.from_graph(graph), "layered", gamma, "total")
    totals = [float(graph.weights(*pair).sum()) for pair in graph.pairs]
    weighted = np.average(expected, weights=totals)
    assert by_total.quality(labels) == pytest.approx(weighted, abs=1e-12)
    assert abs(weighted - np.mean(expected)) > 1e-3


def test_constant_null_is_the_mean_weight():
    graph, _ = planted(3, sizes=(6, 9))
    labels = np.random.default_rng(1).integers(0, 3, 15)
    block = graph.weights("l0", "l1").numpy()
    same = labels[6:, None] == labels[:6]
    expected = (block - 1.3 * block.mean())[same].sum() / block.sum()
    objective = make_objective(Network.from_graph(graph), "cpm", 1.3)
    assert objective.quality(labels) == pytest.approx(expected, abs=1e-12)


def test_pooled_quality_is_plain_modularity():
    graph, _ = planted(2, sizes=(6, 9, 5))
    labels = np.random.default_rng(1).integers(0, 3, 20)
    adjacency = np.zeros((20, 20))  # [from, to]
    for (a, b), start, middle, end in (
        (graph.pairs[0], 0, 6, 15),
        (graph.pairs[1], 6, 15, 20),
    ):
        block = graph.weights(a, b).numpy()
        adjacency[start:middle, middle:end] = block.T / block.sum() / 2
    same = labels[:, None] == labels
    network = Network.from_graph(graph)
    directed = (adjacency - 0.9 * np.outer(adjacency.sum(1), adjacency.sum(0)))[same].sum()
    quality = make_objective(network, "directed", 0.9).quality(labels)
    assert quality == pytest.approx(directed, abs=1e-12)
    both = (adjacency + adjacency.T) / 2
    plain = (both - 0.9 * np.outer(both.sum(1), both.sum(1)))[same].sum()
    quality = make_objective(network, "undirected", 0.9).quality(labels)
    assert quality == pytest.approx(plain, abs=1e-12)


def test_isolated_features_do_not_count():
    block = np.ones((3, 4))
    block[:, 3] = 0
    labels = np.array([0, 0, 1, -1, 0, 0, 1])
    for null in ("layered", "cpm", "undirected", "directed"):
        with_it = make_objective(Network.from_graph(graph_of(block)), null, 1.0)
        without = make_objective(Network.from_graph(graph_of(block[:, :3])), null, 1.0)
        expected = without.quality(np.delete(labels, 3))
        assert with_it.quality(labels) == pytest.approx(expected, abs=1e-14)


def test_extreme_scales_change_nothing():
    generator = np.random.default_rng(0)
    block = generator.lognormal(size=(6, 8))
    labels = generator.integers(0, 3, 14)
    values = [
        make_objective(Network.from_graph(graph_of(block * scale)), "layered", 1.0).quality(labels)
        for scale in (1.0, 1e-200, 1e200)
    ]
    assert np.ptp(values) < 1e-14


def test_signed_strengths_count_by_size():
    block = np.random.default_rng(0).normal(size=(5, 6))
    network = Network.from_graph(graph_of(block, strength="mean"))
    expected = torch.as_tensor(np.abs(block) / np.abs(block).max())
    torch.testing.assert_close(network.blocks[0].weight, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"null": "modular"}, "null model 'modular' is not known"),
        ({"resolution": 0.0}, "must be a positive number"),
        ({"resolution": float("nan")}, "must be a positive number"),
        ({"block_weight": "size"}, "block_weight='size' is not known"),
    ],
)
def test_options(options, message):
    network = Network.from_graph(graph_of(np.ones((2, 2))))
    with pytest.raises(InteractGraphError, match=message):
        make_objective(network, **{"null": "layered", "resolution": 1.0, **options})
