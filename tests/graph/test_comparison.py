"""Two graphs side by side."""

import itertools

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.graph import InteractionGraph, differences


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
    with pytest.raises(
        InteractGraphError, match=r"layer 'b' has 4 features in one graph and 3 in the other"
    ):
        itg.compare(a, graph(torch.rand(3, 5)))
    (row,) = itg.compare(graph(torch.zeros(2, 2)), graph(torch.zeros(2, 2)))
    assert row.difference == 0


def test_another_order_and_other_signs_of_the_same_features():
    """Signed strengths, too: a target that points the other way is driven the other way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.GELU()).double()
    basis = [torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for n in (4, 5)]
    x, graphs = torch.randn(6, 3).double(), []
    for turn in (False, True):
        maps = {}
        for layer, encoder in zip(("1", "3"), basis, strict=True):
            sign = torch.randn(len(encoder), 1).sign().double()
            maps[layer] = itg.features.Linear((encoder * sign).flip(0) if turn else encoder)
        graphs.append(
            itg.interaction_graph(
                model, x, ["1", "3"], features=maps,
                strengths=("rms", "mean"), progress=False,
            )
        )  # fmt: skip
    for strength, both in itertools.product(("rms", "mean"), (graphs, graphs[::-1])):
        (row,) = itg.compare(*both, strength=strength, top_k=5)
        assert (row.rank_correlation, row.overlap) == (pytest.approx(1), 1)
        assert row.difference < 1e-9
        assert row.cosines == (pytest.approx(1), pytest.approx(1))
    few = itg.interaction_graph(
        model, torch.randn(6, 3).double(), ["1", "3"], progress=False,
        features={"1": itg.features.Linear(basis[0][:2])},
    )  # fmt: skip
    whole = itg.interaction_graph(model, torch.randn(6, 3).double(), ["1", "3"], progress=False)
    (row,) = itg.compare(few, whole)
    assert 0 < row.cosines[0] < 1
    with pytest.raises(InteractGraphError, match="has other features in the two graphs"):
        differences(few, whole)
