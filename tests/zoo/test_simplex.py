"""Chains of stochastic maps: planted modules, edges in closed form, the engine agrees."""

import numpy as np
import pytest
import torch

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import adjusted_rand_index
from interactgraph.zoo import simplex_modules


@pytest.mark.parametrize("strength", ["rms", "mean"])
def test_the_engine_finds_the_edges(strength):
    net = simplex_modules(1, widths=(8, 12, 9), n_modules=3)
    graph = itg.interaction_graph(
        net.model, net.data.split(100), net.layers, strengths=(strength,), progress=False
    )
    for pair, edges in net.edges(strength).items():
        torch.testing.assert_close(graph.weights(*pair), edges.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("level", [0.0, 0.2])
def test_modules_are_found(level):
    net = simplex_modules(1, cross_talk=level, n_samples=256)
    graph = itg.interaction_graph(net.model, [net.data], net.layers, progress=False)
    partition = itg.find_modules(graph, significance=False, n_runs=3)
    known = np.concatenate([net.truth[layer] for layer in net.layers])
    assert adjusted_rand_index(known, partition.labels) > 0.95


def test_same_seed_same_network_and_the_generator_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = simplex_modules(5), simplex_modules(5)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.data, two.data)
    assert torch.equal(one.model(one.data), two.model(two.data))
    torch.testing.assert_close(one.model(one.data).sum(-1), torch.ones(1024))
    assert not torch.equal(one.data, simplex_modules(6).data)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"widths": (3, 8)}, "at least one feature"), ({"cross_talk": 2}, "must be from 0 to 1")],
)
def test_bad_input(options, match):
    with pytest.raises(InteractGraphError, match=match):
        simplex_modules(**options)
    with pytest.raises(InteractGraphError, match="choose one of rms, mean"):
        simplex_modules(n_samples=4).edges("max")
