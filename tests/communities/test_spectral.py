import numpy as np
import pytest
import torch
from communities.planted_graphs import planted

from interactgraph.communities import adjusted_rand_index
from interactgraph.communities.network import Network
from interactgraph.communities.objective import make_objective
from interactgraph.communities.spectral import Spectrum
from interactgraph.communities.sweeps import Sweeps
from interactgraph.communities.weighting import root_normalised


def dense(objective) -> np.ndarray:
    """Weight minus null of all blocks as one symmetric matrix, divided by roots of strengths."""
    n = objective.network.n_nodes
    offsets = objective.network.offsets
    weight, operator = np.zeros((n, n)), np.zeros((n, n))
    for term in objective.terms:
        rows = slice(offsets[term.target], offsets[term.target + 1])
        columns = slice(offsets[term.source], offsets[term.source + 1])
        block = term.weight.numpy()
        null = np.outer(block.sum(1), block.sum(0)) / block.sum() * objective.resolution
        weight[rows, columns] = block
        operator[rows, columns] = block - null
    strength = weight.sum(0) + weight.sum(1)
    scale = 1 / np.sqrt(strength + strength.mean())
    return (operator + operator.T) * scale * scale[:, None]


@pytest.mark.parametrize("gamma", [1.0, 1.4])
def test_leading_eigenvectors(gamma):
    graph, _ = planted(0, 4.0, (12, 20, 14))
    objective = make_objective(Network.from_graph(graph), "layered", gamma)
    rows = Spectrum(objective).rows.numpy()
    values, vectors = np.linalg.eigh(dense(objective))
    kept = np.argsort(-values)[: rows.shape[1]]
    expected = (vectors[:, kept] * np.clip(values[kept], 0, None)) @ vectors[:, kept].T
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-10)


def test_faint_modules_of_many_features_are_found():
    graph, truth = planted(0, 1.8, (300, 300, 300), 8)
    network = Network.from_graph(graph).map(root_normalised)
    objective = make_objective(network, "layered", 1.0)
    sweeps = Sweeps(objective)
    spectral = sweeps.polish(Spectrum(objective).start(0))
    random = sweeps.run(0)
    assert adjusted_rand_index(spectral, truth) > 0.7
    assert objective.quality(spectral) > objective.quality(random)


def test_same_seed_same_start():
    graph, _ = planted(0)
    objective = make_objective(Network.from_graph(graph), "layered", 1.0)
    a, b = (Spectrum(objective, 3).start(5, 10) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert a.max() < 10
    assert torch.isfinite(Spectrum(objective).rows).all()
