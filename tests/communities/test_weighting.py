import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import find_modules
from interactgraph.communities.auto_resolution import largest_z, resolution_scores
from interactgraph.communities.auto_weighting import effective_share, named_weighting
from interactgraph.communities.network import Block, Network
from interactgraph.communities.weighting import FORMULAS


def slow(name: str, w: np.ndarray) -> np.ndarray:
    """Each weighting entry by entry, from its formula."""
    result = np.zeros_like(w)
    root = np.sqrt(w)
    powered = w**1.5
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            x, v = w[i, j], root[i, j]
            if x == 0:
                continue
            t, s = w[i].sum(), w[:, j].sum()
            tv, sv = root[i].sum(), root[:, j].sum()
            e = tv * sv / root.sum()
            t_more = powered[i].sum() + 0.3 * powered.sum(1).mean()
            s_more = powered[:, j].sum() + 0.3 * powered.sum(0).mean()
            result[i, j] = {
                "raw": x,
                "square_root": v,
                "logarithmic": max(0, np.log10(x / np.quantile(w[w > 0], 0.5, method="lower"))),
                "strength_normalised": x / np.sqrt(s * t),
                "energy": x**2 / np.sqrt((w[i] ** 2).sum() * (w[:, j] ** 2).sum()),
                "root_normalised": v / np.sqrt(sv * tv),
                "pmi": max(0, np.log(x * w.sum() / (s * t))),
                "information": max(0, np.log(v / (1.25 * e))) * e**0.35,
                "sharpened": x**1.5 / np.sqrt(s_more * t_more),
            }[name]
    return result


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    w = np.random.default_rng(0).lognormal(size=(6, 9))
    w[2, 3] = w[:, 5] = 0
    got = FORMULAS[name].block(Block(0, 1, torch.as_tensor(w), power=2))
    np.testing.assert_allclose(got.numpy(), slow(name, w), rtol=1e-12, atol=1e-15)


def test_effective_share():
    assert effective_share(Block(0, 1, torch.ones(4, 6))) == pytest.approx(1)
    one = torch.zeros(5, 10, dtype=torch.float64)
    one[2, 3] = 7.0
    assert effective_share(Block(0, 1, one)) == pytest.approx((1 / 5 + 1 / 10) / 2)


@pytest.mark.parametrize(("strength", "power"), [("rms", 2), ("mean_abs", 2), ("squared", 1),
                                                 ("exceedance", 1)])  # fmt: skip
def test_energies_are_squares_of_amplitudes(strength, power):
    w = np.random.default_rng(0).lognormal(size=(8, 10))
    network = Network.from_graph(graph_of(w, strength=strength))
    found = named_weighting("energy").weigh(network).network.blocks[0].weight.numpy()
    p = (w / w.max()) ** power
    np.testing.assert_allclose(found, p / np.sqrt(p.sum(1, keepdims=True) * p.sum(0)), rtol=1e-12)


def test_the_choice_is_that_of_hidden_edges():
    """Energies, unless hidden energies say nothing and hidden roots speak for compressed ones."""
    default, seen = named_weighting("auto"), set()
    light = np.exp(0.5 * np.random.default_rng(0).normal(size=(40, 60)))
    halves = graph_of(light * np.where(np.arange(40)[:, None] % 2 == np.arange(60) % 2, 1, 0.3))
    # Energies hold the modules, too, but compressed weights five times as well.
    draw, group = np.random.default_rng(0), np.arange(200) % 6
    inside = np.where(group[:, None] == group, 2.0, 1.0)
    wide = graph_of(*[np.exp(draw.normal(size=(200, 200))) * inside for _ in range(2)])
    for graph in (planted(1, 5.0, (40, 60, 40))[0], halves, wide, planted(2, 1.5)[0]):
        network = Network.from_graph(graph)
        weighed = default.weigh(network, seed=3)
        energies, compressed = (
            resolution_scores(network, [FORMULAS[name]], seed=3)[0]
            for name in ("energy", "information")
        )
        of_energies, z = (largest_z(s.z for s in each.values()) for each in (energies, compressed))
        real = largest_z(s.energy_z for s in energies.values()) >= 3
        near, prefers = of_energies >= z / 2, of_energies >= z - 1
        chosen = "energy" if (real and near) or prefers else "information"
        assert weighed.decided["edges"] == chosen
        assert weighed.scores == (energies if chosen == "energy" else compressed)
        seen.add((real, near, prefers))
    assert any(real and near for real, near, _ in seen)
    assert (True, False, False) in seen  # real, but dwarfed
    assert (False, True, False) in seen  # not dwarfed, but not real


def test_what_is_not_measured_decides_nothing():
    """Every feature has one edge, which is hidden or known: no module holds a hidden one."""
    found = find_modules(graph_of(np.eye(4)), self_edges="keep", n_runs=1, significance=False)
    assert found.details["edges"] == "energy"
    assert "held_out_information" not in found.details


def test_noise_compresses_and_few_features_count_by_energies():
    default = named_weighting("auto")
    decided = default.weigh(Network.from_graph(planted(0, 2.5, (64, 128, 64))[0])).decided
    assert decided["edges"] == "information"
    draw = np.random.default_rng(0)
    few = np.outer(np.exp(4 * draw.normal(size=60)), np.exp(4 * draw.normal(size=50)))
    decided = default.weigh(Network.from_graph(graph_of(few))).decided
    assert decided["edges"] == "energy"


def test_features_without_weight_get_faint_edges():
    network = Network.from_graph(graph_of(np.ones((3, 4))))
    weighted = named_weighting("information").weigh(network).network
    assert weighted.connected.all()
    some = np.random.default_rng(0).lognormal(size=(12, 10))
    some[3] = some.sum(0) / 100  # exactly what strengths explain
    network = Network.from_graph(graph_of(some))
    bare = network.map(FORMULAS["pmi"].block)
    weighted = named_weighting("pmi").weigh(network).network
    assert weighted.connected.all()
    change = weighted.blocks[0].weight - bare.blocks[0].weight
    assert change.sum() < 2e-4 * bare.blocks[0].weight.sum()


def test_standard_errors_change_nothing():
    graph, _ = planted(0)
    weights = [graph.weights(*pair).numpy() for pair in graph.pairs]
    plain = find_modules(graph, n_runs=2)
    errors = tuple(np.where(np.arange(w.shape[1]) < 3, np.nan, 2 * w) for w in weights)
    found = find_modules(graph_of(*weights, errors=errors), n_runs=2)
    assert found.labels.tolist() == plain.labels.tolist()
    assert found.p_value == plain.p_value
