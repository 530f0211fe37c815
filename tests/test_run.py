"""`interaction_graph` as a whole: baselines, recipe, memory, features."""

import json

import networks
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.attribution import progress


def test_recipe_holds_everything():
    case = networks.make("mlp")
    graph = itg.interaction_graph(case.model, case.batches, ["input", "1", "4"], progress=False)
    recipe = json.loads(json.dumps(dict(graph.metadata)))
    assert recipe["n_samples"] == 6
    assert recipe["n_batches"] == 2
    assert recipe["layers"] == ["input", "1", "4"]
    assert [plan["engine"] for plan in recipe["plans"]] == ["closed_form", "closed_form"]
    assert recipe["dtype"] == "float64"
    assert recipe["seconds"] > 0
    assert recipe["model"] == "torch.nn.modules.container.Sequential"


def test_mean_baseline_is_the_mean_over_samples_and_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU()).double()
    data = [torch.randn(n, 3, 4, dtype=torch.float64) for n in (5, 2)]
    mean = torch.cat(data).mean((0, 1))
    a = itg.interaction_graph(model, data, ["input", "1"], baseline="mean", progress=False)
    b = itg.interaction_graph(model, data, ["input", "1"], baseline={"input": mean}, progress=False)
    torch.testing.assert_close(a.weights("input", "1"), b.weights("input", "1"))
    keep = torch.rand(7, 3) > 0.3
    masked = list(zip(data, keep.split([5, 2]), strict=True))
    mean = torch.cat(data)[keep].mean(0)
    options = {"position_mask": lambda batch: batch[1], "progress": False}
    a = itg.interaction_graph(model, masked, ["input", "1"], baseline="mean", **options)
    b = itg.interaction_graph(model, masked, ["input", "1"], baseline=mean, **options)
    torch.testing.assert_close(a.weights("input", "1"), b.weights("input", "1"))


def test_baseline_of_a_whole_activation():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh()).double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    z0 = torch.randn(2, 3, 3, dtype=torch.float64)
    graph = itg.interaction_graph(
        model, [x], ["input", "1"], baseline=z0, strengths=("mean",), progress=False
    )
    change = (model(x) - model(z0[None])).mean((0, 2, 3))
    torch.testing.assert_close(graph.weights("input", "1").sum(1), change.detach())


def test_baseline_outside_the_data_is_reported():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    x = torch.tensor([[1.0, -1, 5], [2, 1, 6]], dtype=torch.float64)
    graph = itg.interaction_graph(model, [x], ["input", "0"], progress=False)
    assert graph.metadata["baseline_outside_range"]["input"] == pytest.approx(2 / 3, abs=1e-6)


def test_target_that_does_not_depend_on_the_source_is_reported():
    graph = itg.interaction_graph(
        networks.Branches(), [torch.randn(5, 4)], ["a", "b"], progress=False
    )
    assert graph.metadata["notes"] == [
        "a -> b: every interaction is zero; the target does not depend on the source"
    ]


def test_large_residual_is_reported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), networks.Block(6))
    x = torch.randn(3, 5, 4)
    options = {"n_steps": 1, "tolerance": None, "progress": False}
    graph = itg.interaction_graph(model, [x], ["0", "1"], **options)
    assert "completeness residual is" in graph.metadata["notes"][0]
    assert "; raise n_steps" in graph.metadata["notes"][0]
    timed = itg.interaction_graph(model, [x], ["0", "1"], time_budget=60, **options)
    assert "; raise time_budget, or raise n_steps" in timed.metadata["notes"][0]


def test_strengths_that_are_not_finite_are_an_error():
    class Steep(nn.Module):
        def forward(self, x):
            return (x - 1).abs() ** 0.5

    with pytest.raises(
        itg.InteractGraphError, match="derivatives of input -> output are not finite"
    ):
        itg.interaction_graph(
            Steep(), [torch.ones(2, 3)], ["input", "output"], method="gradient",
            engine="forward", progress=False,
        )  # fmt: skip


def test_every_element_a_feature():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    everything = {"input": itg.features.Neurons(feature_dim="all")}
    graph = itg.interaction_graph(
        model, [x], ["input", "1"], features=everything, strengths=("mean",), progress=False
    )
    expected = model[1].weight.detach() * x.flatten(1).mean(0)
    torch.testing.assert_close(graph.weights("input", "1"), expected)
    back = graph.features["input"].decode(graph.features["input"].encode(x))
    assert torch.equal(back, x)


def test_linear_features_change_coordinates_on_both_sides():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    e = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    f = torch.randn(5, 5, dtype=torch.float64)
    maps = {"0": itg.features.Linear(e, e.T), "2": itg.features.Linear(f)}
    found = itg.interaction_graph(
        model, [x], ["0", "2"], features=maps, strengths=("mean",), progress=False
    )
    # The same network written in those coordinates.
    first, last = nn.Linear(4, 6).double(), nn.Linear(6, 5).double()
    first.weight.data, first.bias.data = e @ model[0].weight, e @ model[0].bias
    last.weight.data, last.bias.data = f @ model[2].weight, f @ model[2].bias

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x):
            return self.last(torch.tanh(self.first(x) @ e))

    expected = itg.interaction_graph(
        Turned(), [x], ["first", "last"], strengths=("mean",), progress=False
    )
    torch.testing.assert_close(found.weights("0", "2"), expected.weights("first", "last"))


@pytest.mark.parametrize("engine", ["forward", "reverse"])
def test_memory_budget_cuts_batches(engine, monkeypatch):
    """Working memory is bounded by cutting batches, and nothing changes."""
    case = networks.make("transformer")
    calls = []
    original = case.model.forward

    def counted(x):
        calls.append(len(x))
        return original(x)

    monkeypatch.setattr(case.model, "forward", counted)
    whole = itg.interaction_graph(
        case.model, case.batches, ["0", "1"], engine=engine, progress=False
    )
    assert max(calls) == 3
    calls.clear()
    cut = itg.interaction_graph(
        case.model, case.batches, ["0", "1"], engine=engine, memory_budget=2000, progress=False
    )
    assert set(calls[-4:]) == {1}
    torch.testing.assert_close(cut.weights("0", "1"), whole.weights("0", "1"), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        cut.standard_error("0", "1"), whole.standard_error("0", "1"), rtol=1e-9, atol=0
    )


def test_graph_survives_its_file(tmp_path):
    case = networks.make("mlp")
    graph = itg.interaction_graph(
        case.model, case.batches, ["input", "1", "4"], strengths=("rms", "max"), progress=False
    )
    graph.save(tmp_path / "graph.safetensors")
    again = itg.load(tmp_path / "graph.safetensors")
    for pair in graph.pairs:
        assert torch.equal(graph.weights(*pair), again.weights(*pair))
        assert torch.equal(graph.standard_error(*pair), again.standard_error(*pair))
        assert graph.completeness[pair] == again.completeness[pair]
    assert dict(graph.metadata) == dict(again.metadata)
    x = torch.randn(2, 7, dtype=torch.float64)
    assert torch.equal(again.features["1"].encode(x), graph.features["1"].encode(x))


class Counting(nn.Module):
    """Counts its calls in a buffer that it uses, and keeps its last result in another one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        self.calls += 1
        y = self.last(torch.tanh(self.first(x))) * self.calls
        self.seen = y.detach().mean(0)
        return y


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
def test_buffers_that_the_model_writes_to_are_left_alone(engine):
    torch.manual_seed(0)
    model = Counting()
    x = torch.randn(8, 4)
    layers = ["first", "output"]
    found = itg.interaction_graph(model, x.split(3), layers, engine=engine, progress=False)
    assert model.calls == 0
    assert not model.seen.any()
    plain = nn.Sequential(model.first, nn.Tanh(), model.last)
    expected = itg.interaction_graph(plain, [x], ["0", "output"], engine=engine, progress=False)
    torch.testing.assert_close(found.weights(*layers), expected.weights("0", "output"))


class Overwriting(nn.Module):
    """Overwrites what reverse mode would need."""

    def forward(self, x):
        h = x.tanh()
        y = h.exp().sum(-1, keepdim=True)
        h.view(-1)[::2].cos_()
        return y * h[:, :1]


def test_reverse_mode_that_cannot_be_is_replaced_or_explained():
    x = torch.randn(5, 6)
    layers = ["input", "output"]
    found = itg.interaction_graph(Overwriting(), [x], layers, progress=False)
    assert found.metadata["plans"][0]["engine"] == "forward"
    assert "reverse mode cannot" in found.metadata["plans"][0]["reason"]
    with pytest.raises(itg.InteractGraphError, match="use engine='forward'"):
        itg.interaction_graph(Overwriting(), [x], layers, engine="reverse", progress=False)


def test_an_axis_of_features_that_nothing_confirms_is_noted():
    class Own(nn.Module):
        def forward(self, x):
            return torch.tanh(x) @ torch.ones(8, 3)

    x = torch.randn(4, 2, 8)
    graph = itg.interaction_graph(Own(), [x], ["input", "output"], progress=False)
    assert "input: axis 2 (8 entries) of its activations (2, 8)" in graph.metadata["notes"][0]
    own = {"input": itg.features.Neurons(2), "output": itg.features.Neurons(2)}
    graph = itg.interaction_graph(Own(), [x], ["input", "output"], features=own, progress=False)
    assert not graph.metadata["notes"]


def test_a_long_exact_run_says_so_and_what_else_there_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LISTEN", 0.0)
    monkeypatch.setattr(progress, "_LONG", 0.0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    data = list(torch.randn(12, 4).split(4))
    itg.interaction_graph(model, data, ["0", "2"])
    assert capsys.readouterr().err.count("time_budget=") == 1
    itg.interaction_graph(model, data, ["0", "2"], engine="forward", sources=2)
    itg.interaction_graph(model, data, ["0", "2"], progress=False)
    assert "time_budget=" not in capsys.readouterr().err
