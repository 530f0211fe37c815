"""From network to modules: planted networks and trained two-task networks through everything.

    python benchmarks/pipeline.py

Adjusted Rand index of `find_modules` at its defaults with what is known, and at the planted number
of modules; two-task networks are the two-digits network, whose halves are known.
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
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)


def score(partition: itg.Partition, truth: dict) -> float:
    """Over the features whose module is known."""
    found = np.concatenate([partition.membership[layer] for layer in truth])
    known = np.concatenate(list(truth.values()))
    both = (found >= 0) & (known >= 0)
    return adjusted_rand_index(known[both], found[both])


def spread(values: list[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measures and writes."""
    torch.set_num_threads(1)
    rows = [
        "### Whole pipeline: adjusted Rand index with the known modules, five seeds",
        "",
        "| network | defaults | asked for the known number | p below 0.05 |",
        "| --- | --- | --- | --- |",
    ]
    for level in LEVELS:
        free, asked, small = [], [], 0
        for seed in SEEDS:
            net = planted_modules(seed, cross_talk=level)
            graph = itg.interaction_graph(net.model, [net.data], net.layers, progress=False)
            partition = itg.find_modules(graph, seed=seed)
            free.append(score(partition, net.truth))
            small += partition.p_value < 0.05
            known = itg.find_modules(graph, seed=seed, n_modules=4, significance=False)
            asked.append(score(known, net.truth))
        rows.append(
            f"| planted, 4 modules, cross-talk {level:g} | {spread(free)} | {spread(asked)} | "
            f"{small} of {len(SEEDS)} |"
        )
    free, asked, small = [], [], 0
    for seed in SEEDS:
        task = two_digits(seed)
        graph = itg.interaction_graph(task.model, task.images, task.layers, progress=False)
        partition = itg.find_modules(graph, seed=seed)
        free.append(score(partition, task.truth))
        small += partition.p_value < 0.05
        known = itg.find_modules(graph, seed=seed, n_modules=2, significance=False)
        asked.append(score(known, task.truth))
    rows.append(
        f"| two digits, 2 tasks, trained | {spread(free)} | {spread(asked)} | "
        f"{small} of {len(SEEDS)} |"
    )
    write("pipeline", rows)


if __name__ == "__main__":
    main()
