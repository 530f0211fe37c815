"""Stochastic sources: a dataset average does not need every column of A on every sample.

Of each sample only k source features are taken, feature j of sample b with probability p[b,j] in
each draw; what they give is divided by k p[b,j], so that every sum is unbiased whatever p is. One
JVP carries another feature for each sample, because samples are independent.

The variance is small where p[b,j] follows the size of the column. *Importance* sampling estimates
it from the step z - z0 of the feature on this sample and a running estimate of what a step of that
feature is worth; mixed with one tenth uniform, so that no weight exceeds ten times the number of
features. The estimates come from earlier batches only, so the probabilities of a batch are fixed
before it is drawn from. What the step alone explains is taken off before the draws: see
`control_variate`.
"""

from __future__ import annotations

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
    """

    n_features: int
    sampling: str
    power: int
    generator: torch.Generator
    worth: Tensor = field(init=False)
    size: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.worth = torch.zeros(self.n_features, dtype=torch.float64)
        self.size = torch.zeros(self.n_features, dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """What has been learned and where the draws are, for a checkpoint."""
        generator = self.generator.get_state()
        return {"worth": self.worth, "size": self.size, "generator": generator}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave."""
        self.worth, self.size = state["worth"], state["size"]
        self.generator.set_state(state["generator"])

    def _steps(self, problem: PairProblem) -> Tensor:
        """How far each feature moves on each sample, to the power, `[b, j]`."""
        steps = problem.displacement.double().square().sum(1)
        return steps if self.power == 2 else steps.sqrt()

    def draw(self, problem: PairProblem, k: int) -> tuple[Packing, Tensor]:
        """Draws k features for each sample, with replacement; repeats are counted together.

        Args:
            problem: the pair on a batch.
            k: draws for each sample.

        Returns:
            The features, one draw in each pass, and weights c / (k p) `[k, b]` with c the number
            of times the feature was drawn (zero at its repeats).
        """
        n = problem.n_samples
        uniform = torch.full((n, self.n_features), 1 / self.n_features, dtype=torch.float64)
        p = uniform
        if self.sampling == "importance":
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
            q = torch.where(total > 0, q / total.clamp(min=1e-300), uniform)
            p = (1 - _UNIFORM) * q + _UNIFORM * uniform
        features = torch.multinomial(p, k, replacement=True, generator=self.generator).mT
        weights = 1 / (k * p.mT.gather(0, features))
        same = features[:, None] == features[None, :]
        earlier = torch.tril(torch.ones(k, k, dtype=torch.bool), -1)[..., None]
        repeated = (same & earlier).any(1)
        weights = torch.where(repeated, 0.0, weights * same.sum(1))
        device = problem.z.device
        packing = Packing(features[..., None].to(device), (weights > 0)[..., None].to(device))
        return packing, weights.to(device)

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
