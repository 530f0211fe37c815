"""GEXF as Gephi Lite reads it: through graphology-gexf, in Node.

Runs where Node is there and `npm ci` was run in `graphology/` beside this file (or in a copy of
that folder whose path is in the environment variable GRAPHOLOGY_HOME).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import interactgraph as itg
from interactgraph.graph import InteractionGraph

HERE = Path(__file__).parent / "graphology"
HOME = Path(os.environ.get("GRAPHOLOGY_HOME", HERE))

pytestmark = [
    pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
    pytest.mark.skipif(
        not (HOME / "node_modules/graphology-gexf").is_dir(),
        reason=f"graphology-gexf is not installed: run `npm ci` in {HOME}",
    ),
]


def read(path):
    done = subprocess.run(
        ["node", HERE / "read.mjs", path], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    # JavaScript writes large floats without a point.
    return json.loads(done.stdout, parse_int=float)


def test_same_nodes_edges_weights_and_modules(graph, partition, check, tmp_path):
    path = itg.export(graph, tmp_path / "g.gexf", partition=partition, strength="mean")[0]
    found = read(path)
    assert found["directed"]
    assert not found["multi"]
    assert found["meta"]["creator"] == f"interactgraph {itg.__version__}"
    drawing = {"color", "size", "x", "y", "z"}
    for node in found["nodes"]:
        assert drawing <= node["attributes"].keys()
        assert set(node["attributes"]) == {"label", *drawing, *found["declared"]["node"]}
    nodes = [
        {"id": node["id"], **{k: v for k, v in node["attributes"].items() if k not in drawing}}
        for node in found["nodes"]
    ]
    edges = {(edge["source"], edge["target"]): edge["attributes"] for edge in found["edges"]}
    for attributes in edges.values():
        assert set(attributes) == {"weight", *found["declared"]["edge"]}
    check(graph, partition, "mean", "xml", nodes, edges)


def test_awkward_text(check, tmp_path):
    labels = ["<&>\"'", "\x00\x1b\ud800\uffff", " \t\n\r", "é\u2028\x85🧠\U0001fffe", "]]>"]
    graph = InteractionGraph(('"a" <b>&amp;\x00',), [], {'"a" <b>&amp;\x00': labels}, {})
    found = read(*itg.export(graph, tmp_path / "g.gexf"))
    drawing = {"color", "size", "x", "y", "z"}
    nodes = [
        {"id": node["id"], **{k: v for k, v in node["attributes"].items() if k not in drawing}}
        for node in found["nodes"]
    ]
    check(graph, None, None, "xml", nodes, {})
