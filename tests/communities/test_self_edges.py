"""Self edges of residual streams are no structure; modules behind them are found all the same."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from communities.planted_graphs import planted
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities.network import Block
from interactgraph.communities.self_edges import explained_self_edges

LAYERS, SIZE = ("a", "b", "c", "d"), 24


def graph_of(*matrices):
    pairs = tuple(pairwise(LAYERS))[: len(matrices)]
    layers = LAYERS[: len(matrices) + 1]
    return itg.InteractionGraph(
        layers, pairs, {layer: [f"{layer}{j}" for j in range(SIZE)] for layer in layers},
        {pair: {"rms": matrix} for pair, matrix in zip(pairs, matrices, strict=True)},
    )  # fmt: skip


def random(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(SIZE, SIZE, generator=generator, dtype=torch.float64) + 0.1


def test_independent_strengths_are_completed_exactly():
    rows, columns = random(0)[0], random(1)[0]
    squares = torch.outer(rows, columns)
    weight = squares.sqrt()
    hidden = weight.clone()
    hidden.diagonal().fill_(7.0)
    block = Block(0, 1, hidden, 5.0)
    found = explained_self_edges(block)
    assert torch.allclose(found.weight, weight, atol=1e-9)
    assert found.total == pytest.approx(5.0 * float(weight.sum() / hidden.sum()))
    assert float(hidden[0, 0]) == 7.0  # the given one is left alone


def test_what_self_edges_weigh_does_not_matter():
    matrices = [random(seed) for seed in (2, 3)]
    partitions, trees = [], []
    for weight in (3.0, 300.0):
        heavy = [matrix.clone() for matrix in matrices]
        for matrix in heavy:
            matrix.diagonal().add_(weight)
        partitions.append(itg.find_modules(graph_of(*heavy), n_runs=2))
        trees.append(itg.module_tree(graph_of(*heavy), partitions[-1], n_runs=2))
    one, other = partitions
    assert np.array_equal(one.labels, other.labels)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.details["self_edges"] == ["a -> b", "b -> c"]
    values = [[child.p_value for child in tree.children] for tree in trees]
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    assert not all(np.isnan(values[0]))
    kept = itg.find_modules(graph_of(*heavy), n_runs=2, self_edges="keep")
    assert "self_edges" not in kept.details
    assert kept.n_modules == SIZE


def test_graphs_without_a_skip_connection_are_left_alone():
    graph = graph_of(random(4), random(5))
    found, kept = (itg.find_modules(graph, n_runs=2, self_edges=how) for how in ("auto", "keep"))
    assert "self_edges" not in found.details
    assert np.array_equal(found.labels, kept.labels)
    with pytest.raises(InteractGraphError, match="self_edges"):
        itg.find_modules(graph, self_edges="drop")


def test_a_layer_that_only_passes_on_says_nothing():
    """Between two layers that have modules from elsewhere, and behind them."""
    graph, _ = planted(0, 8.0, sizes=(SIZE, SIZE, SIZE))
    into, on = (graph.weights(*pair) for pair in graph.pairs)
    names = {layer: [f"{layer}{j}" for j in range(SIZE)] for layer in LAYERS}

    def of(**pairs):
        blocks = {tuple(pair): {"rms": weights} for pair, weights in pairs.items()}
        return itg.InteractionGraph(LAYERS, tuple(blocks), names, blocks)

    eye = torch.eye(SIZE).double()
    alone = itg.find_modules(of(ab=into, ac=on @ into), n_runs=2)
    found = itg.find_modules(of(ab=into, ac=on @ into, bc=eye, cd=eye), n_runs=2)
    assert found.details["self_edges"] == ["b -> c", "c -> d"]
    assert found.p_value < 0.01
    assert np.isfinite(list(found.details["resolutions"].values())).any()
    assert np.array_equal(found.labels, alone.labels)
    assert (found.labels[3 * SIZE :] == -1).all()
    nothing = itg.find_modules(graph_of(eye), n_runs=2)
    assert nothing.n_modules == 0


def test_sparse_blocks_are_tested_alike_along_a_skip_connection():
    heavy = [torch.eye(SIZE).double() * 50 + random(seed) for seed in range(2)]
    dense = graph_of(*heavy)
    sparse = dense.replace(
        blocks={
            pair: {name: w.to_sparse_coo() for name, w in block.items()}
            for pair, block in dense.blocks.items()
        }
    )
    one, other = (itg.find_modules(graph, n_runs=2) for graph in (dense, sparse))
    assert other.details["spectral_null"]["n"] == 8
    assert other.p_value == pytest.approx(one.p_value)
    assert np.array_equal(one.labels, other.labels)


class Planted(nn.Module):
    """Adds what a perceptron makes of the features of each group."""

    def __init__(self, generator):
        super().__init__()
        same = (torch.arange(2 * SIZE)[:, None] - torch.arange(SIZE)) % 3 == 0
        r = torch.randn(2, 2 * SIZE, SIZE, generator=generator) * torch.where(same, 1.0, 0.1)
        self.into, self.out = (nn.Parameter(w / 4) for w in (r[0], r[1].T.contiguous()))

    def forward(self, x):
        return x + torch.tanh(x @ self.into.T) @ self.out.T / 4


def test_modules_behind_a_skip_connection_are_found():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Identity(), Planted(generator), Planted(generator))
    data = torch.randn(128, SIZE, generator=generator)
    with pytest.warns(itg.InteractGraphWarning, match="skip connection"):
        graph = itg.interaction_graph(model, data, ["0", "1", "2"], progress=False)
    truth = np.tile(np.arange(SIZE) % 3, 3)
    partition = itg.find_modules(graph, n_runs=2)
    assert len(partition.details["self_edges"]) == 2
    assert itg.communities.adjusted_mutual_information(partition.labels, truth) > 0.95
    assert partition.p_value < 1e-3  # eight networks without modules cannot say more
    assert partition.details["spectral_null"]["z_score"] > 10
    tree = itg.module_tree(graph, partition)
    assert len(tree.children) == 3
    profile = itg.resolution_profile(graph, resolutions=[1.0], n_runs=2)
    best = profile.partitions[0].labels
    assert itg.communities.adjusted_mutual_information(best, truth) > 0.95
    kept = itg.resolution_profile(graph, resolutions=[1.0], n_runs=2, self_edges="keep")
    assert not np.array_equal(kept.partitions[0].labels, best)
    with pytest.raises(InteractGraphError, match="self_edges='drop'"):
        itg.resolution_profile(graph, resolutions=[1.0], self_edges="drop")
