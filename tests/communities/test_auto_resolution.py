import itertools
import math

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import adjusted_rand_index
from interactgraph.communities.auto_resolution import best_resolution, resolution_scores
from interactgraph.communities.constants import COARSEST, LEAST_Z, RESOLUTIONS, ROUNDS
from interactgraph.communities.held_out import folds_of, held_out, modules_of, rank_one_fit
from interactgraph.communities.network import Network
from interactgraph.communities.weighting import FORMULAS, Score, Weighting


def two_halves(seed: int = 0):
    """Two halves, with large edges inside that mean nothing."""
    draw = np.random.default_rng(seed)
    sizes = (40, 30, 20)
    halves = [np.arange(n) % 2 for n in sizes]
    blocks = []
    for source, target in itertools.pairwise(halves):
        noise = np.exp(1.5 * draw.normal(size=(len(target), len(source))))
        blocks.append(noise * np.where(target[:, None] == source, 1.0, 0.2))
    return graph_of(*blocks), np.concatenate(halves)


def test_halves_are_not_split_by_noise():
    graph, truth = two_halves()
    fixed = find_modules(graph, resolution=1.0, n_runs=3, significance=False)
    found = find_modules(graph, n_runs=3, significance=False)
    assert fixed.n_modules > 2
    assert found.n_modules == 2
    assert adjusted_rand_index(found.labels, truth) > 0.85
    assert found.resolution < 1
    for name in ("resolutions", "resolution_excess"):
        assert set(found.details[name]) == {str(r) for r in RESOLUTIONS}


def test_one_where_hidden_edges_do_not_care():
    graph, truth = planted(0, 8.0)
    found = find_modules(graph, n_runs=3, significance=False)
    assert found.resolution == 1.0
    assert adjusted_rand_index(found.labels, truth) > 0.9
    draw = np.random.default_rng(0)
    nothing = graph_of(np.exp(draw.normal(size=(30, 40))))
    assert find_modules(nothing, n_runs=1, significance=False).resolution == 1.0


@pytest.mark.parametrize("n_parts", [2, 3])
def test_what_falls_apart_is_not_divided_further(n_parts):
    # Chains within a part would be modules of their own at resolution 1.
    chains = np.array([[5, 1, 0], [1, 5, 1], [0, 1, 5]])
    graph = graph_of(*[np.kron(np.eye(n_parts), chains)] * 2)
    found = find_modules(graph, n_runs=2, significance=False)
    assert (found.resolution, found.n_modules) == (COARSEST, n_parts)
    assert not max(found.details["resolutions"].values()) >= LEAST_Z
    options = {"resolution": 1.0, "weighting": "energy", "n_runs": 2, "significance": False}
    assert find_modules(graph, **options).n_modules > n_parts


def scored(excess: dict[float, float], z: float = 9.0) -> dict[float, Score]:
    return {resolution: Score(value, z, z) for resolution, value in excess.items()}


def test_the_nearest_to_one_of_those_near_the_best():
    draw = np.random.default_rng(0)
    whole, apart = np.exp(draw.normal(size=(6, 6))), np.kron(np.eye(2), np.ones((3, 3)))
    stray = np.pad(whole, ((0, 1), (0, 1)))  # a pair of features by itself is no part of a graph
    stray[-1, -1] = 1.0
    joined = Network.from_graph(graph_of(apart + 0.03))  # hardly apart: 3 % of it is between parts
    whole, apart, stray = (Network.from_graph(graph_of(w)) for w in (whole, apart, stray))
    for network in (whole, apart):
        assert best_resolution(scored({0.5: 0.9, 0.7: 0.73, 1.0: 0.7, 1.5: 0.3}), network) == 0.7
        assert best_resolution(scored({0.5: 0.9, 0.7: 0.7, 1.0: 0.73, 1.5: 0.3}), network) == 1.0
        assert best_resolution(scored({0.5: 0.1, 1.0: 0.3, 1.5: 0.45}), network) == 1.5
    mixed = {0.2: Score(0.5, 2.9, 9.0), 0.7: Score(0.9, math.nan, 9.0), 1.2: Score(0.1, 3.1, 9.0)}
    assert best_resolution(mixed, whole) == 1.2
    small = {0.5: Score(0.3, math.nan, 9.0), 1.0: Score(0.1, 2.9, 9.0)}
    for nothing in (small, scored({0.5: 0.3}, math.nan), scored({0.5: 0.0, 1.0: -0.1}), {}):
        assert best_resolution(nothing, whole) == 1.0
        assert best_resolution(nothing, apart) == COARSEST
        assert best_resolution(nothing, stray) == 1.0
        assert best_resolution(nothing, joined) == 1.0


def test_a_few_edges_more_do_not_decide():
    """A block of three edges, whose fits promise anything for those that are hidden."""
    graph, _ = two_halves()
    first = graph.weights(*graph.pairs[0])
    last = torch.zeros(2, 30, dtype=torch.float64)
    last[0, 0], last[0, 2], last[1, 2] = 1.0, 0.5, 2.0
    for seed in range(4):
        (scores,) = resolution_scores(
            Network.from_graph(graph_of(first, last)), [FORMULAS["energy"]], seed
        )
        assert all(abs(score.excess) < 1 for score in scores.values())


def test_scores_are_means_of_held_out_rounds():
    network = Network.from_graph(planted(2, 3.0)[0])
    (scores,) = resolution_scores(network, [FORMULAS["root_normalised"]], seed=1)
    for resolution in (0.7, 1.2):
        rounds = [
            held_out(network, FORMULAS["root_normalised"], resolution,
                     n_folds=3, n_starts=1, seed=ROUNDS * 1 + k)
            for k in range(ROUNDS)
        ]  # fmt: skip
        z, excess = (np.mean([getattr(each, name) for each in rounds])
                     for name in ("z_score", "excess"))  # fmt: skip
        assert scores[resolution].z == pytest.approx(z)
        assert scores[resolution].excess == pytest.approx(excess)


def test_energies_are_judged_by_their_squares():
    """Reference: every hidden square inside modules against the fit to the visible ones."""
    network = Network.from_graph(planted(4, 2.0)[0])
    score = resolution_scores(network, [FORMULAS["energy"]], seed=0)[0][1.0]
    expected = []
    for seed in range(ROUNDS):
        total = variance = 0.0
        for number, fold in enumerate(folds_of(network, 3, seed)):
            objective, labels = modules_of(fold, FORMULAS["energy"], 1.0, [1000 * seed + number])
            for block, hidden in zip(network.blocks, fold.hidden, strict=True):
                energy = block.weight.square()
                residual = (energy - rank_one_fit(energy, ~hidden)) / energy.sum()
                into, out = (objective.layer_labels(labels, k)
                             for k in (block.target, block.source))  # fmt: skip
                counted = residual[hidden & (into[:, None] == out)]
                total += float(counted.sum())
                variance += float(counted.square().sum())
        expected.append(total / variance**0.5)
    assert score.energy_z == pytest.approx(np.mean(expected))
    assert score.energy_z != pytest.approx(score.z, rel=0.01)


def test_scale_and_seed_change_nothing():
    graph, _ = two_halves(1)
    first = find_modules(graph, n_runs=2, significance=False)
    scaled = graph.replace(
        blocks={pair: {"rms": 1e-9 * block["rms"]} for pair, block in graph.blocks.items()}
    )
    again = find_modules(scaled, n_runs=2, significance=False)
    assert first.resolution == again.resolution
    assert first.labels.tolist() == again.labels.tolist()
    assert find_modules(graph, n_runs=2, significance=False).details == first.details


def test_other_nulls_and_numbers_of_modules_ask_for_none():
    graph, _ = planted(0)
    for options in ({"null": "undirected"}, {"null": "cpm"}, {"n_modules": 3}):
        found = find_modules(graph, n_runs=1, significance=False, **options)
        assert "resolutions" not in found.details
    assert find_modules(graph, resolution=1.3, n_runs=1, significance=False).resolution == 1.3
    with pytest.raises(InteractGraphError, match="must be a number, or 'auto'"):
        find_modules(graph, resolution="fine")


@pytest.mark.parametrize("block", [np.zeros((3, 4)), np.ones((1, 1)), np.eye(2), np.ones((3, 2))])
def test_degenerate_graphs(block):
    found = find_modules(graph_of(block), n_runs=2)
    assert found.resolution == (COARSEST if found.n_modules > 1 else 1.0)
    assert math.isfinite(found.quality)
    (scores,) = resolution_scores(
        Network.from_graph(graph_of(block)),
        [Weighting("one", lambda block: torch.ones_like(block.weight))],
    )
    assert all(math.isnan(score.z) or abs(score.z) < 2 for score in scores.values())
