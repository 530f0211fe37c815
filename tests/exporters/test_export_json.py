import inspect
import json

import networkx
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg

DRAWING = {"x", "y", "size", "color"}


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def as_networkx(content):
    parameters = inspect.signature(networkx.node_link_graph).parameters
    name = "edges" if "edges" in parameters else "link"  # networkx before 3.4
    return networkx.node_link_graph(content, **{name: "edges"})


@settings(deadline=None)
@given(data=st.data())
def test_networkx_reads_it(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("json") / "g.json"
    itg.export(graph, path, partition=partition, strength=strength)
    content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    view = as_networkx(content)
    assert view.is_directed()
    assert not view.is_multigraph()
    nodes = [
        {"id": name, **{k: v for k, v in values.items() if k not in DRAWING}}
        for name, values in view.nodes(data=True)
    ]
    edges = {(a, b): values for a, b, values in view.edges(data=True)}
    check(graph, partition, strength, "json", nodes, edges)


def test_agrees_with_the_networkx_view(graph, partition, tmp_path):
    path = itg.export(graph, tmp_path / "g.json", partition=partition, strength="mean")[0]
    found, wanted = as_networkx(json.loads(path.read_text())), graph.to_networkx("mean")
    assert list(found.nodes) == list(wanted.nodes)
    assert set(found.edges) == set(wanted.edges)
    for a, b, values in wanted.edges(data=True):
        assert values.items() <= found.edges[a, b].items()


def test_says_what_it_is(graph, tmp_path):
    content = json.loads(itg.export(graph, tmp_path / "g.json", strength="mean")[0].read_text())
    assert content["graph"] == {
        "creator": f"interactgraph {itg.__version__}",
        "description": "Interaction graph of the layers input, 0, 2; weight: mean",
        "weight": "mean",
    }
    assert (content["directed"], content["multigraph"]) == (True, False)


def test_colours(graph, partition, tmp_path):
    content = json.loads(itg.export(graph, tmp_path / "g.json", partition=partition)[0].read_text())
    colours = {}
    for node in content["nodes"]:
        colours.setdefault(node["module"], set()).add(node["color"])
    assert colours == {-1: {"#999999"}, 0: {"#0072b2"}, 1: {"#e69f00"}}
