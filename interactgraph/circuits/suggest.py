"""Supernodes: features of an attribution graph that do the same thing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checks import choice, number, whole
from ..errors import InputError
from . import constants
from .attribution_graph import AttributionGraph
from .evidence import candidate_pairs, log_odds
from .grouping import correlation_clusters, strongest
from .naming import proposed_labels, told_apart
from .reading import load_attribution_graph

__all__ = ["AMONG", "Supernode", "supernodes"]

AMONG = ("auto", "all", "pinned")
Among = Literal["auto", "all", "pinned"]


@dataclass(frozen=True)
class Supernode:
    """A suggestion.

    Attributes:
        label: proposed name.
        ids: of its members, as `qParams.supernodes` has them.
        members: their numbers in the graph.
        confidence: share of the pairs of its members that is expected to belong together. Fitted
            on planted graphs; on others of them it was right up to 0.8 and above that too high
            (0.89 expected, 0.70 found).
    """

    label: str
    ids: tuple[str, ...]
    members: tuple[int, ...]
    confidence: float


def supernodes(
    graph: AttributionGraph | str | os.PathLike[str] | Mapping[str, Any],
    *,
    among: Among = "auto",
    min_confidence: float = 0.0,
    n_runs: int = 4,
    seed: int = 0,
) -> list[Supernode]:
    """Suggests groups of features that read from and write to the same places.

    Two features are compared by what they read and write, relative to what is usual around them
    (`interactgraph.circuits.evidence`), and grouped so that the evidence within groups is largest
    (`interactgraph.circuits.grouping`). Features in groups of the file are left where they are;
    tokens, errors and logits are never grouped.

    Args:
        graph: an attribution graph, the file of one, or what `json.load` returns of it.
        among: which features are grouped: those that are "pinned", "all", or, with "auto", the
            pinned ones if there are two or more, else all. Viewers draw pinned ones only.
        min_confidence: suggestions below are left out.
        n_runs: runs of the search; the best is kept.
        seed: of the search.

    Returns:
        Groups of two or more features, the most confident first.

    Raises:
        InputError: an option makes no sense, or too few features are pinned.
        FileError: the file is missing or is no attribution graph.

    Example:
        >>> import interactgraph as itg
        >>> planted = itg.zoo.planted_attribution_graph(1)
        >>> groups = itg.supernodes(planted.content)
        >>> all(len(group.ids) >= 2 for group in groups)
        True
    """
    choice("among", among, AMONG)
    least = number("min_confidence", min_confidence)
    n_runs, seed = whole("n_runs", n_runs), whole("seed", seed, 0)
    if isinstance(graph, Mapping):
        graph = AttributionGraph.from_content(graph)
    elif not isinstance(graph, AttributionGraph):
        graph = load_attribution_graph(graph)
    chosen = _chosen(graph, among)
    pairs = candidate_pairs(graph)
    odds = log_odds(pairs, len(graph.features)) + constants.SHIFT
    usable = odds > -constants.CLIP
    first, second, odds = chosen[pairs.first[usable]], chosen[pairs.second[usable]], odds[usable]
    del pairs  # the largest arrays
    usable = (first >= 0) & (second >= 0)
    first, second, odds = first[usable], second[usable], odds[usable]
    keep = strongest(first, second, odds, constants.NEIGHBOURS)
    first, second, odds = first[keep], second[keep], odds[keep]
    n_chosen = int(chosen.max(initial=-1)) + 1
    cluster = correlation_clusters(
        n_chosen, first, second, odds, clip=constants.CLIP, n_runs=n_runs, seed=seed,
        n_rounds=-1 if len(odds) <= constants.FEW_PAIRS else constants.ROUNDS,
    )  # fmt: skip
    nodes = graph.features[chosen >= 0]
    sizes = np.bincount(cluster, minlength=1)
    within = cluster[first] == cluster[second]
    excess = np.bincount(cluster[first[within]], odds[within] + constants.CLIP, len(sizes))
    n_pairs = np.maximum(sizes * (sizes - 1) / 2, 1)
    confidence = _confidence(excess / n_pairs - constants.CLIP)
    order = [c for c in np.argsort(-confidence, kind="stable").tolist() if sizes[c] > 1]
    order = [c for c in order if confidence[c] >= least]
    members = [nodes[cluster == c].tolist() for c in order]
    taken = [entry[0] for entry in graph.supernodes]
    labels = told_apart(proposed_labels(graph, members), taken)
    return [
        Supernode(label, graph.names(some), tuple(some), float(confidence[c]))
        for label, some, c in zip(labels, members, order, strict=True)
    ]


def _chosen(graph: AttributionGraph, among: Among) -> np.ndarray:
    """For each feature its number among those that are grouped, -1 for the others."""
    free = np.ones(len(graph.ids), bool)
    grouped = [name for entry in graph.supernodes for name in entry[1:]]
    free[graph.numbers(grouped)] = False
    pinned = np.zeros(len(graph.ids), bool)
    pinned[graph.pinned] = True
    n_pinned = int(pinned[graph.features].sum())
    if among == "pinned" and n_pinned < 2:
        raise InputError(
            f"among='pinned', but {n_pinned} features of the graph are pinned; pin those that are "
            "to be grouped, or give among='all'"
        )
    if among == "pinned" or (among == "auto" and n_pinned >= 2):
        free &= pinned
    chosen = free[graph.features]
    return np.where(chosen, np.cumsum(chosen) - 1, -1)


def _confidence(mean_odds: np.ndarray) -> np.ndarray:
    """Share of pairs that belong together, from the mean of their log odds after the shift."""
    z = constants.CONFIDENCE_BIAS + constants.CONFIDENCE_SLOPE * mean_odds
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -50, 50))))
