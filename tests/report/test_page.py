import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import interactgraph as itg
from interactgraph.exporters import module_colour
from interactgraph.report.contents import contents

KINDS = {"f4": "<f4", "u1": "u1", "u2": "<u2", "u4": "<u4", "i4": "<i4"}


def array(stored):
    return np.frombuffer(base64.b64decode(stored["base64"]), KINDS[stored["kind"]])


def described(graph, partition=None, n_edges=1000, **results):
    given = {"profile": None, "curves": None, "effects": None, **results}
    return contents(graph, partition, n_edges=n_edges, **given)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])


def test_edges_with_all_strengths(graph):
    found = described(graph)["edges"]
    source, target = array(found["source"]), array(found["target"])
    for strength, stored in zip(graph.strengths, found["strengths"], strict=True):
        edges = graph.edges(strength)
        wanted = dict(zip(zip(edges.source, edges.target, strict=True), edges.weight, strict=True))
        weight = array(stored["weight"])
        assert array(stored["listed"]).all()
        assert len(weight) == len(wanted)
        for s, t, w in zip(source.tolist(), target.tolist(), weight.tolist(), strict=True):
            assert w == pytest.approx(wanted[s, t], rel=1e-6)
    errors = array(found["strengths"][0]["error"])
    np.testing.assert_allclose(errors, array(found["strengths"][0]["weight"]) / 13, rtol=1e-5)
    assert found["strengths"][1]["error"] is None
    # The first strength's edges come first, the strongest of them first.
    assert (np.diff(np.abs(array(found["strengths"][0]["weight"]))) <= 0).all()


def test_at_most_so_many_edges_of_each_strength(graph):
    found = described(graph, n_edges=12)["edges"]
    listed = [array(stored["listed"]) for stored in found["strengths"]]
    assert [int(flags.sum()) for flags in listed] == [12, 12]
    assert (listed[0] | listed[1]).all()


def test_modules(graph, partition):
    found = described(graph, partition)
    assert array(found["nodes"]["module"]).tolist() == partition.labels.tolist()
    first = found["partition"]["modules"][0]
    assert first["colour"] == "#{:02x}{:02x}{:02x}".format(*module_colour(0))
    assert sum(first["sizes"]) == partition.sizes[0]
    assert first["agreement"] == pytest.approx(0.75)
    assert first["z_score"] is None
    assert first["p_value"] is None
    assert found["partition"]["search"] == [[0.5, 1.0], [1.0, 2.0]]
    order = array(found["nodes"]["order"])
    assert sorted(order.tolist()) == list(range(graph.n_nodes))
    blocks = partition.labels[order[: graph.n_features[graph.layers[0]]]]
    assert blocks[-1] == -1
    assert (np.diff(blocks[:-1]) >= 0).all()


def test_significance_of_modules_and_notes(graph, partition):
    partition = replace(
        partition, module_z_scores=[4.0, np.nan], details={"notes": ["of one sample"]}
    )
    found = described(graph, partition)
    modules = found["partition"]["modules"]
    assert [module["z_score"] for module in modules] == [4.0, None]
    assert modules[0]["p_value"] == pytest.approx(partition.module_p_values[0])
    assert found["notes"] == ["a note", "of one sample"]


def test_heat_map_follows_the_order(graph, partition):
    found = described(graph, partition)
    order = array(found["nodes"]["order"])
    a, b = graph.pairs[1]
    offsets, sizes = graph.offsets, graph.n_features
    rows, columns = (order[offsets[e] : offsets[e] + sizes[e]] - offsets[e] for e in (b, a))
    weight = graph.weights(a, b, "mean").abs().numpy()[rows][:, columns]
    shade = array(found["heat"][1]["images"][1]["shade"]).reshape(weight.shape)
    np.testing.assert_allclose(shade, 255 * np.sqrt(weight / weight.max()), atol=0.51)


def test_results_of_other_analyses(graph, partition):
    profile = itg.resolution_profile(graph, resolutions=[0.7, 1.0], n_runs=2)
    pair = graph.pairs[0]
    curve = itg.report.AblationCurve(5, 0.9, {3: 0.5, 5: 0.9})
    effect = itg.validation.ModuleEffect(
        0, {pair[0]: 3}, {}, 0.5, [4, 2], {"accuracy": 0.9}, {"features": {"accuracy": 0.4}},
        {"features": {"accuracy": [0.1, 0.3]}},
    )  # fmt: skip
    found = described(graph, partition, profile=profile, curves={pair: curve}, effects=[effect])
    assert [row[0] for row in found["profile"]["rows"]] == [0.7, 1.0]
    assert found["curves"][0]["of"] == graph.weights(*pair).numel()
    assert found["curves"][0]["points"] == [[3, 0.5], [5, 0.9]]
    row = found["effects"][0]["rows"][0]
    assert row == {"what": "accuracy", "intact": 0.9, "without": 0.5, "control": pytest.approx(0.7),
                   "spread": pytest.approx(0.1)}  # fmt: skip


def test_the_file_asks_for_nothing(graph, partition, tmp_path):
    path = itg.write_report(graph, tmp_path / "deep" / "report.html", partition=partition)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"']+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert data_of(path)["version"] == itg.__version__


def test_hostile_text_is_data(hostile_graph, hostile, tmp_path):
    data = data_of(itg.write_report(hostile_graph, tmp_path / "report.html"))
    assert data["labels"][0] == hostile[0]
    assert data["labels"][4] == "tab\tline\nnull\u2400escape\u241b[31m"
    assert data["labels"][6] == "lone \ufffd surrogate \ufffd"
    assert len(data["labels"][8]) > 10_000
    assert data["notes"][9] == hostile[9]


def test_graphs_at_the_edge(graph_at_the_edge, tmp_path):
    graph = graph_at_the_edge
    data = data_of(itg.write_report(graph, tmp_path / "report.html"))
    assert len(data["labels"]) == graph.n_nodes


def test_errors(graph, partition, tmp_path):
    other = itg.Partition({"a": np.zeros(3, np.int64)}, 0.0)
    with pytest.raises(itg.InteractGraphError, match="does not fit the graph"):
        itg.write_report(graph, tmp_path / "r.html", partition=other)
    with pytest.raises(itg.InputError, match="n_edges=0"):
        itg.write_report(graph, tmp_path / "r.html", n_edges=0)
    pair = graph.pairs[0]
    block = {name: value.clone() for name, value in graph.blocks[pair].items()}
    block["mean"][0, 0] = torch.nan
    broken = graph.replace(blocks={**graph.blocks, pair: block})
    with pytest.raises(itg.InteractGraphError, match=r"1 weights \(mean\) are not finite"):
        itg.write_report(broken, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())
