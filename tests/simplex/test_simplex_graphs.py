"""Graphs of networks on the simplex are what the weights say, with every engine."""

import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph.simplex import (
    LogAdditionResidual,
    Power,
    ProductResidual,
    SimplexAttention,
    SimplexBias,
    StochasticLinear,
)


@pytest.mark.parametrize("engine", ["auto", "closed_form", "forward", "reverse"])
def test_edges_are_weights_times_activations(engine):
    torch.manual_seed(0)
    model = nn.Sequential(
        StochasticLinear(9, 12, noise=1.0), SimplexBias(12), Power(0.3),
        StochasticLinear(12, 5, noise=1.0, temperature=0.2),
    )  # fmt: skip
    x = torch.rand(50, 9).softmax(-1)
    graph = itg.interaction_graph(
        model, x.split(20), ["input", "0", "2", "3"], pairs=[("input", "0"), ("2", "3")],
        strengths=("rms", "mean", "max"), engine=engine, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        for (pair, layer), z in zip(
            {("input", "0"): model[0], ("2", "3"): model[3]}.items(), (x, model[:3](x)), strict=True
        ):
            weight = (layer.logits / layer.temperature).softmax(0)
            edges = (weight * z[:, None]).double()  # W_ij x_bj
            for strength, expected in (
                ("rms", edges.square().mean(0).sqrt()),
                ("mean", edges.mean(0)),
                ("max", edges.amax(0)),
            ):
                found = graph.weights(*pair, strength).double()
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
            assert graph.completeness[pair] < 1e-5


@pytest.mark.parametrize("engine", ["forward", "reverse"])
def test_edges_of_positions(engine):
    """The same map at every position: all mass of a feature stays at its position."""
    torch.manual_seed(0)
    model = nn.Sequential(SimplexAttention(6, 2, n_sinkhorn=2), StochasticLinear(6, 4))
    x = torch.rand(8, 5, 6).softmax(-1)
    graph = itg.interaction_graph(model, x, ["0", "1"], engine=engine, progress=False)
    with torch.no_grad():
        z = model[0](x).flatten(0, 1)
        expected = model[1].weight * z.square().mean(0).sqrt()
    torch.testing.assert_close(graph.weights("0", "1"), expected, atol=1e-6, rtol=0)


def test_modules_that_are_not_linear_are_complete_from_the_mean():
    """The mean is on the simplex; from zero, products jump."""
    torch.manual_seed(0)
    model = nn.Sequential(
        ProductResidual(SimplexAttention(6, 2)),
        ProductResidual(StochasticLinear(6, 6, identity=0.5), temperature=0.5),
        LogAdditionResidual(nn.Linear(6, 6)),
    )
    x = (3 * torch.rand(8, 5, 6)).softmax(-1)
    graph = itg.interaction_graph(
        model, x, ["input", "0", "1", "2"], baseline="mean", progress=False
    )  # fmt: skip
    assert max(graph.completeness.values()) < 0.02
