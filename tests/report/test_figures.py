from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interactgraph.communities import Partition
from interactgraph.report.figures import (
    block_means,
    histograms,
    quotas,
    strong_edge_error,
    strongest_edges,
    strongest_neighbours,
)
from interactgraph.validation.module_effect import share_inside


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(0, 100))
def test_quotas_use_all_there_is_and_are_even(available, total):
    given_ = quotas(available, total)
    assert sum(given_) == min(total, sum(available))
    assert all(0 <= g <= a for g, a in zip(given_, available, strict=True))
    # Who got less than another, and less than it could take, differs by what cannot be divided.
    most = max(given_, default=0)
    assert all(g == a or g >= most - 1 for g, a in zip(given_, available, strict=True))


def test_strongest_edges_against_sorting_each_pair(graph):
    edges = graph.edges("mean")
    found = strongest_edges(edges, len(graph.pairs), 20)
    assert len(found) == 20
    weight = np.abs(edges.weight)
    assert (np.diff(weight[found]) <= 0).all()
    for pair in range(len(graph.pairs)):
        own = np.sort(weight[edges.pair == pair])[::-1][:10]
        np.testing.assert_array_equal(np.sort(weight[found][edges.pair[found] == pair])[::-1], own)
    assert len(strongest_edges(edges, len(graph.pairs), 10**6)) == len(weight)


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize("strength", ["rms", "mean"])
def test_neighbours_against_all_edges(graph, side, strength):
    # A layer with two pairs on each side, so that pairs are merged.
    a, _, c = graph.layers
    block = {
        name: torch.randn(graph.n_features[c], graph.n_features[a]) for name in graph.strengths
    }
    graph = graph.replace(
        pairs=(*graph.pairs, (a, c)), blocks={**graph.blocks, (a, c): block},
        completeness={},
    )  # fmt: skip
    edges = graph.edges(strength)
    errors = graph.values_at(edges, strength, error=True)
    own, other = (edges.target, edges.source) if side == "in" else (edges.source, edges.target)
    found = strongest_neighbours(graph, strength, 4, side)
    for node in range(graph.n_nodes):
        places = np.flatnonzero(own == node)
        places = places[np.argsort(-np.abs(edges.weight[places]), kind="stable")][:4]
        n = len(places)
        np.testing.assert_array_equal(found.node[node, :n], other[places])
        np.testing.assert_allclose(found.weight[node, :n], edges.weight[places])
        np.testing.assert_allclose(found.error[node, :n], errors[places])
        assert (found.node[node, n:] == -1).all()


def test_module_flow_against_loops(graph, partition):
    module = partition.labels
    flow = sum(partition.flow(graph, "mean").blocks.values())
    expected = np.zeros_like(flow)
    edges = graph.edges("mean")
    for source, target, weight in zip(edges.source, edges.target, edges.weight, strict=True):
        expected[module[target], module[source]] += abs(weight)  # -1 is the last row
    np.testing.assert_allclose(flow, expected, rtol=1e-12)
    rms = sum(partition.flow(graph, "rms").blocks.values())
    for number in range(partition.n_modules):
        inside = rms[number, number]
        share = inside / (rms[number].sum() + rms[:, number].sum() - inside)
        assert share == pytest.approx(share_inside(graph, partition, number), rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (10, 7), (23, 9), (1, 30), (0, 5)])
def test_block_means_against_loops(shape):
    weight = np.random.default_rng(0).normal(size=shape)
    most = 6
    every = [np.arange(n) for n in shape]
    means = block_means(torch.from_numpy(weight), *every, most)
    shuffled = [np.random.default_rng(1).permutation(n) for n in shape]
    dense, sparse = (
        block_means(matrix, *shuffled, most)
        for matrix in (torch.from_numpy(weight), torch.from_numpy(weight).to_sparse())
    )
    np.testing.assert_allclose(sparse, dense, rtol=1e-12)
    rows, columns = (
        np.arange(min(n, most) + 1) * n // max(min(n, most), 1) if n else [0] for n in shape
    )
    expected = [
        [np.abs(weight[a:b, c:d]).mean() for c, d in pairwise(columns)] for a, b in pairwise(rows)
    ]
    np.testing.assert_allclose(means, np.array(expected).reshape(means.shape), rtol=1e-12)


def test_histograms_count_every_edge_once(graph):
    ends, counts = histograms(graph, "mean", n_bins=10)
    edges = graph.edges("mean")
    assert counts.sum(1).tolist() == np.bincount(edges.pair).tolist()
    assert ends[-1] == pytest.approx(np.log10(np.abs(edges.weight)).max())
    empty = graph.prune(threshold=1e9)
    assert histograms(empty, "rms")[1].sum() == 0


def test_error_of_strong_edges(graph):
    pair = graph.pairs[0]
    assert strong_edge_error(graph, *pair) == pytest.approx(0.1 / 1.3, rel=1e-5)
    assert strong_edge_error(graph.replace(standard_errors={}), *pair) is None
    assert strong_edge_error(graph.prune(threshold=1e9), *pair) is None


def test_sparse_graphs_give_the_same(graph):
    graph = graph.prune(top_k_per_target=3)
    sparse = graph.to_sparse()
    module = np.random.default_rng(0).integers(-1, 3, graph.n_nodes)
    partition = Partition.from_labels(module, graph.n_features, quality=0)
    for pair in graph.pairs:
        assert strong_edge_error(sparse, *pair) == strong_edge_error(graph, *pair)
    for strength in graph.strengths:
        flows = [sum(partition.flow(each, strength).blocks.values()) for each in (graph, sparse)]
        np.testing.assert_allclose(*flows, rtol=1e-6)
        for a, b in zip(*(histograms(each, strength) for each in (graph, sparse)), strict=True):
            np.testing.assert_array_equal(a, b)
        for side in ("in", "out"):
            one, other = (strongest_neighbours(each, strength, 4, side) for each in (graph, sparse))
            np.testing.assert_array_equal(one.node, other.node)
            np.testing.assert_array_equal(one.weight, other.weight)
            there = one.node >= 0
            np.testing.assert_array_equal(one.error[there], other.error[there])
