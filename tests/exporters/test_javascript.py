"""What programs in JavaScript read: Gephi Lite through graphology-gexf, and cytoscape.js.

Runs where Node is there and `npm ci` was run in `javascript/` beside this file (or in a copy of
that folder whose path is in the environment variable READERS_HOME).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg

HERE = Path(__file__).parent / "javascript"
HOME = Path(os.environ.get("READERS_HOME", HERE))

pytestmark = [
    pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
    pytest.mark.skipif(
        not all(
            (HOME / "node_modules" / name).is_dir() for name in ("graphology-gexf", "cytoscape")
        ),
        reason=f"graphology-gexf and cytoscape are not installed: run `npm ci` in {HOME}",
    ),
]


@pytest.fixture(scope="module")
def read():
    """A path -> what Node found in the file."""
    with subprocess.Popen(
        ["node", HERE / "read.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        encoding="utf-8",
    ) as node:  # fmt: skip

        def ask(path):
            node.stdin.write(f"{path}\n")
            node.stdin.flush()
            # JavaScript writes large floats without a point.
            found = json.loads(node.stdout.readline(), parse_int=float)
            assert "error" not in found, found["error"]
            return found

        yield ask


def of_gexf(found):
    """Nodes and edges as `check` wants them."""
    drawing = {"color", "size", "x", "y", "z"}
    for node in found["nodes"]:
        assert drawing <= node["attributes"].keys()
    nodes = [  # a label that is empty is none there
        {"id": node["id"], "label": ""}
        | {k: v for k, v in node["attributes"].items() if k not in drawing}
        for node in found["nodes"]
    ]
    return nodes, {(e["source"], e["target"]): e["attributes"] for e in found["edges"]}


def of_cytoscape(found):
    """Nodes and edges as `check` wants them."""
    nodes = [
        {
            "label" if k == "name" else k: v
            for k, v in n["data"].items()
            if k not in ("size", "color")
        }
        for n in found["nodes"]
    ]
    edges = {
        (e["source"], e["target"]): {
            k: v for k, v in e.items() if k not in ("id", "source", "target")
        }
        for e in found["edges"]
    }
    return nodes, edges


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_gephi_lite_reads_any_graph(read, small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("gexf") / "g.gexf"
    itg.export(graph, path, partition=partition, strength=strength)
    check(graph, partition, strength, "xml", *of_gexf(read(path)))


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_cytoscape_reads_any_graph(read, small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("cyjs") / "g.cyjs"
    itg.export(graph, path, partition=partition, strength=strength)
    check(graph, partition, strength, "json", *of_cytoscape(read(path)))


def test_what_gephi_lite_is_told(read, graph, partition, tmp_path):
    found = read(*itg.export(graph, tmp_path / "g.gexf", partition=partition, strength="mean"))
    assert found["directed"]
    assert not found["multi"]
    assert found["meta"]["creator"] == f"interactgraph {itg.__version__}"
    for node in found["nodes"]:
        expected = {"label", "color", "size", "x", "y", "z", *found["declared"]["node"]}
        assert set(node["attributes"]) == expected
    for edge in found["edges"]:
        assert set(edge["attributes"]) == {"weight", *found["declared"]["edge"]}


def test_both_show_the_same_places_and_colours(read, graph, partition, tmp_path):
    gexf, cyjs = (
        read(*itg.export(graph, tmp_path / f"g.{suffix}", partition=partition))
        for suffix in ("gexf", "cyjs")
    )
    for lite, cytoscape in zip(gexf["nodes"], cyjs["nodes"], strict=True):
        there, here = lite["attributes"], cytoscape["data"]
        assert lite["id"] == here["id"]
        assert there["color"] == f"rgb({','.join(map(str, bytes.fromhex(here['color'][1:])))})"
        assert there["size"] == here["size"]
        # On a screen y grows downwards.
        assert cytoscape["position"] == {"x": there["x"], "y": -there["y"]}
