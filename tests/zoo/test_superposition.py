"""Networks with more features than neurons, and the graph that finds their edges."""

import pytest
import torch
from sklearn.metrics import average_precision_score

import interactgraph as itg
from interactgraph.features import Linear, Neurons, mean_max_cosine
from interactgraph.zoo import sparse_features, superposition


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dependence", ["independent", "correlated", "anticorrelated"])
def test_features_are_as_rare_as_asked(dependence):
    x = sparse_features(40_000, 8, generator=generator(), probability=0.1, dependence=dependence)
    active = x > 0
    assert float((active.float().mean(0) - 0.1).abs().max()) < 0.01
    assert bool(((x == 0) | ((x >= 0.5) & (x <= 1))).all())
    together = float((active[:, 0] & active[:, 1]).float().mean())
    apart = float((active[:, 0] & active[:, 4]).float().mean())
    assert apart == pytest.approx(0.01, abs=0.003)
    expected = {"independent": 0.01, "correlated": 0.05, "anticorrelated": 0.0}[dependence]
    assert together == pytest.approx(expected, abs=0.005)


def test_edges_are_found_between_features_and_not_between_neurons():
    net = superposition(0, n_samples=1024, steps=1000)
    n = len(net.edges)
    truth = (net.edges != 0).flatten()
    options = {"progress": False}
    graph = itg.interaction_graph(
        net.model, net.data, net.layers, features=net.dictionaries, **options
    )
    found = graph.weights(*net.layers)[:n, :n].flatten()
    neurons = itg.interaction_graph(net.model, net.data, net.layers, **options)
    read, write = (net.dictionaries[layer].decoder.abs() for layer in net.layers)
    pulled = (write.mT @ neurons.weights(*net.layers) @ read).flatten()
    assert average_precision_score(truth, found) > 0.9
    assert average_precision_score(truth, pulled) < 0.5


def test_the_network_is_what_the_formula_says():
    net = superposition(1, n_features=12, n_neurons=6, n_samples=64, steps=20)
    first, second = (net.dictionaries[layer] for layer in net.layers)
    h = net.data @ first.decoder.mT
    f = (h @ first.encoder.mT + first.encoder_bias).relu()
    y = (f @ net.edges.mT @ second.decoder.mT @ second.encoder.mT + second.encoder_bias).relu()
    torch.testing.assert_close(net.model(net.data), y)
    again = superposition(1, n_features=12, n_neurons=6, n_samples=64, steps=20)
    assert torch.equal(net.edges, again.edges)
    assert torch.equal(net.data, again.data)
    assert torch.equal(net.model[0].weight, again.model[0].weight)
    reads = (net.edges != 0).sum(1)
    assert bool(((reads >= 1) & (reads <= 2)).all())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"probability": 0.0}, "probability=0"),
        ({"probability": 0.6, "dependence": "correlated"}, "0.5 at most"),
        ({"dependence": "other"}, "dependence='other'"),
        ({"fan_in": 65}, "more than n_features"),
        ({"n_neurons": 0}, "n_neurons=0"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"steps": -5}, "steps=-5"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(itg.InputError, match=match):
        superposition(0, **options)


def test_mean_max_cosine():
    """Three directions, of which two are in the other map: one exactly, one at 60 degrees."""
    first = Linear(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    ways = torch.tensor([[-2.0, 0, 0], [0, 0.5, 0.75**0.5]])
    second = itg.features.Dictionary(encoder=ways, decoder=ways.mT)
    there, back = mean_max_cosine(first, second)
    assert there == pytest.approx((1 + 0.5 + 0.75**0.5) / 3)
    assert back == pytest.approx((1 + 0.75**0.5) / 2)
    assert mean_max_cosine(Neurons(), Neurons()) == (1.0, 1.0)
    with pytest.raises(itg.InteractGraphError, match="no directions that are known"):
        mean_max_cosine(itg.features.PCA(), itg.features.PCA())
    with pytest.raises(itg.InteractGraphError, match="sizes 3 and 2"):
        mean_max_cosine(first, Linear(torch.eye(2)))


def test_targets_read_their_own_module():
    net = superposition(1, n_features=12, n_neurons=6, fan_in=3, n_modules=4, steps=3, n_samples=8)
    targets, sources = net.edges.nonzero().T
    assert len(targets) >= 12
    assert (targets % 4 == sources % 4).all()
    with pytest.raises(itg.InputError, match="n_modules=4"):
        superposition(1, n_features=12, fan_in=4, n_modules=4)
