"""The published interaction graph of modular addition, edge by edge."""

import published
import pytest
import torch

import interactgraph as itg

N_LARGEST = 500


def largest(matrix):
    return matrix.flatten().topk(N_LARGEST).indices


@pytest.fixture(scope="module")
def graph():
    bases = {layer: published.basis(layer) for layer in ("embed", "mid", "final")}
    return itg.interaction_graph(
        published.model(), published.train_data(), published.LAYERS, features=bases,
        method="gradient", progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("pair", published.PAIRS, ids=lambda pair: "-".join(pair))
def test_published_edges(graph, pair):
    # E is a mean of squares over samples and source positions, of which embed has three.
    found = graph.weights(*pair).square() / (3 if pair[0] == "embed" else 1)
    expected = published.edges(*pair)
    rows = largest(expected)
    error = (found.flatten()[rows] / expected.flatten()[rows] - 1).abs().max()
    assert error < 1e-6


def test_the_comparison_is_with_something(graph):
    """The largest edges differ from each other and all of them are there."""
    for pair in published.PAIRS:
        expected = published.edges(*pair).flatten()
        rows = largest(expected)
        assert torch.isfinite(expected[rows]).all()
        assert expected[rows].min() > 0
        assert expected[rows].max() / expected[rows].min() > 10
