"""How many edges of a layer pair the model needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..model import Forward, PositionMask
from ..sparse import dense_for
from .ablation import PairAblation, check_scores, top_edges
from .greedy import greedy_ranking
from .measures import Measure

__all__ = ["EdgesRequired", "ablation_curve", "edges_required"]


@dataclass(frozen=True, eq=False)
class EdgesRequired:
    """What `edges_required` found.

    Attributes:
        n_edges: fewest edges, by bisection, that keep the measure within the tolerance.
        intact: measure of the intact model.
        tolerance: how much it may drop.
        curve: edges kept -> measure, for every number that was tried.
        kept: the edges, bool `[i, j]`.
        scores: the ranking, `[i, j]`.
    """

    n_edges: int
    intact: float
    tolerance: float
    curve: dict[int, float]
    kept: Tensor
    scores: Tensor = field(repr=False)


def edges_required(
    graph: InteractionGraph,
    model: nn.Module,
    data: Iterable[Any],
    source: str,
    target: str,
    *,
    measure: str | Measure = "accuracy",
    tolerance: float = 1e-3,
    ranking: str | Tensor | None = None,
    ranking_data: Iterable[Any] | None = None,
    ranking_measure: str | Measure | None = None,
    baseline: str | Tensor = "mean",
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> EdgesRequired:
    """The fewest edges of a layer pair that keep a measure of the model within a tolerance.

    Edges are kept from the top of a ranking; their number is found by bisection, as if the measure
    never fell with more edges.

    Args:
        graph: the graph, whose feature maps are used.
        model: the network.
        data: batches that the measure is taken on.
        source: source layer.
        target: target layer.
        measure: "accuracy" and "log_likelihood" (batches hold labels), "agreement",
            "log_agreement" and "similarity" (compare with the intact model), or a function
            (output, batch, intact output) -> one number for each sample, more is better.
        tolerance: how much the measure may drop.
        ranking: a strength of the graph (None: its first), scores `[i, j]`, or "greedy": edges are
            taken away one after the other, those first that `ranking_measure` misses least. The
            plain ranking is kept where it needs fewer edges.
        ranking_data: batches for the greedy ranking, and only for it; None: `data`.
        ranking_measure: what the greedy ranking follows, smooth where `measure` is not; None:
            "log_likelihood" for "accuracy", "log_agreement" for "agreement", else `measure`.
        baseline: what a source feature without an edge is set to: "mean", "zero" or a tensor, in
            activation space.
        position_mask: which positions count, in means over the data and in named measures, as for
            `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.

    Raises:
        InteractGraphError: bad input, or even all edges do not reach the tolerance: then the
            feature maps leave out what the model needs.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> found = itg.edges_required(
        ...     graph, net.model, net.data, "input", "1", measure="similarity", tolerance=0.1,
        ...     progress=False,
        ... )
        >>> 0 < found.n_edges <= 8 * 12
        True
    """
    if not tolerance >= 0:
        raise InteractGraphError(f"tolerance={tolerance} must be a number that is not negative")
    if ranking is None or isinstance(ranking, Tensor) or ranking != "greedy":
        for name, value in {
            "ranking_data": ranking_data,
            "ranking_measure": ranking_measure,
        }.items():
            if value is not None:
                raise InteractGraphError(
                    f"{name} is what a greedy ranking follows, and the ranking is not; give "
                    "ranking='greedy', or leave it out"
                )
    weight = graph.weights(source, target, None if _given(ranking) else _name(ranking))
    strength = dense_for(weight, f"the number of edges required of {source} -> {target}").abs()
    ablation = partial(
        PairAblation.of_graph, graph, model, source=source, target=target,
        position_mask=position_mask, forward=forward, progress=progress,
    )  # fmt: skip
    pair = ablation(data=data, baseline=baseline)
    scores = check_scores(ranking if isinstance(ranking, Tensor) else strength, strength.shape)
    required = _bisect(pair, scores, measure, tolerance)
    if ranking != "greedy":
        return required
    other = pair if ranking_data is None else ablation(data=ranking_data, baseline=pair.baseline)
    # What the plain ranking needs, and half as many again, is where elimination starts.
    n_start = max(1, min(scores.numel(), required.n_edges + required.n_edges // 2))
    if ranking_measure is None:
        ranking_measure = _SMOOTH.get(measure, measure) if isinstance(measure, str) else measure
    scores = greedy_ranking(
        other, scores, measure=ranking_measure, n_start=n_start, progress=progress
    )
    return min(_bisect(pair, scores, measure, tolerance), required, key=lambda one: one.n_edges)


# What a greedy ranking follows in the place of a measure that is not smooth.
_SMOOTH = {"accuracy": "log_likelihood", "agreement": "log_agreement"}


def _given(ranking: str | Tensor | None) -> bool:
    return isinstance(ranking, Tensor) or ranking == "greedy"


def _name(ranking: str | Tensor | None) -> str | None:
    return ranking if isinstance(ranking, str) else None


def _bisect(
    pair: PairAblation, scores: Tensor, measure: str | Measure, tolerance: float
) -> EdgesRequired:
    intact = pair.evaluate(None, measure)
    if math.isnan(intact):
        raise InteractGraphError(
            f"the measure of the intact model is not a number, so no number of edges of "
            f"{pair.source} -> {pair.target} can be compared with it; look at the model's output "
            "and at the measure"
        )
    curve: dict[int, float] = {}

    def enough(n: int) -> bool:
        curve[n] = pair.evaluate(top_edges(scores, n), measure)
        # Means of many samples carry rounding.
        return curve[n] >= intact - tolerance - 1e-12 * abs(intact)

    low, high = -1, scores.numel()
    # Upwards in steps of two: few edges are cheap to evaluate, all of them are not.
    n = 16
    while n < high:
        if enough(n):
            high = n
        else:
            low = n
            n *= 2
    if high not in curve and not enough(high):
        raise InteractGraphError(
            f"with all {high} edges of {pair.source} -> {pair.target} the measure is "
            f"{curve[high]:.6g} and the intact model's {intact:.6g}: the feature maps leave out "
            "what the model needs. Keep more features, or raise the tolerance"
        )
    while high - low > 1:
        n = (low + high) // 2
        if enough(n):
            high = n
        else:
            low = n
    ordered = dict(sorted(curve.items()))
    return EdgesRequired(high, intact, tolerance, ordered, top_edges(scores, high), scores)


def ablation_curve(
    pair: PairAblation, scores: Tensor, counts: Sequence[int], measure: str | Measure = "accuracy"
) -> dict[int, float]:
    """Measure of the model for several numbers of edges kept.

    Args:
        pair: the layer pair.
        scores: ranking, `[i, j]`.
        counts: numbers of edges.
        measure: as for `edges_required`.
    """
    scores = check_scores(scores, (pair.n_targets, pair.n_sources))
    return {n: pair.evaluate(top_edges(scores, n), measure) for n in sorted(set(counts))}
