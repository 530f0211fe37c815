"""One rotation for a residual stream: the loss by hand, and a stream whose axes are known."""

import pytest
import torch

import interactgraph as itg
from interactgraph.features.matching import match_rows
from interactgraph.fitting.stream_rotation import _beside, _distinct, sparsity
from interactgraph.layers import PairProblem

QUICK = {"n_samples": 24, "starts": 2, "steps": 300, "progress": False}


def test_hidden_axes_are_found():
    net = itg.zoo.compiled("hist")
    model, q = net.rotated(1)
    used = torch.zeros(len(q), dtype=torch.bool)
    for batch in net.data:
        for layer in net.layers:
            batch = net.model.get_submodule(layer)(batch)
            used |= batch.flatten(0, 1).any(0)
    fit = itg.fit_stream_rotation(model.double(), net.data, net.layers, **QUICK)
    assert match_rows(q.mT[used], fit.rotation, n_controls=0).mean > 0.95
    torch.testing.assert_close(fit.rotation @ fit.rotation.mT, torch.eye(len(q)).double())
    assert list(fit.maps) == net.layers
    assert fit.losses == sorted(fit.losses)
    again = itg.fit_stream_rotation(model.double(), net.data, net.layers, **QUICK)
    assert torch.equal(fit.rotation, again.rotation)
    graph = itg.interaction_graph(
        model.double(), net.data, net.layers, features=fit.maps, progress=False
    )
    assert graph.n_features["mlp_0"] == len(q)


def test_loss_by_hand():
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    states, updates = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    derivatives = torch.randn(6, 4, 4).double()
    parts = []
    for vectors in (states, updates):
        sizes = [(4 * x**2 + 1e-3) ** 0.5 for v in vectors for x in (rotation @ v)]
        parts.append(sum(sizes) / len(sizes))
    sizes = [
        (16 * x**2 + 0.02) ** 0.5
        for f in derivatives
        for x in (rotation @ f @ rotation.T).flatten()
    ]
    expected = (parts[0] + parts[1]) / 4 + sum(sizes) / len(sizes)
    torch.testing.assert_close(sparsity(rotation, states, updates, derivatives), expected)


def test_derivatives_by_autograd():
    """Of a block that is linear, so that they are the same everywhere."""
    torch.manual_seed(0)
    mix, across = torch.randn(3, 3).double(), torch.randn(2, 2).double()

    def block(z):
        return z + torch.einsum("ij,ts,bsj->bti", mix, across, z)

    z = torch.randn(5, 2, 3).double()
    problem = PairProblem(block, z, z, block(z))
    generator = torch.Generator().manual_seed(0)
    found = _beside(problem, torch.ones(5, 2, dtype=torch.bool), 4, 1.0, generator)
    assert len(found) == 8  # four samples, two target positions
    for each in found:
        unit = mix / mix.norm()
        torch.testing.assert_close(each * (each.flatten() @ unit.flatten()).sign(), unit)


def test_each_direction_counts_once():
    known = _distinct(torch.empty(0), torch.tensor([[2.0, 0], [4.0, 0], [0, 0], [0, 3]]).double())
    assert known.tolist() == [[0, 1], [1, 0]]
    assert len(_distinct(known, torch.tensor([[1.0, 0], [3.0, 4.0]]).double())) == 3


@pytest.mark.parametrize(
    ("layers", "options", "match"),
    [
        (["0"], {}, "two states"),
        (["0", "1"], {"noise": 0.0}, "noise=0"),
        (["0", "1"], {"starts": 0}, "starts=0"),
        (["0", "1"], {"lr": -1.0}, "lr=-1"),
        (["0", "2"], {}, "have the same"),
        (["1", "3"], {}, "by the residual connection"),
    ],
)
def test_bad_input(layers, options, match):
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    )
    if layers == ["1", "3"]:
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Identity(), torch.nn.Hardtanh(-9, 9)
        )
    with pytest.raises(itg.InputError, match=match):
        itg.fit_stream_rotation(model, torch.randn(6, 3).split(3), layers, **QUICK | options)
