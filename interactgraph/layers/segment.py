"""The segment between two layers in feature coordinates, put together here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..features import FeatureMap
from ..model import Runner, Segment, Site

__all__ = ["ActivationSegment", "FeatureSegment", "flatten_positions"]


def flatten_positions(features: Tensor) -> Tensor:
    """Features `[b, *positions, j]` -> `[b, s, j]`."""
    return features.reshape(features.shape[0], -1, features.shape[-1])


@dataclass(frozen=True, eq=False)
class FeatureSegment:
    """Source features `[b, s, j]` -> target features `[b, t, i]` on one batch.

    Everything else of the batch is held fixed, see `interactgraph.model.Segment`.

    Attributes:
        runner: the model.
        source: site of the source layer.
        target: site of the target layer.
        source_map: feature map of the source layer, bound.
        target_map: feature map of the target layer, bound.
        batch: the batch, converted.
        positions: shape of the source's positions, which `s` numbers.
        without_skip: whether the source activation is taken off the target's: what the layers
            between them add to it is left.
    """

    runner: Runner
    source: Site
    target: Site
    source_map: FeatureMap
    target_map: FeatureMap
    batch: Any
    positions: tuple[int, ...]
    without_skip: bool = False

    def on(self, batch: Any) -> FeatureSegment:
        """The segment on another batch with the same positions."""
        return replace(self, batch=batch)

    def __call__(self, z: Tensor) -> Tensor:
        """`[b, s, j] -> [b, t, i]`."""
        return self._read(self._decode(z))

    def _read(self, activation: Tensor) -> Tensor:
        """Source activation -> target features `[b, t, i]`."""
        target = self._segment(activation)
        if self.without_skip:
            target = target - activation
        return flatten_positions(self._target.encode(target))

    def in_activation(self) -> ActivationSegment | None:
        """The segment as a function of the source activation.

        None where the features are no more than the activation has coordinates.
        """
        directions = self._source.directions
        if directions is None:
            return None

        def function(f: Tensor) -> Tensor:
            activation = f.reshape(f.shape[0], *self.positions, f.shape[-1])
            return self._read(activation.movedim(-1, directions.axis))

        def decode(z: Tensor) -> Tensor:
            return flatten_positions(self._decode(z).movedim(directions.axis, -1))

        extra = None if directions.extra is None else flatten_positions(directions.extra)
        return ActivationSegment(function, decode, directions.rows.contiguous(), extra)

    def _decode(self, z: Tensor) -> Tensor:
        return self._source.decode(z.reshape(z.shape[0], *self.positions, z.shape[-1]))

    @cached_property
    def _segment(self) -> Segment:
        return self.runner.segment(self.batch, self.source, self.target)

    @cached_property
    def _maps(self) -> tuple[FeatureMap, FeatureMap]:
        """The maps around the samples, where they depend on these.

        From the batch and not from activations at hand, so that a recorded segment holds for other
        batches.
        """
        maps = self.source_map, self.target_map
        if any(feature_map.depends_on_sample for feature_map in maps):
            activations = self.runner.activations(self.batch, [self.source, self.target])
            return maps[0].at(activations[self.source.name]), maps[1].at(
                activations[self.target.name]
            )
        return maps

    @property
    def _source(self) -> FeatureMap:
        return self._maps[0]

    @property
    def _target(self) -> FeatureMap:
        return self._maps[1]


@dataclass(frozen=True, eq=False)
class ActivationSegment:
    """A segment as a function of the source activation, for features that are more than it has.

    A feature moves the activation along its direction, so that a tangent of one feature needs the
    size of the activation and no product with the decoder.

    Attributes:
        function: source activation `[b, s, d]` -> target features `[b, t, i]`.
        decode: source features `[b, s, j]` -> source activation `[b, s, d]`, affine.
        rows: directions of the features, `[j, d]`.
        extra: direction of one more, last feature, `[b, s, d]`; None: there is none.
    """

    function: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    rows: Tensor
    extra: Tensor | None

    def spread(self, tangents: Tensor) -> Tensor:
        """Tangents of features `[c, b, s, j]` as tangents of the activation, `[c, b, s, d]`."""
        if self.extra is None:
            return tangents @ self.rows
        return tangents[..., :-1] @ self.rows + tangents[..., -1:] * self.extra

    def along(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Tangents of one feature at each place, `[c, b, s, d]`.

        Args:
            features: numbers, int64 `[c, b, s]`.
            lengths: how far each moves, `[c, b, s]`.
        """
        if self.extra is None:
            return self.rows[features] * lengths[..., None]
        last = len(self.rows)
        tangents = self.rows[features.clamp(max=last - 1)] * lengths[..., None]
        c, b, s = (features == last).nonzero(as_tuple=True)
        tangents[c, b, s] = self.extra[b, s] * lengths[c, b, s, None]
        return tangents
