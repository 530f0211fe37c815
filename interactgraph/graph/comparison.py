"""Two graphs over the same features, side by side: does a choice matter here?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ..errors import InteractGraphError
from .interaction_graph import InteractionGraph, Pair

__all__ = ["PairComparison", "compare"]


@dataclass(frozen=True)
class PairComparison:
    """How much the edges of one pair of layers agree in two graphs.

    Attributes:
        pair: source and target layer.
        rank_correlation: Spearman's, over absolute weights.
        overlap: share of the k strongest edges that both have in common.
        k: how many that is.
        difference: Frobenius norm of the difference of the weights relative to the first graph's.
    """

    pair: Pair
    rank_correlation: float
    overlap: float
    k: int
    difference: float


def compare(
    one: InteractionGraph,
    other: InteractionGraph,
    *,
    strength: str | None = None,
    top_k: int = 100,
) -> list[PairComparison]:
    """Compares two graphs of the same model and features, pair by pair.

    Args:
        one: a graph.
        other: another one: another method, baseline, checkpoint or data.
        strength: which strength; None: the first of `one`.
        top_k: size of the sets of strongest edges, or all edges where there are fewer.

    Returns:
        One entry for each pair that both have.

    Raises:
        InteractGraphError: no pair in common, or other features.
    """
    strength = one.check_strength(strength)
    other.check_strength(strength)
    pairs = [pair for pair in one.pairs if pair in other.pairs]
    if not pairs:
        raise InteractGraphError(
            f"the graphs have no pair of layers in common: {list(one.pairs)} and "
            f"{list(other.pairs)}"
        )
    if top_k < 1:
        raise InteractGraphError(f"top_k={top_k}; it must be at least 1")
    return [
        _compare(pair, one.weights(*pair, strength), other.weights(*pair, strength), top_k)
        for pair in pairs
    ]


def _compare(pair: Pair, a: Tensor, b: Tensor, top_k: int) -> PairComparison:
    if a.shape != b.shape:
        raise InteractGraphError(
            f"{' -> '.join(pair)} has {list(a.shape)} features in one graph and {list(b.shape)} in "
            "the other; compare graphs over the same features"
        )
    a, b = a.double().flatten(), b.double().flatten()
    k = min(top_k, len(a))
    best = [set(x.abs().topk(k).indices.tolist()) for x in (a, b)]
    spread = a.abs().std() > 0 and b.abs().std() > 0
    correlation = float(stats.spearmanr(a.abs(), b.abs()).statistic) if spread else float("nan")
    size = float(torch.linalg.vector_norm(a))
    difference = float(torch.linalg.vector_norm(a - b))
    return PairComparison(
        pair=pair,
        rank_correlation=correlation,
        overlap=len(best[0] & best[1]) / max(k, 1),
        k=k,
        difference=difference / size if size else (0.0 if difference == 0 else float("inf")),
    )
