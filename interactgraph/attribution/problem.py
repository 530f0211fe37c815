"""One layer pair on one batch: what every way to compute A works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..features import FeatureMap
from .linearized import TapedSegment

__all__ = ["PairProblem", "feature_segment", "flatten_positions"]

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
    """

    function: FeatureFunction
    z: Tensor
    dz: Tensor
    y: Tensor
    mask: Tensor | None = None
    fixed_baseline: bool = True
    taped: TapedSegment | None = None
    vmapped: bool = True

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
        one_hot = torch.eye(self.z.shape[2], dtype=self.z.dtype, device=self.z.device)[start:stop]
        return one_hot[:, None, None, :] * self.dz
