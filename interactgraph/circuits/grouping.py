"""Groups of items from evidence about pairs: correlation clustering, by Leiden.

What is maximised is the sum of the evidence over all pairs within groups (Bansal, Blum & Chawla,
Machine Learning 56, 2004). No pair counts more than `clip` against; then the sum is that of the
constant Potts model (Traag, Van Dooren & Nesterov, Phys. Rev. E 84, 2011, 016114) with the weights
evidence + clip and the resolution clip, in which pairs that are not listed need no weight.
"""

from __future__ import annotations

import igraph
import leidenalg
import numpy as np

__all__ = ["correlation_clusters", "strongest"]


def strongest(first: np.ndarray, second: np.ndarray, value: np.ndarray, most: int) -> np.ndarray:
    """Which pairs are among the `most` strongest of either of their items, bool `[pairs]`."""
    keep = np.zeros(len(value), bool)
    for end in (first, second):
        order = np.lexsort((-value, end))
        start = np.searchsorted(end[order], end[order])
        keep[order[np.arange(len(order)) - start < most]] = True
    return keep


def correlation_clusters(
    n_items: int,
    first: np.ndarray,
    second: np.ndarray,
    evidence: np.ndarray,
    *,
    clip: float,
    n_runs: int = 4,
    n_rounds: int = -1,
    seed: int = 0,
) -> np.ndarray:
    """Groups with the largest sum of evidence within them that a few runs find.

    Args:
        n_items: number of items.
        first: an item of each pair, `[pairs]`, no pair twice.
        second: the other one.
        evidence: for (positive) or against being together, `[pairs]`; -clip for pairs not given.
        clip: evidence against that a pair can bring at most, above 0.
        n_runs: runs of Leiden; the best is kept.
        n_rounds: of each run; negative: until nothing improves.
        seed: of the first run.

    Returns:
        int64 `[items]`, group of each item.
    """
    keep = evidence > -clip
    ends = np.stack([first[keep], second[keep]], 1).astype(np.int64)
    graph = igraph.Graph(n=n_items, edges=ends)
    weights = (evidence[keep] + clip).tolist()
    runs = [
        leidenalg.find_partition(
            graph, leidenalg.CPMVertexPartition, weights=weights, resolution_parameter=clip,
            seed=seed + k, n_iterations=n_rounds,
        )
        for k in range(n_runs)
    ]  # fmt: skip
    best = max(runs, key=lambda run: run.quality())
    return np.array(best.membership, dtype=np.int64)
