"""The gradient at the baseline against plain autograd, by every way that computes it."""

import networks
import numpy as np
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg

ALL = ("rms", "mean_abs", "mean", "max")


def by_hand(case, baseline):
    a = []
    for batch in case.batches:
        activation, function = case.by_hand(batch)
        last = activation.detach().movedim(case.feature_dim, -1)
        z = last.reshape(len(last), -1, last.shape[-1])
        z0 = (torch.zeros(z.shape[2]) if baseline is None else baseline).to(z).expand_as(z)

        def flat(z, shape=last.shape, function=function):
            full = z.reshape(z.shape[0], *shape[1:]).movedim(-1, case.feature_dim)
            y = function(full)
            return y.reshape(y.shape[0], -1, y.shape[-1])

        # The slope at z0 times z - z0: what `attributions` gives at z0 with z0 and z exchanged.
        a.append(-reference.attributions(flat, z0, z, None))
    return reference.strengths(a)


@pytest.mark.parametrize("engine", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("name", ["mlp", "convolutional", "two_inputs", "tuple_output"])
def test_against_autograd(name, engine):
    case = networks.make(name)
    size = {"mlp": 6, "convolutional": 3, "two_inputs": 4, "tuple_output": 6}[name]
    layers, baseline = [case.source, case.target], torch.linspace(-1, 1, size)
    graph = itg.interaction_graph(
        case.model, case.batches, layers, method="baseline_gradient", baseline=baseline,
        strengths=ALL, engine=engine, progress=False,
    )  # fmt: skip
    expected = by_hand(case, baseline)
    for strength in ALL:
        found = graph.weights(*layers, strength).numpy()
        np.testing.assert_allclose(found, expected[strength], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("layers", "method"), [(["input", "1"], "affine"), (["input", "2"], "two_maps")]
)
def test_closed_forms(layers, method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 5)).double()
    x = torch.randn(9, 6, dtype=torch.float64)
    options = {"method": "baseline_gradient", "strengths": ALL, "progress": False}
    closed = itg.interaction_graph(model, [x], layers, engine="closed_form", **options)
    assert closed.metadata["plans"][0]["method"] == method
    exact = itg.interaction_graph(model, [x], layers, engine="reverse", **options)
    for strength in ALL:
        torch.testing.assert_close(
            closed.weights(*layers, strength), exact.weights(*layers, strength)
        )
    assert closed.completeness[tuple(layers)] == pytest.approx(exact.completeness[tuple(layers)])
