"""The samples on which every feature is most active, kept while batches are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed import World
from ..features import Examples
from ..layers import EncodedBatch

__all__ = ["MOST_TEXTS", "TopActivations"]

_K = 5  # samples of each feature
_AT_FIRST = 1 << 16  # values that the first samples are taken from
MOST_TEXTS = 100_000  # beyond which samples are numbers only


@dataclass(eq=False)
class TopActivations:
    """The largest absolute values of every feature, one for each sample.

    Attributes:
        layers: layer -> what was found.
    """

    layers: dict[str, Examples] = field(default_factory=dict)

    def add(self, encoded: EncodedBatch, offset: int) -> None:
        """Looks at a batch, of which little is kept once many samples have been seen.

        Args:
            encoded: the batch.
            offset: number of its first sample.
        """
        for layer, z in encoded.z.items():
            mask = encoded.mask_of(layer)
            if layer not in self.layers:
                first = max(1, _AT_FIRST // z[0].numel())
                self.layers[layer] = _largest(z[:first], mask if mask is None else mask[:first])
                samples = self.layers[layer].samples
                samples += (samples >= 0) * offset
                rest, start = z[first:], first
            else:
                rest, start = z, 0
            if len(rest):
                self._add_larger(
                    layer, rest, mask if mask is None else mask[start:], offset + start
                )

    def _add_larger(self, layer: str, z: Tensor, mask: Tensor | None, offset: int) -> None:
        """Adds what is larger than the least that is kept: few values, as long as data go on."""
        kept = self.layers[layer]
        least = kept.values[-1].abs().to(z)
        larger = z.abs() > least
        if mask is not None:
            larger &= mask[..., None]
        b, s, j = _places(larger)
        if not len(b):
            return
        value = z[b, s, j]
        # The largest of each sample and feature, then the largest samples of each feature.
        order = value.abs().argsort(descending=True)
        b, s, j, value = b[order], s[order], j[order], value[order]
        if z.shape[1] > 1:
            keep = _rank(j * len(z) + b) == 0
            b, s, j, value = b[keep], s[keep], j[keep], value[keep]
        rank = _rank(j)
        keep = rank < _K
        b, s, value = b[keep], s[keep], value[keep]
        some, column = j[keep].unique(return_inverse=True)
        place = rank[keep].cpu(), column.cpu()
        found = _none(len(some))
        found.values[place] = value.float().cpu()
        found.samples[place] = b.cpu() + offset
        found.positions[place] = s.cpu()
        some = some.cpu()
        both = Examples.joined([kept.some(some), found], _K)
        for mine, new in (
            (kept.values, both.values), (kept.samples, both.samples),
            (kept.positions, both.positions),
        ):  # fmt: skip
            mine[:, some] = new

    def gather(self, world: World) -> None:
        """Joins what all processes have seen."""
        if world.size == 1:
            return
        parts = world.gather(self.layers)
        names = dict.fromkeys(layer for part in parts for layer in part)
        self.layers = {
            layer: Examples.joined([part[layer] for part in parts if layer in part], _K)
            for layer in names
        }

    def labelled(self, label: Callable[[int, int], str] | None) -> dict[str, Examples]:
        """With what the data say of each place, if they say anything.

        Args:
            label: (sample, position) -> text.
        """
        if label is None or sum(each.samples.numel() for each in self.layers.values()) > MOST_TEXTS:
            return dict(self.layers)
        labelled = {}
        for layer, each in self.layers.items():
            places = torch.stack([each.samples, each.positions], -1).flatten(0, 1).unique(dim=0)
            texts = {(s, p): label(s, p) for s, p in places.tolist() if s >= 0}
            labelled[layer] = Examples(each.values, each.samples, each.positions, texts)
        return labelled

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What was found, for a checkpoint."""
        return {layer: each.state()[1] for layer, each in self.layers.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.layers = {layer: Examples.from_state([], part) for layer, part in state.items()}


def _none(n_features: int) -> Examples:
    samples = torch.full((_K, n_features), -1)
    values = torch.zeros(_K, n_features, dtype=torch.float32)
    return Examples(values, samples, torch.zeros_like(samples))


def _largest(z: Tensor, mask: Tensor | None) -> Examples:
    """The samples of largest absolute value, of features `[b, p, j]`."""
    size = z.abs() if mask is None else torch.where(mask[..., None], z.abs(), 0.0)
    largest, position = size.max(1)  # [b, j]
    value = z.gather(1, position[:, None])[:, 0]
    order = largest.topk(min(_K, len(largest)), dim=0).indices
    there = largest.gather(0, order) > 0
    found = _none(z.shape[2])
    n = len(order)
    found.values[:n] = torch.where(there, value.gather(0, order), 0.0).float().cpu()
    found.samples[:n] = torch.where(there, order, -1).cpu()
    found.positions[:n] = position.gather(0, order).cpu()
    return found


def _places(larger: Tensor) -> tuple[Tensor, ...]:
    """The indices of what is true; on a CPU numpy finds them in a fraction of the time."""
    if larger.device.type != "cpu":
        return larger.nonzero(as_tuple=True)
    places = torch.from_numpy(np.flatnonzero(larger.numpy()))
    return torch.unravel_index(places, larger.shape)


def _rank(keys: Tensor) -> Tensor:
    """How many entries before each have the same key, int64."""
    order = keys.argsort(stable=True)
    ordered = keys[order]
    first = torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(keys), device=keys.device) - first
    return rank
