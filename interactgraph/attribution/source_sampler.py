"""Stochastic sources: a dataset average does not need every column of A on every sample.

Of each sample only k source features are taken, feature j of sample b with probability p[b,j] in
each draw; what they give is divided by k p[b,j], so that every sum is unbiased whatever p is. One
JVP carries another feature for each sample, because samples are independent.

The variance is small where p[b,j] follows the size of the column. *Importance* sampling estimates
it from the step z - z0 of the feature on this sample and a running estimate of what a step of that
feature is worth. One tenth of the draws of a batch, and more as long as features have never been
drawn, is spread evenly over the features instead (systematic sampling; Owen, Monte Carlo theory,
methods and examples, 2013, section 8.8), so that no weight is large and every feature is drawn
where there are draws enough. The estimates come from earlier batches only, so the probabilities of
a batch are fixed before it is drawn from. What the step alone explains is taken off before the
draws: see `control_variate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..layers import PairProblem
from .packing import Packing

__all__ = ["SourceSampler"]

_UNIFORM = 0.1


@dataclass(eq=False)
class SourceSampler:
    """Draws source features.

    Attributes:
        n_features: number of source features.
        sampling: `importance` or `uniform`.
        power: 2 where squares of A are averaged, 1 where values are.
        generator: decides the draws.
        worth: running sum of contribution / probability weight for each feature, `[j]`.
        size: running sum of step sizes, `[j]`.
        drawn: number of draws of each feature, `[j]`.
    """

    n_features: int
    sampling: str
    power: int
    generator: torch.Generator
    worth: Tensor = field(init=False)
    size: Tensor = field(init=False)
    drawn: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.worth = torch.zeros(self.n_features, dtype=torch.float64)
        self.size = torch.zeros(self.n_features, dtype=torch.float64)
        self.drawn = torch.zeros(self.n_features, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """What has been learned and where the draws are, for a checkpoint."""
        generator = self.generator.get_state()
        sums = {"worth": self.worth, "size": self.size, "drawn": self.drawn}
        return {**sums, "generator": generator}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.worth, self.size, self.drawn = state["worth"], state["size"], state["drawn"]
        self.generator.set_state(state["generator"])

    def _steps(self, problem: PairProblem) -> Tensor:
        """How far each feature moves on each sample, to the power, `[b, j]`."""
        steps = problem.displacement.double().square().sum(1)
        return steps if self.power == 2 else steps.sqrt()

    def draw(self, problem: PairProblem, k: int) -> tuple[Packing, Tensor, Tensor]:
        """Draws k features for each sample, with replacement; repeats are counted together.

        Args:
            problem: the pair on a batch.
            k: draws for each sample.

        Returns:
            The features, one draw in each pass; weights c / (k p) `[k, b]` with c the number of
            times the feature was drawn (zero at its repeats); and k p for every feature, `[b, j]`.
        """
        n = problem.n_samples
        moves = (problem.displacement != 0).any(1).cpu()
        number, spread = self._spread(n * k, moves)
        share = number / (n * k)
        q = spread if share == 1 else self._by_worth(problem)
        p = (1 - share) * q + share * spread
        features = torch.multinomial(q, k, replacement=True, generator=self.generator)
        slots = torch.randperm(n * k, generator=self.generator)[:number]
        features.view(-1)[slots] = _systematic(spread[slots // k], self.generator)
        features = features.mT
        moved = moves.mT.gather(0, features).double()
        self.drawn.index_add_(0, features.flatten(), moved.flatten())
        weights = 1 / (k * p.mT.gather(0, features))
        same = features[:, None] == features[None, :]
        earlier = torch.tril(torch.ones(k, k, dtype=torch.bool), -1)[..., None]
        repeated = (same & earlier).any(1)
        weights = torch.where(repeated, 0.0, weights * same.sum(1))
        device = problem.z.device
        packing = Packing(features[..., None].to(device), (weights > 0)[..., None].to(device))
        return packing, weights.to(device), k * p

    def _spread(self, n_draws: int, moves: Tensor) -> tuple[int, Tensor]:
        """How many draws of a batch are spread over all features, and how, `[b, j]`.

        So many that about every feature that moves is drawn once, if the batch has draws enough;
        else half of them, as long as some have not been drawn.

        Args:
            n_draws: of the batch.
            moves: whether a feature moves on a sample, bool `[b, j]`.
        """
        anywhere = moves.any(0)
        new = (self.drawn == 0) & anywhere
        n_new, number = int(new.sum()), math.ceil(_UNIFORM * n_draws)
        spread = torch.ones(self.n_features, dtype=torch.float64)
        if self.sampling != "importance":
            number = n_draws
        elif n_new:
            spread = _UNIFORM * spread / self.n_features + (1 - _UNIFORM) * new / n_new
            needed = math.ceil(n_new / (1 - _UNIFORM))
            number = max(number, needed if needed <= n_draws else n_draws // 2)
        rows = torch.where(moves, spread, 0.0)  # a draw of what does not move tells nothing
        rows = torch.where(moves.any(1, keepdim=True), rows, 1.0)
        return number, rows / rows.sum(1, keepdim=True)

    def _by_worth(self, problem: PairProblem) -> Tensor:
        """Probabilities by how much each feature is likely to be worth on each sample, `[b, j]`."""
        steps = self._steps(problem).cpu()
        # Features that have not been drawn yet count as worth as much as the average one.
        known = self.size > 0
        gain = torch.ones(self.n_features, dtype=torch.float64)
        if known.any():
            gain = torch.where(known, self.worth / self.size.clamp(min=1e-300), 0.0)
            gain = torch.where(known, gain, gain[known].mean())
        # The error of a root mean square is smallest for draws by |A|, not by A^2.
        q = (steps * gain) ** (1 / self.power)
        total = q.sum(1, keepdim=True)
        uniform = torch.full_like(q, 1 / self.n_features)
        return torch.where(total > 0, q / total.clamp(min=1e-300), uniform)

    def learn(self, problem: PairProblem, features: Tensor, worth: Tensor, weights: Tensor) -> None:
        """Takes in what one draw of each sample gave.

        Args:
            problem: the pair on the batch.
            features: the features, `[b]`.
            worth: their contributions, `[b]`.
            weights: their weights, `[b]`.
        """
        if self.sampling != "importance":
            return
        steps = self._steps(problem).gather(1, features[:, None])[:, 0]
        self.worth.index_add_(0, features.cpu(), (worth.double() * weights).cpu())
        self.size.index_add_(0, features.cpu(), (steps * weights).cpu())


def _systematic(p: Tensor, generator: torch.Generator) -> Tensor:
    """One feature for each row of probabilities `[n, j]`, int64 `[n]`, evenly over the features.

    Each row draws by its own probabilities; together, the rows step through the features in a
    random order at even distances.
    """
    n, n_features = p.shape
    order = torch.randperm(n_features, generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    steps = (torch.randperm(n, generator=generator).double() + start) / max(n, 1)
    ends = p[:, order].cumsum(1)
    found = torch.searchsorted(ends, steps[:, None] * ends[:, -1:], right=True)
    return order[found[:, 0].clamp(max=n_features - 1)]
