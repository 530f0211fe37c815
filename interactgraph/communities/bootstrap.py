"""Modules with confidence: the graph resampled over parts of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..checks import whole
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import is_sparse, lookup, nonzero, sparse_matrix, tidy
from .confidence import co_assignment, set_apart
from .mutual_information import adjusted_mutual_information
from .partition import Partition, split_layers
from .search import find_modules

__all__ = ["bootstrap", "mean_graph"]


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


def mean_graph(folds: Sequence[InteractionGraph]) -> InteractionGraph:
    """The graph over all folds: means of strengths, root mean squares of `rms`, largest `max`.

    Folds count by their samples.

    Raises:
        InteractGraphError: the folds have different layers, features or strengths.
    """
    first = folds[0]
    for other in folds[1:]:
        same = (first.layers, first.pairs, first.n_features, first.strengths)
        if same != (other.layers, other.pairs, other.n_features, other.strengths):
            raise InteractGraphError(
                f"folds must be graphs of the same layers, features and strengths; got {first!r} "
                f"and {other!r}"
            )
    sizes = torch.tensor([float(fold.metadata.get("n_samples", 1)) for fold in folds])
    share = sizes / sizes.sum()
    blocks: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    for pair in first.pairs:
        blocks[pair] = {
            name: _pooled(name, [fold.blocks[pair][name] for fold in folds], share)
            for name in first.strengths
        }
    return first.replace(blocks=blocks, standard_errors={})


def _pooled(name: str, parts: Sequence[Tensor], share: Tensor) -> Tensor:
    """By the strength's own rule; one that is not ours counts as a mean."""
    strength = STRENGTHS.get(name, STRENGTHS["mean"])
    if not any(map(is_sparse, parts)):
        values = torch.stack(list(parts))
        return strength.pooled(values, share.to(values)[:, None, None])
    places = torch.cat([torch.stack(nonzero(part)[:2]) for part in parts], 1).unique(dim=1)
    rows, columns = places[0], places[1]
    values = torch.stack([lookup(part, rows, columns) for part in parts])[:, None]
    found = strength.pooled(values, share.to(values)[:, None, None])[0]
    return tidy(sparse_matrix(rows, columns, found, parts[0].shape))
