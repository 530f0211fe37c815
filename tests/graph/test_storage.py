import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.features import Linear, Neurons
from interactgraph.graph import InteractionGraph, storage


def assert_same(found, wanted):
    assert found.layers == wanted.layers
    assert found.pairs == wanted.pairs
    assert dict(found.labels) == dict(wanted.labels)
    assert dict(found.completeness) == dict(wanted.completeness)
    assert dict(found.metadata) == dict(wanted.metadata)
    assert found.strengths == wanted.strengths
    for table in ("blocks", "standard_errors"):
        found_table, wanted_table = getattr(found, table), getattr(wanted, table)
        for pair in wanted.pairs:
            block, other = found_table.get(pair, {}), wanted_table.get(pair, {})
            assert list(block) == list(other)
            for name, matrix in other.items():
                assert block[name].dtype == matrix.dtype
                assert torch.equal(block[name], matrix)


def test_round_trip(graph, tmp_path):
    graph.save(tmp_path / "g.safetensors")
    assert_same(itg.load(tmp_path / "g.safetensors"), graph)
    assert_same(itg.load(str(tmp_path / "g.safetensors")), graph)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sparse_blocks_take_little_space_and_come_back(tmp_path, dtype):
    matrix = torch.zeros(300, 300, dtype=dtype)
    matrix[7, 11], matrix[299, 299] = -2.5, 1e-3
    graph = InteractionGraph(
        ("a", "b"),
        [("a", "b")],
        {"a": map(str, range(300)), "b": map(str, range(300))},
        {("a", "b"): {"mean": matrix, "rms": torch.zeros_like(matrix)}},
    )
    path = tmp_path / "g.safetensors"
    graph.save(path)
    assert path.stat().st_size < 10_000
    assert_same(itg.load(path), graph)


def test_shapes_without_elements(tmp_path):
    graph = InteractionGraph(
        ("a", "b"), [("a", "b")], {"a": [], "b": ["x"]}, {("a", "b"): {"rms": torch.zeros(1, 0)}}
    )
    graph.save(tmp_path / "g.safetensors")
    assert_same(itg.load(tmp_path / "g.safetensors"), graph)


def test_any_text(tmp_path):
    layers = ("a/b", "a", "\x00\ud800é")
    graph = InteractionGraph(
        layers,
        [layers[:2]],
        {layer: ["\n\x00\udfff🧠", "/"] for layer in layers},
        {layers[:2]: {"rms": torch.eye(2)}},
        features={layer: Linear(encoder=torch.eye(2) * (1 + k)) for k, layer in enumerate(layers)},
    )
    graph.save(tmp_path / "g.safetensors")
    found = itg.load(tmp_path / "g.safetensors")
    assert_same(found, graph)
    for k, layer in enumerate(layers):
        assert torch.equal(found.features[layer].encoder, torch.eye(2) * (1 + k))


def test_feature_maps_come_back(graph, tmp_path):
    encoder, offset = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    maps = {
        "in": Neurons().bind("in", torch.Size([2, 5, 8, 8]), 1),
        "mid": Linear(encoder, offset=offset).bind("mid", torch.Size([2, 6]), 1),
    }
    graph.replace(features=maps).save(tmp_path / "g.safetensors")
    found = itg.load(tmp_path / "g.safetensors").features
    assert found["in"] == maps["in"] or found["in"].state() == maps["in"].state()
    activation = torch.randn(3, 6, dtype=torch.float64)
    assert torch.equal(found["mid"].encode(activation), maps["mid"].encode(activation))
    assert torch.equal(
        found["mid"].decode(activation[:, :4]), maps["mid"].decode(activation[:, :4])
    )


def test_tensors_that_share_memory(graph, tmp_path):
    pair = ("in", "mid")
    big = torch.randn(8, 5)
    square = torch.eye(4)
    shared = graph.replace(
        pairs=[pair],
        blocks={pair: {"rms": big[:4], "mean_abs": big[:4], "mean": big[4:]}},
        standard_errors={pair: {"rms": big[2:6]}},
        completeness={},
        features={"mid": Linear(square, square, torch.zeros(4))},
    )
    shared.save(tmp_path / "g.safetensors")
    assert_same(itg.load(tmp_path / "g.safetensors"), shared)


def test_tensors_in_other_memory_layouts(graph, tmp_path):
    pair = ("in", "mid")
    block = torch.randn(5, 4, requires_grad=True).T
    other = graph.replace(
        pairs=[pair], blocks={pair: {"mean": block}}, standard_errors={}, completeness={}
    )
    other.save(tmp_path / "g.safetensors")
    assert torch.equal(itg.load(tmp_path / "g.safetensors").weights(*pair), block)


def test_saved_graphs_hold_no_pickle(graph, tmp_path):
    graph.save(tmp_path / "g.safetensors")
    with safe_open(tmp_path / "g.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["interactgraph"])
    assert header["format"] == 1
    assert header["metadata"] == {"method": "integrated_gradients", "seed": 3}


def test_missing_file(tmp_path):
    with pytest.raises(InteractGraphError, match=r"no graph file .*nowhere\.safetensors"):
        itg.load(tmp_path / "nowhere.safetensors")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(InteractGraphError, match="is not a complete interaction graph"):
        itg.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_file(graph, tmp_path, share):
    graph.save(tmp_path / "g.safetensors")
    content = (tmp_path / "g.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InteractGraphError, match=r"cut\.safetensors is not a complete .*truncated"):
        itg.load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\x80\x04pickle", bytes(range(256)) * 9])
def test_file_of_another_kind(tmp_path, content):
    (tmp_path / "g.safetensors").write_bytes(content)
    with pytest.raises(InteractGraphError, match="not a complete interaction graph"):
        itg.load(tmp_path / "g.safetensors")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_file_of_another_program(tmp_path, metadata):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(InteractGraphError, match=r"not an interaction graph; .*build") as caught:
        itg.load(tmp_path / "model.safetensors")
    assert "truncated" not in str(caught.value)


def damaged(graph, path, **changes):
    graph.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["interactgraph"])
    for key, value in changes.pop("tensors", {}).items():
        tensors[key] = value
    text = changes.pop("text", None) or json.dumps({**header, **changes})
    save_file(tensors, path, metadata={"interactgraph": text})


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "{"},
        {"text": "null"},
        {"text": "{}"},
        {"text": '{"format": "x"}'},
        {"strengths": ["rms", "max"]},
        {"pairs": [["in"]]},
        {"pairs": [["in", "mid"]]},
        {"labels": {"in": ["x"]}},
        {"labels": None},
        {"features": {"in": {"kind": "neurons", "unheard_of": 1}}},
        {"features": None},
        {"metadata": 3},
        {"layers": ["in", "mid", "in"]},
        {"tensors": {"weights/0/rms": torch.ones(2, 2)}},
        {"tensors": {"weights/0/rms": torch.ones(3)}},
    ],
)
def test_damaged_files_raise_one_kind_of_error(graph, tmp_path, changes):
    path = tmp_path / "g.safetensors"
    damaged(graph, path, **changes)
    with pytest.raises(InteractGraphError):
        itg.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights/0/rms/indices": torch.tensor([[5, 0]])},
        {"weights/0/rms/values": torch.ones(7)},
    ],
)
def test_sparse_parts_that_do_not_fit(tmp_path, tensors):
    path = tmp_path / "g.safetensors"
    matrix = torch.zeros(3, 3)
    matrix[0, 0] = 1
    labels = {"a": "xyz", "b": "uvw"}
    sparse = InteractionGraph(("a", "b"), [("a", "b")], labels, {("a", "b"): {"rms": matrix}})
    damaged(sparse, path, tensors=tensors)
    with pytest.raises(InteractGraphError, match="not a complete interaction graph"):
        itg.load(path)


def test_file_of_a_later_version(graph, tmp_path):
    damaged(graph, tmp_path / "g.safetensors", format=99)
    with pytest.raises(InteractGraphError, match=r"format 99.*install a newer"):
        itg.load(tmp_path / "g.safetensors")


def test_unwritable_folder(graph, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InteractGraphError, match="cannot write"):
        graph.save(tmp_path / "file/g.safetensors")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_writing_fails_midway(graph, tmp_path, monkeypatch, error):
    path = tmp_path / "g.safetensors"
    path.write_text("old")

    def half(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise error

    monkeypatch.setattr(storage, "save_file", half)
    with pytest.raises(error):
        graph.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_recipe_that_is_not_json(graph, tmp_path):
    odd = graph.replace(metadata={"model": object()})
    with pytest.raises(InteractGraphError, match="metadata"):
        odd.save(tmp_path / "g.safetensors")
    assert not any(tmp_path.iterdir())
