"""Modules across depth, against sums edge by edge."""

import csv
from itertools import pairwise

import numpy as np
import pytest
from communities.planted_graphs import graph_of, planted

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import Partition
from interactgraph.report.alluvial import flow_boxes


def found(seed=0):
    graph, labels = planted(seed, sizes=(7, 9, 8), n_modules=3)
    labels[3] = -1
    return graph, Partition.from_labels(labels, graph.n_features, quality=0)


def test_against_sums_edge_by_edge():
    graph, partition = found()
    flow = partition.flow(graph)
    for (source, target), block in flow.blocks.items():
        expected = np.zeros((4, 4))
        for i, row in enumerate(graph.weights(source, target).tolist()):
            for j, weight in enumerate(row):
                n, m = partition.membership[target][i], partition.membership[source][j]
                expected[n % 4, m % 4] += abs(weight)  # -1 is 3
        assert np.allclose(block, expected, rtol=1e-12)
        out, into, total = expected.sum(0), expected.sum(1), expected.sum()
        bands = [b for b in flow.bands() if (b.source, b.target) == (source, target)]
        assert sum(b.strength for b in bands) == pytest.approx(total)
        assert [b.strength for b in bands] == sorted((b.strength for b in bands), reverse=True)
        for b in bands:
            value = expected[b.target_module % 4, b.source_module % 4]
            assert b.strength == pytest.approx(value)
            assert b.share_out == pytest.approx(value / out[b.source_module % 4])
            assert b.share_in == pytest.approx(value / into[b.target_module % 4])
            explained = out[b.source_module % 4] * into[b.target_module % 4] / total
            assert b.ratio == pytest.approx(value / explained)
        for module in range(3):
            kept = flow.kept(module)[source, target]
            assert kept == pytest.approx(expected[module, module] / out[module])


def test_splits_and_merges():
    """Module 0 of l0 goes on in 0 and 1 of l1, which meet in 2 of l2."""
    into = np.array([0, 0, 1, 1, 2, 2])
    first = np.where(np.isin(into, (0, 1))[:, None] == (np.arange(6) < 3), 1.0, 0.05)
    second = np.where((np.arange(6) < 3)[:, None] == np.isin(into, (0, 1)), 1.0, 0.05)
    partition = Partition(
        {"l0": [0, 0, 0, 2, 2, 2], "l1": into, "l2": [2, 2, 2, 0, 0, 0]}, quality=0
    )
    flow = itg.module_flow(graph_of(first, second), partition)
    assert (("l0", "l1"), 0, [0, 1]) in flow.splits()
    assert (("l1", "l2"), 2, [0, 1]) in flow.merges()
    assert (("l1", "l2"), 2, [0, 1]) not in flow.splits()
    text = flow.summary()
    assert "l0 -> l1: module 0 splits into 0, 1" in text
    assert "l1 -> l2: module 2 comes from 0, 1" in text


def test_table_and_picture(tmp_path):
    graph, partition = found()
    flow = partition.flow(graph)
    flow.save(tmp_path / "flow.csv")
    with (tmp_path / "flow.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(flow.bands())
    assert float(rows[0]["strength"]) == flow.bands()[0].strength
    flow.plot(tmp_path / "flow.svg")
    text = (tmp_path / "flow.svg").read_text()
    assert "l0" not in flow_boxes(flow)["l1"]
    assert text.count("<path") > 20
    for boxes in flow_boxes(flow).values():
        heights = [height for _, height in boxes.values()]
        assert sum(heights) == pytest.approx(0.85)
        places = sorted(boxes.values())
        for (low, height), (high, _) in pairwise(places):
            assert low + height < high
    assert -1 in flow_boxes(flow)["l0"]


def test_of_another_graph():
    graph, _ = found()
    with pytest.raises(InteractGraphError, match="of another graph"):
        itg.module_flow(graph, Partition({"l0": [0]}, quality=0))


def test_followed_through_pairs():
    """a -> b and b -> c number the modules differently; one of them splits."""
    first = Partition({"a": [0, 0, 1, 1], "b": [0, 0, 0, 0, 1, 1, 1, 1]}, quality=0)
    second = Partition({"b": [2, 2, 2, 2, 0, 0, 1, 1], "c": [0, 0, 1, 1, 2, 2]}, quality=0)
    third = Partition({"c": [1, 1, 2, 2, 0, 0]}, quality=0)
    result = itg.follow_modules([first, second, third])
    assert {0: 0, 1: 2, 2: 0} in result.tracks
    joint = result.joints[0]
    assert joint.layers == ("b",)
    assert joint.overlap.tolist() == [[0, 2], [0, 2], [4, 0]]
    assert joint.splits == {1: [0, 1]}
    assert joint.merges == {}
    assert 0 < joint.agreement < 1
    assert result.joints[1].agreement == pytest.approx(1)
    assert sorted(len(track) for track in result.tracks) == [2, 3, 3]
    assert "1 splits into 0, 1" in result.summary()
    back = itg.follow_modules([second, first]).joints[0]
    assert back.merges == {1: [0, 1]}
    with pytest.raises(InteractGraphError, match="no layer in common"):
        itg.follow_modules([first, third])
    with pytest.raises(InteractGraphError, match="no partitions"):
        itg.follow_modules([])


def test_sparse_graphs_have_the_same_flow():
    graph, partition = found()
    sparse = partition.flow(graph.to_sparse())
    for pair, block in partition.flow(graph).blocks.items():
        np.testing.assert_allclose(sparse.blocks[pair], block, rtol=1e-12)
