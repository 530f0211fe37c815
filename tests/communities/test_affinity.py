import json

import numpy as np
import pytest
import torch
from communities.planted_graphs import graph_of, planted

import interactgraph as itg
from interactgraph import InteractGraphError
from interactgraph.communities import Partition, find_modules, load_partition, mean_graph
from interactgraph.communities.affinity import above_background, module_affinity
from interactgraph.communities.network import Network
from interactgraph.communities.self_edges import read_network


def slow(graph, labels, degree):
    """The formula, edge by edge."""
    n_modules = labels.max() + 1
    share = np.zeros((graph.n_nodes, n_modules))
    null = np.zeros((graph.n_nodes, n_modules))
    total = np.zeros(graph.n_nodes)
    for source, target in graph.pairs:
        p = graph.weights(source, target).abs().double().numpy() ** degree
        p = p / p.sum()
        for i in range(p.shape[0]):
            for j in range(p.shape[1]):
                a, b = graph.offsets[target] + i, graph.offsets[source] + j
                for one, other in ((a, b), (b, a)):
                    total[one] += p[i, j]
                    if labels[other] >= 0:
                        share[one, labels[other]] += p[i, j]
        for k in range(n_modules):
            into = labels[graph.offsets[target] :][: p.shape[0]] == k
            out = labels[graph.offsets[source] :][: p.shape[1]] == k
            null[graph.offsets[target] :][: p.shape[0], k] += p.sum(1) * p.sum(0)[out].sum()
            null[graph.offsets[source] :][: p.shape[1], k] += p.sum(0) * p.sum(1)[into].sum()
    result = np.zeros_like(share)
    for node in range(graph.n_nodes):
        if total[node] == 0:
            continue
        s, n = share[node] / total[node], null[node] / total[node]
        background = min([1.0, *(s[k] / n[k] for k in range(n_modules) if n[k] > 0)])
        result[node] = s - background * n
    return result


@pytest.mark.parametrize(("strength", "degree"), [("rms", 2), ("mean_abs", 1), ("other", 1)])
def test_the_formula(strength, degree):
    graph, _ = planted(3, sizes=(7, 9, 6))
    blocks = [b["rms"].clone() for b in graph.blocks.values()]
    blocks[0][2] = 0  # a feature without inputs
    blocks[1][:, 2] = 0  # ... and without outputs: isolated
    graph = graph_of(*blocks, strength=strength)
    partition = find_modules(graph, n_runs=2, significance=False)
    assert partition.n_modules > 1
    assert partition.labels[9] == -1
    found = np.concatenate(list(partition.affinity.values()))
    assert found == pytest.approx(slow(graph, partition.labels, degree), abs=1e-12)
    assert found[9].sum() == 0
    assert (found >= 0).all()
    assert (found.sum(1) <= 1 + 1e-12).all()


def test_pure_mixed_and_spread_features():
    weight = np.zeros((7, 6))
    for k in range(3):  # three modules of two by two
        weight[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = 1.0
    weight[6, :4] = 0.75**0.5, 0.75**0.5, 0.25**0.5, 0.25**0.5  # 3/4 of module 0, 1/4 of module 1
    graph = graph_of(weight)
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 0])
    network = Network.from_graph(graph)
    shares = module_affinity(graph, network, labels).shares["l1"]
    assert shares[:6] == pytest.approx(np.eye(3)[[0, 0, 1, 1, 2, 2]])
    assert shares[6] == pytest.approx([0.75, 0.25, 0])
    # What strengths alone explain is nobody's.
    rank_one = graph_of(np.outer(np.arange(1.0, 6), np.arange(1.0, 8)))
    flat = module_affinity(rank_one, Network.from_graph(rank_one), labels[:12])
    assert np.concatenate(list(flat.shares.values())) == pytest.approx(np.zeros((12, 3)), abs=1e-12)


def test_background_is_the_largest_that_leaves_nothing_negative():
    shares, expected = np.array([[0.6, 0.3, 0.1]]), np.array([[0.5, 0.25, 0.25]])
    assert above_background(shares, expected) == pytest.approx(np.array([[0.4, 0.2, 0.0]]))
    # A module that cannot be reached says nothing.
    assert above_background(np.array([[0.8, 0.2, 0.0]]), np.array([[0.5, 0.5, 0.0]])) == (
        pytest.approx(np.array([[0.6, 0.0, 0.0]]))
    )


def folded(seed, n_folds=8, n_samples=40, self_edges=False):
    """A graph of contributions A_b = W x_b with independent noise in every entry, and its truth."""
    graph, truth = planted(5, sizes=(9, 9, 9), n_modules=3)
    generator = np.random.default_rng(seed)
    folds, exact = [], [block["rms"].numpy() for block in graph.blocks.values()]
    if self_edges:
        exact = [w + 3 * w.max() * np.eye(9) for w in exact]
    for _ in range(n_folds):
        drawn = [
            w * np.sqrt((generator.normal(size=(n_samples, *w.shape)) ** 2).mean(0)) for w in exact
        ]
        folds.append(graph_of(*drawn).replace(metadata={"n_samples": n_samples}))
    return mean_graph(folds).replace(folds=folds), graph_of(*exact), truth


@pytest.mark.parametrize("self_edges", [False, True])
def test_intervals_are_those_of_the_jackknife(self_edges):
    graph, _, _ = folded(0, n_folds=4, self_edges=self_edges)
    partition = find_modules(graph, n_runs=2, significance=False)
    assert bool(partition.details.get("self_edges")) == self_edges
    without = []
    for k in range(4):
        rest = mean_graph([fold for j, fold in enumerate(graph.folds) if j != k])
        network, _ = read_network(rest)
        shares = module_affinity(rest, network, partition.labels).shares
        without.append(np.concatenate(list(shares.values())))
    value = np.concatenate(list(partition.affinity.values()))
    variance = 3 / 4 * ((without - np.mean(without, 0)) ** 2).sum(0)
    reach = 3.182446305284263 * np.sqrt(variance)  # t with three degrees of freedom
    interval = np.concatenate(list(partition.affinity_interval.values()))
    assert interval[..., 0] == pytest.approx((value - reach).clip(0, 1), abs=1e-9)
    assert interval[..., 1] == pytest.approx((value + reach).clip(0, 1), abs=1e-9)


def test_intervals_cover_the_affinity_of_endless_data():
    inside = []
    for seed in range(12):
        graph, exact, truth = folded(seed)
        found = module_affinity(graph, Network.from_graph(graph), truth)
        known = module_affinity(exact, Network.from_graph(exact), truth).shares
        for layer, interval in found.intervals.items():
            sure = known[layer] > 0.02  # those at zero are covered by their end
            low, high = interval[..., 0][sure], interval[..., 1][sure]
            inside.append((low <= known[layer][sure]) & (known[layer][sure] <= high))
    assert 0.88 < np.concatenate(inside).mean() < 0.99


def test_saved_and_loaded_to_six_decimals(tmp_path):
    graph, _, _ = folded(1)
    partition = find_modules(graph, n_runs=2, significance=False)
    partition.save(tmp_path / "p.json")
    again = load_partition(tmp_path / "p.json")
    for layer in partition.layers:
        assert again.affinity[layer] == pytest.approx(partition.affinity[layer], abs=6e-7)
        interval = partition.affinity_interval[layer]
        assert again.affinity_interval[layer] == pytest.approx(interval, abs=6e-7)
    assert [m[:4] for m in again.mixtures()] == [m[:4] for m in partition.mixtures()]
    content = json.loads((tmp_path / "p.json").read_text())
    content["affinity"]["l0"]["module"][0] = 99
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(InteractGraphError, match="out of range"):
        load_partition(tmp_path / "p.json")


def test_mixtures_and_hubs():
    affinity = np.array([[0.9, 0.1, 0], [0.4, 0.3, 0.3], [0.2, 0.0, 0.1], [0, 0, 0], [0, 0.4, 0.6]])
    partition = Partition({"a": [0, 0, 1, -1, 2]}, quality=0.0, affinity={"a": affinity})
    found = partition.mixtures()
    assert [(m.feature, m.kind, m.modules) for m in found] == [
        (1, "mixture", (0, 1, 2)), (2, "hub", (0,)), (4, "mixture", (2, 1)),
    ]  # fmt: skip
    assert found[0].shares == (0.4, 0.3, 0.3)
    assert [m.feature for m in partition.mixtures(least=0.35)] == [2, 4]
    interval = np.stack([affinity - 0.35, affinity + 0.35], 2).clip(0, 1)
    sure = Partition(
        {"a": [0, 0, 1, -1, 2]}, quality=0.0, affinity={"a": affinity},
        affinity_interval={"a": interval},
    )  # fmt: skip
    assert [m.feature for m in sure.mixtures()] == [2, 4]
    with pytest.raises(InteractGraphError, match="least=0"):
        partition.mixtures(least=0)
    with pytest.raises(InteractGraphError, match=r"affinity of layer 'a' has shape \(1, 3\)"):
        Partition({"a": [0, 0]}, quality=0.0, affinity={"a": np.zeros((1, 3))})
    assert Partition({"a": [0]}, quality=0.0).mixtures() == []


def test_nodes_of_exported_files_say_what_they_are(tmp_path):
    import networkx

    graph, _ = planted(0, sizes=(6, 8, 6), n_modules=2)
    affinity = {layer: np.zeros((n, 2)) for layer, n in graph.n_features.items()}
    membership = {layer: np.arange(n) % 2 for layer, n in graph.n_features.items()}
    membership["l2"][5] = -1
    for layer, values in affinity.items():
        values[np.arange(len(values)), np.maximum(membership[layer], 0)] = 0.7
    affinity["l1"][3] = 0.3, 0.6
    affinity["l1"][4] = 0.1, 0.2
    partition = Partition(membership, quality=0.0, affinity=affinity)
    itg.export(graph, tmp_path / "g.graphml", partition=partition)
    nodes = networkx.read_graphml(tmp_path / "g.graphml").nodes
    assert nodes["l1/3"]["affinity"] == 0.6
    assert (nodes["l1/3"]["second_module"], nodes["l1/3"]["second_affinity"]) == (0, 0.3)
    assert [nodes[f"l1/{k}"]["role"] for k in (2, 3, 4)] == ["", "mixture", "hub"]
    assert nodes["l0/0"]["second_module"] == -1
    assert "affinity" not in nodes["l2/5"]
    for suffix in ("gexf", "csv", "json", "cyjs", "npz", "dot"):
        itg.export(graph, tmp_path / f"g.{suffix}", partition=partition)
    rows = (tmp_path / "g.nodes.csv").read_text().splitlines()
    assert "second_affinity" in rows[0]
    assert "mixture" in "".join(rows)
    assert networkx.read_gexf(tmp_path / "g.gexf").nodes["l1/4"]["role"] == "hub"
    shown = networkx.node_link_graph(json.loads((tmp_path / "g.json").read_text()), edges="edges")
    assert shown.nodes["l1/3"]["second_affinity"] == 0.3
    assert torch.tensor(np.load(tmp_path / "g.npz")["affinity"])[9] == 0.6
