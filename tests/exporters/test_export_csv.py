import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def numbers(row, **types):
    """Converts the columns; what has no value has no entry."""
    return {
        name: types.get(name, float)(text) if name in types or text else None
        for name, text in row.items()
        if text or name in types
    }


@settings(deadline=None)
@given(data=st.data())
def test_any_graph_survives(small_graphs, check, tmp_path_factory, data):
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("csv") / "g.csv"
    written = itg.export(graph, path, partition=partition, strength=strength)
    rows = [
        numbers(
            row,
            Id=str,
            Label=str,
            layer=str,
            feature=int,
            **({"examples": str} if graph.examples else {}),
            **({"drivers": str} if graph.drivers else {}),
            **({"role": str} if partition and partition.affinity else {}),
            **({"module": int} if partition else {}),
        )
        for row in read(written[0])
    ]
    nodes = [{"id": row.pop("Id"), "label": row.pop("Label"), **row} for row in rows]
    edges = {}
    for row in read(written[1]):
        assert row.pop("Type") == "Directed"
        ends = row.pop("Source"), row.pop("Target")
        assert ends not in edges
        row = numbers(row)
        edges[ends] = {"weight": row.pop("Weight"), **row}
    check(graph, partition, strength, "csv", nodes, edges)


NUMBERS = ("module_p_value", "affinity", "second_affinity")  # that nodes may lack


@settings(deadline=None, max_examples=50)
@given(data=st.data())
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_pandas_reads_it(small_graphs, check, tmp_path_factory, suffix, data):
    pandas = pytest.importorskip("pandas")
    graph, partition, strength = data.draw(small_graphs)
    path = tmp_path_factory.mktemp("csv") / f"g.{suffix}"
    written = itg.export(graph, path, partition=partition, strength=strength)
    assert [path.name for path in written] == [f"g.nodes.{suffix}", f"g.edges.{suffix}"]
    words = dict.fromkeys(
        ("Id", "Label", "layer", "role", "examples", "drivers", "Source", "Target", "Type"), str
    )
    # pandas takes words such as NaN and null for missing values unless it is told otherwise.
    none = {**{key: [] for key in words}, **{key: [""] for key in NUMBERS}}
    tables = [
        pandas.read_csv(place, dtype=words, na_values=none, keep_default_na=False)
        for place in written
    ]
    nodes = [
        {"id": row.pop("Id"), "label": row.pop("Label"), **row}
        for row in tables[0].to_dict("records")
    ]
    edges = {}
    for row in tables[1].to_dict("records"):
        assert row.pop("Type") == "Directed"
        ends = row.pop("Source"), row.pop("Target")
        values = {key: float(value) for key, value in row.items() if value != ""}
        edges[ends] = {"weight": values.pop("Weight"), **values}
    check(graph, partition, strength, "csv", nodes, edges)


def test_columns_are_those_of_gephi(graph, partition, tmp_path):
    nodes, edges = itg.export(graph, tmp_path / "g.csv", partition=partition, strength="mean")
    assert nodes.read_bytes().splitlines()[0] == b"Id,Label,layer,feature,strength,module"
    assert edges.read_bytes().splitlines()[0] == b"Source,Target,Type,Weight,signed,rms"


def test_lines_end_as_the_standard_says(graph, tmp_path):
    for path in itg.export(graph, tmp_path / "g.csv"):
        content = path.read_bytes()
        assert content.endswith(b"\r\n")
        assert content.count(b"\n") == content.count(b"\r\n")
