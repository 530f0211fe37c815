"""Fitting feature maps to data: passes over the activations and Jacobians of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..model import (
    Cut,
    Forward,
    PositionMask,
    Runner,
    Site,
    check_data,
    check_finite,
    layer_mask,
    look_first,
    prepared,
    probe,
    read_mask,
    resolve_sites,
)
from .feature_map import FeatureMap
from .neurons import Neurons

__all__ = ["FittingData", "LocalSegment", "fit_feature_maps", "fit_features"]

_Map = TypeVar("_Map", bound=FeatureMap)
_PIECE = 512  # samples at a time


@dataclass(frozen=True, eq=False)
class LocalSegment:
    """The segment to one target layer on one batch, in the source's neurons.

    Attributes:
        function: source activation `[b, s, d]` -> target features `[b, t, i]`.
        point: the source activation, `[b, s, d]`.
        n_targets: target features.
        n_positions: target positions.
        source_mask: source positions that count, `[b, s]`; None: all.
        target_mask: target positions that count, `[b, t]`; None: all.
    """

    function: Callable[[Tensor], Tensor]
    point: Tensor
    n_targets: int
    n_positions: int
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FittingData:
    """What a feature map may look at while it is fitted.

    Attributes:
        runner: the model.
        data: batches.
        sites: layer -> site.
        pairs: (source, target) layers.
        neurons: layer -> bound `Neurons`, which knows the feature axis.
        maps: layer -> bound feature map; those of later layers are fitted already.
        position_mask: which positions count, see `read_mask`.
        cut: how batches can be cut.
        dtype: what the model computes in.
        progress: whether to show progress bars.
    """

    runner: Runner
    data: Iterable[Any]
    sites: Mapping[str, Site]
    pairs: Sequence[tuple[str, str]]
    neurons: Mapping[str, Neurons]
    dtype: torch.dtype
    maps: dict[str, FeatureMap] = field(default_factory=dict)
    position_mask: PositionMask | None = None
    cut: Cut = field(default_factory=Cut)
    progress: bool = False

    def targets(self, layer: str) -> list[str]:
        """Layers that the layer is a source of."""
        return [target for source, target in self.pairs if source == layer]

    def cast(self, fitted: _Map) -> _Map:
        """The fitted map in the dtype of the model."""
        return fitted.to(dtype=self.dtype)

    def batches(self, text: str) -> Iterator[Any]:
        """One pass over the data, in pieces, with a progress bar."""
        try:
            total = len(self.data)  # type: ignore[arg-type]
        except TypeError:
            total = None
        bar = tqdm(self.data, desc=text, total=total, disable=not self.progress, leave=False)
        for batch in bar:
            yield from self.cut.pieces(self.runner.convert(batch), _PIECE)

    def count(self, layer: str, most: int) -> int:
        """Number of samples, counted no further than `most`."""
        n = 0
        for batch in self.batches("samples"):
            with torch.no_grad():
                n += len(self.runner.activations(batch, [self.sites[layer]])[layer])
            if n >= most:
                return most
        return n

    def rows(self, layer: str, text: str) -> Iterator[Tensor]:
        """Activations at every sample and position that counts, `[n, d]`, in one pass."""
        for number, batch in enumerate(self.batches(text)):
            with torch.no_grad():
                found = self.runner.activations(batch, [self.sites[layer]])
            check_finite(found, number)
            values = self._flat(layer, found[layer])
            mask = self._mask(batch, layer, values)
            yield values.flatten(0, 1) if mask is None else values[mask]

    def segments(self, layer: str, text: str) -> Iterator[list[LocalSegment]]:
        """The segments from a layer to all its targets, batch by batch, in one pass.

        Targets are read in the feature maps that they have in `maps`.
        """
        targets = self.targets(layer)
        for batch in self.batches(text):
            with torch.no_grad():
                sites = [self.sites[name] for name in (layer, *targets)]
                found = self.runner.activations(batch, sites)
            yield [self._segment(batch, layer, target, found) for target in targets]

    def _flat(self, layer: str, activation: Tensor) -> Tensor:
        last = self.neurons[layer].encode(activation)
        return last.reshape(last.shape[0], -1, last.shape[-1])

    def _mask(self, batch: Any, layer: str, values: Tensor) -> Tensor | None:
        """The positions of a layer's values `[b, p, d]` that count."""
        return layer_mask(self.mask(batch, values.device), values.shape[1], layer)

    def mask(self, batch: Any, device: torch.device | None = None) -> Tensor | None:
        """Which positions of a batch count, bool `[b, p]`; None: all."""
        return read_mask(self.position_mask, batch, device)

    def _segment(
        self, batch: Any, layer: str, target: str, found: dict[str, Tensor]
    ) -> LocalSegment:
        segment = self.runner.segment(batch, self.sites[layer], self.sites[target])
        neurons, feature_map = self.neurons[layer], self.maps[target].at(found[target])
        shape = neurons.encode(found[layer]).shape[1:-1]
        y = feature_map.encode(found[target])

        def function(f: Tensor) -> Tensor:
            activation = neurons.decode(f.reshape(f.shape[0], *shape, f.shape[-1]))
            features = feature_map.encode(segment(activation))
            return features.reshape(features.shape[0], -1, features.shape[-1])

        point = self._flat(layer, found[layer])
        positions = y.shape[1:-1].numel()
        return LocalSegment(
            function,
            point,
            y.shape[-1],
            positions,
            self._mask(batch, layer, point),
            self._mask(batch, target, y.reshape(len(y), positions, -1)),
        )


def fit_feature_maps(
    runner: Runner,
    data: Iterable[Any],
    sites: Mapping[str, Site],
    pairs: Sequence[tuple[str, str]],
    maps: Mapping[str, FeatureMap],
    position_mask: PositionMask | None = None,
    progress: bool = False,
) -> dict[str, FeatureMap]:
    """The maps with those that are not fitted replaced by fitted ones, the last layer first.

    Args:
        runner: the model, prepared.
        data: batches, iterable more than once.
        sites: layer -> site.
        pairs: (source, target) layers.
        maps: layer -> feature map.
        position_mask: which positions count, see `interactgraph.model.read_mask`.
        progress: whether to show progress bars.

    Raises:
        InteractGraphError: a map does not fit its layer, or the data cannot be used.
    """
    if all(feature_map.is_fitted for feature_map in maps.values()):
        return dict(maps)
    fitting = fitting_data(runner, data, sites, pairs, maps, position_mask, progress)
    for layer in reversed(fitting.maps):
        if not fitting.maps[layer].is_fitted:
            fitting.maps[layer] = fitting.maps[layer].fit(layer, fitting)
    return {layer: fitting.maps[layer] for layer in maps}


def fitting_data(
    runner: Runner,
    data: Iterable[Any],
    sites: Mapping[str, Site],
    pairs: Sequence[tuple[str, str]],
    maps: Mapping[str, FeatureMap],
    position_mask: PositionMask | None = None,
    progress: bool = False,
) -> FittingData:
    """Looks at the first batch: order of execution, shapes; binds the maps. Arguments as above."""
    data = check_data(data)
    runner, first, cut = look_first(runner, data, list(sites.values()))
    runner, found, axes = probe(runner, first, list(sites.values()), pairs)
    bound: dict[str, FeatureMap] = {}
    neurons = {}
    for layer, activation in found.items():
        guess = axes[layer].axis
        bound[layer] = maps[layer].to(activation.device, activation.dtype)
        bound[layer] = bound[layer].bind(layer, activation.shape, guess)
        dim = getattr(bound[layer], "feature_dim", None)
        dim = guess if bound[layer].is_fitted or not isinstance(dim, int) else dim
        neurons[layer] = Neurons(dim).bind(layer, activation.shape, guess)
    dtype = next(iter(found.values())).dtype
    return FittingData(
        runner, data, sites, pairs, neurons, dtype, bound, position_mask, cut, progress
    )


def fit_features(
    model: nn.Module,
    data: Iterable[Any],
    maps: Mapping[str, FeatureMap],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> dict[str, FeatureMap]:
    """Fits feature maps on their own, to be given to `interaction_graph` with other data.

    Args:
        model: the network.
        data: as for `interaction_graph`.
        maps: layer -> feature map, in order of execution, the layers that are only read as targets
            of a local interaction basis included.
        pairs: (source, target) layers; default: consecutive layers.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute.
        dtype: what to compute in.
        progress: show progress bars.

    Returns:
        Layer -> fitted feature map.
    """
    names = list(maps)
    sites = {site.name: site for site in resolve_sites(model, names)}
    chosen = list(pairwise(names)) if pairs is None else list(pairs)
    runner = Runner.on(model, forward, device, dtype)
    with prepared(runner.model):
        return fit_feature_maps(
            runner, check_data(data), sites, chosen, maps, position_mask, progress
        )
