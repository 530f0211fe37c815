"""How often source features were drawn, and what that says about the errors of their edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from ...distributed import World

__all__ = ["DrawCounts"]


@dataclass(eq=False)
class DrawCounts:
    """Draws of source features, over samples on which they move.

    Attributes:
        number: draws of each feature, float64 `[j]`.
        lengths: how far each feature moves, over all samples that were drawn from, `[j]`.
        steps: strength -> sum over samples of |x[b,j]|, see `control_variate`, `[j]`.
        costs: strength -> sum over samples of x[b,j]^2 over the expected number of draws, `[j]`.
    """

    number: Tensor
    lengths: Tensor
    steps: dict[str, Tensor] = field(default_factory=dict)
    costs: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def none(n_features: int, device: torch.device) -> DrawCounts:
        """As long as nothing is drawn."""
        zeros = torch.zeros(n_features, dtype=torch.float64, device=device)
        return DrawCounts(zeros, zeros.clone())

    def expect(self, steps: Mapping[str, Tensor], lengths: Tensor, draws: Tensor) -> None:
        """Takes in the samples of a batch.

        Args:
            steps: strength -> x, `[b, j]`.
            lengths: how far each feature moves, `[b, j]`.
            draws: expected number of draws, `[b, j]`; zero at most where a feature does not move.
        """
        self.lengths += lengths.sum(0)
        for name, x in steps.items():
            cost = torch.where(x == 0, 0.0, x.square() / draws).sum(0)
            self.steps[name] = self.steps.get(name, 0) + x.abs().sum(0)
            self.costs[name] = self.costs.get(name, 0) + cost

    def add(self, features: Tensor, drawn: Tensor) -> None:
        """Counts one feature of each sample.

        Args:
            features: numbers, int64 `[b]`.
            drawn: whether it was drawn and moves, bool `[b]`.
        """
        self.number.index_add_(0, features, drawn.to(self.number))

    @property
    def unknown(self) -> Tensor:
        """Features that move and were never drawn where they do, bool `[j]`."""
        return (self.number == 0) & (self.lengths > 0)

    @property
    def unknown_share(self) -> float:
        """Their share of all steps."""
        return float(self.lengths[self.unknown].sum() / self.lengths.sum())

    def effective(self, name: str) -> Tensor:
        """The number of draws of each feature, if all told a strength the same, `[j]`.

        The squared sum of x over its sampling variance, as Kish's effective sample size.
        """
        return (self.steps[name].square() / self.costs[name]).nan_to_num(math.inf)

    def factor(self, name: str) -> Tensor:
        """What the error of a strength is multiplied by, `[j]`, so that twice it covers 95 %.

        Few draws of a feature miss the samples on which it does most, and their spread is too
        small for the same reason. Student's t, relative to a normal distribution. Its degrees of
        freedom are those of a variance from m draws with a kurtosis of 5, m / 2 (2 m over the
        kurtosis less 1), 1 at least; m is the effective number of draws.
        """
        degrees = (self.effective(name) / 2).clamp(min=1).cpu().numpy()
        factors = student.ppf(0.975, degrees) / student.ppf(0.975, math.inf)
        return torch.from_numpy(factors)

    def least_of_share(self, name: str) -> Tensor:
        """The least error of a share of samples, `[j]`: no draw out of m was one of them.

        Then it is below 3 / m in 95 % of cases (the rule of three); zero for what never moves.
        """
        least = (1.5 / self.effective(name)).clamp(max=0.5)
        return torch.where(self.lengths > 0, least, 0.0)

    # --- joining and checkpoints -----------------------------------------------------------------

    def merge(self, other: DrawCounts) -> None:
        """Adds those over other samples."""
        self.number += other.number
        self.lengths += other.lengths
        for mine, theirs in ((self.steps, other.steps), (self.costs, other.costs)):
            for name, sums in theirs.items():
                mine[name] = sums + mine.get(name, 0)

    def gather(self, world: World) -> None:
        """Adds those of all processes; all of them call it."""
        world.add(self.number)
        world.add(self.lengths)
        names = [name for names in world.gather(list(self.steps)) for name in names]
        for name in dict.fromkeys(names):
            for sums in (self.steps, self.costs):
                world.add(sums.setdefault(name, torch.zeros_like(self.number)))

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [self.number, self.lengths, self.steps, self.costs]

    @staticmethod
    def restored(state: list[Any], device: torch.device) -> DrawCounts:
        """What `state` gave."""
        number, lengths, *tables = state
        steps, costs = ({name: sums.to(device) for name, sums in table.items()} for table in tables)
        return DrawCounts(number.to(device), lengths.to(device), steps, costs)
