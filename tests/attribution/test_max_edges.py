"""Runs that keep few edges against runs that keep all."""

import networks
import pytest
import torch
from resumed import assert_resumed_is_bit_identical
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.features import Dictionary
from interactgraph.sparse import is_sparse

ALL = ("rms", "mean_abs", "mean", "max", "exceedance")


def same(found, expected):
    for pair in expected.pairs:
        for name in ALL:
            a, b = (graph.weights(*pair, name) for graph in (found, expected))
            assert is_sparse(a)
            torch.testing.assert_close(a.to_dense(), b, rtol=1e-12, atol=1e-15)
            if name != "max":
                a, b = (graph.standard_error(*pair, name) for graph in (found, expected))
                torch.testing.assert_close(a.to_dense(), b, rtol=1e-7, atol=1e-9, equal_nan=True)
    assert dict(found.completeness) == dict(expected.completeness)


@pytest.mark.parametrize(
    "options", [{"engine": "closed_form"}, {"engine": "reverse"}, {"method": "ablation"}]
)
def test_all_edges_are_those_of_the_dense_run(options):
    case = networks.make("mlp")
    x = torch.cat(case.batches)
    layers = ["input", "1", "4"] if options.get("engine") != "reverse" else ["1", "4"]
    options = {**options, "groups": [0, 1, 1, 0, 2, 1], "folds": 2}

    def run(**more):
        return itg.interaction_graph(
            case.model, x.split(4), layers, strengths=ALL, progress=False, **options, **more
        )

    dense, sparse = run(), run(max_edges=1000)
    same(sparse, dense)
    for name, group in dense.groups.items():
        same(sparse.groups[name], group)
    for one, other in zip(sparse.folds, dense.folds, strict=True):
        same(one, other)
    assert [kept["dropped"] for kept in sparse.metadata["kept_edges"]] == [0] * len(dense.pairs)
    few = run(max_edges=11)
    pruned = dense.prune(top_k=11)
    for pair in dense.pairs:
        torch.testing.assert_close(few.weights(*pair).to_dense(), pruned.weights(*pair))
    assert few.notes == dense.notes


class Tokens(nn.Module):
    """Two layers with a dictionary each; positions meet in between, and some are padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)).cumsum(1))


def dictionary(size, n):
    generator = torch.Generator().manual_seed(n)
    decoder = nn.functional.normalize(torch.randn(size, n, generator=generator), dim=0).double()
    return Dictionary(decoder.mT, decoder, activation="topk", k=3)


def tokens(**options):
    model = Tokens().double()
    x = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(3)).double()
    return itg.interaction_graph(
        model, x.split(4), ["first", "second"], strengths=ALL,
        features={"first": dictionary(6, 40), "second": dictionary(5, 30)},
        position_mask=lambda batch: batch[..., 0] > -1, n_steps=3, tolerance=None,
        progress=False, **options,
    )  # fmt: skip


def test_dictionaries_of_sequences():
    dense = tokens()
    assert dense.metadata["plans"][0]["passes_packed"] < 40
    same(tokens(max_edges=10_000), dense)


def test_what_is_dropped_is_said():
    dense, few = tokens(), tokens(max_edges=20)
    (kept,) = few.metadata["kept_edges"]
    assert kept["dropped"] > 0
    assert any("the smallest sums were dropped" in note for note in few.notes)
    weight, exact = few.weights("first", "second"), dense.weights("first", "second")
    assert len(weight.values()) == 20
    there = weight.to_dense() != 0
    assert float(exact[~there].max()) <= kept["absent"]["rms"] * (1 + 1e-9)
    lacks = (exact.square() - weight.to_dense().square())[there].clamp(min=0).sqrt()
    assert float(lacks.max()) <= kept["missed"]["rms"] + 1e-7
    assert dict(few.completeness) == dict(dense.completeness)


def test_a_resumed_run_is_the_same(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8)).double()
    batches = list(torch.randn(20, 6).double().split(4))
    layers = ["1", "2"]
    assert_resumed_is_bit_identical(
        model, batches, layers, 3, tmp_path, progress=False, max_edges=3, engine="forward"
    )


def test_target_error():
    case = networks.make("mlp")
    x = torch.cat(case.batches)
    options = {"target_error": 0.9, "progress": False, "engine": "forward"}
    runs = [
        itg.interaction_graph(case.model, x.split(2), ["input", "4"], **options, max_edges=most)
        for most in (None, 100)
    ]
    assert runs[0].metadata["n_batches"] == runs[1].metadata["n_batches"]


@pytest.mark.parametrize("more", [{"sources": 3}, {"time_budget": 10.0}])
def test_drawn_sources_do_not_go_with_it(more):
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match="max_edges=5 adds up the edges of all features"):
        itg.interaction_graph(case.model, case.batches, ["input", "4"], max_edges=5, **more)


def test_sums_that_do_not_fit():
    case = networks.make("mlp")
    with pytest.raises(InteractGraphError, match="or for fewer edges"):
        itg.interaction_graph(
            case.model, case.batches, ["input", "4"], max_edges=50, memory_budget=1000
        )


@pytest.mark.slow
def test_wide_layers_never_make_the_matrix():
    """24,576 features on both sides: 4.8 GB in float64 for each sum."""
    import subprocess
    import sys

    code = """
import resource, torch
from torch import nn
import interactgraph as itg
from interactgraph.features import Dictionary
torch.manual_seed(0)
n = 24_576
def dictionary(size):
    decoder = nn.functional.normalize(torch.randn(size, n), dim=0)
    return Dictionary(decoder.mT.contiguous(), decoder, activation="topk", k=8)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph = itg.interaction_graph(
    model, torch.randn(16, 16).split(8), ["0", "3"], max_edges=n * n // 1000, n_steps=4,
    features={"0": dictionary(32), "3": dictionary(32)}, memory_budget=400 << 20, progress=False,
)
assert graph.edges().weight.size > 1000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 1500  # MiB
