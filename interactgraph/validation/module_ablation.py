"""Runs of a model with features or edges taken away.

Features are set to the baseline inside a forward pass, in every layer at once, and the model runs
on from there; what a feature map leaves out of an activation stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..layers import Layers
from ..model import RESULT, read_mask
from .controls import Masks
from .measures import Measure, take

__all__ = ["WAYS", "ModuleAblation", "Outcome"]

WAYS = ("features", "edges", "others")
_LISTED = 5  # samples listed for a module

_Change = Callable[[Tensor, Tensor], Tensor]  # (z, z0) -> z, [b, *positions, j]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Values of every measure on every sample, and the samples' classes."""

    values: Mapping[str, Tensor]
    classes: Sequence[str]

    def mean(self, name: str) -> float:
        """Of a measure."""
        return float(self.values[name].double().mean())

    def drop(self, other: Outcome, name: str) -> float:
        """How much a measure is lower in another outcome."""
        return self.mean(name) - other.mean(name)

    def drop_by_class(self, other: Outcome, name: str) -> dict[str, float]:
        """The same for each class of the samples."""
        drop = (self.values[name] - other.values[name]).double().numpy()
        labels = np.array(self.classes)
        return {str(label): float(drop[labels == label].mean()) for label in np.unique(labels)}


def _at_baseline(mask: np.ndarray) -> _Change:
    """Some features at their baseline."""
    gone = torch.from_numpy(mask)
    return lambda z, z0: torch.where(gone.to(z.device), z0, z)


def _replaced(mask: np.ndarray, values: Tensor) -> _Change:
    """Other values for some features."""
    inside = torch.from_numpy(mask).to(values.device)
    return lambda z, z0: torch.where(inside, values, z)


@dataclass(eq=False)
class ModuleAblation:
    """Runs of a model on all data with sets of features taken away.

    Attributes:
        layers: of the model, each with a baseline.
        measures: what is measured, by name.
        classes: batch -> class of each sample; None: integer labels of `(input, labels)` batches.
    """

    layers: Layers
    measures: Mapping[str, Measure]
    classes: Callable[[Any], Tensor] | None = None
    _intact: list[Tensor] = field(default_factory=list)

    def run(self, masks: Masks | None, way: str) -> Outcome:
        """Every measure on every sample with features or edges taken away.

        Args:
            masks: the set of features; None: the intact model, which comes first.
            way: one of `WAYS`.
        """
        values: dict[str, list[Tensor]] = {name: [] for name in self.measures}
        classes: list[str] = []
        for number, batch in enumerate(self.layers.data):
            batch = self.layers.runner.convert(batch)
            output = self.output(batch, masks, way)
            if masks is None:
                self._intact.append(output)
                classes += self._classes(batch, len(output))
            intact, mask = self._intact[number], read_mask(self.layers.position_mask, batch)
            for name, measure in self.measures.items():
                values[name].append(take(measure, output, batch, intact, mask, name).cpu())
        joined = {name: torch.cat(parts) for name, parts in values.items()}
        n_samples = len(next(iter(joined.values()), ()))
        # Classes that only some batches have are no classes of the data.
        return Outcome(joined, classes if len(classes) == n_samples else [])

    def output(self, batch: Any, masks: Masks | None, way: str) -> Tensor:
        """Of a converted batch, with features or edges taken away, see `run`."""
        runner, sites = self.layers.runner, self.layers.sites
        if masks is None:
            return runner.output(batch, {})
        if way == "edges":
            return self._without_edges(batch, masks)

        def without(layer: str) -> Callable[[Tensor], Tensor]:
            mask = ~masks[layer] if way == "others" else masks[layer]
            return lambda f: self.layers.with_features(layer, f, _at_baseline(mask))

        return runner.output(batch, {sites[layer]: without(layer) for layer in masks})

    def _without_edges(self, batch: Any, masks: Masks) -> Tensor:
        """The module's target features see its source features at the baseline, others do not."""
        runner, sites, pairs = self.layers.runner, self.layers.sites, self._chain(masks)
        source = pairs[0][0]
        activation = runner.activations(batch, [sites[source]])[source]
        for source, target in pairs:
            segment = runner.segment(batch, sites[source], sites[target])
            intact, change = segment(activation), _at_baseline(masks[source])
            cut = segment(self.layers.with_features(source, activation, change))
            z_cut = self.layers.maps[target].at(intact).encode(cut)
            change = _replaced(masks[target], z_cut)
            activation = self.layers.with_features(target, intact, change)
        if not runner.goes_on_after(sites[target]):
            return activation
        return runner.segment(batch, sites[target], RESULT)(activation)

    def _chain(self, masks: Masks) -> list[tuple[str, str]]:
        """Pairs between the layers concerned, each starting where the one before it ends."""
        pairs = [pair for pair in self.layers.pairs if pair[0] in masks and pair[1] in masks]
        for one, other in pairwise(pairs):
            if one[1] != other[0]:
                raise InteractGraphError(
                    f"pairs {one} and {other} form no chain; internal edges can only be cut in "
                    "graphs whose pairs follow each other"
                )
        return pairs

    def _classes(self, batch: Any, n_samples: int) -> list[str]:
        labels: Any = None
        if self.classes is not None:
            labels = self.classes(batch)
            if not hasattr(labels, "__len__") or len(labels) != n_samples:
                raise InteractGraphError(
                    f"classes gives {repr(labels)[:60]} for a batch of {n_samples} samples; it "
                    "must give one class for each"
                )
        elif isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
            labels = batch[1]
            if labels.ndim != 1 or labels.dtype.is_floating_point:
                return []
        if labels is None or len(labels) != n_samples:
            return []
        return [str(value) for value in (labels.tolist() if hasattr(labels, "tolist") else labels)]

    def max_activating_samples(self, sets: Mapping[int, Masks]) -> dict[int, list[int]]:
        """The samples on which the features of each set are furthest from the baseline.

        In units of each feature's root mean square distance.
        """
        layers = {layer for masks in sets.values() for layer in masks}
        distances: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for number, batch in enumerate(self.layers.data):
            encoded = self.layers.encode(self.layers.runner.convert(batch), number)
            for layer in layers:
                distances[layer].append(encoded.displacement(layer).square().sum(1))
        scaled = {}
        for layer, parts in distances.items():
            whole = torch.cat(parts).double().cpu()
            scaled[layer] = whole / whole.mean(0).clamp(min=1e-300)
        samples = {}
        for number, masks in sets.items():
            score = torch.stack(
                [scaled[layer][:, torch.from_numpy(mask)].sum(1) for layer, mask in masks.items()]
            ).sum(0)
            samples[number] = score.topk(min(_LISTED, len(score))).indices.tolist()
        return samples
