"""Files of attribution graphs: reading as json.load does, writing without touching the rest."""

import gzip
import io
import json
import math
import random

import numpy as np
import pytest
from circuits.graphs import content, mutated, node
from hypothesis import given, settings
from hypothesis import strategies as st

import interactgraph as itg
from interactgraph import FileError, InteractGraphError, MissingFileError
from interactgraph.circuits import AttributionGraph, Supernode, json_stream, save_supernodes
from interactgraph.circuits.json_stream import JsonStream, MalformedError

GROUP = Supernode('new "one"\ud800', ("1_10_1", "1_11_1"), (2, 3), 0.5)


def written(tmp_path, value, **options):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(value, **options), encoding="utf-8", newline="")
    return path


def same(a, b):
    return (
        (a.ids, a.js_ids, a.kinds, a.layers, a.labels) == (b.ids, b.js_ids, b.kinds, b.layers,
        b.labels) and all(np.array_equal(getattr(a, k), getattr(b, k))
        for k in ("depth", "positions", "source", "target", "weight"))
        and (a.metadata, a.q_params) == (b.metadata, b.q_params)
    )  # fmt: skip


def test_a_graph_is_what_the_file_says(tmp_path):
    graph = itg.load_attribution_graph(written(tmp_path, content()))
    assert graph.kinds[:3] == ("embedding", "embedding", "feature")
    assert graph.depth.tolist() == [-1, -1, 1, 1, 1, 1, 0, 2, 2]
    assert graph.features.tolist() == [2, 3, 4, 5]
    dense = graph.matrix.toarray()
    for link in content()["links"]:
        a, b = graph.ids.index(link["source"]), graph.ids.index(link["target"])
        assert dense[b, a] == link["weight"]
    assert np.count_nonzero(dense) == len(content()["links"])
    assert abs(graph.shares).sum(1)[2] == pytest.approx(1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False).filter(
        math.isfinite
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(
    value=st.dictionaries(st.text(), st.lists(JSON, max_size=5), max_size=4),
    indent=st.sampled_from([None, 2]),
    chunk=st.integers(1, 40),
    ascii_=st.booleans(),
)
def test_streams_are_read_as_json_loads_does(value, indent, chunk, ascii_):
    """Chunks of a few characters end within numbers, texts and escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    old = json_stream._CHUNK
    json_stream._CHUNK = chunk
    try:
        stream = JsonStream(io.StringIO(text))
        found = {key: list(stream.items()) for key in stream.members()}
        assert stream.peek() == ""
    finally:
        json_stream._CHUNK = old
    assert found == json.loads(text)


def walk(text):
    stream = JsonStream(io.StringIO(text))
    for _ in stream.members():
        list(stream.items()) if stream.peek() == "[" else stream.value()


@pytest.mark.parametrize(
    "text",
    ['{"a": [1 2]}', '{"a" 1}', '{"a": [1,]}', '{"a": NaN}', "{", '{"a": 1,}', "{'a': 1}", ""],
)
def test_what_json_refuses_is_refused(text):
    with pytest.raises(MalformedError):
        walk(text)


def loaded(path):
    """The graph, or the message that says why there is none; any other error passes."""
    try:
        return itg.load_attribution_graph(path), ""
    except InteractGraphError as error:
        return None, str(error)


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_mutated_files_load_or_say_why_not(tmp_path_factory, seed):
    value = mutated(content(), seed)
    path = written(tmp_path_factory.mktemp("m"), value)
    graph, message = loaded(path)
    if graph is None:
        assert str(path) in message
        assert len(message) < 400
        with pytest.raises(InteractGraphError):
            AttributionGraph.from_content(value)
        return
    assert same(graph, AttributionGraph.from_content(value))
    itg.supernodes(graph)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_files_with_wrong_bytes_load_or_say_why_not(tmp_path_factory, seed):
    rng = random.Random(seed)
    data = bytearray(json.dumps(content()).encode())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 2))
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    path = tmp_path_factory.mktemp("b") / "in.json"
    path.write_bytes(data)
    graph, message = loaded(path)
    assert (graph is None) == (str(path) in message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("links"), "no 'links'"),
        (lambda c: c["links"][0].update(source="gone"), "nodes that it does not have, such as"),
        (lambda c: c["links"][0].update(weight="3"), "weight '3'; it must be a finite number"),
        (lambda c: c["nodes"].append(c["nodes"][2]), "two nodes have the node_id '1_10_1'"),
        (lambda c: c["nodes"][2].update(layer="x"), "layer 'x'; a feature's must be a number"),
        (lambda c: c["qParams"].update(supernodes=[["a", 3]]), "'supernodes' of its 'qParams'"),
        (lambda c: c.update(nodes={}), "'nodes' is no list"),
    ],
)
def test_messages(tmp_path, change, message):
    value = content()
    change(value)
    with pytest.raises(FileError, match=message):
        itg.load_attribution_graph(written(tmp_path, value))


def test_messages_of_what_is_no_json(tmp_path):
    with pytest.raises(MissingFileError):
        itg.load_attribution_graph(tmp_path / "none.json")
    for data, message in (
        (b"", "it does not begin with"), (b"[]", "does not begin with"), (b"\xff", "UTF-8"),
        (b"{}{}", "something follows"), (b'{"nodes": ' + b"[" * 200_000, "is no JSON"),
        (b'{"nodes": [], "nodes": []}', "twice"), (b'{"qParams": {"a": 1, "a": 1}}', "twice"),
    ):  # fmt: skip
        path = tmp_path / "bad.json"
        path.write_bytes(data)
        with pytest.raises(FileError, match=message):
            itg.load_attribution_graph(path)


def test_an_error_may_be_called_as_a_feature_of_layer_0(tmp_path):
    """circuit-tracer's error of layer 7 at position 1 is `0_7_1`."""
    error = dict(node(0, 7, 1, "mlp reconstruction error"), layer="7")
    for both in ([error, node(0, 7, 1)], [node(0, 7, 1), error]):
        value = content()
        value["nodes"] += both
        value["links"].append({"source": "0_7_1", "target": "1_10_1", "weight": 3.0})
        graph = itg.load_attribution_graph(written(tmp_path, value))
        source = graph.source[-1]
        assert graph.kinds[source] == "feature"
        assert graph.numbers(["0_7_1"]).tolist() == [source]


@pytest.mark.parametrize("ids", ["node_id", "jsNodeId"])
def test_either_kind_of_id(ids):
    value = content()
    value["qParams"]["pinnedIds"] = [n[ids] for n in value["nodes"][2:4]]
    graph = AttributionGraph.from_content(value)
    assert graph.pinned.tolist() == [2, 3]
    assert graph.names([4]) == (value["nodes"][4][ids],)
    value["nodes"].append(node(1, 20, 0))  # shares the jsNodeId of node 4
    graph = AttributionGraph.from_content(value)
    assert graph.names([4, 5]) == ("1_20_1", value["nodes"][5][ids])
    assert graph.numbers(["1_20-0"]).tolist() == [4, 9]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("groups", [[], [["old", "1_20_1", "gone"]], None, "missing"])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_only_supernodes_change(tmp_path, groups, indent, suffix):
    value = content()
    value["qParams"]["supernodes"] = groups
    if groups == "missing":
        del value["qParams"]["supernodes"]
    # Line ends, spaces, escapes and numbers written in an odd way.
    text = json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", "\r\n")
    text = text.replace("2.5,", "2.50E0 ,").replace('"both"', '"bo\\u0074h\\/"')
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    opened = gzip.open if suffix.endswith("gz") else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    graph = itg.load_attribution_graph(path)
    save_supernodes(graph, [], out)
    with opened(out, "rb") as file:
        assert file.read() == text.encode()
    save_supernodes(graph, [GROUP], out)
    with opened(out, "rb") as file:
        changed = file.read().decode()
    found = json.loads(changed)
    old = groups if isinstance(groups, list) else []
    assert found["qParams"].pop("supernodes") == [*old, [GROUP.label, *GROUP.ids]]
    wanted = json.loads(text)
    wanted["qParams"].pop("supernodes", None)
    assert found == wanted
    # What stands before and after is the same, character by character.
    assert changed.startswith(text[: graph.edit.start])
    assert changed.endswith(text[graph.edit.end :])


def test_a_file_may_be_replaced_but_not_changed_meanwhile(tmp_path):
    path = written(tmp_path, content())
    graph = itg.load_attribution_graph(path)
    save_supernodes(graph, [GROUP], path)
    assert json.loads(path.read_text())["qParams"]["supernodes"] == [[GROUP.label, *GROUP.ids]]
    with pytest.raises(FileError, match="has changed since it was read"):
        save_supernodes(graph, [GROUP], tmp_path / "other.json")
    with pytest.raises(FileError, match="was not read from a file"):
        save_supernodes(AttributionGraph.from_content(content()), [GROUP], path)
