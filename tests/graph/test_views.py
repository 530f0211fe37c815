import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interactgraph.graph import InteractionGraph, node_names


def test_node_names(graph):
    names = node_names(graph)
    assert names[:6] == ["in/0", "in/1", "in/2", "in/3", "in/4", "mid/0"]
    assert len(set(names)) == len(names) == graph.n_nodes


@st.composite
def graphs(draw):
    layers = ["a", "a/0", "b"][: draw(st.integers(1, 3))]
    sizes = {layer: draw(st.integers(0, 4)) for layer in layers}
    every = [(a, b) for a in layers for b in layers]
    pairs = draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
    values = st.sampled_from([0.0, 0.0, 1.0, -0.5, 1e-8])
    blocks = {}
    for a, b in pairs:
        n = sizes[a] * sizes[b]
        flat = draw(st.lists(values, min_size=n, max_size=n))
        blocks[a, b] = {"mean": torch.tensor(flat).reshape(sizes[b], sizes[a])}
    labels = {layer: [f"{layer}-{j}" for j in range(n)] for layer, n in sizes.items()}
    return InteractionGraph(layers, pairs, labels, blocks)


@settings(deadline=None)
@given(graphs())
def test_both_views_are_the_graph(graph):
    names = node_names(graph)
    edges = graph.edges()
    wanted = {
        (names[s], names[t]): w
        for s, t, w in zip(edges.source, edges.target, edges.weight.tolist(), strict=True)
    }
    signed = any(w < 0 for w in wanted.values())
    wanted = {
        ends: {"weight": abs(w), "signed": w} if signed else {"weight": w}
        for ends, w in wanted.items()
    }
    nodes = {
        name: {"label": label, "layer": layer, "feature": j}
        for name, (layer, j, label) in zip(
            names,
            [(a, j, label) for a in graph.layers for j, label in enumerate(graph.labels[a])],
            strict=True,
        )
    }

    view = graph.to_networkx()
    assert dict(view.nodes(data=True)) == nodes
    assert list(view) == names
    assert {(a, b): data for a, b, data in view.edges(data=True)} == wanted
    # networkx keeps edges twice, and both sides must be the same dictionaries.
    assert {(b, a) for b in view for a in view.pred[b]} == {(b, a) for a, b in wanted}
    assert all(view.pred[b][a] is view.succ[a][b] for a, b in wanted)

    view = graph.to_igraph()
    assert view.is_directed()
    found = {vertex["name"]: vertex.attributes() for vertex in view.vs}
    assert found == {name: {"name": name, **data} for name, data in nodes.items()}
    assert len(view.es) == len(wanted)
    assert {(names[e.source], names[e.target]): e.attributes() for e in view.es} == wanted


def test_isolated_nodes_are_kept(graph):
    view = graph.to_networkx()
    assert view.number_of_nodes() == graph.n_nodes
    assert view.degree["in/2"] == 0
    assert graph.to_igraph().degree(2) == 0


@pytest.mark.parametrize(("strength", "has_sign"), [("rms", False), ("mean", True), (None, False)])
def test_signed_only_where_there_is_a_sign(graph, strength, has_sign):
    assert ("signed" in graph.to_igraph(strength).es.attributes()) == has_sign
    data = [values for *_, values in graph.to_networkx(strength).edges(data=True)]
    assert all(("signed" in values) == has_sign for values in data)
    assert all(values["weight"] > 0 for values in data)


def test_networkx_view_can_be_changed(graph):
    view = graph.to_networkx()
    a, b = next(iter(view.edges))
    view.edges[a, b]["weight"] = 7.0
    assert view.pred[b][a]["weight"] == 7.0
    view.remove_node(a)
    assert a not in view.pred[b]
    assert graph.weights("in", "mid").isfinite().all()


def test_garbage_collection_goes_on(graph):
    assert gc.isenabled()
    graph.to_networkx()
    assert gc.isenabled()
