import itertools

import numpy as np
import pytest
from communities.planted_graphs import graph_of, planted

from interactgraph.communities.leiden import Leiden
from interactgraph.communities.network import Network
from interactgraph.communities.objective import make_objective
from interactgraph.communities.sweeps import Sweeps


def objective_of(seed: int, null: str = "layered", contrast: float = 2.0, **options):
    graph, _ = planted(seed, contrast, **options)
    return make_objective(Network.from_graph(graph), null, 1.0)


@pytest.mark.parametrize("null", ["layered", "cpm"])
def test_predicted_gains_are_actual_gains(null):
    objective = objective_of(0, null)
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 5, objective.network.n_nodes)
    sweeps = Sweeps(objective)
    offsets = objective.network.offsets
    modules = sweeps._split(labels)
    for _ in range(30):
        node, target = generator.integers(len(labels)), generator.integers(5)
        layer = int(np.searchsorted(offsets, node, side="right")) - 1
        score = sweeps._scores(layer, modules, 5)[:, node - offsets[layer]]
        moved = labels.copy()
        moved[node] = target
        predicted = float(score[target] - score[labels[node]])
        actual = objective.quality(moved) - objective.quality(labels)
        assert predicted == pytest.approx(actual, abs=1e-14)


@pytest.mark.parametrize("null", ["layered", "cpm"])
def test_polish_never_lowers_the_quality(null):
    for seed in range(10):
        objective = objective_of(seed, null, contrast=1.2)
        labels = np.random.default_rng(seed).integers(0, 8, objective.network.n_nodes)
        polished = Sweeps(objective).polish(labels)
        assert objective.quality(polished) > objective.quality(labels)
        again = Sweeps(objective).polish(polished)
        assert objective.quality(again) == pytest.approx(objective.quality(polished), abs=1e-14)


def test_nothing_is_left_to_gain():
    """No single move and no merge of two modules raises the quality of a polished partition."""
    objective = objective_of(4, contrast=1.5, sizes=(12, 16, 10))
    labels = Sweeps(objective).run(0)
    quality = objective.quality(labels)
    n = labels.max() + 1
    for node in range(len(labels)):
        for module in range(n):
            moved = labels.copy()
            moved[node] = module
            assert objective.quality(moved) <= quality + 1e-12
    for a in range(n):
        for b in range(a):
            merged = np.where(labels == a, b, labels)
            assert objective.quality(merged) <= quality + 1e-12


@pytest.mark.parametrize("null", ["layered", "cpm"])
def test_same_optimum_as_leiden(null):
    for seed in range(3):
        objective = objective_of(seed, null, contrast=3.0)
        leiden = Leiden(objective)
        best = max(objective.quality(leiden.run(k)) for k in range(5))
        found = max(objective.quality(Sweeps(objective).run(k)) for k in range(40))
        assert found > best - 0.002


def test_leiden_optimises_the_same_objective():
    """A partition Leiden calls optimal cannot be improved much by single moves."""
    for null in ("layered", "cpm"):
        objective = objective_of(1, null, contrast=4.0)
        labels = Leiden(objective).run(0)
        polished = Sweeps(objective).polish(labels, merge=False)
        assert objective.quality(polished) - objective.quality(labels) < 1e-6


def test_what_is_found_is_a_fixed_point_of_the_sweeps():
    for seed in range(20):
        draw = np.random.default_rng(seed)
        sizes = (40, 40, 40, 20)
        modules = [draw.integers(0, 5, n) for n in sizes]
        blocks = [
            draw.gamma(0.5, size=(len(b), len(a))) * (1 + (b[:, None] == a))
            for a, b in itertools.pairwise(modules)
        ]
        objective = make_objective(Network.from_graph(graph_of(*blocks)), "layered", 1.0)
        found = Sweeps(objective).run(seed)
        again = Sweeps(objective).polish(found, merge=False)
        assert objective.quality(again) <= objective.quality(found) + 1e-10
