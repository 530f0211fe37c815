"""Joint effects and what sums over modules miss of them, against the same written by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import Partition
from interactgraph.validation.controls import matched_partition

LAYERS = ["input", "1", "3", "4"]


def network(cross=0.0):
    """Two networks side by side, with weights between them as large as asked for."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 4)
    ).double()
    with torch.no_grad():
        for linear in model[::2]:
            a, b = (n // 2 for n in linear.weight.shape)
            linear.weight *= 2
            linear.weight[:a, b:] *= cross
            linear.weight[a:, :b] *= cross
    x = torch.randn(30, 6, dtype=torch.float64)
    graph = itg.interaction_graph(model, [x], LAYERS, progress=False)
    true = {layer: np.arange(n) * 2 // n for layer, n in graph.n_features.items()}
    return model, x, graph, Partition(true, quality=0)


def by_hand(model, x, partition, taken):
    """|d(S) - sum over modules of d(S and m)|^2 and |d(S)|^2, features at their means."""

    def output(masks):
        h = model[:2](x)
        h = torch.where(torch.from_numpy(masks["1"]), h.mean(0), h)
        g, intact = model[2:4](h), model[:4](x)
        return model[4](torch.where(torch.from_numpy(masks["3"]), intact.mean(0), g))

    with torch.no_grad():
        whole = output(taken) - model(x)
        rest = whole.clone()
        for module in range(partition.n_modules):
            part = {k: mask & (partition.membership[k] == module) for k, mask in taken.items()}
            rest -= output(part) - model(x)
    return float(rest.square().sum()), float(whole.square().sum())


def test_against_the_same_by_hand():
    model, x, graph, partition = network(cross=0.5)
    found = itg.joint_effects(
        graph, partition, model, [x[:20], x[20:]], n_sets=3, n_controls=2, seed=4, progress=False
    )
    draw, random = np.random.default_rng(4), np.random.default_rng([4, 1])
    sizes = {"1": 12, "3": 10}
    sets = [{k: draw.random(n) < 0.5 for k, n in sizes.items()} for _ in range(3)]
    own = {layer: partition.membership[layer] for layer in sizes}
    others = [matched_partition(graph, own, random) for _ in range(2)]
    values = np.array([by_hand(model, x, partition, taken) for taken in sets])
    assert found.own == pytest.approx(values[:, 0] / values[:, 1].sum(), rel=1e-9)
    for errors, membership in zip(found.other, others, strict=True):
        other = Partition(membership, quality=0)
        expected = [by_hand(model, x, other, taken)[0] for taken in sets]
        assert errors == pytest.approx(np.array(expected) / values[:, 1].sum(), rel=1e-9)
    assert found.score == pytest.approx(1 - found.own.sum() / found.other.sum(1).mean())


def test_separate_networks_add_up_and_random_modules_do_not():
    model, x, graph, partition = network()
    found = itg.joint_effects(graph, partition, model, [x], n_controls=3, progress=False)
    assert found.score == pytest.approx(1, abs=1e-9)
    assert found.control_errors.min() > 1e-3
    assert "joint effects: modules predict 100%" in str(found)
    random = np.random.default_rng(0)
    other = Partition(matched_partition(graph, partition.membership, random), quality=0)
    worse = itg.joint_effects(graph, other, model, [x], n_controls=3, progress=False)
    assert worse.score < 0.5
    assert worse.spread > 0
    assert worse.standard_error > 0


def test_one_linear_readout_has_no_joint_effects():
    """Features of one layer before a linear map: nothing to tell partitions apart by."""
    model, x, graph, partition = network()
    found = itg.joint_effects(graph, partition, model, [x], layers=["3"], progress=False)
    assert np.isnan(found.score)
    assert np.isnan(found.spread)
    assert "nothing to predict" in str(found)


def test_matched_partitions_keep_sizes_and_strengths():
    _, _, graph, partition = network(cross=0.5)
    modules = {layer: values.copy() for layer, values in partition.membership.items()}
    modules["1"][2] = -1
    drawn = matched_partition(graph, modules, np.random.default_rng(0))
    for layer, values in modules.items():
        assert sorted(drawn[layer]) == sorted(values)
    assert drawn["1"][2] == -1
    assert any((drawn[layer] != values).any() for layer, values in modules.items())


def test_strong_features_change_places_with_strong_ones():
    strengths = np.exp(np.linspace(0, 6, 60))
    graph = itg.InteractionGraph(
        ("a", "b"), (("a", "b"),), {"a": [str(j) for j in range(60)], "b": ["t"]},
        {("a", "b"): {"rms": torch.from_numpy(strengths)[None]}},
    )  # fmt: skip
    modules = {"a": np.arange(60) // 30, "b": np.array([0])}
    for seed in range(5):
        drawn = matched_partition(graph, modules, np.random.default_rng(seed))["a"]
        # Only features within 20 places of the border can change sides.
        assert (drawn[:10] == 0).all()
        assert (drawn[50:] == 1).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"share": 1.0}, "between 0 and 1"), ({"n_sets": 0}, "n_sets"), ({"layers": ["x"]}, "'x'")],
)
def test_bad_input(options, match):
    model, x, graph, partition = network()
    with pytest.raises(InteractGraphError, match=match):
        itg.joint_effects(graph, partition, model, [x], progress=False, **options)
