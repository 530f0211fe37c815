"""Supernodes: the evidence against slow references, planted groups, files of people."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from circuits.graphs import PUBLISHED, content, node

import interactgraph as itg
from interactgraph import InputError
from interactgraph.circuits import (
    AttributionGraph,
    as_interaction_graph,
    complete_link,
    constants,
    node_table,
    undirected_leiden,
)
from interactgraph.circuits.evidence import candidate_pairs, log_odds
from interactgraph.circuits.grouping import correlation_clusters, strongest
from interactgraph.circuits.naming import proposed_labels, shared_label, told_apart
from interactgraph.communities import adjusted_rand_index


def planted(seed=3):
    drawn = itg.zoo.planted_attribution_graph(seed)
    graph = AttributionGraph.from_content(drawn.content)
    return graph, np.array([drawn.truth.get(name, -1) for name in graph.ids])


def found(graph, **options):
    label = -1 - np.arange(len(graph.ids))
    for number, group in enumerate(itg.supernodes(graph, **options)):
        label[list(group.members)] = number
    return label


def slow_log_odds(graph):
    """The definition, pair by pair, with dense matrices and loops."""
    n, own = len(graph.ids), graph.features.tolist()
    weight = np.zeros((n, n))
    for a, b, w in zip(graph.source, graph.target, graph.weight, strict=True):
        weight[b, a] += w
    share = weight / np.maximum(np.abs(weight).sum(1, keepdims=True), 1e-300)
    tables = []
    for rows in (share[own], share[:, own].T):
        rows = rows / np.maximum(np.abs(rows).sum(1, keepdims=True), 1e-300)
        norm = np.sqrt((rows**2).sum(0))
        tables.append(rows / np.sqrt(np.where(norm > 0, norm, 1)))
    depth, position = graph.depth, graph.positions
    pairs = {}
    for i, j in combinations(range(len(own)), 2):
        a, b = own[i], own[j]
        layers = abs(int(depth[a] - depth[b]))
        if layers > constants.FARTHEST_LAYERS or abs(position[a] - position[b]) > 1:
            continue
        cosines = []
        for table, both in zip(
            tables, (depth < min(depth[a], depth[b]), depth > max(depth[a], depth[b])), strict=True
        ):
            x, y = table[i] * both, table[j] * both
            length = np.linalg.norm(x) * np.linalg.norm(y)
            cosines.append(x @ y / length if length > 0 else 0.0)
        pairs[i, j] = (layers, position[a] == position[b], *cosines)
    near = {p: math.exp(-v[0] / constants.USUAL_LAYERS) for p, v in pairs.items()}
    of = [[p for p in pairs if k in p] for k in range(len(own))]
    total = [sum(near[p] for p in of[k]) for k in range(len(own))]
    result = {}
    for (i, j), (layers, same, *cosines) in pairs.items():
        odds = constants.BIAS + constants.SAME_POSITION * same + constants.PER_LAYER * layers
        odds += constants.PER_CROWD * (math.log1p(total[i]) + math.log1p(total[j])) / 2
        for c, scale in enumerate((constants.ALIKE_IN, constants.ALIKE_OUT)):
            z = 0.0
            for k in (i, j):
                mean = sum(near[p] * pairs[p][2 + c] for p in of[k]) / total[k]
                square = sum(near[p] * (pairs[p][2 + c] - mean) ** 2 for p in of[k]) / total[k]
                z += (cosines[c] - mean) / math.sqrt(square + constants.USUAL_FLOOR**2) / 2
            odds += scale * min(max(z, constants.LEAST), constants.MOST)
        result[i, j] = odds
    return result


def test_log_odds_are_those_of_the_definition():
    graph, _ = planted(5)
    pairs = candidate_pairs(graph)
    odds = log_odds(pairs, len(graph.features))
    ends = np.sort(np.stack([pairs.first, pairs.second], 1), 1).tolist()
    wanted = slow_log_odds(graph)
    assert len(wanted) == len(ends) > 100
    for pair, value in zip(ends, odds, strict=True):
        assert value == pytest.approx(wanted[tuple(pair)], abs=1e-4)  # cosines are float32


def test_clusters_have_the_largest_sum_of_evidence():
    """All partitions of seven items are tried."""

    def partitions(n):
        if n == 0:
            yield []
            return
        for rest in partitions(n - 1):
            for k in range(max(rest, default=-1) + 2):
                yield [*rest, k]

    rng = np.random.default_rng(0)
    first, second = np.triu_indices(7, 1)
    for _ in range(5):
        evidence = rng.normal(-0.5, 3, len(first))

        def worth(label, evidence=evidence):
            label = np.array(label)
            return np.maximum(evidence, -4)[label[first] == label[second]].sum()

        best = max(partitions(7), key=worth)
        label = correlation_clusters(7, first, second, evidence, clip=4.0)
        assert worth(label) == pytest.approx(worth(best))


def test_strongest_pairs():
    first, second = np.array([0, 0, 0, 1]), np.array([1, 2, 3, 2])
    value = np.array([3.0, 2.0, 1.0, 5.0])
    assert strongest(first, second, value, 1).tolist() == [True, False, True, True]


def test_planted_groups_are_found_better_than_by_rivals():
    scores = []
    for seed in range(2000, 2008):  # nothing was chosen on these
        graph, truth = planted(seed)
        member = truth >= 0
        label = found(graph)
        row = [adjusted_rand_index(label[member], truth[member])]
        n_groups = len(np.unique(label[graph.features]))
        for rival in (complete_link(graph, n_groups), undirected_leiden(graph, 3.0)):
            everywhere = np.full(len(graph.ids), -1)
            everywhere[graph.features] = rival
            row.append(adjusted_rand_index(everywhere[member], truth[member]))
        scores.append(row)
    ours, link, leiden = np.mean(scores, 0)
    assert ours > 0.6
    assert ours > link + 0.1
    assert ours > leiden + 0.1


def test_confidence_tells_right_groups():
    right, wrong = [], []
    for seed in range(2000, 2008):
        graph, truth = planted(seed)
        for group in itg.supernodes(graph):
            own = truth[list(group.members)]
            alike = (own == own[0]).all() and own[0] >= 0
            (right if alike else wrong).append(group.confidence)
    assert np.mean(right) > np.mean(wrong) + 0.15


def test_same_seed_same_groups():
    graph, _ = planted()
    assert itg.supernodes(graph, seed=1) == itg.supernodes(graph, seed=1)


def test_groups_and_pins_of_the_file():
    graph, _ = planted()
    groups = itg.supernodes(graph)
    members = {name for group in groups for name in group.ids}
    assert {graph.kinds[k] for group in groups for k in group.members} == {"feature"}
    value = itg.zoo.planted_attribution_graph(3).content
    value["qParams"]["supernodes"] = [[groups[0].label, *groups[0].ids]]
    again = itg.supernodes(value)
    taken = {name for group in again for name in group.ids}
    assert taken
    assert not taken & set(groups[0].ids)
    assert groups[0].label not in [group.label for group in again]
    value["qParams"]["pinnedIds"] = sorted(members)[::2]
    for among in ("auto", "pinned"):
        some = itg.supernodes(value, among=among)
        assert {name for group in some for name in group.ids} <= set(sorted(members)[::2])
    everything = itg.supernodes(value, among="all")
    assert {name for group in everything for name in group.ids} == taken
    sure = itg.supernodes(graph, min_confidence=0.5)
    assert sure == [group for group in groups if group.confidence >= 0.5]


def test_options():
    for options, message in (
        ({"among": "some"}, "among='some'"),
        ({"among": "pinned"}, "0 features of the graph are pinned"),
        ({"n_runs": 0}, "n_runs=0"),
        ({"min_confidence": "high"}, "min_confidence='high'"),
    ):
        with pytest.raises(InputError, match=message):
            itg.supernodes(content(), **options)


def test_graphs_with_next_to_nothing():
    value = content()
    for nodes in ([], value["nodes"][:2], value["nodes"][:3]):
        assert itg.supernodes({**value, "nodes": nodes, "links": []}) == []


def test_labels():
    assert shared_label(["", "say big", "big", "red", " "]) == "big"
    assert shared_label(["", " "]) == ""
    assert told_apart(["a", "a", "b"], ["a"]) == ["a (2)", "a (3)", "b"]
    value = content()
    value["nodes"].append(node(0, 8, 0, "mlp reconstruction error"))
    value["links"] += [
        {"source": "0_8_0", "target": name, "weight": 9.0} for name in ("1_20_1", "1_21_1")
    ]
    graph = AttributionGraph.from_content(value)
    # Features 20 and 21 read token b, errors apart, and write the logit "red".
    assert proposed_labels(graph, [[2, 3], [4, 5]]) == [
        "big", '"b" → Output "red" (p=0.2) (layer 1)',
    ]  # fmt: skip


def test_tables_and_interaction_graph():
    value = content()
    value["qParams"]["supernodes"] = [["mine", "1_20_1", "1_21_1"]]
    graph = AttributionGraph.from_content(value)
    group = itg.circuits.Supernode("big", ("1_10_1", "1_11_1"), (2, 3), 1.0)
    table = node_table(graph, [group])
    assert [node["group"] for node in table["nodes"]] == [
        None, None, "big", "big", "mine", "mine", None, None, None,
    ]  # fmt: skip
    assert table["nodes"][2]["token"] == "b"
    json.dumps(table)
    assert [
        (graph.ids[e["source"]], graph.ids[e["target"]], e["weight"]) for e in table["edges"]
    ] == [(e["source"], e["target"], e["weight"]) for e in value["links"]]
    interaction, partition = as_interaction_graph(graph, [group])
    assert interaction.layers == ("embeddings", "0", "1", "logits")
    assert interaction.weights("embeddings", "1").tolist()[0] == [2.0, 0.0]
    assert sorted(partition.membership["1"].tolist()) == [0, 0, 1, 1]
    assert partition.membership["0"].tolist() == [-1]


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"the published graph is not in {PUBLISHED}")
def test_people_s_groups():
    value = json.loads(PUBLISHED.read_text())
    people = value["qParams"].pop("supernodes")
    graph = AttributionGraph.from_content(value)
    truth = np.full(len(graph.ids), -1)
    for number, entry in enumerate(people):
        numbers = graph.numbers(entry[1:])
        assert len(numbers) == len(entry) - 1  # all of them are found, by jsNodeId
        truth[numbers] = number
    member = truth >= 0

    def score(label):
        return adjusted_rand_index(label[member], truth[member])

    def everywhere(of_features):
        label = np.full(len(graph.ids), -1)
        label[graph.features] = of_features
        return label

    rivals = [
        score(everywhere(complete_link(graph, 20))),
        score(everywhere(undirected_leiden(graph, 1.0))),
        score(everywhere(undirected_leiden(graph, 3.0))),
    ]
    assert rivals == pytest.approx([0.28, 0.31, 0.37], abs=0.02)
    assert score(found(graph, among="all")) > max(rivals)
