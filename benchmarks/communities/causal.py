"""Partitions compared by what they do to the model: joint effects that their modules predict."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

import interactgraph as itg
from interactgraph.zoo import planted_modules, two_digits

from .multi_task import make_data, recipes, train
from .recovery import table

SAMPLES = 512
SETS, CONTROLS = 12, 5


class Task(NamedTuple):
    """A network, data, and what is known of its hidden units (None: nothing)."""

    name: str
    model: nn.Module
    data: Tensor
    layers: list[str]
    truth: dict[str, np.ndarray] | None


def tasks() -> Iterator[Task]:
    digits = two_digits(seed=11)
    yield Task("two digits", digits.model, digits.images[:SAMPLES], digits.layers, digits.truth)
    net = planted_modules(seed=11, widths=(32, 48, 48, 48, 24), cross_talk=0.3, n_samples=SAMPLES)
    yield Task("planted, cross-talk 0.3", net.model, net.data, net.layers, net.truth)
    recipe = recipes(1)[0]._replace(seed=11)
    model = train(recipe)
    layers = ["input", *(str(k) for k in range(1, len(model) - 1, 2)), str(len(model) - 1)]
    x, _, _ = make_data(recipe, SAMPLES, 2)
    yield Task(f"{recipe.n_tasks} tasks", model, x, layers, None)


def causal(cache: Path) -> str:
    warnings.simplefilter("ignore")
    rows = []
    for task in tasks():
        graph = itg.interaction_graph(task.model, [task.data], task.layers, progress=False)
        for name, partition in partitions(graph, task.truth):
            found = itg.joint_effects(
                graph, partition, task.model, [task.data], n_sets=SETS, n_controls=CONTROLS,
                progress=False,
            )  # fmt: skip
            rows.append([
                task.name, name, str(partition.n_modules),
                f"{found.score:.2f} +- {found.standard_error:.2f}", f"{found.spread:.2f}",
                f"{found.error:.4f}", f"{found.control_errors.mean():.4f}",
            ])  # fmt: skip
    head = ["network", "partition", "modules", "score", "random modules: 0 +-", "own error",
            "error of random ones"]  # fmt: skip
    return (
        "## Causal score\n\n`joint_effects`: random halves of the hidden features are taken away, "
        "whole and module by module; error: the share of the change of the output that the sum of "
        "the parts misses; score: 1 less own error over that of random modules of the same sizes "
        f"and strengths. {SETS} sets, +- their standard error; {CONTROLS} random partitions for "
        "each, and their spread. Seeds that nothing was chosen on.\n\n" + table(head, rows)
    )


def partitions(
    graph: itg.InteractionGraph, truth: dict[str, np.ndarray] | None
) -> Iterator[tuple[str, itg.Partition]]:
    """The default and its rivals."""
    default = itg.find_modules(graph, significance=False)
    yield "**default**", default
    yield (
        "plain undirected Leiden",
        itg.find_modules(graph, null="undirected", weighting="raw", n_runs=1, significance=False),
    )
    draw, strength = np.random.default_rng(0), graph.node_strength()
    groups, random = {}, {}
    for layer, modules in default.membership.items():
        start = graph.offsets[layer]
        order = np.argsort(-strength[start : start + len(modules)])
        groups[layer] = np.empty_like(modules)
        groups[layer][order] = np.sort(modules)
        random[layer] = draw.permutation(modules)
    yield "sorted by strength, same sizes", itg.Partition(groups, quality=0.0)
    yield "random, same sizes", itg.Partition(random, quality=0.0)
    if truth is not None:
        yield (
            "*truth*",
            itg.Partition.from_labels(
                np.concatenate([truth[layer] for layer in graph.layers]),
                graph.n_features,
                quality=0.0,
            ),
        )
