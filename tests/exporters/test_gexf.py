import xml.etree.ElementTree as ET

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.readwrite.gexf import GEXF

import interactgraph as itg
from interactgraph.graph import InteractionGraph

G, VIZ = "{http://gexf.net/1.3}", "{http://gexf.net/1.3/viz}"


def read(path):
    """Nodes and edges by the letter of the format; every value must be declared with its type."""
    graph = ET.parse(path).getroot().find(f"{G}graph")
    convert = {"string": str, "integer": int, "double": float}
    declared = {
        attributes.get("class"): {
            a.get("id"): (a.get("title"), convert[a.get("type")]) for a in attributes
        }
        for attributes in graph.findall(f"{G}attributes")
    }

    def values(element, kind):
        found = {}
        for value in element.iterfind(f"{G}attvalues/{G}attvalue"):
            title, type_ = declared[kind][value.get("for")]
            found[title] = type_(value.get("value"))
        return found

    nodes = [
        {"id": node.get("id"), "label": node.get("label"), **values(node, "node")}
        for node in graph.iterfind(f"{G}nodes/{G}node")
    ]
    edges = {
        (e.get("source"), e.get("target")): {"weight": float(e.get("weight")), **values(e, "edge")}
        for e in graph.iterfind(f"{G}edges/{G}edge")
    }
    assert len(edges) == len(graph.findall(f"{G}edges/{G}edge"))
    return nodes, edges


@settings(deadline=None)
@given(data=st.data())
def test_any_graph_survives(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("gexf") / "g.gexf"
    itg.export(graph, path, partition=partition, strength=strength)
    check(graph, partition, strength, "xml", *read(path))


@pytest.mark.skipif("1.3" not in GEXF.versions, reason="networkx reads GEXF 1.3 from 3.6 on")
@settings(deadline=None)
@given(data=st.data())
def test_networkx_reads_it(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("gexf") / "g.gexf"
    itg.export(graph, path, partition=partition, strength=strength)
    view = networkx.read_gexf(path)
    assert view.is_directed()
    assert not view.is_multigraph()
    drawing = {"viz"}
    nodes = [
        {"id": name, **{k: v for k, v in values.items() if k not in drawing}}
        for name, values in view.nodes(data=True)
    ]
    edges = {
        (a, b): {k: v for k, v in values.items() if k != "id"}
        for a, b, values in view.edges(data=True)
    }
    check(graph, partition, strength, "xml", nodes, edges)


def test_head(graph, partition, tmp_path):
    root = ET.parse(*itg.export(graph, tmp_path / "g.gexf", partition=partition)).getroot()
    assert (root.tag, root.get("version")) == (f"{G}gexf", "1.3")
    assert root.find(f"{G}meta").attrib == {}  # a date would make every file different
    assert root.findtext(f"{G}meta/{G}creator") == f"interactgraph {itg.__version__}"
    description = root.findtext(f"{G}meta/{G}description")
    assert description == "Interaction graph of the layers input, 0, 2; weight: rms"
    inner = root.find(f"{G}graph")
    assert inner.attrib == {"mode": "static", "defaultedgetype": "directed"}
    # Gephi reads the file once from top to bottom.
    assert [child.tag for child in inner] == [
        f"{G}{name}" for name in ("attributes", "attributes", "nodes", "edges")
    ]
    assert inner.find(f"{G}nodes").get("count") == "9"
    assert inner.find(f"{G}edges").get("count") == str(len(inner.findall(f"{G}edges/{G}edge")))


def test_names_of_attributes(graph, partition, tmp_path):
    path = itg.export(graph, tmp_path / "g.gexf", partition=partition)[0]
    root = ET.parse(path).getroot()
    declared = {
        attributes.get("class"): [(a.get("id"), a.get("title"), a.get("type")) for a in attributes]
        for attributes in root.iter(f"{G}attributes")
    }
    assert declared == {
        "node": [
            ("layer", "layer", "string"),
            ("feature", "feature", "integer"),
            ("strength", "strength", "double"),
            ("module", "module", "integer"),
        ],
        "edge": [
            ("mean", "mean", "double"),
            ("standard_error", "standard_error", "double"),
        ],
    }
    assert "modularity_class" not in path.read_text()


def test_no_module_without_partition(graph, tmp_path):
    nodes, _ = read(*itg.export(graph, tmp_path / "g.gexf"))
    assert all("module" not in node for node in nodes)


def test_weights_are_absolute_and_signed_is_beside_them(graph, tmp_path):
    _, edges = read(*itg.export(graph, tmp_path / "g.gexf", strength="mean"))
    assert any(edge["signed"] < 0 for edge in edges.values())
    assert all(edge["weight"] == abs(edge["signed"]) > 0 for edge in edges.values())


def test_signed_is_declared_for_a_mean_without_negative_weights(tmp_path):
    graph = InteractionGraph(
        ("a", "b"), [("a", "b")], {"a": "x", "b": "y"}, {("a", "b"): {"mean": torch.ones(1, 1)}}
    )
    _, edges = read(*itg.export(graph, tmp_path / "g.gexf"))
    assert edges == {("a/0", "b/0"): {"weight": 1.0, "signed": 1.0}}


def test_weights_that_are_zero_or_infinite_in_32_bits(tmp_path):
    graph = InteractionGraph(
        layers=("a", "b"),
        pairs=[("a", "b")],
        labels={"a": "xy", "b": "z"},
        blocks={("a", "b"): {"rms": torch.tensor([[1e-300, 1e300]], dtype=torch.float64)}},
    )
    _, edges = read(*itg.export(graph, tmp_path / "g.gexf"))
    weights = torch.tensor([edge["weight"] for edge in edges.values()], dtype=torch.float32)
    assert len(weights) == 2
    assert (weights > 0).all()
    assert weights.isfinite().all()


def test_missing_standard_error_is_left_out(graph, tmp_path):
    errors = {pair: {"rms": block["rms"] * torch.nan} for pair, block in graph.blocks.items()}
    path = itg.export(graph.replace(standard_errors=errors), tmp_path / "g.gexf")[0]
    assert "nan" not in path.read_text().lower()
    _, edges = read(path)
    assert len(edges) == len(graph.edges().weight)
    assert all(set(edge) == {"weight", "mean"} for edge in edges.values())


def test_standard_error_of_some_pairs_only(graph, tmp_path):
    pair = ("0", "2")
    errors = {("input", "0"): {}, pair: graph.standard_errors[pair]}
    partly = graph.replace(standard_errors=errors)
    _, edges = read(*itg.export(partly, tmp_path / "g.gexf"))
    having = {ends for ends, edge in edges.items() if "standard_error" in edge}
    assert having == {ends for ends in edges if ends[0].startswith("0/")} != set()


def test_drawing(graph, partition, tmp_path):
    root = ET.parse(*itg.export(graph, tmp_path / "g.gexf", partition=partition)).getroot()
    x, colour = {}, {}
    for node in root.iter(f"{G}node"):
        layer, number = node.get("id").split("/")
        size = node.find(f"{VIZ}size")
        assert list(size.attrib) == ["value"]  # Gephi looks at the first attribute only
        assert float(size.get("value")) > 0
        position = node.find(f"{VIZ}position")
        x.setdefault(layer, set()).add(float(position.get("x")))
        module = partition.membership[layer][int(number)]
        c = node.find(f"{VIZ}color").attrib
        assert list(c) == ["r", "g", "b"]
        colour.setdefault(module, set()).add(tuple(int(value) for value in c.values()))
    assert all(len(places) == 1 for places in x.values())
    assert [min(x[layer]) for layer in graph.layers] == sorted(min(v) for v in x.values())
    assert all(len(colours) == 1 for colours in colour.values())
    assert len(set.union(*colour.values())) == 3
    assert colour[-1] == {itg.exporters.ISOLATED}


@pytest.mark.parametrize("layers", [("a",), ("a", "b")])
def test_nothing_to_connect(tmp_path, layers):
    graph = InteractionGraph(layers, [], {layer: ["u", "v"] for layer in layers}, {})
    nodes, edges = read(*itg.export(graph, tmp_path / "g.gexf"))
    assert [node["id"] for node in nodes] == [f"{layer}/{j}" for layer in layers for j in (0, 1)]
    assert edges == {}


def test_no_edges_left(graph, tmp_path):
    nodes, edges = read(*itg.export(graph.prune(1e9), tmp_path / "g.gexf"))
    assert len(nodes) == 9
    assert edges == {}
    assert {node["strength"] for node in nodes} == {0.0}


def test_layers_that_differ_only_in_what_is_replaced(tmp_path):
    graph = InteractionGraph(
        ("a\x00", "a\u2400"), [], {"a\x00": ["first"], "a\u2400": ["second"]}, {}
    )
    nodes, _ = read(*itg.export(graph, tmp_path / "g.gexf"))
    assert [node["label"] for node in nodes] == ["first", "second"]
    assert nodes[0]["id"] != nodes[1]["id"]


def test_control_characters_stay_visible(tmp_path):
    graph = InteractionGraph(("a",), [], {"a": ["\x00 \x1b \ud800 \uffff \t\n\r é 🧠"]}, {})
    nodes, _ = read(*itg.export(graph, tmp_path / "g.gexf"))
    assert nodes[0]["label"] == "␀ ␛ \ufffd \ufffd \t\n\r é 🧠"


def test_strength_with_the_name_of_a_column(tmp_path):
    one = torch.ones(1, 1)
    blocks = {("a", "b"): {"mean": -one, "Weight": 2 * one, "signed": 3 * one}}
    graph = InteractionGraph(("a", "b"), [("a", "b")], {"a": "x", "b": "y"}, blocks)
    _, edges = read(*itg.export(graph, tmp_path / "g.gexf"))
    values = edges["a/0", "b/0"]
    assert (values.pop("weight"), values.pop("signed")) == (1.0, -1.0)
    assert sorted(values.values()) == [2.0, 3.0]
    assert "weight" not in [name.lower() for name in values]
