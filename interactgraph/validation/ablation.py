"""One layer pair of a model with only some of its edges.

For every target feature i the source features whose edge to i is kept have their own values, the
others the baseline's; i is recomputed through the segment from that. The model then runs on from
the target features (Bushnaq et al., arXiv 2405.10928, section 5.2, edge ablation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..features import FeatureMap
from ..graph import InteractionGraph
from ..layers import Layers
from ..model import (
    Forward,
    PositionMask,
    Runner,
    check_data,
    load_model,
    prepared,
    resolve_sites,
)
from .measures import Measure, check_measure, take

__all__ = ["PairAblation", "Piece"]

_CACHED_BYTES = 1 << 29


@dataclass(frozen=True, eq=False)
class Piece:
    """One batch of the pair.

    Attributes:
        number: of the batch.
        batch: the batch.
        function: source features `[b, s, j]` -> target features `[b, t, i]`.
        tail: target features -> the model's output.
        z: source features, `[b, s, j]`.
        z0: at the baseline.
        intact: output of the intact model.
        mask: positions that count, `[b, p]`; None: all.
    """

    number: int
    batch: Any
    function: Callable[[Tensor], Tensor]
    tail: Callable[[Tensor], Tensor]
    z: Tensor
    z0: Tensor
    intact: Tensor
    mask: Tensor | None = None

    def with_sources(self, kept: Tensor) -> Tensor:
        """Target features when only some source features, bool `[j]`, have their values."""
        return self.function(torch.where(kept, self.z, self.z0))


@dataclass(eq=False)
class PairAblation:
    """Evaluates a model in which one layer pair keeps only some edges.

    Results for a target feature and its kept sources are remembered, so that a search that changes
    a few edges recomputes only the targets of those.

    Attributes:
        model: the network; it is evaluated inside `with prepared(model)`.
        data: batches, iterable more than once.
        source: source layer.
        target: target layer.
        maps: {layer: fitted feature map} of both.
        baseline: what a source feature without an edge is set to: "mean", "zero" or a tensor, in
            activation space.
        position_mask: which positions count, in means over the data and in named measures, as for
            `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.
    """

    model: nn.Module
    data: Iterable[Any]
    source: str
    target: str
    maps: Mapping[str, FeatureMap]
    baseline: str | Tensor = "mean"
    position_mask: PositionMask | None = None
    forward: Forward | None = None
    progress: bool = True
    n_targets: int = 0
    n_sources: int = 0
    _cache: dict[tuple, Tensor] = field(default_factory=dict)
    _cached: int = 0

    def __post_init__(self) -> None:
        self.model = load_model(self.model)
        self.data = check_data(self.data)
        self.data.keep_order("edge ablation, which goes over the data many times, needs")
        for layer in (self.source, self.target):
            if layer not in self.maps:
                raise InteractGraphError(
                    f"no feature map is given for layer {layer!r}; those given are for "
                    f"{list(self.maps)}"
                )
            if not self.maps[layer].is_fitted:
                raise InteractGraphError(
                    f"the feature map of layer {layer!r} is not fitted; take it from a graph "
                    "(graph.features) or fit it with interactgraph.fit_features"
                )
        if not isinstance(self.baseline, Tensor) and self.baseline not in ("mean", "zero"):
            raise InteractGraphError(
                f"baseline={self.baseline!r} is unknown; use 'mean', 'zero' or a tensor in "
                "activation space"
            )
        sites = resolve_sites(self.model, [self.source, self.target])
        runner = Runner.on(self.model, self.forward, None, None)
        with prepared(self.model), torch.no_grad():
            self._layers = Layers.look(
                runner, self.data, sites, [(self.source, self.target)], self.maps,
                baselines={self.source: self.baseline}, position_mask=self.position_mask,
                progress=self.progress,
            ).with_means()  # fmt: skip
            self.baseline = self._layers.baselines[self.source]
            piece = next(self.pieces())
            self.n_sources = piece.z.shape[-1]
            self.n_targets = piece.function(piece.z).shape[-1]

    @staticmethod
    def of_graph(
        graph: InteractionGraph, model: nn.Module, data: Iterable[Any], source: str, target: str,
        **options: Any,
    ) -> PairAblation:  # fmt: skip
        """The ablation of a pair of a graph, in the graph's feature maps."""
        graph.weights(source, target)
        return PairAblation(model, data, source, target, graph.features, **options)

    def pieces(self, text: str = "") -> Iterator[Piece]:
        """One pass over the data. To be used inside `prepared(model)` and `no_grad`."""
        layers, source, target = self._layers, self.source, self.target
        for number, batch in enumerate(layers.batches(text or "edge ablation")):
            encoded = layers.encode(batch, number, with_result=True)
            assert encoded.result is not None
            z = encoded.z[source]
            yield Piece(
                number, batch, layers.segment((source, target), encoded),
                partial(layers.run_on, target, encoded), z, encoded.z0[source].expand_as(z),
                encoded.result, encoded.mask,
            )  # fmt: skip

    def features(self, piece: Piece, kept: Tensor) -> Tensor:
        """Target features of a batch with the edges `kept`, bool `[i, j]`; gives `[b, t, i]`."""
        y: Tensor | None = None
        columns: dict[int, Tensor] = {}
        rows = [row.numpy().tobytes() for row in kept]
        waiting: dict[bytes, list[int]] = {}
        for i, key in enumerate(rows):
            known = self._cache.get((piece.number, i, key))
            if known is None:
                waiting.setdefault(key, []).append(i)
            else:
                columns[i] = known
        # Target features with the same kept sources share one pass.
        for key, targets in waiting.items():
            y = piece.with_sources(kept[targets[0]].to(piece.z.device))
            for i in targets:
                columns[i] = y[..., i]
                self._remember((piece.number, i, key), columns[i])
        return torch.stack([columns[i] for i in range(len(kept))], -1)

    def _remember(self, key: tuple, value: Tensor) -> None:
        value = value.clone()
        self._cached += value.numel() * value.element_size()
        self._cache[key] = value
        while self._cached > _CACHED_BYTES:
            oldest = self._cache.pop(next(iter(self._cache)))
            self._cached -= oldest.numel() * oldest.element_size()

    def evaluate(self, kept: Tensor | None, measure: str | Measure = "accuracy") -> float:
        """Mean of a measure over the samples.

        Args:
            kept: edges that are kept, bool `[i, j]`; None: the intact model.
            measure: one of `MEASURES`, or a function.

        Raises:
            InteractGraphError: `kept` has another shape.
        """
        chosen = check_measure(measure)
        if kept is not None:
            expected = (self.n_targets, self.n_sources)
            if tuple(kept.shape) != expected or kept.dtype != torch.bool:
                raise InteractGraphError(
                    f"kept has shape {tuple(kept.shape)} and dtype {kept.dtype}; it must be bool "
                    f"[target features, source features] = {expected}"
                )
            kept = kept.cpu()
        total, count = 0.0, 0
        with prepared(self.model), torch.no_grad():
            for piece in self.pieces():
                output = piece.intact if kept is None else piece.tail(self.features(piece, kept))
                values = take(chosen, output, piece.batch, piece.intact, piece.mask)
                total += float(values.sum(dtype=torch.float64))
                count += len(values)
        return total / count


def top_edges(scores: Tensor, n: int) -> Tensor:
    """The n edges of highest score, bool `[i, j]`; ties by position, so that sets are nested."""
    order = torch.argsort(scores.flatten().cpu(), descending=True, stable=True)
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order[:n]] = True
    return kept.view(scores.shape)


def check_scores(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Scores as float64 on the CPU.

    Raises:
        InteractGraphError: another shape than the pair's, or not finite.
    """
    if tuple(scores.shape) != tuple(shape):
        raise InteractGraphError(
            f"the ranking has shape {tuple(scores.shape)}; it must be [target features, source "
            f"features] = {tuple(shape)}"
        )
    scores = scores.detach().to("cpu", torch.float64)
    if torch.isnan(scores).any():
        raise InteractGraphError("the ranking holds values that are not a number")
    return scores
