"""Two graphs of the same layers, side by side: does a choice matter here?

Features go by their number where both graphs see a layer through the same map. Where the maps
differ (another basis, or one fitted to other data) they are matched by their directions, see
`interactgraph.features.counterparts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse, stats
from torch import Tensor

from ..errors import InteractGraphError
from ..features.counterparts import Counterparts, counterparts
from ..sparse import is_sparse, lookup, nonzero, tidy, union, values_of
from .interaction_graph import InteractionGraph, Pair

__all__ = ["EdgeDifference", "PairComparison", "compare", "differences", "matched_features"]


@dataclass(frozen=True)
class PairComparison:
    """How much the edges of one pair of layers agree in two graphs.

    Attributes:
        pair: source and target layer.
        rank_correlation: Spearman's, over absolute weights.
        overlap: share of the k strongest edges that both have in common.
        k: how many that is.
        difference: Frobenius norm of the difference of the weights relative to the first graph's.
        cosines: mean |cosine| between the directions of a source feature and its counterpart, and
            the same of the targets; 1 where both graphs have the same features.
    """

    pair: Pair
    rank_correlation: float
    overlap: float
    k: int
    difference: float
    cosines: tuple[float, float] = (1.0, 1.0)


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

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(
        ...     net.model, net.data, net.layers, groups=lambda x: x[:, 0] > 0, progress=False
        ... )
        >>> found = itg.differences(graph.groups["True"], graph.groups["False"], top_k=2)
        >>> len(found)
        2
    """
    strength = one.check_strength(strength)
    edges: list[EdgeDifference] = []
    for row in compare(one, other, strength=strength, top_k=1):
        if row.cosines != (1.0, 1.0):
            raise InteractGraphError(
                f"{' -> '.join(row.pair)} has other features in the two graphs; differences of "
                "single edges need the same ones"
            )
        weights = [graph.weights(*row.pair, strength) for graph in (one, other)]
        errors = [graph.standard_error(*row.pair, strength) for graph in (one, other)]
        rows, columns = _places(*weights)
        a, b = (lookup(weight, rows, columns).double() for weight in weights)
        spread = [lookup(error, rows, columns).double() for error in errors]
        z = (a - b) / (spread[0].square() + spread[1].square()).sqrt()
        z = torch.where(a == b, torch.zeros_like(z), z.nan_to_num(0.0))
        for place in z.abs().topk(min(top_k, z.numel())).indices.tolist():
            i, j = int(rows[place]), int(columns[place])
            edges.append(
                EdgeDifference(
                    one.labels[row.pair[0]][j], one.labels[row.pair[1]][i], row.pair,
                    float(a[place]), float(b[place]), float(z[place]),
                )
            )  # fmt: skip
    edges.sort(key=lambda edge: -abs(edge.z))
    return edges[:top_k]


def compare(
    one: InteractionGraph,
    other: InteractionGraph,
    *,
    strength: str | None = None,
    top_k: int = 100,
) -> list[PairComparison]:
    """Compares two graphs of the same layers, pair by pair.

    Args:
        one: a graph.
        other: another one: another method, baseline, checkpoint, data or basis. A feature without
            a counterpart there has no edges.
        strength: which strength; None: the first of `one`.
        top_k: size of the sets of strongest edges, or all edges where there are fewer.

    Returns:
        One entry for each pair that both have.

    Raises:
        InteractGraphError: no pair in common, or features that cannot be matched.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> other = itg.interaction_graph(
        ...     net.model, net.data, net.layers, method="gradient", progress=False
        ... )
        >>> len(itg.compare(graph, other))
        2
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
    layers = dict.fromkeys(layer for pair in pairs for layer in pair)
    matched = {layer: matched_features(one, other, layer) for layer in layers}
    return [
        _compare(
            pair, one.weights(*pair, strength), other.weights(*pair, strength), top_k,
            matched[pair[0]], matched[pair[1]],
        )
        for pair in pairs
    ]  # fmt: skip


def matched_features(one: InteractionGraph, other: InteractionGraph, layer: str) -> Counterparts:
    """Counterparts of a layer's features in another graph: their numbers where maps are unknown.

    Args:
        one: a graph.
        other: another one.
        layer: of both.

    Raises:
        InteractGraphError: features that cannot be matched.
    """
    maps = [graph.features.get(layer) for graph in (one, other)]
    n, m = (graph.n_features[layer] for graph in (one, other))
    if maps[0] is not None and maps[1] is not None:
        return counterparts(maps[0], maps[1], n, m)
    if n != m:
        raise InteractGraphError(
            f"layer {layer!r} has {n} features in one graph and {m} in the other, and the graphs "
            "do not say which; compare graphs over the same features"
        )
    return Counterparts(np.arange(n), np.ones(n))


def _places(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of all entries of two matrices; of sparse ones of those that are there."""
    if is_sparse(one) or is_sparse(other):
        return union(one, other)
    numbers = torch.arange(one.numel(), device=one.device)
    return numbers // one.shape[1], numbers % one.shape[1]


def _compare(
    pair: Pair, a: Tensor, b: Tensor, top_k: int, source: Counterparts, target: Counterparts
) -> PairComparison:
    signed = bool((values_of(a) < 0).any() or (values_of(b) < 0).any())
    b = _in_order_of(source, target, b, signed=signed)
    n_entries = a.numel()
    places = _places(a, b)
    a, b = (lookup(matrix, *places).double() for matrix in (a, b))
    k = min(top_k, len(a))
    best = [set(x.abs().topk(k).indices.tolist()) for x in (a, b)]
    correlation = _rank_correlation(a.abs(), b.abs(), n_entries - len(a))
    size = float(torch.linalg.vector_norm(a))
    difference = float(torch.linalg.vector_norm(a - b))
    return PairComparison(
        pair=pair,
        rank_correlation=correlation,
        overlap=len(best[0] & best[1]) / max(k, 1),
        k=k,
        difference=difference / size if size else (0.0 if difference == 0 else float("inf")),
        cosines=(_mean_cosine(source), _mean_cosine(target)),
    )


def _rank_correlation(a: Tensor, b: Tensor, n_zero: int) -> float:
    """Spearman's, of values that are not negative and `n_zero` more that are zero in both."""
    if not n_zero:
        spread = a.std() > 0 and b.std() > 0
        return float(stats.spearmanr(a, b).statistic) if spread else float("nan")
    n = len(a) + n_zero
    ranks = []
    for values in (a.cpu().numpy(), b.cpu().numpy()):
        # The zeros that are not listed tie with the listed ones, below all others.
        zeros = n_zero + np.count_nonzero(values == 0)
        rank = stats.rankdata(values) + n_zero
        ranks.append((np.where(values == 0, (zeros + 1) / 2, rank), (zeros + 1) / 2))
    (x, x0), (y, y0) = ranks
    middle = (n + 1) / 2

    def covariance(p: np.ndarray, p0: float, q: np.ndarray, q0: float) -> float:
        return float((p - middle) @ (q - middle)) + n_zero * (p0 - middle) * (q0 - middle)

    variances = covariance(x, x0, x, x0) * covariance(y, y0, y, y0)
    return covariance(x, x0, y, y0) / variances**0.5 if variances > 0 else float("nan")


def _in_order_of(
    source: Counterparts, target: Counterparts, weight: Tensor, *, signed: bool
) -> Tensor:
    """Weights of the other graph for the features of the first, zero without a counterpart."""
    if is_sparse(weight):
        return _sparse_in_order_of(source, target, weight, signed=signed)
    rows, columns = (torch.as_tensor(side.index) for side in (target, source))
    ordered = weight[rows.clamp_min(0)][:, columns.clamp_min(0)]
    # A target that points the other way has attributions of the other sign; a source has not.
    sign = torch.as_tensor(target.cosines).nan_to_num(0).sign().to(ordered)
    kept = (rows >= 0)[:, None] & (columns >= 0)
    ordered = torch.where(kept, ordered, 0)
    return ordered * sign[:, None] if signed else ordered


def _sparse_in_order_of(
    source: Counterparts, target: Counterparts, weight: Tensor, *, signed: bool
) -> Tensor:
    """The same of sparse weights."""
    rows, columns, values = (part.cpu().numpy() for part in nonzero(weight))
    matrix = sparse.csr_array((values, (rows, columns)), shape=(weight.shape[0], weight.shape[1]))
    ordered = matrix[np.maximum(target.index, 0)][:, np.maximum(source.index, 0)].tocoo()
    i, j = (torch.as_tensor(ends.astype(np.int64)) for ends in (ordered.row, ordered.col))
    found = torch.as_tensor(ordered.data)
    kept = (torch.as_tensor(target.index) >= 0)[i] & (torch.as_tensor(source.index) >= 0)[j]
    if signed:
        found = found * torch.as_tensor(target.cosines).nan_to_num(0).sign().to(found)[i]
    result = torch.sparse_coo_tensor(
        torch.stack([i[kept], j[kept]]), found[kept], (len(target.index), len(source.index))
    )
    return tidy(result)


def _mean_cosine(side: Counterparts) -> float:
    return float(np.nanmean(np.abs(side.cosines)))
