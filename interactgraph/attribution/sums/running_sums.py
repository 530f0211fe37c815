"""What sums over samples have in common, dense or sparse: how many samples and positions they hold.

Samples are independent and positions within one are not, so the error of a mean is that of a ratio
of sums over samples, see `strengths.strength`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..strengths import Strength

__all__ = ["RunningSums"]


@dataclass(eq=False)
class RunningSums(ABC):
    """Counts of samples and positions.

    Attributes:
        strengths: which are summed.
        shape: (target features, source features).
        device: where the sums are.
        n_samples: number of samples B.
        n_used: number of those that have a position that counts.
        n_positions: sum_b n_b.
        n_positions_squared: sum_b n_b^2.
        per_sample: n_b while it is the same for all samples.
    """

    strengths: tuple[Strength, ...]
    shape: tuple[int, int]
    device: torch.device
    n_samples: int = 0
    n_used: int = 0
    n_positions: int = 0
    n_positions_squared: int = 0
    per_sample: int | None = None

    @property
    @abstractmethod
    def varies(self) -> bool:
        """Whether samples were counted that differ in their number of positions."""

    @abstractmethod
    def _open_cross(self) -> None:
        """Starts to sum X_b n_b, from what was added so far."""

    def begins_to_vary(self, positions: Tensor) -> bool:
        """Whether these samples are the first whose number of positions differs from the others.

        What has been added until then must be in `first` before `count` is called.
        """
        counts = set(positions.tolist()) | ({self.per_sample} if self.n_samples else set())
        return not self.varies and len(counts) > 1

    def count(self, positions: Tensor) -> None:
        """Counts the samples of a batch; to be called before they are added.

        Args:
            positions: number of target positions that count in each sample, int64 `[b]`.
        """
        if self.begins_to_vary(positions):
            self._open_cross()
        elif not self.n_samples and len(positions):
            self.per_sample = int(positions[0])
        self.n_samples += len(positions)
        self.n_used += int(positions.count_nonzero())
        self.n_positions += int(positions.sum())
        self.n_positions_squared += int(positions.square().sum())

    def _count_those_of(self, part: RunningSums) -> None:
        """Counts the samples of other sums."""
        self.n_samples += part.n_samples
        self.n_used += part.n_used
        self.n_positions += part.n_positions
        self.n_positions_squared += part.n_positions_squared
        self.per_sample = part.per_sample

    def _total(self, strength: Strength) -> int:
        return max(self._counts(strength)[0], 1)

    def _strength(self, name: str) -> Strength:
        return next(strength for strength in self.strengths if strength.name == name)

    def _counts(self, strength: Strength) -> tuple[int, int]:
        """N = sum n_b and sum n_b^2; a strength per sample counts a sample as one position."""
        if strength.per_sample:
            return self.n_used, self.n_used
        return self.n_positions, self.n_positions_squared

    def _error_of_mean(
        self, strength: Strength, first: Tensor, second: Tensor, cross: Tensor
    ) -> Tensor:
        """The standard error of the mean of X, as if all samples were different ones.

        Args:
            strength: of which.
            first: sum_b X_b.
            second: sum_b X_b^2.
            cross: sum_b X_b n_b.
        """
        n, n_squared = self._counts(strength)
        total = max(n, 1)
        mean = first / total
        spread = second.addcmul(mean, cross, value=-2)
        spread.addcmul_(mean, mean, value=n_squared)
        factor = self.n_samples / (self.n_samples - 1) if self.n_samples > 1 else float("nan")
        return spread.clamp_(min=0).mul_(factor).sqrt_().div_(total)
