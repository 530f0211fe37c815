"""DOT, read back by pydot."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interactgraph as itg
from interactgraph.exporters.dot import quoted
from interactgraph.exporters.text import csv_text

pydot = pytest.importorskip("pydot")


def unquoted(text):
    inside = text[1:-1]
    result, at = [], 0
    while at < len(inside):
        if inside[at] == "\\":
            result.append({"n": "\n"}.get(inside[at + 1], inside[at + 1]))
            at += 2
        else:
            result.append(inside[at])
            at += 1
    return "".join(result)


@given(st.text())
def test_quoted_text_is_one_string(text):
    """Nothing in it ends it, and it says what it said."""
    assert unquoted(quoted(text)) == text
    assert '"' not in quoted(text)[1:-1].replace("\\\\", "").replace('\\"', "")
    assert "\n" not in quoted(text)


def test_pydot_reads_it(graph, partition, tmp_path):
    (path,) = itg.export(graph, tmp_path / "g.dot", partition=partition, strength="mean")
    (found,) = pydot.graph_from_dot_data(path.read_text())
    nodes = {node.get_name().strip('"'): node for node in found.get_nodes()}
    nodes.pop("node")
    wanted = graph.to_networkx("mean")
    assert set(nodes) == set(wanted.nodes)
    assert nodes["0/1"].get("label") == '"0.1"'
    assert int(nodes["input/1"].get("module")) == -1
    edges = {
        (e.get_source().strip('"'), e.get_destination().strip('"')): e for e in found.get_edges()
    }
    assert set(edges) == set(wanted.edges)
    for ends, edge in edges.items():
        value = {
            key: float(edge.get(key).strip('"')) for key in ("strength", '"signed"', "penwidth")
        }
        assert value["strength"] == wanted.edges[ends]["weight"]
        assert value['"signed"'] == wanted.edges[ends]["signed"]
        assert 0 < value["penwidth"] <= 5


def test_hostile_labels(hostile, tmp_path):
    graph, partition = hostile
    (path,) = itg.export(graph, tmp_path / "g.dot", partition=partition)
    (found,) = pydot.graph_from_dot_data(path.read_bytes().decode("utf-8"))
    nodes = [node for node in found.get_nodes() if node.get_name() != "node"]
    labels = [csv_text(text) for layer in graph.layers for text in graph.labels[layer]]
    assert [unquoted(node.get("label")) for node in nodes] == labels
    assert [int(node.get("module")) for node in nodes] == np.concatenate(
        list(partition.membership.values())
    ).tolist()
    number = {node.get_name(): k for k, node in enumerate(nodes)}
    edges = graph.edges()
    wanted = zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    weights = dict(zip(wanted, edges.weight.tolist(), strict=True))
    assert {
        (number[e.get_source()], number[e.get_destination()]): float(e.get("strength").strip('"'))
        for e in found.get_edges()
    } == weights


def test_numbers_have_no_exponent_outside_of_quotes(graph, tmp_path):
    """DOT reads 1e-05 as 1, and then does not know what e is."""
    small = {
        pair: {name: 1e-5 * x for name, x in block.items()} for pair, block in graph.blocks.items()
    }
    (path,) = itg.export(graph.replace(blocks=small), tmp_path / "g.dot")
    outside = "".join(path.read_text().split('"')[::2])
    assert "e-" not in outside
    assert "e-" in path.read_text()


def test_graphs_too_large_to_be_drawn(tmp_path):
    n = 1 + math.isqrt(20_000)
    graph = itg.InteractionGraph(
        layers=("a", "b"), pairs=(("a", "b"),),
        labels={layer: [str(j) for j in range(n)] for layer in "ab"},
        blocks={("a", "b"): {"rms": torch.ones(n, n)}}, standard_errors={},
    )  # fmt: skip
    with pytest.raises(itg.InputError, match="prune it first"):
        itg.export(graph, tmp_path / "g.dot")
    assert not list(tmp_path.iterdir())


def test_all_of_a_partition_is_there(tmp_path):
    """Affinities, roles and p-values of modules are attributes of the nodes they are of."""
    net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=64)
    graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
    partition = itg.find_modules(graph, n_runs=2)
    path = tmp_path / "g.dot"
    itg.export(graph, path, partition=partition)
    (read,) = pydot.graph_from_dot_file(str(path))
    nodes = {node.get_name().strip('"'): node for node in read.get_nodes()}
    named = [f"{layer}/{j}" for layer, n in graph.n_features.items() for j in range(n)]
    assert set(named) <= set(nodes)
    for layer in graph.layers:
        for j, module in enumerate(partition.membership[layer].tolist()):
            node = nodes[f"{layer}/{j}"]
            assert int(node.get("module")) == module
            affinity = float(node.get("affinity").strip('"'))
            assert affinity == pytest.approx(float(partition.affinity[layer][j, module]))
            second = int(node.get("second_module"))
            assert second != module
            assert node.get("drivers")
