"""Two graphs over the same features, side by side: does a choice matter here?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ..errors import InteractGraphError
from .interaction_graph import InteractionGraph, Pair

__all__ = ["EdgeDifference", "PairComparison", "compare", "differences"]


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


@dataclass(frozen=True)
class EdgeDifference:
    """One edge in two graphs.

    Attributes:
        source: label of the source feature.
        target: label of the target feature.
        pair: their layers.
        one: strength in the first graph.
        other: strength in the second graph.
        z: (one - other) / sqrt(SE_one^2 + SE_other^2), for graphs over different samples.
    """

    source: str
    target: str
    pair: Pair
    one: float
    other: float
    z: float


def differences(
    one: InteractionGraph,
    other: InteractionGraph,
    *,
    strength: str | None = None,
    top_k: int = 20,
) -> list[EdgeDifference]:
    """The edges whose strength differs most, in units of its standard error.

    Args:
        one: a graph, such as that of a group of samples.
        other: another one over the same features and other samples.
        strength: which strength; None: the first of `one`.
        top_k: how many edges.

    Returns:
        Largest |z| first. With m edges in the graphs, |z| of about sqrt(2 ln m) comes by chance.

    Raises:
        InteractGraphError: no pair in common, other features, or a strength without standard error.
    """
    strength = one.check_strength(strength)
    found: list[EdgeDifference] = []
    for row in compare(one, other, strength=strength, top_k=1):
        a, b = (graph.weights(*row.pair, strength).double() for graph in (one, other))
        spread = [graph.standard_error(*row.pair, strength).double() for graph in (one, other)]
        z = (a - b) / (spread[0].square() + spread[1].square()).sqrt()
        z = torch.where(a == b, torch.zeros_like(z), z.nan_to_num(0.0))
        for index in z.abs().flatten().topk(min(top_k, z.numel())).indices.tolist():
            i, j = divmod(index, z.shape[1])
            found.append(
                EdgeDifference(
                    one.labels[row.pair[0]][j], one.labels[row.pair[1]][i], row.pair,
                    float(a[i, j]), float(b[i, j]), float(z[i, j]),
                )
            )  # fmt: skip
    found.sort(key=lambda edge: -abs(edge.z))
    return found[:top_k]


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
