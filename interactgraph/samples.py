"""Which samples use an edge: the ones that drive the connections of a graph most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attribution.path_nodes import nodes_for
from .attribution.source_path import SourcePath
from .calculus.path import PathRule, at_sample, gauss_legendre
from .checks import whole
from .errors import InteractGraphError
from .graph import InteractionGraph, Pair
from .layers import Baseline, Layers, PairProblem, check_baseline
from .model import (
    ATTENTION_MASK,
    Forward,
    PositionMask,
    Runner,
    load_model,
    prepared,
    resolve_sites,
    wide_enough,
)
from .sparse import n_nonzero, nonzero

__all__ = ["TopSamples", "top_samples"]

_MOST_EDGES = 1_000_000
_AT_ONCE = 16  # source features that go through a segment together


@dataclass(frozen=True, eq=False)
class TopSamples:
    """The samples that use the edges of one pair most.

    Attributes:
        source: source features of the edges, int64 `[edges]`.
        target: target features of the edges, int64 `[edges]`.
        samples: numbers of the samples in data order, strongest first, int64 `[edges, k]`; -1
            where there are fewer samples.
        values: their max over positions of |A|, `[edges, k]`.
        share: share of the samples whose max over positions of |A| reaches the threshold,
            `[edges]`; None without one.
    """

    source: Tensor
    target: Tensor
    samples: Tensor
    values: Tensor
    share: Tensor | None


def top_samples(
    graph: InteractionGraph,
    model: nn.Module,
    data: Iterable[Any],
    *,
    k: int = 5,
    threshold: float | None = None,
    baseline: Baseline | None = None,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> dict[Pair, TopSamples]:
    """Goes over the data once more and says which samples drive the edges of a pruned graph.

    An average hides what matters on a handful of samples; prune by `max` to keep such edges, and
    this names the samples. Only source features with an edge are computed, in forward mode.

    Args:
        graph: the graph; edges are those with a weight other than zero, so prune it first.
        model: the network it was computed from.
        data: batches; the numbers of samples count along them.
        k: how many samples for each edge.
        threshold: of |A|, for `share`.
        baseline: as for `interaction_graph`; None: the graph's, which needs to be "zero" or "mean".
        position_mask: as for `interaction_graph`; None: the graph's.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute.
        dtype: what to compute in.
        progress: show a progress bar.

    Raises:
        InteractGraphError: too many edges, a graph of a perturbation method, or bad input.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> found = itg.top_samples(graph.prune(top_k=5), net.model, net.data, k=3, progress=False)
        >>> found["input", "1"].samples.shape  # [edges, k]
        torch.Size([5, 3])
    """
    method = graph.metadata.get("method")
    if method not in ("integrated_gradients", "gradient"):
        raise InteractGraphError(
            f"the graph's method is {method!r}; samples can be named for integrated_gradients and "
            "gradient"
        )
    k = whole("k", k)
    n_edges = {pair: n_nonzero(graph.weights(*pair)) for pair in graph.pairs}
    if sum(n_edges.values()) > _MOST_EDGES:
        raise InteractGraphError(
            f"the graph has {sum(n_edges.values())} edges; prune it to those that matter first, "
            "such as graph.prune(top_k=1000, strength='max')"
        )
    sources = list(dict.fromkeys(source for source, _ in graph.pairs))
    recorded = dict(graph.metadata["baseline"])
    if baseline is None and "tensor" in recorded.values():
        raise InteractGraphError("the graph was computed with a tensor as baseline; give baseline=")
    if position_mask is None and graph.metadata["position_mask"] not in (None, ATTENTION_MASK):
        position_mask = graph.metadata["position_mask"]
        if not isinstance(position_mask, str):
            raise InteractGraphError(
                "the graph was computed with a function as position_mask; give position_mask="
            )
    baselines = check_baseline(recorded if baseline is None else baseline, sources)
    n_steps, tolerance = int(graph.metadata["n_steps"]), graph.metadata["tolerance"]
    fixed = at_sample() if method == "gradient" else gauss_legendre(n_steps)
    adaptive = None if method == "gradient" or tolerance is None else float(tolerance)
    model = load_model(model)
    freeze = graph.metadata.get("freeze", ())
    runner = Runner.on(model, forward, device, wide_enough(model, dtype, freeze), freeze)
    sites = resolve_sites(model, graph.layers)
    found = {pair: _Search(graph.weights(*pair), k, threshold) for pair in graph.pairs}
    with prepared(runner.model), torch.no_grad():
        layers = Layers.look(
            runner, data, sites, graph.pairs, graph.features, baselines=baselines,
            position_mask=position_mask,
            skip_positions=int(graph.metadata.get("skip_positions", 0)), progress=progress,
        ).fitted()  # fmt: skip
        layers.check_segments()
        for layer, size in layers.sizes.items():
            if size != graph.n_features[layer]:
                raise InteractGraphError(
                    f"layer {layer!r} has {size} features in this model and "
                    f"{graph.n_features[layer]} in the graph; give the model it was computed from"
                )
        layers = layers.with_means()
        for number, batch in enumerate(layers.bar("samples")):
            problems = layers.problems(layers.encode(layers.runner.convert(batch), number))
            for pair, search in found.items():
                path, rule = SourcePath.of(problems[pair]), fixed
                if adaptive is not None:
                    rule = nodes_for(problems[pair], path, adaptive, n_steps, 0).rule
                search.add(problems[pair], path, rule)
    return {pair: search.result() for pair, search in found.items()}


class _Search:
    """The samples of largest |A| so far, for every edge of a pair."""

    def __init__(self, weight: Tensor, k: int, threshold: float | None) -> None:
        self.target, self.source, _ = nonzero(weight)
        order = self.source.argsort(stable=True)
        self.target, self.source = self.target[order], self.source[order]
        self.k, self.threshold = k, threshold
        self.columns, self.place = self.source.unique(return_inverse=True)
        n = len(self.source)
        self.values = torch.zeros(n, 0, dtype=torch.float64)
        self.samples = torch.zeros(n, 0, dtype=torch.int64)
        self.passed = torch.zeros(n, dtype=torch.int64)
        self.n_samples = 0

    def add(self, problem: PairProblem, path: SourcePath, rule: PathRule) -> None:
        """Looks at a batch."""
        derivatives = {u: path.linearize(u) for u in rule.nodes}

        def columns_along(tangents: Tensor) -> Tensor:
            return rule.integral(lambda u: derivatives[u](tangents))

        values = torch.zeros(len(self.source), problem.n_samples, dtype=torch.float64)
        for start in range(0, len(self.columns), _AT_ONCE):
            columns = self.columns[start : start + _AT_ONCE].to(problem.z.device)
            chosen = columns[:, None, None].expand(-1, problem.n_samples, 1)
            tangents = path.chosen(chosen, torch.ones_like(chosen, dtype=torch.bool))
            a = columns_along(tangents)
            if problem.mask is not None:
                a = a * problem.mask[..., None]
            size = a.abs().amax(2).double().cpu()  # [c, b, i]
            entries = ((self.place >= start) & (self.place < start + _AT_ONCE)).nonzero()[:, 0]
            values[entries] = size[self.place[entries] - start, :, self.target[entries]]
        numbers = torch.arange(self.n_samples, self.n_samples + problem.n_samples)
        every = torch.cat([self.values, values], 1)
        samples = torch.cat([self.samples, numbers.expand(len(values), -1)], 1)
        self.values, top = every.topk(min(self.k, every.shape[1]), dim=1)
        self.samples = samples.gather(1, top)
        if self.threshold is not None:
            self.passed += (values >= self.threshold).sum(1)
        self.n_samples += problem.n_samples

    def result(self) -> TopSamples:
        """What was found."""
        missing = self.k - self.values.shape[1]
        share = None if self.threshold is None else self.passed.double() / max(self.n_samples, 1)
        return TopSamples(
            self.source,
            self.target,
            torch.nn.functional.pad(self.samples, (0, missing), value=-1),
            torch.nn.functional.pad(self.values, (0, missing)),
            share,
        )
