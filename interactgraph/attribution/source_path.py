"""The path of a pair's source features, in the coordinates in which it is differentiated forwards.

Where there are more features than the activation has coordinates (an overcomplete dictionary),
tangents go through the segment as activations: a feature's tangent is its direction, which needs
no product with the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..calculus.derivatives import jvps
from ..calculus.linearization import RecordedFunction
from ..calculus.path import PathRule, StraightPath
from ..layers import ActivationSegment, PairProblem

__all__ = ["SourcePath"]


@dataclass(frozen=True, eq=False)
class SourcePath:
    """The straight path of the source, and tangents of its features.

    Attributes:
        function: point of the path `[b, s, d]` -> target features `[b, t, i]`.
        path: from the baseline to the sample, `[b, s, d]`.
        displacement: z - z0 of the features, `[b, s, j]`.
        entry: how features move the activation; None: the path is in the features themselves.
        recorded: the function as recorded, which is differentiated faster; None: it is not.
        vmapped: many derivatives at a time; else one after the other.
    """

    function: Callable[[Tensor], Tensor]
    path: StraightPath
    displacement: Tensor
    entry: ActivationSegment | None = None
    recorded: RecordedFunction | None = None
    vmapped: bool = True

    @staticmethod
    def of(problem: PairProblem, *, vmapped: bool = True) -> SourcePath:
        """In the activation where features are more than it has coordinates, else in features."""
        entry = problem.segment.in_activation()
        if entry is None:
            return SourcePath.in_features(problem, vmapped=vmapped)
        path = StraightPath(
            entry.decode(problem.z), entry.spread(problem.displacement[None])[0]
        )  # fmt: skip
        return SourcePath(entry.function, path, problem.displacement, entry, vmapped=vmapped)

    @staticmethod
    def in_features(
        problem: PairProblem,
        function: Callable[[Tensor], Tensor] | None = None,
        *,
        vmapped: bool = True,
    ) -> SourcePath:
        """In the features themselves; of another function than the segment, if one is given."""
        return SourcePath(
            function or problem.segment, problem.path, problem.displacement, vmapped=vmapped
        )

    def with_record(self, recorded: RecordedFunction) -> SourcePath:
        """The same path, differentiated by a record of its function."""
        return replace(self, recorded=recorded)

    def linearize(self, u: float) -> Callable[[Tensor], Tensor]:
        """The derivative at the point u: tangents `[c, b, s, d] -> [c, b, t, i]`."""
        point = self.path.at(u)
        if self.recorded is not None:
            return self.recorded.linearize(point)
        return lambda tangents: jvps(self.function, point, tangents, vmapped=self.vmapped)

    def along(self, rule: PathRule) -> Tensor:
        """sum_j A[b,t,i,j], `[b, t, i]`: the derivative along the path itself, one JVP per node."""
        return rule.integral(lambda u: self.linearize(u)(self.path.displacement[None])[0])

    def columns(self, start: int, stop: int) -> Tensor:
        """Tangents that move source features start to stop, one at a time, `[j, b, s, d]`."""
        if self.entry is not None:
            features = torch.arange(start, stop, device=self.displacement.device)
            lengths = self.displacement[..., start:stop].movedim(-1, 0)
            return self.entry.along(features[:, None, None].expand_as(lengths), lengths)
        dz = self.displacement
        one_hot = torch.eye(dz.shape[2], dtype=dz.dtype, device=dz.device)[start:stop]
        return one_hot[:, None, None, :] * dz

    def chosen(self, features: Tensor, used: Tensor) -> Tensor:
        """Tangents that move one source feature at each place, `[c, b, s, d]`.

        Args:
            features: which, int64 `[c, b, 1 or s]`.
            used: whether any, bool, same shape.
        """
        dz = self.displacement
        index = features[..., None].expand(-1, -1, dz.shape[1], -1)
        moved = dz.expand(len(index), -1, -1, -1)
        lengths = moved.gather(-1, index) * used[..., None]
        if self.entry is not None:
            return self.entry.along(index[..., 0], lengths[..., 0])
        return torch.zeros_like(moved).scatter_(-1, index, lengths)
