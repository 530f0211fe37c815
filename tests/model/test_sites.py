"""Layer names and what they mean."""

import contextlib

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.model import Runner, prepared, probe, resolve_sites


class Clash(nn.Module):
    """Has a submodule called `output`."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 4)

    def forward(self, x):
        return self.output(x) + 1


def test_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    sites = resolve_sites(model, ["input", "0", "1.0.input", "1", "output"])
    assert [(s.module, s.end) for s in sites] == [
        ("", "input"), ("0", "output"), ("1.0", "input"), ("1", "output"), ("", "output")
    ]  # fmt: skip


def test_a_module_called_output_wins_and_the_models_is_dot_output():
    model = Clash()
    x = torch.ones(2, 3)
    sites = resolve_sites(model, ["output", ".output"])
    found = Runner(model).activations(x, sites, whole=True)
    torch.testing.assert_close(found[".output"], found["output"] + 1)


def test_same_place_twice():
    with pytest.raises(InteractGraphError, match="named twice"):
        resolve_sites(nn.Sequential(nn.ReLU()), ["output", ".output"])


def test_input_and_output_of_a_module():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    one = itg.interaction_graph(model, [x], ["0", "2"], progress=False)
    other = itg.interaction_graph(model, [x], ["1.input", "2"], progress=False)
    torch.testing.assert_close(one.weights("0", "2"), other.weights("1.input", "2"))


def test_segment_runs_no_further_than_the_target_and_not_the_source_itself():
    calls = []

    class Counts(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append(self.name)
            return x * 2

    model = nn.Sequential(*[Counts(n) for n in "abcd"])
    source, target = resolve_sites(model, ["1", "2"])
    segment = Runner(model).segment(torch.ones(1, 1), source, target)
    assert segment(torch.full((1, 1), 5.0)).item() == 10
    assert calls == ["a", "b", "c"]


def test_prepared_restores_every_flag():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.suppress(KeyError), prepared(model):
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        raise KeyError
    assert [m.training for m in model] == [True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_work_in_place_is_seen_and_copied():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    sites = resolve_sites(model, ["0", "1", "2"])
    with torch.no_grad():
        runner, found, *_ = probe(Runner(model), x, sites, [("0", "1")])
        torch.testing.assert_close(found["0"], model[0](x))
    assert "0" in runner.cloned
    assert "2" not in runner.cloned
    clean = nn.Sequential(model[0], nn.ReLU(), model[2])
    for layers in (["0", "1"], ["0", "2"], ["input", "2"]):
        for engine in ("forward", "reverse", "auto"):
            a, b = (
                itg.interaction_graph(m, [x], layers, engine=engine, progress=False)
                for m in (model, clean)
            )
            torch.testing.assert_close(a.weights(*layers), b.weights(*layers))


def test_multi_head_attention_and_sdpa_are_differentiated():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), layer).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    a, b = (
        itg.interaction_graph(model, [x], ["0", "1"], engine=engine, progress=False)
        for engine in ("forward", "reverse")
    )
    torch.testing.assert_close(a.weights("0", "1"), b.weights("0", "1"), rtol=1e-10, atol=0)
