import xml.etree.ElementTree as ET

import igraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg
from interactgraph.graph import node_names

DRAWING = {"x", "y", "size", "r", "g", "b"}


@settings(deadline=None)
@given(data=st.data())
def test_networkx_reads_it(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("graphml") / "g.graphml"
    itg.export(graph, path, partition=partition, strength=strength)
    view = networkx.read_graphml(path)
    assert view.is_directed()
    assert not view.is_multigraph()
    nodes = [
        {"id": name, **{k: v for k, v in values.items() if k not in DRAWING}}
        for name, values in view.nodes(data=True)
    ]
    edges = {(a, b): values for a, b, values in view.edges(data=True)}
    check(graph, partition, strength, "graphml", nodes, edges)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_igraph_reads_any_graph(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("graphml") / "g.graphml"
    itg.export(graph, path, partition=partition, strength=strength)
    view = igraph.Graph.Read_GraphML(str(path))
    nodes = [
        {key: value for key, value in node.attributes().items() if key not in DRAWING}
        for node in view.vs
    ]
    for node in nodes:  # igraph leaves this one entity in ids as it is
        node["id"] = node["id"].replace("&#38;", "&")
    edges = {
        (nodes[edge.source]["id"], nodes[edge.target]["id"]): {
            key: value for key, value in edge.attributes().items() if value == value
        }
        for edge in view.es
    }
    check(graph, partition, strength, "graphml", nodes, edges)


def test_igraph_reads_it(graph, partition, tmp_path):
    path = itg.export(graph, tmp_path / "g.graphml", partition=partition, strength="mean")[0]
    view = igraph.Graph.Read_GraphML(str(path))
    assert view.is_directed()
    assert view.vs["id"] == node_names(graph)
    assert view.vs["label"] == [label for layer in graph.layers for label in graph.labels[layer]]
    assert view.vs["module"] == np.concatenate(list(partition.membership.values())).tolist()
    edges = graph.edges("mean")
    assert view.get_edgelist() == list(zip(edges.source, edges.target, strict=True))
    assert view.es["weight"] == pytest.approx(abs(edges.weight), rel=1e-15)
    assert view.es["signed"] == pytest.approx(edges.weight, rel=1e-15)


def test_keys_are_declared_before_use_and_called_what_they_hold(graph, partition, tmp_path):
    path = itg.export(graph, tmp_path / "g.graphml", partition=partition)[0]
    declared, used = {}, set()
    for _, element in ET.iterparse(path, ["start"]):
        tag = element.tag.rpartition("}")[2]
        if tag == "key":
            assert element.get("id") == element.get("attr.name")
            assert element.get("id") not in declared
            declared[element.get("id")] = element.get("attr.type")
        elif tag == "data":
            assert element.get("key") in declared
            used.add(element.get("key"))
    assert used == set(declared)
    assert declared["module"] == "int"
    assert declared["weight"] == "double"


def test_colours_are_those_of_the_gexf(graph, partition, tmp_path):
    gexf = ET.parse(*itg.export(graph, tmp_path / "g.gexf", partition=partition))
    viz = {
        node.get("id"): {
            tag: node.find(f"{{*}}{tag}").attrib for tag in ("color", "position", "size")
        }
        for node in gexf.iterfind(".//{*}node")
    }
    graphml = networkx.read_graphml(*itg.export(graph, tmp_path / "g.graphml", partition=partition))
    for name, values in graphml.nodes(data=True):
        drawn = viz[name]
        assert {c: str(values[c]) for c in "rgb"} == drawn["color"]
        assert [values["x"], values["y"]] == [float(drawn["position"][c]) for c in "xy"]
        assert values["size"] == float(drawn["size"]["value"])
