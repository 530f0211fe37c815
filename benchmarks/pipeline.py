"""From network to modules: planted networks and trained two-task networks through everything.

    python benchmarks/pipeline.py

Adjusted Rand index of `find_modules` at its defaults with what is known, and at the known number of
modules; two-task networks are the two-digits network, whose halves are known. How hard a network is
for any method is read off its graph: the share of the strength that runs between features of
different known modules.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from page import write

import interactgraph as itg
from interactgraph.communities import adjusted_rand_index
from interactgraph.zoo import planted_modules, two_digits

SEEDS = range(5)
TRAINED = range(10)
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)


def score(partition: itg.Partition, truth: dict) -> float:
    """Over the features whose module is known."""
    found = np.concatenate([partition.membership[layer] for layer in truth])
    known = np.concatenate(list(truth.values()))
    both = (found >= 0) & (known >= 0)
    return adjusted_rand_index(known[both], found[both])


def crossing(graph: itg.InteractionGraph, truth: dict) -> float:
    """Share of the strength between features of known modules that connects different ones.

    Mean over the pairs of layers.
    """
    shares = []
    for source, target in graph.pairs:
        weight = graph.weights(source, target).double().numpy()
        a, b = truth[source][None], truth[target][:, None]
        known = (a >= 0) & (b >= 0)
        shares.append(weight[known & (a != b)].sum() / weight[known].sum())
    return float(np.mean(shares))


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    rows = [
        "### Whole pipeline: adjusted Rand index with the known modules",
        "",
        "Planted networks: five seeds a level, mean and range. Two-digits networks, seeds 0 to 9, "
        "ordered by the strength that runs between their halves.",
        "",
        "| network | strength between modules | defaults | asked for the known number "
        "| p below 0.05 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for level in LEVELS:
        crossed, free, asked, small = [], [], [], 0
        for seed in SEEDS:
            net = planted_modules(seed, cross_talk=level)
            graph = itg.interaction_graph(net.model, [net.data], net.layers, progress=False)
            partition = itg.find_modules(graph, seed=seed)
            crossed.append(crossing(graph, net.truth))
            free.append(score(partition, net.truth))
            small += partition.p_value < 0.05
            known = itg.find_modules(graph, seed=seed, n_modules=4, significance=False)
            asked.append(score(known, net.truth))
        rows.append(
            f"| planted, 4 modules, cross-talk {level:g} | {statistics.mean(crossed):.1%} "
            f"| {spread(free)} | {spread(asked)} | {small} of {len(SEEDS)} |"
        )
    digits = []
    for seed in TRAINED:
        task = two_digits(seed)
        graph = itg.interaction_graph(task.model, task.images, task.layers, progress=False)
        partition = itg.find_modules(graph, seed=seed)
        known = itg.find_modules(graph, seed=seed, n_modules=2, significance=False)
        scores = score(partition, task.truth), score(known, task.truth)
        digits.append((crossing(graph, task.truth), seed, *scores, partition.p_value < 0.05))
    for crossed_here, seed, free_here, asked_here, found in sorted(digits):
        rows.append(
            f"| two digits, seed {seed} | {crossed_here:.1%} | {free_here:.3f} | {asked_here:.3f} "
            f"| {'yes' if found else 'no'} |"
        )
    _, _, free, asked, found = zip(*digits, strict=True)
    rows.append(
        f"| two digits, all {len(digits)} | | {spread(free)} | {spread(asked)} "
        f"| {sum(found)} of {len(digits)} |"
    )
    write("pipeline", rows)


if __name__ == "__main__":
    main()
