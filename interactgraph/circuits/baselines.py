"""What supernodes are compared with: two ways to group the features of an attribution graph."""

from __future__ import annotations

import igraph
import leidenalg
import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from ..checks import positive, whole
from .attribution_graph import AttributionGraph

__all__ = ["complete_link", "undirected_leiden"]


def complete_link(graph: AttributionGraph, n_groups: int) -> np.ndarray:
    """Complete-link clustering of signed edge profiles by the cosine.

    A feature's profile is its row and its column of the weights, each divided by its norm.

    Args:
        graph: the graph.
        n_groups: number of clusters.

    Returns:
        int64 `[features]`, cluster of each feature, in the order of `graph.features`.
    """
    n_groups = whole("n_groups", n_groups)
    features = graph.features
    if len(features) < 2:
        return np.zeros(len(features), np.int64)
    dense = graph.matrix.toarray()
    rows, columns = _unit(dense[features]), _unit(dense[:, features].T)
    profile = _unit(np.concatenate([rows, columns], 1))
    distance = np.clip(1 - profile @ profile.T, 0, 2)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "complete")
    return np.asarray(hierarchy.fcluster(tree, n_groups, "maxclust"), dtype=np.int64)


def undirected_leiden(
    graph: AttributionGraph, resolution: float = 1.0, *, seed: int = 0
) -> np.ndarray:
    """Leiden with the modularity of the undirected graph of absolute weights.

    Args:
        graph: the graph; all nodes take part.
        resolution: factor of the null model.
        seed: of the search.

    Returns:
        int64 `[features]`, community of each feature, in the order of `graph.features`.
    """
    resolution = positive("resolution", resolution)
    coo = abs(graph.matrix).tocoo()
    ends = np.stack([coo.col, coo.row], 1).astype(np.int64)
    undirected = igraph.Graph(n=len(graph.ids), edges=ends)
    found = leidenalg.find_partition(
        undirected, leidenalg.RBConfigurationVertexPartition, weights=coo.data.tolist(),
        resolution_parameter=resolution, seed=seed, n_iterations=-1,
    )  # fmt: skip
    return np.array(found.membership, dtype=np.int64)[graph.features]


def _unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
