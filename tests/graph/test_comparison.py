"""Two graphs side by side."""

import pytest
import torch

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.graph import InteractionGraph


def graph(matrix, layers=("a", "b")):
    n_target, n_source = matrix.shape
    return InteractionGraph(
        layers=layers,
        pairs=(layers,),
        labels={layers[0]: ["s"] * n_source, layers[1]: ["t"] * n_target},
        blocks={layers: {"rms": matrix}},
    )


def test_the_same_graph():
    matrix = torch.rand(4, 5)
    (row,) = itg.compare(graph(matrix), graph(matrix), top_k=3)
    assert (row.rank_correlation, row.overlap, row.difference) == (pytest.approx(1), 1, 0)


def test_by_hand():
    a = torch.tensor([[4.0, 3], [2, 1]])
    b = torch.tensor([[4.0, 1], [2, 3]])
    (row,) = itg.compare(graph(a), graph(b), top_k=2)
    # Ranks 4 3 2 1 against 4 1 2 3: 1 - 6 * (0 + 4 + 0 + 4) / (4 * 15).
    assert row.rank_correlation == pytest.approx(0.2)
    assert row.overlap == 0.5
    assert row.difference == pytest.approx((8 / 30) ** 0.5)


def test_graphs_that_cannot_be_compared():
    a = graph(torch.rand(4, 5))
    with pytest.raises(InteractGraphError, match="no pair of layers in common"):
        itg.compare(a, graph(torch.rand(4, 5), ("a", "c")))
    with pytest.raises(InteractGraphError, match=r"\[4, 5\] features in one graph and \[3, 5\]"):
        itg.compare(a, graph(torch.rand(3, 5)))
    (row,) = itg.compare(graph(torch.zeros(2, 2)), graph(torch.zeros(2, 2)))
    assert row.difference == 0
