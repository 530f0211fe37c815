"""Modules with confidence: the graph resampled over parts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..checks import whole
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from .confidence import co_assignment, set_apart
from .mean_graph import mean_graph
from .mutual_information import adjusted_mutual_information
from .partition import Partition, split_layers
from .search import find_modules

__all__ = ["bootstrap"]


def bootstrap(
    folds: InteractionGraph | Sequence[InteractionGraph],
    strength: str | None = None,
    *,
    n_samples: int = 20,
    seed: int = 0,
    uncertain: float = 0.5,
    **options: Any,
) -> Partition:
    """Modules of the whole data, with the confidence that resampled data give them.

    Samples are drawn fold by fold: a bootstrap over blocks of samples, which needs no second pass
    over the data.

    Args:
        folds: a graph with folds (`interaction_graph(..., folds=20)`), or graphs of the same model
            over disjoint parts of the data.
        strength: which strength is the weight; None: the graphs' first.
        n_samples: number of resampled graphs, each searched once.
        seed: of the resampling and of every search.
        uncertain: features of lower confidence are listed in `details["uncertain"]`.
        **options: for `find_modules`.

    Returns:
        The partition of the graph (where only folds are given, of their mean); `agreement` is the
        mean adjusted mutual information with the partitions of the resampled graphs.

    Raises:
        InteractGraphError: fewer than two folds, or folds of different graphs.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, folds=4, progress=False)
        >>> partition = itg.bootstrap(graph, n_samples=3, n_runs=2)
        >>> partition.confidence["input"].shape
        (8,)
    """
    n_samples = whole("n_samples", n_samples)
    whole_graph = folds if isinstance(folds, InteractionGraph) else None
    if isinstance(folds, InteractionGraph):
        if not folds.folds:
            raise InteractGraphError(
                "the graph has no folds; compute it with interaction_graph(..., folds=20) (groups "
                "have none)"
            )
        folds = folds.folds
    if len(folds) < 2:
        raise InteractGraphError(f"a bootstrap needs at least 2 folds, got {len(folds)}")
    partition = find_modules(whole_graph or mean_graph(folds), strength, seed=seed, **options)
    options = {**options, "significance": False, "n_runs": 1, "resolution": partition.resolution}
    draw = np.random.default_rng(seed)
    others = []
    for number in range(n_samples):
        drawn = draw.integers(0, len(folds), len(folds))
        sample = mean_graph([folds[k] for k in drawn])
        others.append(find_modules(sample, strength, seed=seed + number, **options).labels)
    confidence = co_assignment(partition.labels, others)
    placed = partition.labels >= 0
    agreement = np.mean(
        [
            adjusted_mutual_information(partition.labels[placed], set_apart(other[placed]))
            for other in others
        ]
    )
    by_layer = split_layers(confidence, folds[0].n_features)
    doubtful = {
        layer: np.flatnonzero(values < uncertain).tolist() for layer, values in by_layer.items()
    }
    return replace(
        partition,
        confidence=by_layer,
        agreement=float(agreement),
        details={**partition.details, "bootstrap_samples": n_samples, "uncertain": doubtful},
    )
