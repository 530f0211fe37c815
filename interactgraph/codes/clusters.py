"""Clusters of points by scikit-learn, and how pure they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import choice, whole, whole_or_none
from ..communities.mutual_information import contingency
from ..errors import InputError, InteractGraphError

__all__ = ["ALGORITHMS", "clusters_of", "purity", "scikit_learn"]

ALGORITHMS = ("kmeans", "agglomerative", "hdbscan")
_STARTS = 10
_MOST = 20_000  # points whose pairwise distances fit in memory


def clusters_of(
    x: np.ndarray,
    n_clusters: int | None,
    algorithm: str,
    min_cluster_size: int | None,
    seed: int,
) -> np.ndarray:
    """Clusters of points, see `Codes.clusters`.

    Args:
        x: points, `[n, d]`.
        n_clusters: how many, where the algorithm needs it.
        algorithm: one of `ALGORITHMS`.
        min_cluster_size: of HDBSCAN.
        seed: of k-means.

    Returns:
        Number of each point's cluster, int64 `[n]`.

    Raises:
        InteractGraphError: an option makes no sense, or scikit-learn is not installed.
    """
    choice("algorithm", algorithm, ALGORITHMS)
    if algorithm != "hdbscan":
        if min_cluster_size is not None:
            raise InputError(f"min_cluster_size is for algorithm='hdbscan', not for {algorithm!r}")
        if whole("n_clusters", n_clusters) > len(x):
            raise InputError(f"n_clusters={n_clusters} is more than the {len(x)} observations")
    if algorithm == "agglomerative" and len(x) > _MOST:
        raise InputError(
            f"agglomerative clustering compares all pairs of {len(x)} observations; up to {_MOST} "
            "are possible. Give fewer samples, or algorithm='kmeans'"
        )
    least = whole_or_none("min_cluster_size", min_cluster_size, 2)
    cluster = scikit_learn().cluster
    if algorithm == "kmeans":
        model = cluster.KMeans(n_clusters, n_init=_STARTS, random_state=seed)
    elif algorithm == "agglomerative":
        model = cluster.AgglomerativeClustering(n_clusters)
    else:
        model = cluster.HDBSCAN(min_cluster_size=5 if least is None else least, copy=True)
    return np.asarray(model.fit_predict(x), dtype=np.int64)


def purity(clusters: Any, labels: Any) -> float:
    """Share of items whose label is the most frequent one of their cluster, from 0 to 1.

    It rises with the number of clusters; `communities.adjusted_rand_index` does not.

    Args:
        clusters: a name or number for each item, `[items]`.
        labels: another one.

    Raises:
        InputError: there are not as many of both.

    Example:
        >>> purity([0, 0, 0, 1], ["a", "a", "b", "b"])
        0.75
    """
    one, other = np.asarray(clusters), np.asarray(labels)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise InputError(f"purity compares lists of one length, got {one.shape} and {other.shape}")
    return float(contingency(one, other).max(1).sum() / len(one))


def scikit_learn() -> Any:
    """The package with its clustering and decompositions.

    Raises:
        InteractGraphError: it is not installed.
    """
    try:
        import sklearn
        import sklearn.cluster
        import sklearn.decomposition
    except ImportError as error:
        raise InteractGraphError(
            "clusters and directions of codes need scikit-learn, which is not installed; install "
            "it with: pip install 'interactgraph[codes]'"
        ) from error
    return sklearn
