"""Sparse graphs do what the same dense ones do."""

import numpy as np
import pytest
import torch

import interactgraph as itg
from interactgraph.graph import compare, differences
from interactgraph.graph.self_edges import self_edges_dominate
from interactgraph.sparse import is_sparse


def same(one, other):
    """Whether two graphs hold the same numbers in whatever form."""
    for table in ("blocks", "standard_errors"):
        for pair, block in getattr(one, table).items():
            for name, matrix in block.items():
                assert torch.equal(matrix.to_dense(), getattr(other, table)[pair][name].to_dense())


@pytest.fixture
def both(graph):
    folds = [graph.replace(folds=()) for _ in range(2)]
    graph = graph.replace(folds=folds, groups={"one": folds[0].prune(top_k=3)})
    return graph, graph.to_sparse()


def test_forms(both):
    dense, sparse = both
    assert is_sparse(sparse.weights("in", "mid"))
    assert is_sparse(sparse.folds[0].weights("in", "mid"))
    same(dense, sparse)
    assert not is_sparse(sparse.to_dense().groups["one"].standard_error("in", "mid"))


def test_edges(both):
    for strength in ("rms", "mean"):
        edges = [graph.edges(strength) for graph in both]
        for a, b in zip(*edges, strict=True):
            np.testing.assert_array_equal(a, b)
        for error in (False, True):
            a, b = (graph.values_at(edges[0], "rms", error=error) for graph in both)
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(*(graph.node_strength(strength) for graph in both))
    dense, sparse = both
    assert dense.describe("mid", 1) == sparse.describe("mid", 1)
    assert dense._repr_html_() == sparse._repr_html_()
    assert dense.to_igraph().get_edgelist() == sparse.to_igraph().get_edgelist()


@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": 0.5}, {"relative": 0.4}, {"top_k": 4}, {"top_k_per_target": 2}, {"top_k": 0},
        {"top_k_per_target": 1, "threshold": 1}, {"top_k": 3, "strength": "mean"},
    ],
)  # fmt: skip
def test_prune(both, rule):
    dense, sparse = (graph.prune(**rule) for graph in both)
    assert is_sparse(sparse.weights("in", "mid"))
    same(dense, sparse)
    same(dense.groups["one"], sparse.groups["one"])
    same(dense.folds[1], sparse.folds[1])


def test_pruning_takes_every_strength_of_an_edge(graph):
    """Also where another strength is zero on a kept edge, or not on one that is cut."""
    weights = {"rms": torch.tensor([[1.0, 3], [0, 2]]), "mean": torch.tensor([[4.0, 0], [0, 5]])}
    graph = itg.InteractionGraph(
        ["a", "b"], [("a", "b")], {"a": "xy", "b": "uv"}, {("a", "b"): weights}
    )
    same(graph.prune(top_k=2), graph.to_sparse().prune(top_k=2))


def test_files(both, tmp_path):
    dense, sparse = both
    for name, graph in (("dense", dense), ("sparse", sparse)):
        graph.save(tmp_path / name)
        read = itg.load(tmp_path / name)
        same(graph, read)
        same(graph.groups["one"], read.groups["one"])
        assert is_sparse(read.weights("in", "mid")) == (name == "sparse")
        assert is_sparse(read.folds[0].weights("in", "mid")) == (name == "sparse")


def test_a_file_with_wrong_places_is_refused(both, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "graph"
    both[1].save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors["weights/0/rms/indices"][0, 1] = 99
    save_file(tensors, path, metadata=header)
    with pytest.raises(itg.InteractGraphError, match="not a complete interaction graph"):
        itg.load(path)


def test_compare(both):
    dense, sparse = both
    other = dense.replace(
        blocks={
            pair: {name: (x.roll(1, 1) + x) * (x.abs() > 0.2) for name, x in block.items()}
            for pair, block in dense.blocks.items()
        },
        groups={},
        folds=(),
    )
    for strength in ("rms", "mean"):
        expected = compare(dense, other, strength=strength, top_k=5)
        for a, b in ((sparse, other.to_sparse()), (sparse, other), (dense, other.to_sparse())):
            found = compare(a, b, strength=strength, top_k=5)
            for one, two in zip(expected, found, strict=True):
                assert (one.pair, one.k, one.overlap) == (two.pair, two.k, two.overlap)
                assert two.rank_correlation == pytest.approx(one.rank_correlation, rel=1e-12)
                assert two.difference == pytest.approx(one.difference, rel=1e-6)
    expected = differences(dense, other, top_k=6)
    found = differences(sparse, other.to_sparse(), top_k=6)
    assert [edge.z for edge in found] == pytest.approx([edge.z for edge in expected])


def test_self_edges():
    torch.manual_seed(0)
    weight = torch.rand(12, 12) * (torch.rand(12, 12) < 0.5)
    for size in (0.0, 5.0):
        matrix = weight + size * torch.eye(12)
        matrix[:, 3] = 0
        assert self_edges_dominate(matrix.to_sparse().coalesce()) == self_edges_dominate(matrix)
        assert self_edges_dominate(matrix) == (size > 0)
