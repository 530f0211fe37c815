"""Functions with kinks and jumps: the integral with its jumps, or a note that names what jumps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import interactgraph as itg

KINKED = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "abs": torch.abs,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "softshrink": F.softshrink,
    "clamp": lambda x: x.clamp(-0.3, 0.4),
}
JUMPING = {
    "hardshrink": (F.hardshrink, "hardshrink"),
    "threshold": (lambda x: F.threshold(x, 0.3, 0.0), "threshold"),
    "jump_relu": (lambda x: x * (x > 0.3), "gt"),
    "jump_relu_by_where": (lambda x: torch.where(x > 0.3, x, 0.0), "gt"),
    "round": (lambda x: torch.round(2 * x), "round"),
    "sign": (torch.sign, "sign"),
    "step": (lambda x: (x > 0).to(x.dtype), "gt"),
    "floor": (lambda x: torch.floor(3 * x), "floor"),
}
LAYERS = ["input", "output"]


class Between(nn.Module):
    """A pointwise function between two linear maps."""

    def __init__(self, function, middle=None):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.function = nn.Linear(5, 8), nn.Linear(8, 4), function
        self.middle = middle or nn.Identity()

    def forward(self, x):
        return self.down(self.function(self.middle(self.up(x))))


def exact(model, x):
    """By the change of the function over its step, which counts kinks and jumps."""
    start, end = model.up(torch.zeros_like(x)), model.up(x)
    slope = (model.function(end) - model.function(start)) / (end - start)
    a = torch.einsum("ik,bk,kj,bj->bij", model.down.weight, slope, model.up.weight, x)
    return a.square().mean(0).sqrt().detach()


def data():
    return torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def off(graph, expected):
    return float((graph.weights(*LAYERS) - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("engine", ["auto", "closed_form", "forward", "reverse"])
def test_kinks(name, engine):
    model, x = Between(KINKED[name]).double(), data()
    graph = itg.interaction_graph(model, [x], LAYERS, engine=engine, progress=False)
    assert off(graph, exact(model, x)) < (1e-12 if engine in ("auto", "closed_form") else 0.01)
    assert graph.completeness["input", "output"] <= 0.02
    assert not graph.notes


@pytest.mark.parametrize("name", JUMPING)
@pytest.mark.parametrize("engine", ["auto", "closed_form"])
def test_jumps_are_counted(name, engine):
    model, x = Between(JUMPING[name][0]).double(), data()
    graph = itg.interaction_graph(model, [x], LAYERS, engine=engine, progress=False)
    assert off(graph, exact(model, x)) < 1e-12
    assert graph.completeness["input", "output"] < 1e-12
    assert not graph.notes


@pytest.mark.parametrize("name", JUMPING)
@pytest.mark.parametrize("engine", ["forward", "reverse"])
def test_jumps_that_derivatives_cannot_see_are_named(name, engine):
    """The engines that differentiate, asked for; what they leave out is said."""
    function, operation = JUMPING[name]
    model, x = Between(function).double(), data()
    graph = itg.interaction_graph(model, [x], LAYERS, engine=engine, progress=False)
    assert graph.completeness["input", "output"] > 0.3
    (note,) = graph.notes
    assert f"operations that may jump ({operation})" in note
    assert "raise n_steps" not in note


def test_a_jump_behind_a_normalisation_is_named():
    """There is no closed form, so that the default, too, can only say it."""
    model, x = Between(F.hardshrink, nn.LayerNorm(8)).double(), data()
    graph = itg.interaction_graph(model, [x], LAYERS, baseline="mean", progress=False)
    assert "operations that may jump (hardshrink)" in graph.notes[0]
    assert "baseline='mean'" not in graph.notes[0]
