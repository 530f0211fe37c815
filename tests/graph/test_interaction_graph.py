import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.graph import InteractionGraph

ONE = torch.ones(1, 1)


def make(**changes):
    fields = {
        "layers": ("a", "b"),
        "pairs": [("a", "b")],
        "labels": {"a": ["x", "y"], "b": ["z"]},
        "blocks": {("a", "b"): {"rms": torch.tensor([[0.5, 0.0]])}},
    }
    return InteractionGraph(**{**fields, **changes})


def test_sizes_and_node_numbers(graph):
    assert graph.n_features == {"in": 5, "mid": 4, "out": 3}
    assert graph.offsets == {"in": 0, "mid": 5, "out": 9}
    assert graph.n_nodes == 12
    assert graph.strengths == ("rms", "mean")
    assert repr(graph) == "InteractionGraph(in (5) -> mid (4) -> out (3); 2 pairs, rms, mean)"


def test_edges_are_the_non_zero_weights(graph):
    edges = graph.edges("mean")
    names = [(layer, j) for layer in graph.layers for j in range(graph.n_features[layer])]
    found = {}
    for source, target, weight, pair in zip(*edges, strict=True):
        (a, j), (b, i) = names[source], names[target]
        assert graph.pairs[pair] == (a, b)
        found[a, b, i, j] = weight
    wanted = {
        (a, b, i, j): float(w)
        for (a, b), block in graph.blocks.items()
        for i, row in enumerate(block["mean"])
        for j, w in enumerate(row)
        if w != 0
    }
    assert found == wanted
    assert list(found) == list(wanted)  # pair by pair, row by row
    assert edges.weight.dtype == np.float64
    assert edges.source.dtype == edges.target.dtype == edges.pair.dtype == np.int64


def test_first_strength_is_the_default(graph):
    assert np.array_equal(graph.edges().weight, graph.edges("rms").weight)
    assert graph.weights("in", "mid") is graph.blocks["in", "mid"]["rms"]
    assert graph.standard_error("in", "mid") is graph.standard_errors["in", "mid"]["rms"]


def test_values_at_edges(graph):
    edges = graph.edges("rms")
    order = np.random.default_rng(0).permutation(len(edges.weight))[:7]
    some = type(edges)(*(array[order] for array in edges))
    assert np.array_equal(graph.values_at(some, "rms"), some.weight)
    assert np.allclose(abs(graph.values_at(some, "mean")), some.weight / 2)
    assert np.allclose(graph.values_at(some, "rms", error=True), some.weight / 18)


def test_values_at_without_standard_error(graph):
    errors = {("mid", "out"): graph.standard_errors["mid", "out"]}
    partly = graph.replace(standard_errors=errors)
    edges = partly.edges()
    values = partly.values_at(edges, "rms", error=True)
    assert np.array_equal(np.isnan(values), edges.pair == 0)


def test_node_strength(graph):
    edges = graph.edges("mean")
    wanted = np.zeros(graph.n_nodes)
    for source, target, weight, _ in zip(*edges, strict=True):
        wanted[source] += abs(weight)
        wanted[target] += abs(weight)
    assert np.allclose(graph.node_strength("mean"), wanted, rtol=1e-6)
    assert wanted[2] == 0


def test_no_edges():
    graph = make(blocks={("a", "b"): {"rms": torch.zeros(1, 2)}})
    assert all(len(array) == 0 for array in graph.edges())
    assert graph.node_strength().tolist() == [0, 0, 0]


def test_without_pairs():
    graph = make(pairs=[], blocks={})
    assert graph.strengths == ()
    with pytest.raises(InteractGraphError, match="no pair of layers"):
        graph.edges()


def test_is_immutable(graph):
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.layers = ()
    for mapping in (graph.labels, graph.blocks, graph.metadata, graph.blocks["in", "mid"]):
        with pytest.raises(TypeError):
            mapping["new"] = 0


def test_replace(graph):
    assert graph.replace(metadata={"a": 1}).metadata == {"a": 1}
    assert graph.metadata["seed"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ("a", "a")}, "layer names repeat"),
        ({"pairs": [("a", "b"), ("a", "b")]}, r"pairs repeat.*'a' -> 'b'"),
        ({"labels": {"a": ["x", "y"]}}, r"labels are given for layers \['a'\].*\['a', 'b'\]"),
        ({"blocks": {}}, "blocks and pairs"),
        ({"pairs": [("a", "c")], "blocks": {("a", "c"): {"rms": ONE}}}, "not between its layers"),
        ({"blocks": {("a", "b"): {"rms": torch.ones(2, 1)}}}, r"\(2, 1\).*\[1, 2\]"),
        ({"standard_errors": {("a", "b"): {"rms": ONE}}}, r"rms of a -> b .*\(1, 1\).*\[1, 2\]"),
        (
            {
                "pairs": [("a", "b"), ("b", "a")],
                "blocks": {
                    ("a", "b"): {"rms": torch.ones(1, 2)},
                    ("b", "a"): {"mean": torch.ones(2, 1)},
                },
            },
            "every pair needs the same strengths",
        ),
    ],
)
def test_inconsistent_graphs(changes, message):
    with pytest.raises(InteractGraphError, match=message):
        make(**changes)


def test_unknown_pair_and_strength(graph):
    with pytest.raises(InteractGraphError, match=r"no pair 'in' -> 'out'.*'in' -> 'mid'"):
        graph.weights("in", "out")
    with pytest.raises(InteractGraphError, match="'max'; it holds rms, mean"):
        graph.weights("in", "mid", "max")
    with pytest.raises(InteractGraphError, match="has no standard error"):
        graph.standard_error("in", "mid", "mean")


def test_pickled_and_copied():
    graph = itg.interaction_graph(
        nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        torch.randn(12, 4),
        ["input", "1"],
        strengths=("rms", "max"),
        groups=[0, 1] * 6,
        folds=2,
        progress=False,
    )
    for other in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert other.pairs == graph.pairs
        assert dict(other.metadata) == dict(graph.metadata)
        assert torch.equal(other.weights("input", "1"), graph.weights("input", "1"))
        part = other.groups["1"].standard_error("input", "1")
        assert torch.equal(part, graph.groups["1"].standard_error("input", "1"))
        assert len(other.folds) == 2


def test_notebooks_show_a_table_with_labels_as_text():
    hostile = "<script>alert(1)</script>"
    graph = itg.InteractionGraph(
        ("a", hostile), [("a", hostile)], {"a": ["x"], hostile: ["y", "z"]},
        {("a", hostile): {"rms": torch.tensor([[0.5], [0.0]])}}, metadata={"notes": [hostile]},
    )  # fmt: skip
    html = graph._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 2
    assert "<td>0.5</td>" in html
    partition = itg.find_modules(graph, significance=False, n_runs=1)
    html = partition._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<tr>") == 1 + partition.n_modules
