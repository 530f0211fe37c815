import itertools

import numpy as np
import pytest
from communities.planted_graphs import graph_of, planted

from interactgraph import InteractGraphError, find_modules
from interactgraph.communities import adjusted_rand_index, module_tree, resolution_profile
from interactgraph.communities.partition import Partition
from interactgraph.communities.resolution import find_plateaus


def nested(seed: int) -> tuple:
    """Two modules of three parts each, and no heavy tails."""
    draw = np.random.default_rng(seed)
    parts = [draw.permutation(np.arange(n) % 6) for n in (36, 48, 36)]
    blocks = []
    for source, target in itertools.pairwise(parts):
        same = target[:, None] == source
        near = target[:, None] // 3 == source // 3
        blocks.append(
            np.where(same, 12.0, np.where(near, 4.0, 0.5))
            * np.exp(0.3 * draw.normal(size=same.shape))
        )
    return graph_of(*blocks), np.concatenate(parts)


def test_profile_is_consistent_with_find_modules():
    graph, _ = planted(0, 4.0)
    profile = resolution_profile(graph, resolutions=[1.5, 0.5, 1.0], n_runs=2)
    assert [p.resolution for p in profile.partitions] == [0.5, 1.0, 1.5]
    same = find_modules(graph, n_runs=2, significance=False, resolution=1.0)
    assert profile.partitions[1].labels.tolist() == same.labels.tolist()
    assert profile.partitions[1].quality == same.quality
    assert "resolution" in profile.summary()


def test_plateaus_of_nested_modules():
    graph, parts = nested(0)
    profile = resolution_profile(
        graph, n_runs=2, weighting="raw", resolutions=np.geomspace(0.4, 3, 15)
    )
    found = {p.n_modules: profile.partitions[p.best].labels for p in profile.plateaus}
    assert {2, 6} <= set(found)
    assert adjusted_rand_index(found[2], parts // 3) == 1
    assert adjusted_rand_index(found[6], parts) == 1


def test_plateaus_leave_out_the_useless_ends():
    one = Partition({"a": np.zeros(8, int)}, quality=0.0, resolution=0.1)
    also = Partition({"a": np.zeros(8, int)}, quality=0.0, resolution=0.2)
    two = Partition({"a": np.arange(8) % 2}, quality=0.5, resolution=1.0)
    more = Partition({"a": np.arange(8) % 2}, quality=0.5, resolution=2.0)
    single = [Partition({"a": np.arange(8)}, quality=0.0, resolution=r) for r in (8.0, 64.0)]
    plateaus = find_plateaus([one, also, two, more, *single])
    assert [(p.low, p.high, p.n_modules) for p in plateaus] == [(1.0, 2.0, 2)]


@pytest.mark.parametrize("n", [1, 2, 6])
def test_a_number_of_modules_can_be_asked_for(n):
    graph, _ = nested(1)
    partition = find_modules(graph, n_modules=n, n_runs=3, weighting="raw", significance=False)
    assert partition.n_modules == n
    assert partition.resolution > 0


def test_numbers_of_modules_that_make_no_sense():
    for n in (0, 109):
        with pytest.raises(InteractGraphError, match=f"n_modules={n}"):
            find_modules(planted(0)[0], n_modules=n)


def test_modules_inside_modules():
    graph, parts = nested(0)
    coarse = find_modules(graph, n_modules=2, weighting="square_root", n_runs=3)
    tree = module_tree(graph, coarse)
    assert len(tree.children) == 2
    assert tree.size == 120
    assert [len(child.children) for child in tree.children] == [3, 3]
    leaves = list(tree.leaves())
    assert sum(leaf.size for leaf in leaves) == 120
    offsets = {"l0": 0, "l1": 36, "l2": 84}
    for leaf in leaves:
        nodes = np.concatenate([offsets[k] + v for k, v in leaf.features.items()])
        assert len(set(parts[nodes])) == 1
    assert "features" in tree.summary()


def test_uniform_modules_are_not_divided():
    graph, _ = planted(2, 8.0)
    tree = module_tree(graph, find_modules(graph, n_runs=2), level=0.001)
    assert all(not child.children for child in tree.children)


def test_tree_of_another_graph():
    graph = planted(0)[0]
    partition = find_modules(graph, n_runs=1, significance=False)
    turned = Partition(dict(reversed(partition.membership.items())), quality=0.0)
    with pytest.raises(InteractGraphError, match="another graph"):
        module_tree(graph, turned)
    with pytest.raises(InteractGraphError, match="of another graph"):
        module_tree(nested(0)[0].replace(), partition)


@pytest.mark.parametrize("resolutions", [["auto", 1.0], ["x"], [0.0, 1.0], [float("nan")]])
def test_resolutions_that_are_no_numbers(resolutions):
    with pytest.raises(InteractGraphError, match=r"a resolution=.* must be a number above 0"):
        resolution_profile(planted(0)[0], resolutions=resolutions)


@pytest.mark.parametrize("options", [{"n_runs": 0}, {"level": 2}, {"max_depth": -1}])
def test_options_of_trees(options):
    graph, _ = planted(0)
    partition = find_modules(graph, n_runs=1, significance=False)
    with pytest.raises(InteractGraphError, match=next(iter(options))):
        module_tree(graph, partition, **options)
