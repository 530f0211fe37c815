"""A label for a group: one of its members' own, or the token it reads and the logit it writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from .attribution_graph import AttributionGraph

__all__ = ["proposed_labels", "shared_label", "told_apart"]

_LONGEST = 60  # characters of a label


def shared_label(labels: Sequence[str]) -> str:
    """The label whose words most of the others have, too; the shorter of equals; "" for none."""
    labels = [" ".join(label.split()) for label in labels if label.strip()]
    words = [set(re.findall(r"\w+", label.lower())) for label in labels]
    count = Counter(word for some in words for word in some)
    scores = [
        # Mean number of labels that have its words: 1 where it shares none.
        sum(count[word] for word in some) / len(some) if some else 0.0
        for some in words
    ]
    best = max(range(len(labels)), key=lambda k: (scores[k], -len(labels[k])), default=None)
    return "" if best is None else labels[best][:_LONGEST]


def told_apart(labels: Iterable[str], taken: Iterable[str]) -> list[str]:
    """The labels, with a number behind those that are taken already."""
    used, result = set(taken), []
    for label in labels:
        name, number = label, 1
        while name in used:
            number += 1
            name = f"{label} ({number})"
        used.add(name)
        result.append(name)
    return result


def proposed_labels(graph: AttributionGraph, groups: Sequence[Sequence[int]]) -> list[str]:
    """A label for each group of nodes, given by their numbers."""
    labels = [shared_label([graph.labels[k] for k in members]) for members in groups]
    nameless = [g for g, label in enumerate(labels) if not label]
    for g, label in zip(nameless, _by_place(graph, [groups[g] for g in nameless]), strict=True):
        labels[g] = label
    return labels


def _by_place(graph: AttributionGraph, groups: Sequence[Sequence[int]]) -> list[str]:
    """The token that each group reads most and the logit that it promotes most, on all paths."""
    if not groups:
        return []
    start = np.zeros((len(graph.ids), len(groups)))
    for g, members in enumerate(groups):
        start[list(members), g] = 1.0 / len(members)
    kinds = np.array(graph.kinds, dtype=object)
    reads = _carried(sparse.csr_array(abs(graph.shares).T), start, -graph.depth)
    reads[kinds != "embedding"] = 0
    writes = _carried(graph.shares, start, graph.depth)
    writes[kinds != "logit"] = 0
    result = []
    for g, members in enumerate(groups):
        parts = []
        if reads[:, g].max(initial=0) > 0:
            parts.append(f'"{_token(graph, int(reads[:, g].argmax()))}"')
        if writes[:, g].max(initial=0) > 0:
            k = int(writes[:, g].argmax())
            parts.append("→ " + (graph.labels[k] or graph.ids[k]))
        layers = sorted({int(graph.depth[k]) for k in members})
        where = f"layer {layers[0]}" + (f"-{layers[-1]}" if len(layers) > 1 else "")
        result.append(f"{' '.join(parts)[:_LONGEST]} ({where})".strip())
    return result


def _token(graph: AttributionGraph, k: int) -> str:
    tokens = graph.metadata.get("prompt_tokens")
    position = int(graph.positions[k])
    if isinstance(tokens, list) and position < len(tokens):
        return str(tokens[position]).strip()
    return graph.labels[k] or graph.ids[k]


def _carried(step: sparse.csr_array, start: np.ndarray, order: np.ndarray) -> np.ndarray:
    """What arrives at each node along all paths: x = start + step x, node by node.

    Args:
        step: `[nodes, nodes]`, from column to row; links against the order are left out.
        start: what is put in, `[nodes, groups]`.
        order: nodes of smaller numbers come first, `[nodes]`.
    """
    x = start.copy()
    for value in np.unique(order):
        rows = np.flatnonzero(order == value)
        x[rows] = start[rows] + step[rows] @ x
    return x
