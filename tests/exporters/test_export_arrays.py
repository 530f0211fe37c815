"""Matrices and tables of arrays, read back by SciPy and pyarrow."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg

parquet = pytest.importorskip("pyarrow.parquet")


def read_parquet(paths):
    """Nodes and edges as `check` wants them."""
    nodes, edges = (parquet.read_table(path).to_pylist() for path in paths)
    ids = [node["id"] for node in nodes]
    rows = {}
    for edge in edges:
        ends = ids[edge.pop("source")], ids[edge.pop("target")]
        rows[ends] = {key: value for key, value in edge.items() if value is not None}
    return nodes, rows


@settings(deadline=None)
@given(data=st.data())
def test_parquet_survives(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("parquet") / "g.parquet"
    written = itg.export(graph, path, partition=partition, strength=strength)
    assert [path.name for path in written] == ["g.nodes.parquet", "g.edges.parquet"]
    check(graph, partition, strength, "json", *read_parquet(written))


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_pandas_reads_parquet(small_graphs, check, tmp_path_factory, data):
    pandas = pytest.importorskip("pandas")
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("parquet") / "g.parquet"
    nodes, edges = (
        pandas.read_parquet(place)
        for place in itg.export(graph, path, partition=partition, strength=strength)
    )
    found = {}
    for row in edges.to_dict("records"):
        ends = nodes["id"][row.pop("source")], nodes["id"][row.pop("target")]
        found[ends] = {key: value for key, value in row.items() if not pandas.isna(value)}
    check(graph, partition, strength, "json", nodes.to_dict("records"), found)


@settings(deadline=None)
@given(data=st.data())
def test_matrices_survive(small_graphs, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("npz") / "g.npz"
    itg.export(graph, path, partition=partition, strength=strength)
    found = scipy.sparse.load_npz(path).tocoo()
    assert found.shape == (graph.n_nodes, graph.n_nodes)
    if graph.pairs or strength is not None:
        edges = graph.edges(graph.check_strength(strength))
        keep = edges.weight != 0
        wanted = dict(
            zip(
                zip(edges.source[keep].tolist(), edges.target[keep].tolist(), strict=True),
                edges.weight[keep].tolist(),
                strict=True,
            )
        )
        signed = any(value < 0 for value in wanted.values())
        values = dict(
            zip(
                zip(found.row.tolist(), found.col.tolist(), strict=True),
                found.data.tolist(),
                strict=True,
            )
        )
        assert values.keys() == wanted.keys()
        for ends, value in wanted.items():
            if signed or graph.check_strength(strength) == "mean":
                assert values[ends] == value
            else:
                value = min(value, float(np.finfo(np.float32).max))
                assert values[ends] == pytest.approx(value, rel=1e-7)
    with np.load(path) as arrays:  # without pickle
        assert len(arrays["label"]) == graph.n_nodes
        assert ("module" in arrays) == (partition is not None)


def test_names_of_nodes(graph, partition, tmp_path):
    (path,) = itg.export(graph, tmp_path / "g.npz", partition=partition)
    with np.load(path) as arrays:
        assert arrays["label"][4].decode() == "0.0"
        assert arrays["layer"][4].decode() == "0"
        assert arrays["module"].tolist() == [0, -1, 1, 1, 1, 0, 0, 0, 1]


def test_without_pyarrow(graph, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(itg.InteractGraphError, match=r"interactgraph\[parquet\]"):
        itg.export(graph, tmp_path / "g.parquet")
    assert not list(tmp_path.iterdir())
