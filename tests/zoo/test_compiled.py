"""Compiled programs: they compute what tracr computes, and their edges are the true ones."""

import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import interactgraph as itg
from interactgraph.zoo import COMPILED, compiled, compiled_program
from interactgraph.zoo.compiled_edges import true_edges

FOLDER = Path(itg.zoo.__file__).parent / "programs"


def test_there_are_enough_and_they_are_small():
    assert len(COMPILED) >= 8
    assert all((FOLDER / f"{name}.npz").stat().st_size < 100_000 for name in COMPILED)


@pytest.mark.parametrize("name", COMPILED)
def test_outputs_are_those_of_tracr(name):
    net = compiled(name)
    for tokens, outputs in zip(net.data, net.outputs, strict=True):
        torch.testing.assert_close(net.model(tokens), outputs, atol=1e-4, rtol=0)
    assert len(net.labels[net.layers[0]]) == len(next(iter(net.edges.values())))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("hist", lambda s: [Counter(s)[token] for token in s]),
        ("reverse", lambda s: s[::-1]),
        ("sort_unique", sorted),
        ("length", lambda s: [len(s)] * len(s)),
        ("frac_prevs", lambda s: [s[: k + 1].count("x") / (k + 1) for k in range(len(s))]),
        ("first_or_last", lambda s: [s[-1 if k % 2 else 0] for k in range(len(s))]),
    ],
)
def test_answers_are_those_of_the_program(name, function):
    net = compiled(name)
    for batch in net.data:
        for tokens, answers in zip(batch.tolist(), net.answers(batch), strict=True):
            assert net.tokens[tokens[0]] == "compiler_bos"
            assert answers[1:] == pytest.approx(function([net.tokens[n] for n in tokens[1:]]))


@pytest.mark.parametrize("name", ["frac_prevs", "length", "copies_previous"])
def test_stored_edges_are_found_again_from_another_seed(name):
    net = compiled(name)
    found = true_edges(net.model, net.data, seed=5)
    assert found.keys() == net.edges.keys()
    assert all(torch.equal(found[pair], edges) for pair, edges in net.edges.items())


def test_edges_against_all_sets_of_axes():
    """Every set of axes of a few inputs at zero, one axis after the other."""
    net = compiled("hist")
    model, moved = net.model.double(), {}
    states = {"embedding": model.embedding(net.data[-1][:40])}
    states["attention_0"] = model.attention_0(states["embedding"])
    for (source, target), edges in net.edges.items():
        found = torch.zeros_like(edges)
        z = states[source]
        used = z.flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        half = model.get_submodule(target)
        joined = [a for a in used if not net.labels[source][a].startswith("indices")]
        for on in product((0.0, 1.0), repeat=len(joined)):
            keep = torch.zeros(z.shape[2], dtype=z.dtype)
            keep[joined] = torch.tensor(on, dtype=z.dtype)
            for j in joined:
                if keep[j]:
                    without = keep.clone()
                    without[j] = 0
                    change = (half(z * keep) - half(z * without)).abs() > 1e-4
                    found[:, j] |= change.flatten(0, 1).any(0)
        moved[source, target] = found
        assert torch.equal(found[:, joined], edges[:, joined])
    assert sum(int(found.sum()) for found in moved.values()) > 20


def test_no_false_edge_has_strength_and_few_paths_see_all_that_are_true():
    net = compiled("hist")
    pairs, found = list(net.written()), {}
    for method in ("integrated_gradients", "expected_shapley"):
        graph = itg.interaction_graph(
            net.model, net.data, net.layers, pairs=pairs, method=method, dtype=torch.float64,
            progress=False,
        )  # fmt: skip
        truth, strengths = [], []
        for pair, edges in net.written().items():
            apart = ~torch.eye(len(edges), dtype=torch.bool)
            truth.append(edges[apart])
            strengths.append(
                graph.weights(*pair)[apart].where(graph.weights(*pair)[apart] > 1e-6, 0)
            )
        truth, strengths = torch.cat(truth), torch.cat(strengths)
        assert not strengths[~truth].any()
        found[method] = average_precision_score(truth, strengths)
    assert found["integrated_gradients"] < 0.8
    assert found["expected_shapley"] > 0.999


def test_hidden_axes_leave_the_network_what_it_is():
    net = compiled("hist")
    model, q = net.rotated(3)
    torch.testing.assert_close(q @ q.mT, torch.eye(len(q), dtype=q.dtype))
    state, hidden = net.data[-1], net.data[-1]
    for layer in net.layers:
        state = net.model.get_submodule(layer)(state)
        hidden = model.get_submodule(layer)(hidden)
        torch.testing.assert_close(hidden.double(), state.double() @ q.mT, atol=1e-4, rtol=0)
    torch.testing.assert_close(model(net.data[-1]), net.model(net.data[-1]), atol=1e-4, rtol=0)


def test_a_file_comes_back_as_it_was(tmp_path):
    net = compiled("copies_previous")
    net.save(tmp_path / "again.npz")
    again = compiled(tmp_path / "again.npz")
    for one, other in zip(net.data + net.outputs, again.data + again.outputs, strict=True):
        assert torch.equal(one, other)
    assert (again.tokens, again.values, again.labels) == (net.tokens, net.values, net.labels)
    assert again.layers == net.layers
    assert all(torch.equal(again.edges[pair], edges) for pair, edges in net.edges.items())
    assert torch.equal(again.model(net.data[0]), net.model(net.data[0]))


def test_names_and_files_that_are_no_programs(tmp_path):
    with pytest.raises(itg.MissingFileError, match="'histogram' is neither a file nor one of"):
        compiled("histogram")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(itg.FileError, match="does not hold a compiled program"):
        compiled(tmp_path / "other.npz")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 6000), byte=st.binary(min_size=0, max_size=20))
def test_damaged_files_are_said_to_be_so(tmp_path, cut, byte):
    whole = (FOLDER / "copies_previous.npz").read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[:cut] + byte)
    with pytest.raises(itg.FileError, match="does not hold a compiled program"):
        compiled(tmp_path / "damaged.npz")


# --- with tracr itself ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracr_count():
    """A program that is not among those that come with the library: tokens like the first."""
    pytest.importorskip("tracr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tracr.compiler import compiling, lib
        from tracr.rasp import rasp

        program = rasp.numerical(lib.make_count(rasp.tokens, "a"))
        return compiling.compile_rasp_to_model(program, {"a", "b"}, 3)


def test_torch_computes_every_state_that_tracr_computes(tracr_count):
    inputs = ["".join(each) for n in (1, 2, 3) for each in product("ab", repeat=n)]
    net = compiled_program(tracr_count, inputs)
    assert sum(len(batch) for batch in net.data) == len(inputs)
    assert net.values is None
    for tokens in net.data:
        theirs = tracr_count.forward(tracr_count.params, tokens.numpy()).transformer_output
        state = tokens
        for layer, expected in zip(
            net.layers, [theirs.input_embeddings, *theirs.residuals], strict=True
        ):
            state = net.model.get_submodule(layer)(state)
            np.testing.assert_allclose(state, expected, atol=1e-4)
    decoded = tracr_count.apply(["compiler_bos", *"aba"]).decoded
    number = {token: n for n, token in enumerate(net.tokens)}
    tokens = torch.tensor([[number["compiler_bos"], *(number[token] for token in "aba")]])
    assert net.answers(tokens)[0][1:] == pytest.approx(decoded[1:], abs=1e-4)
    edges = net.written()["attention_0", "mlp_0"]
    axis = {label: number for number, label in enumerate(net.labels["mlp_0"])}
    (width,) = (n for label, n in axis.items() if label.endswith("selector_width_attn_output"))
    assert edges[:, width].any()
    assert not edges[:, axis["tokens:a"]].any()


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([], "one token or more"),
        ([""], "one token or more"),
        (["ac"], "cannot read"),
        (["aaaa"], "cannot read"),
    ],
)
def test_inputs_that_the_program_cannot_read(tracr_count, inputs, match):
    with pytest.raises(itg.InputError, match=match):
        compiled_program(tracr_count, inputs)
