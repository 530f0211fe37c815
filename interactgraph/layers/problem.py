"""One layer pair on one batch: the data that every way to compute A works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..calculus.path import StraightPath
from ..model import Cut
from .segment import FeatureSegment

__all__ = ["PairProblem"]


@dataclass(frozen=True, eq=False)
class PairProblem:
    """Source features, target features and the segment between them, on one batch.

    Attributes:
        segment: z `[b, s, j]` -> y `[b, t, i]`.
        z: source features at the samples, `[b, s, j]`.
        displacement: z - z0, `[b, s, j]`; zero at masked source positions, which stay where they
            are.
        y: target features at the samples, `[b, t, i]`.
        mask: which target positions count, bool `[b, t]`; None: all.
        source_mask: which source positions count, bool `[b, s]`; None: all.
        fixed_baseline: z0 is the same for every sample.
        cut: how the batch can be cut.
    """

    segment: FeatureSegment
    z: Tensor
    displacement: Tensor
    y: Tensor
    mask: Tensor | None = None
    source_mask: Tensor | None = None
    fixed_baseline: bool = True
    cut: Cut = Cut()  # noqa: RUF009 (frozen)

    @property
    def n_samples(self) -> int:
        """Samples in the batch."""
        return self.z.shape[0]

    @property
    def n_sources(self) -> int:
        """Source features."""
        return self.z.shape[2]

    @property
    def n_targets(self) -> int:
        """Target features."""
        return self.y.shape[2]

    @property
    def n_rows(self) -> int:
        """Target features times target positions."""
        return self.y.shape[1] * self.y.shape[2]

    @cached_property
    def path(self) -> StraightPath:
        """From the baseline to the sample, in the source features."""
        return StraightPath(self.z, self.displacement)

    @cached_property
    def y0(self) -> Tensor:
        """Target features at the baseline, `[b, t, i]`; costs one pass through the segment."""
        return self.segment(self.path.start)

    def with_y0(self, y0: Tensor) -> PairProblem:
        """The same problem with known target features at the baseline, `[1 or b, t, i]`."""
        known = replace(self)
        known.__dict__["y0"] = y0
        return known

    def pieces(self, size: int) -> Iterator[tuple[slice, PairProblem]]:
        """The problem on at most `size` samples at a time, where the batch can be cut.

        Yields:
            Which samples, and the problem on these.
        """
        if self.n_samples <= size or self.cut.n_samples(self.segment.batch) is None:
            yield slice(0, self.n_samples), self
            return
        for start in range(0, self.n_samples, size):
            span = slice(start, min(start + size, self.n_samples))
            piece = self.cut.take(self.segment.batch, span.start, span.stop)
            yield (
                span,
                replace(
                    self,
                    segment=self.segment.on(piece),
                    z=self.z[span],
                    displacement=self.displacement[span],
                    y=self.y[span],
                    mask=None if self.mask is None else self.mask[span],
                    source_mask=None if self.source_mask is None else self.source_mask[span],
                ),
            )
