"""Soft membership against the share of each Fourier frequency in each feature."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interactgraph import find_modules
from interactgraph.communities.affinity import module_affinity
from interactgraph.communities.network import Network

from .arena_networks import SETS, families
from .graphs import KnownGraph
from .recovery import table


def affinity(cache: Path) -> str:
    rows = []
    for which in SETS:
        for family, graphs in families(cache, which, "addition").items():
            values = np.array([cosines(known) for known in graphs])
            cells = [f"{mean:.3f}, {worst:.3f}" for mean, worst in
                     zip(values.mean(0), values.min(0), strict=True)]  # fmt: skip
            rows.append([which, f"{family} ({len(graphs)})", *cells])
    head = ["set", "family (models)", "found: affinity", "found: module only",
            "true modules: affinity", "true modules: module only",
            "*told all other compositions*"]  # fmt: skip
    return (
        "## Affinity\n\nModular addition: cosine between the affinities of a feature and its "
        "composition (the share of each Fourier frequency in its variance), mean over the features "
        "that are scored, then over the models, and the worst model. A module stands for the "
        "frequency that its features hold most of. \"Module only\": one for the feature's module, "
        "zero for the others. With the modules that `find_modules` finds by default, and with each "
        "feature in the module of its largest frequency. \"Told\" is no method: a feature's "
        "composition is taken for the mean of all others' true ones, weighed by the energies of "
        "its edges.\n\n" + table(head, rows)
    )  # fmt: skip


def cosines(known: KnownGraph) -> tuple[float, ...]:
    """Of affinities and of modules, with those found and with the true ones; told the rest."""
    found = find_modules(known.graph, significance=False)
    composition, scored = np.asarray(known.composition), known.truth >= 0
    network = Network.from_graph(known.graph)
    _, true = np.unique(composition.argmax(1), return_inverse=True)
    true = np.where(network.connected, true, -1)
    told = told_compositions(composition, network)
    read = []
    for labels, by_layer in (
        (found.labels, found.affinity),
        (true, module_affinity(known.graph, network, true).shares),
    ):
        shares = np.concatenate(list(by_layer.values()))
        one = np.eye(shares.shape[1])[np.maximum(labels, 0)]
        read += [as_composition(x, labels, composition, scored) for x in (shares, one)]
    return tuple(cosine(x[scored], composition[scored]) for x in (*read, told))


def told_compositions(composition: np.ndarray, network: Network) -> np.ndarray:
    """Of every feature the mean of the compositions that its edges lead to, `[nodes, modules]`."""
    result = np.zeros_like(composition)
    for block in network.blocks:
        energy = block.weight.numpy() ** block.power
        energy /= energy.sum()
        into, out = (slice(*network.offsets[k : k + 2]) for k in (block.target, block.source))
        result[into] += energy @ composition[out]
        result[out] += energy.T @ composition[into]
    return result


def as_composition(
    shares: np.ndarray, labels: np.ndarray, composition: np.ndarray, scored: np.ndarray
) -> np.ndarray:
    """Shares of modules as shares of the frequencies that these stand for."""
    read = np.zeros_like(composition)
    for module in range(shares.shape[1]):
        inside = scored & (labels == module)
        if inside.any():
            read[:, composition[inside].sum(0).argmax()] += shares[:, module]
    return read


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(1) / np.maximum(norms, 1e-300)))
