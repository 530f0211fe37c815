"""Several passes over the same samples, with new draws of source features in each.

The samples are the same in every pass, so that passes lower the part of the error that the draws
have and not the part of the samples. How much the draws have shows in the differences between
passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...distributed import World

__all__ = ["RepeatedPasses"]

_PRIOR = 8  # passes that the share of the draws in all edges from a source counts for


@dataclass(eq=False)
class RepeatedPasses:
    """Mean and spread over passes of what a pass adds (Welford's update).

    Attributes:
        number: passes that have ended, one at least.
        end_totals: strength -> total when the last pass ended, `[i, j]`.
        mean: strength -> mean over passes of what a pass adds, `[i, j]`.
        spread: strength -> sum over passes of its squared deviation from that mean, `[i, j]`.
    """

    number: int = 1
    end_totals: dict[str, Tensor] = field(default_factory=dict)
    mean: dict[str, Tensor] = field(default_factory=dict)
    spread: dict[str, Tensor] = field(default_factory=dict)

    def end(self, totals: Mapping[str, Tensor], number: int) -> None:
        """Takes in what a pass has added.

        Args:
            totals: strength -> total over all passes so far.
            number: of the pass, from 1.
        """
        self.number = number
        for name, total in totals.items():
            for table in (self.mean, self.spread, self.end_totals):
                table.setdefault(name, torch.zeros_like(total))
            added = total - self.end_totals[name]
            self.end_totals[name] += added
            step = added - self.mean[name]
            self.mean[name] += step / number
            self.spread[name].addcmul_(step, added - self.mean[name])

    def add(self, other: RepeatedPasses) -> None:
        """Adds the same passes over other samples, whose draws are others."""
        self.number = other.number
        for name, spread in other.spread.items():
            self.spread[name] = self.spread.get(name, 0) + spread  # a tensor of its own

    def gather(self, world: World, totals: Mapping[str, Tensor]) -> None:
        """Adds what all processes have; all of them call it.

        Args:
            world: the processes.
            totals: strength -> a tensor `[i, j]`, of every strength that may have a spread.
        """
        if any(world.gather(bool(self.spread))):
            for name, total in totals.items():
                world.add(self.spread.setdefault(name, torch.zeros_like(total)))
        self.number = max(world.gather(self.number))

    def squared_error(self, name: str, total: int, rows: slice) -> Tensor:
        """What the draws add to the squared error of one pass, `[rows, j]`.

        Args:
            name: of the strength.
            total: what a mean over all passes is divided by.
            rows: target features.
        """
        per_pass = total / self.number
        return self.spread[name][rows] / ((self.number - 1) * per_pass**2)

    def factor(self, error: Tensor, draws: Tensor, share: Tensor, *, of_draws: bool) -> Tensor:
        """What an error that takes all passes for different samples is to be multiplied by.

        Args:
            error: that error, `[rows, j]`.
            draws: from `squared_error`, `[rows, j]`.
            share: of the draws in the squared error of one pass, over all edges from a source,
                `[j]`. It is weighed against the edge's own share, known from number - 1
                differences, as if it came from `_PRIOR` of them.
            of_draws: whether the error of the draws is to be part of it.
        """
        of_edge = draws / (error.square() * self.number)
        of_edge = of_edge.nan_to_num_(0.0).clamp_(max=1)
        known = self.number - 1
        of_edge = torch.lerp(share.expand_as(of_edge), of_edge, known / (known + _PRIOR))
        kept = 1 - of_edge + (of_edge / self.number if of_draws else 0)
        return (kept * self.number).sqrt()

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [self.number, self.end_totals, self.mean, self.spread]

    def restore(self, state: list[Any], device: torch.device) -> None:
        """Goes back to what `state` gave."""
        self.number = state[0]
        self.end_totals, self.mean, self.spread = (
            {name: total.to(device) for name, total in table.items()} for table in state[1:]
        )
