"""What all formats share: choice by suffix, checks, whole files."""

import gzip
import hashlib
import io
import json
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pkgutil import resolve_name
from types import SimpleNamespace

import igraph
import networkx
import numpy as np
import pytest
import torch
from tqdm import tqdm

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.exporters import SUFFIXES as ALL
from interactgraph.exporters import csv
from interactgraph.graph import InteractionGraph

SUFFIXES = [name for name in ALL if name != ".parquet" or find_spec("pyarrow")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writes_the_files_it_returns(graph, partition, tmp_path, suffix):
    written = itg.export(graph, tmp_path / f"new folder/g{suffix}", partition=partition)
    assert sorted((tmp_path / "new folder").iterdir()) == sorted(written)
    assert all(path.stat().st_size for path in written)


def test_csv_gives_two_tables(graph, tmp_path):
    names = [path.name for path in itg.export(graph, str(tmp_path / "a.b.csv"))]
    assert names == ["a.b.nodes.csv", "a.b.edges.csv"]


def test_suffix_may_be_in_capitals(graph, tmp_path):
    assert itg.export(graph, tmp_path / "g.GEXF") == [tmp_path / "g.GEXF"]


@pytest.mark.parametrize(
    ("name", "found"), [("g.gml", "'.gml'"), ("g", "no suffix"), ("gexf", "no")]
)
def test_unknown_suffix(graph, tmp_path, name, found):
    with pytest.raises(InteractGraphError, match=found) as caught:
        itg.export(graph, tmp_path / name)
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_same_graph_same_bytes(graph, partition, tmp_path, suffix):
    def digest(name):
        written = itg.export(graph, tmp_path / f"{name}{suffix}", partition=partition)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in written]

    assert digest("a") == digest("b")


@pytest.mark.parametrize(
    "membership",
    [
        {"input": [0] * 4, "0": [0] * 3},
        {"input": [0] * 4, "0": [0] * 3, "2": [0]},
        {"input": [0] * 4, "0": [0] * 3, "2": [0, 0], "3": [0]},
    ],
)
def test_partition_of_another_graph(graph, tmp_path, membership):
    wrong = SimpleNamespace(membership={k: np.array(v) for k, v in membership.items()})
    with pytest.raises(InteractGraphError, match=r"partition does not fit.*'2' \(2 features\)"):
        itg.export(graph, tmp_path / "g.gexf", partition=wrong)
    assert not any(tmp_path.iterdir())


def test_modules_that_are_not_integers(graph, tmp_path):
    wrong = SimpleNamespace(membership={k: np.zeros(n) for k, n in graph.n_features.items()})
    with pytest.raises(InteractGraphError, match="not integers"):
        itg.export(graph, tmp_path / "g.gexf", partition=wrong)


def test_unknown_strength(graph, tmp_path):
    with pytest.raises(InteractGraphError, match=r"'max'.*rms, mean"):
        itg.export(graph, tmp_path / "g.gexf", strength="max")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite(graph, tmp_path, suffix, bad):
    pair = ("0", "2")
    block = graph.weights(*pair).clone()
    block[1, 0] = bad
    broken = graph.replace(blocks={**graph.blocks, pair: {**graph.blocks[pair], "rms": block}})
    with pytest.raises(InteractGraphError, match=r"1 weights \(rms\) are not finite.*'0' -> '2'"):
        itg.export(broken, tmp_path / f"g{suffix}")
    assert not any(tmp_path.iterdir())
    # As a second strength it is left out, because only the weight has to be there.
    itg.export(broken, tmp_path / f"g{suffix}", strength="mean")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unwritable_folder(graph, tmp_path, suffix):
    (tmp_path / "file").write_text("")
    with pytest.raises(InteractGraphError, match="cannot write"):
        itg.export(graph, tmp_path / f"file/g{suffix}")


# What is interrupted of each format, and at which call: the nodes are written, the edges are not.
HALF_WAY = {
    ".gexf": ("interactgraph.exporters.table.chunks", 2),
    ".graphml": ("interactgraph.exporters.table.chunks", 2),
    ".csv": ("interactgraph.exporters.table.chunks", 2),
    ".json": ("interactgraph.exporters.table.chunks", 2),
    ".cyjs": ("interactgraph.exporters.table.chunks", 2),
    ".dot": ("interactgraph.exporters.dot._list", 11),
    ".parquet": ("pyarrow.parquet.write_table", 2),
    ".npz": ("numpy.lib.format.write_array", 5),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_interrupted_export_leaves_the_old_files(graph, tmp_path, suffix, monkeypatch):
    written = itg.export(graph, tmp_path / f"g{suffix}")
    before = {path: path.read_bytes() for path in written}
    place, number = HALF_WAY[suffix.removesuffix(".gz")]
    function, calls = resolve_name(place), []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        itg.export(graph, tmp_path / f"g{suffix}", strength="mean")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_both_tables_or_none(graph, tmp_path, monkeypatch):
    def fail(table):
        yield ("Source", "Target")
        raise RuntimeError("half-way")

    monkeypatch.setattr(csv, "_edges", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        itg.export(graph, tmp_path / "g.csv")
    assert not any(tmp_path.iterdir())


def test_readers_that_unpack(graph, partition, tmp_path):
    """Those of the table in docs/formats.md that are libraries; pandas is in test_export_csv."""
    for suffix, read in (("gexf", networkx.read_gexf), ("graphml", networkx.read_graphml)):
        plain, packed = (
            read(*itg.export(graph, tmp_path / f"g.{suffix}{gz}", partition=partition))
            for gz in ("", ".gz")
        )
        assert dict(plain.nodes(data=True)) == dict(packed.nodes(data=True))
        assert set(map(str, plain.edges(data=True))) == set(map(str, packed.edges(data=True)))
    view = igraph.Graph.Read_GraphMLz(str(tmp_path / "g.graphml.gz"))
    assert view.get_edgelist() == list(zip(*graph.edges()[:2], strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_progress_reaches_the_end(graph, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("interactgraph.exporters.table.CHUNK", 2)
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options, file=io.StringIO())
            bars.append(self)

    monkeypatch.setattr("interactgraph.exporters.tqdm", Bar)
    itg.export(graph, tmp_path / f"g{suffix}")
    n_edges = len(graph.edges().weight)
    assert [(bar.n, bar.total) for bar in bars] == [(9 + n_edges, 9 + n_edges)]
    itg.export(graph, tmp_path / f"g{suffix}", progress=False)
    assert bars[1].disable


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_hostile_labels_of_a_graph_at_once(hostile, tmp_path, suffix):
    """Every text format is one piece of what it claims to be; others have tests of their own."""
    graph, partition = hostile
    for path in itg.export(graph, tmp_path / f"g{suffix}", partition=partition):
        assert path.stat().st_size
        if suffix in (".parquet", ".npz"):
            continue
        content = path.read_bytes()
        text = (gzip.decompress(content) if suffix.endswith(".gz") else content).decode("utf-8")
        assert "\x00" not in text
        if suffix in (".gexf", ".graphml"):
            assert "<script" not in text
            ET.fromstring(content)
        elif suffix in (".json", ".cyjs"):
            json.loads(text)


@pytest.mark.parametrize("suffix", [name for name in SUFFIXES if name not in (".parquet", ".npz")])
def test_rows_of_all_chunks_are_written(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("interactgraph.exporters.table.CHUNK", 3)
    graph = InteractionGraph(
        layers=("a", "b"),
        pairs=(("a", "b"),),
        labels={"a": [f"=>{j}<=" for j in range(4)], "b": [f"=>{j}<=" for j in range(4, 9)]},
        blocks={("a", "b"): {"rms": 1 + torch.arange(20.0).reshape(5, 4) / 8}},
    )
    read = gzip.decompress if suffix.endswith(".gz") else bytes
    text = "".join(
        read(path.read_bytes()).decode() for path in itg.export(graph, tmp_path / f"g{suffix}")
    )
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    assert all(text.count(f"=>{j}<=") == 1 for j in range(9))
    assert all(str(1 + k / 8) in text for k in range(20))
