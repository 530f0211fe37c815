"""Cytoscape's JSON, read back by networkx."""

import gzip
import json

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg


def read(path):
    content = json.loads(path.read_bytes().decode("utf-8"))
    for element in content["elements"]["nodes"]:
        element["data"]["value"] = element["data"]["id"]  # what networkx calls a node by
    view = networkx.cytoscape_graph(
        {**content, "data": [], "multigraph": False, "directed": content["directed"]}
    )
    drawn = {"size", "color", "value"}
    nodes = [
        {
            ("label" if key == "name" else key): value
            for key, value in values.items()
            if key not in drawn
        }
        for _, values in view.nodes(data=True)
    ]
    edges = {}
    for element in content["elements"]["edges"]:
        data = dict(element["data"])
        data.pop("id")
        edges[data.pop("source"), data.pop("target")] = data
    assert set(view.edges) == set(edges)
    return nodes, edges


@settings(deadline=None)
@given(data=st.data())
def test_any_graph_survives(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("cyjs") / "g.cyjs"
    itg.export(graph, path, partition=partition, strength=strength)
    check(graph, partition, strength, "json", *read(path))


def test_what_cytoscape_looks_for(graph, partition, tmp_path):
    (path,) = itg.export(graph, tmp_path / "g.cyjs", partition=partition)
    content = json.loads(path.read_text())
    assert content["format_version"] == "1.0"
    assert content["data"]["weight"] == "rms"
    node = content["elements"]["nodes"][0]
    assert set(node) == {"data", "position"}
    assert set(node["position"]) == {"x", "y"}
    assert node["data"]["color"].startswith("#")
    assert len({edge["data"]["id"] for edge in content["elements"]["edges"]}) == len(
        content["elements"]["edges"]
    )


@pytest.mark.parametrize("suffix", ["gexf", "graphml", "json", "cyjs"])
def test_compressed(graph, partition, tmp_path, suffix):
    """The same text, and the same bytes every time."""
    (plain,) = itg.export(graph, tmp_path / f"g.{suffix}", partition=partition)
    (packed,) = itg.export(graph, tmp_path / f"g.{suffix}.gz", partition=partition)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    before = packed.read_bytes()
    itg.export(graph, tmp_path / f"g.{suffix}.gz", partition=partition)
    assert packed.read_bytes() == before


@pytest.mark.parametrize("name", ["g.parquet.gz", "g.npz.gz", "g.dot.gz", "g.gz", "g.txt.gz"])
def test_what_is_not_compressed(graph, tmp_path, name):
    with pytest.raises(itg.InteractGraphError, match=r"cannot export .*\.gz"):
        itg.export(graph, tmp_path / name)
