"""A label for a group: one of its members' own, or the token it reads and the logit it writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from .attribution_graph import AttributionGraph

__all__ = ["Names", "shared_label", "told_apart"]

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


class Names:
    """Labels of groups of one graph."""

    def __init__(self, graph: AttributionGraph) -> None:
        self._graph = graph

    def propose(self, members: Sequence[int]) -> str:
        """A label for nodes with these numbers."""
        own = shared_label([self._graph.labels[k] for k in members])
        return own or self._by_place(members)

    def _by_place(self, members: Sequence[int]) -> str:
        """What it reads most, and the logit that it promotes most, over all paths."""
        graph = self._graph
        group = np.zeros(len(graph.ids))
        group[list(members)] = 1.0 / len(members)
        kinds = np.array(graph.kinds, dtype=object)
        reads = _carried(abs(graph.shares).T.tocsr(), group, -graph.depth)
        reads[kinds != "embedding"] = 0
        writes = _carried(graph.shares, group, graph.depth)
        writes[kinds != "logit"] = 0
        parts = []
        if reads.max(initial=0) > 0:
            parts.append(f'"{self._token(int(reads.argmax()))}"')
        if writes.max(initial=0) > 0:
            k = int(writes.argmax())
            parts.append("→ " + (graph.labels[k] or graph.ids[k]))
        layers = sorted({int(graph.depth[k]) for k in members})
        where = f"layer {layers[0]}" + (f"-{layers[-1]}" if len(layers) > 1 else "")
        return " ".join([*parts, f"({where})"])[:_LONGEST]

    def _token(self, k: int) -> str:
        tokens = self._graph.metadata.get("prompt_tokens")
        position = int(self._graph.positions[k])
        if isinstance(tokens, list) and position < len(tokens):
            return str(tokens[position]).strip()
        return self._graph.labels[k] or self._graph.ids[k]


def _carried(step: sparse.csr_array, start: np.ndarray, order: np.ndarray) -> np.ndarray:
    """What arrives at each node along all paths: x = start + step x, in the order of `order`.

    Args:
        step: `[nodes, nodes]`, from column to row; links against the order are left out.
        start: what is put in, `[nodes]`.
        order: nodes of smaller numbers come first, `[nodes]`.
    """
    x = start.copy()
    for value in np.unique(order):
        rows = np.flatnonzero(order == value)
        x[rows] = start[rows] + step[rows] @ x
    return x
