"""Recovery of known modules by weighting, algorithm and backbone."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from interactgraph import find_modules
from interactgraph.communities import (
    WEIGHTINGS,
    adjusted_mutual_information,
    adjusted_rand_index,
    backbone,
)
from interactgraph.communities.self_edges import read_network
from interactgraph.communities.weighting import normalise
from interactgraph.graph import InteractionGraph

from .graphs import KnownGraph
from .planted import LEVELS
from .sets import Graphs, modular_addition_graphs, multi_task_graphs, planted_graphs

Find = Callable[[InteractionGraph], np.ndarray]
Label = Callable[[KnownGraph], np.ndarray]


def score(known: KnownGraph, labels: np.ndarray, measure: Callable) -> float:
    """Agreement with the truth over the features that have one."""
    scored = known.truth >= 0
    return measure(labels[scored], known.truth[scored])


def means(graphs: Graphs, label: Label, measure: Callable) -> dict[str, float]:
    """Mean score of every set."""
    return {
        name: float(np.mean([score(known, label(known), measure) for known in several]))
        for name, several in graphs.items()
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def recovery(cache: Path) -> str:
    planted = planted_graphs()
    addition = modular_addition_graphs(cache)
    tasks = multi_task_graphs(cache)
    rows = []
    rows.append(_row("**default**", planted, addition, tasks, _finder(n_runs=10)))
    for weighting in WEIGHTINGS:
        runs = 10 if weighting == "auto" else 4
        rows.append(_row(f"layered, {weighting}", planted, addition, tasks,
                         _finder(weighting=weighting, n_runs=runs, resolution=1.0)))  # fmt: skip
    few = {family: graphs[::5] for family, graphs in planted.items()}
    rows.append(_row("plain undirected, raw (seed 0 only)", few, addition, tasks,
                     _finder(null="undirected", weighting="raw", n_runs=1)))  # fmt: skip
    rows.append(_scores("*told the labels of all others*", planted, addition, tasks, told))
    head = ["objective, weighting", "planted (ARI)", *LEVELS, "addition (AMI)", *addition,
            "tasks (ARI)"]  # fmt: skip
    return (
        "## Recovery\n\nMean adjusted Rand index (planted graphs: 5 families, 3 levels, 5 seeds; "
        "12 networks trained on 6 or 10 tasks) and adjusted mutual information with Fourier "
        "frequencies (modular addition: the published model, p = 113, and two of the arena, p = 59 "
        "and 67; strengths are mean squared attributions, or their roots). The first row is the "
        "default, best of 10 runs, at the resolution it chooses; all others are at resolution 1, "
        "other weightings best of 4, plain undirected a single run. The default was chosen on the "
        "arena's choosing set, which shares many of these graphs, so that its row is no "
        "independent test. The last row is no method: it tells every feature "
        "the true labels of all others and gives it the one that the layered objective gains most "
        "by. What it misses, the edges of single features do not show.\n\n" + table(head, rows)
    )


def _finder(**options: object) -> Find:
    return lambda graph: find_modules(graph, significance=False, **options).labels


def told(known: KnownGraph) -> np.ndarray:
    """Each feature's label of largest gain (layered, `strength_normalised`), others' labels known.

    Labels are those of the truth; features without one count for none.
    """
    network, _ = read_network(known.graph)
    classes, of = np.unique(known.truth, return_inverse=True)
    member = np.eye(len(classes))[of] * (known.truth >= 0)[:, None]
    gains = np.zeros_like(member)
    for block in network.blocks:
        a, b = (slice(*network.offsets[k : k + 2]) for k in (block.source, block.target))
        weight = normalise(block.weight).numpy()
        excess = weight - np.outer(weight.sum(1), weight.sum(0)) / weight.sum()
        gains[b] += excess @ member[a] / weight.sum()
        gains[a] += excess.T @ member[b] / weight.sum()
    return gains.argmax(1)


def _row(name: str, planted: Graphs, addition: Graphs, tasks: Graphs, find: Find) -> list[str]:
    return _scores(name, planted, addition, tasks, lambda known: find(known.graph))


def _scores(name: str, planted: Graphs, addition: Graphs, tasks: Graphs, label: Label) -> list[str]:
    a = means(planted, label, adjusted_rand_index)
    b = means(addition, label, adjusted_mutual_information)
    c = means(tasks, label, adjusted_rand_index)
    values = [np.mean(list(a.values())), *a.values(), np.mean(list(b.values())), *b.values(),
              *c.values()]  # fmt: skip
    return [name, *(f"{value:.2f}" for value in values)]


def algorithms(cache: Path) -> str:
    graphs = planted_graphs(range(1))
    rows = []
    there = importlib.util.find_spec("networkit") is not None
    several = [("sweeps", 10), ("leiden", 3), ("leiden+sweeps", 3)]
    for algorithm, runs in several + [("networkit", 3)] * there:
        quality, recovered, start = [], [], time.perf_counter()
        for known in (k for family in graphs.values() for k in family):
            partition = find_modules(known.graph, algorithm=algorithm, n_runs=runs,
                                     weighting="root_normalised", significance=False)  # fmt: skip
            quality.append(partition.quality)
            recovered.append(score(known, partition.labels, adjusted_rand_index))
        took = (time.perf_counter() - start) / len(quality) / runs
        rows.append([algorithm, str(runs), f"{np.mean(quality):.4f}", f"{np.mean(recovered):.3f}",
                     f"{took:.3f} s"])  # fmt: skip
    head = ["algorithm", "runs", "mean best quality", "mean ARI", "time of a run"]
    return "## Algorithms\n\nPlanted graphs, seed 0, `root_normalised`.\n\n" + table(head, rows)


def backbones(cache: Path) -> str:
    graphs = planted_graphs(range(1))
    tasks, addition = multi_task_graphs(cache), modular_addition_graphs(cache)
    addition = {name: several for name, several in addition.items() if "roots" not in name}
    rows = []
    for name, cut in (
        ("all edges", lambda g: g),
        ("disparity, 30 %", lambda g: backbone(g, "disparity", keep=0.3)),
        ("top 30 % per target", lambda g: backbone(g, "per_target", keep=0.3)),
        ("disparity, 10 %", lambda g: backbone(g, "disparity", keep=0.1)),
        ("above 2 standard errors", lambda g: backbone(g, "standard_error", errors=2)),
        ("above 5 standard errors", lambda g: backbone(g, "standard_error", errors=5)),
    ):

        def label(known: KnownGraph, cut: Callable = cut) -> np.ndarray:
            return _finder(n_runs=5)(cut(known.graph))

        planted = {} if "errors" in name else means(graphs, label, adjusted_rand_index)
        there = means(addition, label, adjusted_mutual_information)
        values = [means(tasks, label, adjusted_rand_index)["tasks"], np.mean(list(there.values()))]
        each = [f"{value:.2f}" for value in planted.values()] or [""] * len(graphs)
        mean = f"{np.mean(list(planted.values())):.3f}" if planted else ""
        rows.append([name, *(f"{value:.2f}" for value in values), mean, *each])
    head = ["edges", "tasks (ARI)", "addition (AMI)", "planted (ARI)", *graphs]
    return (
        "## Backbones\n\nDefault weighting, 5 runs; planted graphs of seed 0, which have no "
        "standard errors.\n\n" + table(head, rows)
    )
