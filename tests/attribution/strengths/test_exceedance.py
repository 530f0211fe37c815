"""Exceedance against A computed by hand, by every method, with masks, groups and draws."""

import networks
import numpy as np
import pytest
import reference
import torch
from torch import nn

import interactgraph as itg


def by_hand(case):
    """Share of samples above the threshold and its standard error, and the threshold."""
    samples, changes = [], []
    for batch in case.batches:
        activation, function = case.by_hand(batch)
        last = activation.detach().movedim(case.feature_dim, -1)
        z = last.reshape(len(last), -1, last.shape[-1])

        def flat(z, shape=last.shape, function=function):
            full = z.reshape(z.shape[0], *shape[1:]).movedim(-1, case.feature_dim)
            y = function(full)
            return y.reshape(y.shape[0], -1, y.shape[-1])

        samples.append(reference.attributions(flat, z, torch.zeros_like(z), 3).abs().amax(1))
        changes.append((flat(z) - flat(torch.zeros_like(z))).detach())
    threshold = 0.1 * float(changes[0].square().mean().sqrt())  # the first batch holds few samples
    x = (torch.cat(samples) > threshold).double()
    error = x.var(0, unbiased=True).div(len(x)).sqrt()
    return x.mean(0).numpy(), error.numpy()


@pytest.mark.parametrize("engine", ["forward", "reverse"])
@pytest.mark.parametrize("name", ["convolutional", "transformer", "two_inputs"])
def test_share_of_samples(name, engine):
    case = networks.make(name)
    layers = [case.source, case.target]
    graph = itg.interaction_graph(
        case.model, case.batches, layers, strengths=("rms", "exceedance"), engine=engine,
        n_steps=3, tolerance=None, progress=False,
    )  # fmt: skip
    share, error = by_hand(case)
    np.testing.assert_allclose(graph.weights(*layers, "exceedance").numpy(), share, atol=1e-12)
    np.testing.assert_allclose(
        graph.standard_error(*layers, "exceedance").numpy(), error, atol=1e-12
    )


@pytest.mark.parametrize("layers", [["input", "0"], ["input", "1"], ["1", "3"]])
def test_closed_forms_give_a_itself(layers):
    """Where other strengths are matrix products and A is never formed."""
    case = networks.make("mlp")
    options = {"strengths": ("exceedance",), "progress": False}
    found = itg.interaction_graph(case.model, case.batches, layers, **options)
    assert found.metadata["plans"][0]["method"] == "two_maps"
    exact = itg.interaction_graph(
        case.model, case.batches, layers, engine="forward", n_steps=60, tolerance=None, **options
    )
    assert torch.equal(found.weights(*layers), exact.weights(*layers))
    torch.testing.assert_close(found.standard_error(*layers), exact.standard_error(*layers))


def test_a_connection_of_few_samples_is_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU()).double()
    x = torch.rand(300, 5, dtype=torch.float64)
    x[:, 3] = 0
    x[200:203, 3] = 5
    graph = itg.interaction_graph(
        model, x.split(64), ["input", "0"], strengths=("exceedance",), progress=False
    )
    share = graph.weights("input", "0")[:, 3]
    on_samples = share * 300
    torch.testing.assert_close(on_samples, on_samples.round())
    assert float(on_samples.max()) == pytest.approx(3)


def test_groups_and_draws():
    case = networks.make("mlp")
    x = torch.randn(300, 6, dtype=torch.float64)
    layers = ["input", "4"]
    options = {
        "strengths": ("exceedance",),
        "engine": "forward",
        "n_steps": 3,
        "tolerance": None,
        "progress": False,
    }
    exact = itg.interaction_graph(
        case.model, x.split(50), layers, groups=[n % 2 for n in range(300)], **options
    )
    halves = [part.weights(*layers) for part in exact.groups.values()]
    torch.testing.assert_close(sum(halves) / 2, exact.weights(*layers))
    drawn = torch.stack([
        itg.interaction_graph(
            case.model, x.split(50), layers, sources=2, seed=seed, **options
        ).weights(*layers)
        for seed in range(20)
    ])  # fmt: skip
    off = (drawn.mean(0) - exact.weights(*layers)) / (drawn.std(0) / 20**0.5 + 1e-9)
    assert float(off.abs().mean()) < 1.3
