import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import WEIGHTINGS, adjusted_rand_index
from interactgraph.graph import InteractionGraph


@pytest.mark.parametrize("algorithm", ["leiden", "sweeps", "leiden+sweeps", "auto"])
def test_planted_modules_are_found(algorithm):
    graph, truth = planted(0, contrast=8.0)
    partition = find_modules(graph, algorithm=algorithm, n_runs=3)
    assert adjusted_rand_index(partition.labels, truth) == 1
    assert partition.agreement == pytest.approx(1)
    assert partition.p_value < 1e-6
    assert list(partition.membership) == list(graph.layers)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_finds_clear_modules(weighting):
    graph, truth = planted(1, contrast=40.0)
    partition = find_modules(graph, weighting=weighting, n_runs=3, significance=False)
    assert adjusted_rand_index(partition.labels, truth) > 0.6
    assert partition.weighting == weighting


def test_layered_null_finds_what_plain_modularity_cannot():
    graph, truth = planted(0, contrast=3.0, sizes=(64, 128, 64, 128, 64))
    options = {"n_runs": 3, "significance": False, "weighting": "square_root"}
    layered = find_modules(graph, **options)
    plain = find_modules(graph, null="undirected", **options)
    assert adjusted_rand_index(layered.labels, truth) > 0.7
    assert adjusted_rand_index(plain.labels, truth) < 0.5


@pytest.mark.parametrize("null", ["layered", "undirected", "directed", "cpm"])
def test_the_best_run_is_kept(null):
    graph, _ = planted(5, contrast=1.5)
    partition = find_modules(graph, null=null, n_runs=6, significance=False)
    assert partition.quality == max(partition.details["qualities"])
    assert len(partition.details["qualities"]) == 6
    assert partition.null == null


def test_resolution_sets_the_number_of_modules():
    graph, _ = planted(0, contrast=3.0)
    counts = [
        find_modules(graph, resolution=r, n_runs=2, significance=False).n_modules
        for r in (0.3, 1.0, 2.0)
    ]
    assert counts[0] < counts[1] < counts[2]


SCRIPT = """
import sys, hashlib
sys.path.insert(0, {folder!r})
from communities.planted_graphs import planted
from interactgraph import find_modules
partition = find_modules(planted(9, contrast=1.6)[0], n_runs=4, seed=3)
print(hashlib.sha256(partition.labels.tobytes()).hexdigest(), partition.z_score)
"""


def test_same_seed_same_partition_in_another_process():
    graph = planted(9, contrast=1.6)[0]
    here = find_modules(graph, n_runs=4, seed=3)
    script = SCRIPT.format(folder=os.path.dirname(os.path.dirname(__file__)))
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out[0] == hashlib.sha256(here.labels.tobytes()).hexdigest()
    assert float(out[1]) == here.z_score


def test_no_edges():
    partition = find_modules(graph_of(np.zeros((3, 4))))
    assert partition.n_modules == 0
    assert partition.modules == []
    assert partition.membership["l0"].tolist() == [-1] * 4
    assert "no edges" in partition.summary()


def test_one_layer():
    graph = InteractionGraph(("only",), (), {"only": ("a", "b")}, {})
    assert find_modules(graph).membership["only"].tolist() == [-1, -1]


def test_two_features():
    partition = find_modules(graph_of(np.ones((1, 1))))
    assert partition.membership["l0"].tolist() in ([0], [1])
    assert not partition.significant


def test_features_that_a_weighting_cuts_off_still_belong_somewhere():
    graph, _ = planted(0)
    for weighting in WEIGHTINGS:
        partition = find_modules(graph, weighting=weighting, n_runs=1, significance=False)
        assert (partition.labels >= 0).all()


def test_one_huge_edge():
    block = np.ones((4, 4))
    block[1, 2] = 1e30
    for weighting in WEIGHTINGS:
        partition = find_modules(graph_of(block), weighting=weighting)
        assert np.isfinite(partition.quality)
        assert not partition.significant


def test_equal_weights():
    partition = find_modules(graph_of(np.ones((6, 5)), np.ones((4, 6))))
    assert partition.quality == pytest.approx(0, abs=1e-9)
    assert not partition.significant


def test_isolated_features():
    graph, _ = planted(0)
    block = graph.weights("l0", "l1").numpy().copy()
    block[:, 5] = 0
    partition = find_modules(graph_of(block, graph.weights("l1", "l2").numpy()), n_runs=2)
    assert partition.membership["l0"][5] == -1
    assert (np.delete(partition.labels, 5) >= 0).all()


def test_negative_weights_count_by_size():
    graph, truth = planted(0, contrast=8.0)
    generator = np.random.default_rng(0)
    blocks = [graph.weights(*pair).numpy() for pair in graph.pairs]
    signed = [b * generator.choice([-1, 1], b.shape) for b in blocks]
    partition = find_modules(graph_of(*signed, strength="mean"), n_runs=2)
    assert adjusted_rand_index(partition.labels, truth) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value):
    block = np.ones((3, 4))
    block[1, 2] = value
    with pytest.raises(InteractGraphError, match=r"1 weights .rms. of 'l0' -> 'l1' are NaN"):
        find_modules(graph_of(block))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "cube"}, "weighting 'cube' is not known; choose one of auto, raw"),
        ({"algorithm": "louvain"}, "algorithm 'louvain' is not known"),
        ({"null": "undirected", "algorithm": "sweeps"}, "needs a null model per block"),
        ({"null": "plain"}, "null model 'plain' is not known"),
        ({"n_runs": 0}, "n_runs=0 must be a whole number of at least 1"),
        ({"resolution": -1}, "must be a positive number"),
        ({"strength": "median"}, "does not hold strength 'median'"),
    ],
)
def test_options_that_are_not_known(options, message):
    with pytest.raises(InteractGraphError, match=message):
        find_modules(planted(0)[0], **options)


def test_the_graph_is_left_alone():
    graph = planted(0)[0]
    before = [graph.weights(*pair).clone() for pair in graph.pairs]
    find_modules(graph, n_runs=1)
    for pair, weight in zip(graph.pairs, before, strict=True):
        assert torch.equal(graph.weights(*pair), weight)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sweeps", "leiden"])
def test_many_modules(algorithm):
    draw = np.random.default_rng(0)
    truth = np.arange(600) % 150
    weights = draw.lognormal(0, 0.5, (600, 600)) * np.where(truth[:, None] == truth, 200, 1)
    graph = graph_of(weights)
    partition = find_modules(
        graph, n_runs=1, weighting="raw", algorithm=algorithm, significance=False
    )
    if algorithm == "sweeps":
        assert adjusted_rand_index(partition.labels, np.concatenate([truth, truth])) > 0.95
    asked = find_modules(graph, n_runs=1, weighting="raw", n_modules=150, significance=False)
    assert asked.n_modules == 150


def test_numbers_of_runs_and_seeds(tmp_path):
    graph, _ = planted(0)
    for options in ({"seed": -1}, {"n_runs": 2.5}, {"seed": 1.5}, {"n_runs": True}):
        with pytest.raises(InteractGraphError, match="must be a whole number"):
            find_modules(graph, **options)
    with pytest.raises(InteractGraphError, match="must be a number"):
        find_modules(graph, resolution="1")
    partition = find_modules(graph, seed=np.int64(3), n_runs=np.int64(2), significance=False)
    partition.save(tmp_path / "modules.json")


def test_uniform_weights_are_one_module():
    partition = find_modules(graph_of(np.ones((8, 6))), n_runs=3)
    assert partition.n_modules == 1
    assert partition.agreement == 1
