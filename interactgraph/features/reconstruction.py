"""How well sparse codes reconstruct activations, summed over rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reconstruction"]


@dataclass
class Reconstruction:
    """Sums over rows of activations, in double precision.

    Attributes:
        count: rows.
        errors: sum of squares of the errors.
        squares: sum of squares of the activations, less `start`.
        n_active: active features, counted in every row.
        start: the first row, taken off so that large means cancel.
        total: sum of the activations, less `start`, `[size]`.
    """

    count: int = 0
    errors: float = 0.0
    squares: float = 0.0
    n_active: int = 0
    start: Tensor | None = None
    total: Tensor | None = None

    def add(self, activations: Tensor, errors: Tensor, codes: Tensor) -> None:
        """Adds rows.

        Args:
            activations: `[n, size]`.
            errors: activations less what the codes say, `[n, size]`.
            codes: `[n, features]`.
        """
        if not len(activations):
            return
        activations, errors = activations.detach().double(), errors.detach().double()
        if self.start is None or self.total is None:
            self.start, self.total = activations[0], torch.zeros_like(activations[0])
        activations = activations - self.start
        self.count += len(activations)
        self.errors += float(errors.square().sum())
        self.squares += float(activations.square().sum())
        self.total = self.total + activations.sum(0)
        self.n_active += int((codes != 0).sum())

    @property
    def unexplained(self) -> float | None:
        """Share of the variance that is left unexplained; None where nothing varies.

        Of few rows the variance around their own mean is too small by one part in as many.
        """
        if self.total is None or self.count < 2:
            return None
        spread = self.squares - float(self.total.square().sum()) / self.count
        variance = spread * self.count / (self.count - 1)
        return self.errors / variance if spread > 0 else None

    @property
    def active(self) -> float | None:
        """Mean number of active features; None without rows."""
        return self.n_active / self.count if self.count else None
