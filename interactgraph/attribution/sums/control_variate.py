"""A control variate for drawn source features: only what steps do not explain is left to the draws.

What source feature j does to target i on sample b, X[b,i,j], is about proportional to its step on
that sample, x[b,j], which is known for all features without a pass: A^2 to (z - z0)^2, |A| to
|z - z0|, A to z - z0, each summed over positions. With a factor g[i,j],

    sum_b X[b,i,j] = sum_b g[i,j] x[b,j] + sum_b (X[b,i,j] - g[i,j] x[b,j])

and only the second sum is estimated from draws: unbiased for every g that was fixed before them
(the difference estimator; Owen, Monte Carlo theory, methods and examples, 2013, section 8.9). The
better g, the smaller the error: it comes from earlier draws, by least squares through the origin,
g = sum w X x over the draws / sum x^2 over all samples, and is looked at again after 1, 2, 4, ...
batches. Where a feature moves much further than it did on the samples until then, x counts as zero,
and all is left to the draws: g says nothing about such steps, and a bounded segment does not follow
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..strengths import Strength
from .strength_sums import StrengthSums, row_slices

__all__ = ["ControlVariate", "known_parts"]

_PRIOR = 2.0  # draws that a factor of zero counts for
_FAR = 4.0  # times the mean step, to the power of the strength
_SAVED = (
    "gain", "far", "products", "moved", "squares", "across", "seen", "sizes", "n_samples",
    "n_batches",
)  # fmt: skip


def known_parts(displacement: Tensor, strengths: Sequence[Strength]) -> dict[str, Tensor]:
    """x[b,j] of each strength that is a mean, float64 `[b, j]`.

    Args:
        displacement: z - z0 of the source features, `[b, s, j]`.
        strengths: which.
    """
    dz = displacement.double()
    return {strength.name: strength.known(dz) for strength in strengths if strength.is_mean}


@dataclass(eq=False)
class ControlVariate:
    """The factors g of one `StrengthSums`, and what is known without draws.

    Attributes:
        table: where everything ends up.
        gain: strength -> g, float32 `[i, j]`.
        far: strength -> |x| above which x counts as zero, `[j]`.
        products: strength -> sum w X x over the draws, float64 `[i, j]`.
        moved: strength -> sum x over the samples since g changed, `[j]`.
        squares: strength -> sum x^2 over these samples, `[j]`.
        across: strength -> sum x n_b over these samples, n_b their positions that count, `[j]`.
        seen: strength -> sum x^2 over all samples, `[j]`.
        sizes: strength -> sum |x| over all samples, those that are far included, `[j]`.
        n_samples: number of samples so far.
        n_batches: number of batches so far.
    """

    table: StrengthSums
    gain: dict[str, Tensor] = field(default_factory=dict)
    far: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, Tensor] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)
    across: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Tensor] = field(default_factory=dict)
    n_samples: int = 0
    n_batches: int = 0

    def __post_init__(self) -> None:
        self._degrees = {strength.name: strength.degree for strength in self.table.strengths}
        shape, device = self.table.shape, self.table.device
        for name in self.table.second:
            self.gain[name] = torch.zeros(shape, device=device)
            self.products[name] = torch.zeros(shape, dtype=torch.float64, device=device)
            for sums in (self.moved, self.squares, self.across, self.seen, self.sizes):
                sums[name] = self._none()

    @staticmethod
    def bytes_for(strengths: Sequence[Strength], shape: tuple[int, int]) -> int:
        """Memory that it takes."""
        return 12 * shape[0] * shape[1] * sum(strength.is_mean for strength in strengths)

    def _none(self) -> Tensor:
        return torch.zeros(self.table.shape[1], dtype=torch.float64, device=self.table.device)

    def expect(self, steps: Mapping[str, Tensor], positions: Tensor) -> None:
        """Takes in the samples of a batch, before anything is drawn from it.

        Args:
            steps: from `known_parts`, of the table's own samples.
            positions: how many positions of each of them count, int64 `[b]`.
        """
        if not self.n_batches & (self.n_batches - 1):
            self._look_again()
        self.n_batches += 1
        self.n_samples += len(positions)
        for name, x in steps.items():
            self.sizes[name] += x.abs().sum(0)
            if self.n_batches == 1:
                self._look_at_sizes(name)
            x = torch.where(x.abs() <= self.far[name], x, 0.0)
            self.moved[name] += x.sum(0)
            self.squares[name] += x.square().sum(0)
            self.across[name] += (x * positions[:, None]).sum(0)
            self.seen[name] += x.square().sum(0)

    def add(
        self,
        sums: Mapping[str, Tensor],
        weights: Tensor,
        features: Tensor,
        steps: Mapping[str, Tensor],
        positions: Tensor,
    ) -> None:
        """Adds one source feature for each sample.

        Args:
            sums: strength -> X, `[b, i]`.
            weights: of the draws, `[b]`; zero where nothing was drawn.
            features: the source feature of each sample, int64 `[b]`.
            steps: strength -> its step, `[b]`.
            positions: as for `expect`.
        """
        steps = {
            name: torch.where(x.abs() <= self.far[name][features], x, 0.0)
            for name, x in steps.items()
        }
        expected = {name: self.gain[name][:, features].mT * x[:, None] for name, x in steps.items()}
        self.table.add_columns(sums, weights, features, positions, expected)
        for name, x in steps.items():
            worth = sums[name] * (weights * x)[:, None]
            self.products[name].index_add_(1, features, worth.mT)

    def flush(self) -> None:
        """Brings what is known without draws into the table."""
        for name, gain in self.gain.items():
            cross = self.table.cross.get(name)
            for rows in row_slices(self.table.shape):
                g = gain[rows].double()
                self.table.first[name][rows] += g * self.moved[name]
                self.table.second[name][rows] += g.square() * self.squares[name]
                if cross is not None:
                    cross[rows] += g * self.across[name]
            for sums in (self.moved, self.squares, self.across):
                sums[name].zero_()

    def _look_again(self) -> None:
        """Takes the factors from what has been drawn by now."""
        self.flush()
        sure = self.table.draws.number / (self.table.draws.number + _PRIOR)
        for name, gain in self.gain.items():
            for rows in row_slices(self.table.shape):
                renewed = self.products[name][rows] * sure / self.seen[name]
                # Nothing is expected where a feature has not moved, or beyond the range.
                renewed = renewed.float()
                gain[rows] = torch.where(renewed.isfinite(), renewed, 0.0)
            self._look_at_sizes(name)

    def _look_at_sizes(self, name: str) -> None:
        far = _FAR ** self._degrees[name]
        self.far[name] = far * self.sizes[name] / max(self.n_samples, 1)

    def state(self) -> dict[str, Any]:
        """Everything that was added, for a checkpoint."""
        return {name: getattr(self, name) for name in _SAVED}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        for name in _SAVED:
            value = state[name]
            if isinstance(value, dict):
                value = {key: tensor.to(self.table.device) for key, tensor in value.items()}
            elif isinstance(value, Tensor):
                value = value.to(self.table.device)
            setattr(self, name, value)
