"""One layer pair on one batch: what every way to compute A works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..features import FeatureMap
from .linearized import TapedSegment

__all__ = ["Entry", "PairProblem", "feature_entry", "feature_segment", "flatten_positions"]

FeatureFunction = Callable[[Tensor], Tensor]


def flatten_positions(features: Tensor) -> Tensor:
    """Features `[b, *positions, j]` -> `[b, s, j]`."""
    return features.reshape(features.shape[0], -1, features.shape[-1])


def feature_segment(
    segment: Callable[[Tensor], Tensor],
    source: FeatureMap,
    target: FeatureMap,
    positions: tuple[int, ...],
) -> FeatureFunction:
    """The segment in feature coordinates, `[b, s, j] -> [b, t, i]`.

    Args:
        segment: source activation -> target activation.
        source: feature map of the source layer, bound.
        target: feature map of the target layer, bound.
        positions: shape of the source's positions, which `s` numbers.
    """

    def function(z: Tensor) -> Tensor:
        activation = source.decode(z.reshape(z.shape[0], *positions, z.shape[-1]))
        return flatten_positions(target.encode(segment(activation)))

    return function


@dataclass(frozen=True, eq=False)
class Entry:
    """The segment as a function of the source activation, for features that are more than it has.

    A feature moves the activation along its direction, so that a tangent of one feature needs the
    size of the activation and no product with the decoder.

    Attributes:
        function: source activation `[b, s, d]` -> target features `[b, t, i]`.
        decode: source features `[b, s, j]` -> source activation `[b, s, d]`, affine.
        rows: directions of the features, `[j, d]`.
        own: direction of one more, last feature, `[b, s, d]`; None: there is none.
    """

    function: FeatureFunction
    decode: Callable[[Tensor], Tensor]
    rows: Tensor
    own: Tensor | None

    def spread(self, tangents: Tensor) -> Tensor:
        """Tangents of features `[c, b, s, j]` as tangents of the activation, `[c, b, s, d]`."""
        if self.own is None:
            return tangents @ self.rows
        return tangents[..., :-1] @ self.rows + tangents[..., -1:] * self.own

    def along(self, features: Tensor, steps: Tensor) -> Tensor:
        """Tangents of one feature at each place, `[c, b, s, d]`.

        Args:
            features: numbers, int64 `[c, b, s]`.
            steps: how far each moves, `[c, b, s]`.
        """
        if self.own is None:
            return self.rows[features] * steps[..., None]
        last = len(self.rows)
        tangents = self.rows[features.clamp(max=last - 1)] * steps[..., None]
        c, b, s = (features == last).nonzero(as_tuple=True)
        tangents[c, b, s] = self.own[b, s] * steps[c, b, s, None]
        return tangents


def feature_entry(
    segment: Callable[[Tensor], Tensor],
    source: FeatureMap,
    target: FeatureMap,
    positions: tuple[int, ...],
) -> Entry | None:
    """The segment of `feature_segment` entered at the activation; None where that is not narrower.

    Args:
        segment: source activation -> target activation.
        source: feature map of the source layer, bound, around the samples.
        target: feature map of the target layer, bound, around the samples.
        positions: shape of the source's positions, which `s` numbers.
    """
    directions = source.directions
    if directions is None:
        return None

    def function(f: Tensor) -> Tensor:
        activation = f.reshape(f.shape[0], *positions, f.shape[-1]).movedim(-1, directions.axis)
        return flatten_positions(target.encode(segment(activation)))

    def decode(z: Tensor) -> Tensor:
        activation = source.decode(z.reshape(z.shape[0], *positions, z.shape[-1]))
        return flatten_positions(activation.movedim(directions.axis, -1))

    own = None if directions.own is None else flatten_positions(directions.own)
    return Entry(function, decode, directions.rows.contiguous(), own)


@dataclass(frozen=True, eq=False)
class PairProblem:
    """Source features, target features and the function between them, on one batch.

    Attributes:
        function: z `[b, s, j]` -> y `[b, t, i]`.
        z: source features at the samples, `[b, s, j]`.
        dz: z - z0, `[b, s, j]`; zero at masked source positions, which stay where they are.
        y: target features at the samples, `[b, t, i]`.
        mask: which target positions count, bool `[b, t]`; None: all.
        fixed_baseline: z0 is the same for every sample.
        taped: the function as recorded, which is differentiated faster; None: it is not recorded.
        vmapped: many derivatives at a time; else one after the other.
        entry: how the features enter, where `function`, `z` and `dz` are those of the activation.
        moved: z - z0 of the features themselves then, `[b, s, j]`.
    """

    function: FeatureFunction
    z: Tensor
    dz: Tensor
    y: Tensor
    mask: Tensor | None = None
    fixed_baseline: bool = True
    taped: TapedSegment | None = None
    vmapped: bool = True
    entry: Entry | None = None
    moved: Tensor | None = None

    @property
    def steps(self) -> Tensor:
        """The steps z - z0 of the source features, `[b, s, j]`."""
        return self.dz if self.moved is None else self.moved

    def enter(self, entry: Entry) -> PairProblem:
        """The same problem with tangents in the source activation."""
        z, dz = entry.decode(self.z), entry.spread(self.dz[None])[0]
        return replace(
            self, function=entry.function, z=z, dz=dz, entry=entry, moved=self.dz, taped=None
        )

    @property
    def n_samples(self) -> int:
        """Samples in the batch."""
        return self.z.shape[0]

    @cached_property
    def y0(self) -> Tensor:
        """Target features at the baseline, `[b, t, i]`; costs one pass through the segment."""
        return self.function(self.z - self.dz)

    def with_y0(self, y0: Tensor) -> PairProblem:
        """The same problem with known target features at the baseline, `[1 or b, t, i]`."""
        known = replace(self)
        known.__dict__["y0"] = y0
        return known

    def part(self, here: slice, function: FeatureFunction) -> PairProblem:
        """The problem on some of the samples; `function` is the segment on these."""
        mask = None if self.mask is None else self.mask[here]
        return replace(
            self, function=function, z=self.z[here], dz=self.dz[here], y=self.y[here], mask=mask
        )

    def at(self, u: float) -> Tensor:
        """The point u of the path, `[b, s, j]`."""
        return self.z if u == 1.0 else self.z + (u - 1.0) * self.dz

    def columns(self, start: int, stop: int) -> Tensor:
        """Tangents that move source features start to stop, one at a time, `[j, b, s, j']`."""
        if self.entry is not None:
            features = torch.arange(start, stop, device=self.z.device)
            steps = self.steps[..., start:stop].movedim(-1, 0)
            return self.entry.along(features[:, None, None].expand_as(steps), steps)
        one_hot = torch.eye(self.z.shape[2], dtype=self.z.dtype, device=self.z.device)[start:stop]
        return one_hot[:, None, None, :] * self.dz

    def carried(self, features: Tensor, used: Tensor) -> Tensor:
        """Tangents that move one source feature at each place, `[c, b, s, j']`.

        Args:
            features: which, int64 `[c, b, 1 or s]`.
            used: whether any, bool, same shape.
        """
        index = features[..., None].expand(-1, -1, self.z.shape[1], -1)
        moved = self.steps.expand(len(index), -1, -1, -1)
        steps = moved.gather(-1, index) * used[..., None]
        if self.entry is not None:
            return self.entry.along(index[..., 0], steps[..., 0])
        return torch.zeros_like(moved).scatter_(-1, index, steps)

    def spread(self, tangents: Tensor) -> Tensor:
        """Tangents of the source features `[c, b, s, j]` as the function takes them."""
        return tangents if self.entry is None else self.entry.spread(tangents)
