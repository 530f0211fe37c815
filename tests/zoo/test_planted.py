"""Planted networks: what is planted is there, and the whole pipeline finds it."""

import numpy as np
import pytest
import torch

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import adjusted_rand_index
from interactgraph.zoo import planted_modules


def test_modules_without_cross_talk_are_separate_networks():
    net = planted_modules(3, n_modules=3, widths=(7, 9, 6), cross_talk=0.0, n_samples=5)
    x = net.data.clone()
    x[:, net.truth["input"] == 1] += 1
    changed = (net.model(x) - net.model(net.data)).abs().amax(0) > 1e-6
    assert np.array_equal(changed.numpy(), net.truth["2"] == 1)


def test_same_seed_same_network():
    one, two = planted_modules(5), planted_modules(5)
    assert torch.equal(one.data, two.data)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("level", [0.0, 0.2])
def test_the_whole_pipeline_finds_them(level):
    net = planted_modules(1, cross_talk=level, n_samples=256)
    graph = itg.interaction_graph(net.model, [net.data], net.layers, progress=False)
    partition = itg.find_modules(graph, significance=False, n_runs=3)
    known = np.concatenate([net.truth[layer] for layer in net.layers])
    assert adjusted_rand_index(known, partition.labels) > 0.95


@pytest.mark.parametrize(
    ("options", "match"),
    [({"widths": (3, 8)}, "at least one feature"), ({"cross_talk": -1}, "must not be negative")],
)
def test_bad_input(options, match):
    with pytest.raises(InteractGraphError, match=match):
        planted_modules(**options)
