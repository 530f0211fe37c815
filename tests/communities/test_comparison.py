import numpy as np
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import Partition, compare
from interactgraph.features import Linear


def test_renamed_modules_match():
    a = Partition({"x": [0, 0, 1, 1], "y": [0, 0, 1, -1]}, quality=0.0)
    b = Partition({"x": [1, 1, 0, 0], "y": [1, 1, 0, 0]}, quality=0.0)
    result = compare(a, b)
    assert result.adjusted_mutual_information == pytest.approx(1)
    assert result.adjusted_rand_index == pytest.approx(1)
    assert [(m.first, m.second, m.shared, m.overlap) for m in result.matches] == [
        (0, 1, 4, 1.0),
        (1, 0, 3, 1.0),
    ]
    assert all(len(features) == 0 for features in result.moved.values())
    assert "0 features moved" in result.summary()


def test_what_moved_is_listed():
    a = Partition({"x": [0, 0, 0, 1, 1, 1]}, quality=0.0)
    b = Partition({"x": [0, 0, 1, 1, 1, 1]}, quality=0.0)
    result = compare(a, b)
    assert result.moved["x"].tolist() == [2]
    assert {m.overlap for m in result.matches} == {2 / 3, 3 / 4}


def test_matching_is_the_best_one_overall():
    """Greedy would pair 0 with 0 (five shared) and leave one shared; the best total is eight."""
    first = np.array([0] * 9 + [1] * 4)
    second = np.array([0] * 5 + [1] * 4 + [0] * 4)
    result = compare(Partition({"x": first}, quality=0.0), Partition({"x": second}, quality=0.0))
    assert {(m.first, m.second) for m in result.matches} == {(0, 1), (1, 0)}


def test_only_the_same_features_compare():
    a = Partition({"x": [0, 0]}, quality=0.0)
    with pytest.raises(InteractGraphError, match="no layer in common"):
        compare(a, Partition({"y": [0, 0]}, quality=0.0))
    with pytest.raises(InteractGraphError, match="2 features in one partition and 3"):
        compare(a, Partition({"x": [0, 0, 0]}, quality=0.0))


def test_nothing_in_common():
    a = Partition({"a": np.array([0, 0, -1, -1])}, quality=0.0)
    b = Partition({"a": np.array([-1, -1, 0, 0])}, quality=0.0)
    none = Partition({"a": np.array([-1, -1, -1, -1])}, quality=0.0)
    for first, second in ((a, b), (none, a), (none, none)):
        found = compare(first, second)
        assert np.isnan(found.adjusted_mutual_information)
        assert np.isnan(found.by_layer["a"])
        assert not found.matches
        assert "no feature is in a module of both" in found.summary()


def test_bases_that_differ():
    """Two halves of a network, found in its neurons and in two rotations of them."""
    model, maps = halves()
    x = torch.randn(200, 8, dtype=torch.float64)
    plain = itg.interaction_graph(model, [x], ["0", "1"], progress=False)
    other = itg.interaction_graph(model, [x], ["0", "1"], features=maps, progress=False)
    one = Partition({layer: np.repeat([0, 1], 4) for layer in ("0", "1")}, quality=1.0)
    two = Partition({"0": np.tile([1, 0], 4), "1": np.array([0, 0, 0, 1, 1, 1, 1])}, quality=1.0)
    with pytest.raises(InteractGraphError, match="or give the graphs"):
        compare(one, two)
    found = compare(one, two, (plain, other))
    assert found.adjusted_mutual_information == 1
    assert not sum(map(len, found.moved.values()))
    with pytest.raises(InteractGraphError, match="in the same order"):
        compare(one, two, (other, plain))
    moved = Partition({**two.membership, "0": np.tile([0, 1], 4)}, quality=1.0)
    assert "moved in 1: " in compare(one, moved, (plain, other)).summary()


def halves():
    """A network of two halves, and bases near its neurons: interleaved, and without one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double()
    near = torch.eye(8, dtype=torch.float64) + 0.1 * torch.randn(8, 8, dtype=torch.float64)
    interleaved = [4, 0, 5, 1, 6, 2, 7, 3]
    return model, {"0": Linear(near[interleaved]), "1": Linear(near[1:], near.inverse()[:, 1:])}
