"""What standard errors are worth: modules of graphs whose weights are shrunk by them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import interactgraph as itg
from interactgraph import find_modules
from interactgraph.communities import adjusted_rand_index

from .graphs import KnownGraph
from .recovery import score, table

Make = Callable[[int], tuple[torch.nn.Module, Tensor, list[str], dict[str, np.ndarray], dict]]

RUNS = ((16, None), (64, None), (64, 2), (64, 8), (256, 2), (256, 8))  # samples, sources drawn
SEEDS = {"choosing": range(3), "reporting": range(100, 103)}


def planted(seed: int) -> tuple:
    net = itg.zoo.planted_modules(seed, cross_talk=0.4)
    return net.model, net.data, net.layers, net.truth, {}


def digits(seed: int) -> tuple:
    net = itg.zoo.two_digits(seed)
    return net.model, net.images, net.layers, net.truth, {}


def superposition(seed: int) -> tuple:
    net = itg.zoo.superposition(seed, dependence="independent", fan_in=4, n_modules=4)
    own = np.append(np.arange(len(net.edges)) % 4, -1)  # -1: what the dictionaries leave out
    truth = dict.fromkeys(net.layers, own)
    return net.model, net.data, net.layers, truth, {"features": net.dictionaries}


# The first two were looked at before shrinking was given up, the third one was not.
NETWORKS: dict[str, Make] = {
    "planted networks": planted, "two digits": digits, "superposition": superposition,
}  # fmt: skip


def errors(cache: Path) -> str:
    warnings.simplefilter("ignore")
    rows = []
    for which, seeds in SEEDS.items():
        for name, make in NETWORKS.items():
            for n_samples, sources in RUNS:
                graphs = list(drawn(make, seeds, n_samples, sources))
                plain, less = (
                    np.array([
                        score(known, find_modules(change(known.graph), significance=False).labels,
                              adjusted_rand_index)
                        for known in graphs
                    ])
                    for change in (lambda graph: graph, shrunk)
                )  # fmt: skip
                gain = less - plain
                rows.append([
                    which, f"{name} ({len(graphs)})", str(n_samples), str(sources or "all"),
                    f"{plain.mean():.2f}", f"{less.mean():.2f}",
                    f"{gain.min():+.2f} to {gain.max():+.2f}",
                ])  # fmt: skip
    head = ["set", "networks", "samples", "sources drawn for each", "as they are", "shrunk",
            "difference, range"]  # fmt: skip
    return (
        "## Standard errors\n\nAgreement (adjusted Rand index) of the default's modules with the "
        "true ones, with strengths w as they are and shrunk by their standard errors d to "
        "w max(0, 1 - (d / w)^2) (positive-part James-Stein). The more samples are "
        "read and the more is drawn on each, the less they change.\n\n" + table(head, rows)
    )


def drawn(make: Make, seeds: range, n_samples: int, sources: int | None) -> Iterator[KnownGraph]:
    """The networks of a kind, from so many samples and drawn sources."""
    for seed in seeds:
        model, data, layers, truth, options = make(seed)
        if sources is not None:
            options = {**options, "sources": sources, "engine": "forward", "seed": seed}
        graph = itg.interaction_graph(model, [data[:n_samples]], layers, progress=False, **options)
        yield KnownGraph(f"{seed}", graph, np.concatenate([truth[layer] for layer in layers]))


def shrunk(graph: itg.InteractionGraph) -> itg.InteractionGraph:
    """The graph with strengths less their standard errors."""
    blocks = {}
    for pair in graph.pairs:
        weight, error = graph.weights(*pair).double(), graph.standard_error(*pair).double()
        noise = error.nan_to_num(0.0, torch.inf) / weight.clamp_min(1e-300)
        blocks[pair] = {graph.strengths[0]: weight * (1 - noise.square()).clamp_min(0)}
    return graph.replace(blocks=blocks, standard_errors={})
