"""Stochastic sources: a dataset average does not need every column of A on every sample.

Of each sample only k source features are taken, feature j of sample b with probability pi[b,j];
what they give is divided by pi[b,j] (Horvitz and Thompson 1952), and completed by what is known of
all samples, see `sums.drawn_sums`. One JVP carries another feature for each sample, because samples
are independent.

The variance is small where pi[b,j] follows the size of the column. *Importance* sampling estimates
it from the step z - z0 of the feature on this sample and a running estimate of what a step of that
feature is worth. One tenth of the draws of a batch, and more as long as features have never been
drawn, goes to all features alike instead, so that no weight is large and every feature is drawn
where there are draws enough. The estimates come from earlier batches only, so the probabilities of
a batch are fixed before it is drawn from.

Draws are *systematic* (Madow 1949; Owen, Monte Carlo theory, methods and examples, 2013, section
8.8): a sample's probabilities are laid out along a line of length k, in one random order of the
features for the batch, and a draw is taken at every whole step from a start; the starts of the
samples divide the unit interval evenly, in random order. So no feature is drawn twice for a sample,
a feature whose probability is one is always drawn, all of them are where k is their number, and
over the batch every feature is drawn about as often as expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..layers import PairProblem
from .contributions import Draws
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
        """Draws k features for each sample, or all that move where these are fewer.

        Args:
            problem: the pair on a batch.
            k: draws for each sample.

        Returns:
            The features, one draw in each pass; weights 1 / pi `[k, b]`, zero where nothing is left
            to draw; and pi for every feature, `[b, j]`.
        """
        moves = (problem.displacement != 0).any(1).cpu()
        share, spread = self._spread(k, moves)
        p = share * spread
        if share < 1:
            p += (1 - share) * self._by_worth(problem)
        pi = _inclusion(torch.where(moves, p, 0.0), k)
        features, weights = _systematic(pi, k, self.generator)
        self.drawn.index_add_(0, features.flatten(), (weights > 0).double().flatten())
        device = problem.z.device
        packing = Packing(features[..., None].to(device), (weights > 0)[..., None].to(device))
        return packing, weights.to(device), pi

    def _spread(self, k: int, moves: Tensor) -> tuple[float, Tensor]:
        """The share of the draws of a batch that goes to all features alike, and how, `[b, j]`.

        So many that about every feature that moves is drawn once, if the batch has draws enough;
        else half of them, as long as some have not been drawn.

        Args:
            k: draws for each sample.
            moves: whether a feature moves on a sample, bool `[b, j]`.
        """
        anywhere, n_draws = moves.any(0), k * len(moves)
        new = (self.drawn == 0) & anywhere
        n_new, share = int(new.sum()), _UNIFORM
        spread = torch.ones(self.n_features, dtype=torch.float64)
        if self.sampling != "importance":
            share = 1.0
        elif n_new:
            spread = _UNIFORM * spread / self.n_features + (1 - _UNIFORM) * new / n_new
            needed = n_new / (1 - _UNIFORM) / n_draws
            share = max(share, needed if needed <= 1 else 0.5)
        rows = torch.where(moves, spread, 0.0)  # a draw of what does not move tells nothing
        return share, rows / rows.sum(1, keepdim=True).clamp(min=1e-300)

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

    def learn(self, problem: PairProblem, draws: Draws, worth: Tensor) -> None:
        """Takes in what some draws gave.

        Args:
            problem: the pair on the batch.
            draws: of its samples.
            worth: what each contributed, `[n]`.
        """
        if self.sampling != "importance":
            return
        steps = self._steps(problem)[draws.samples, draws.features]
        features = draws.features.cpu()
        self.worth.index_add_(0, features, (worth.double() * draws.weights).cpu())
        self.size.index_add_(0, features, (steps * draws.weights).cpu())


def _inclusion(p: Tensor, k: int) -> Tensor:
    """Probabilities of being among k draws without repeats, as near to k p as one allows.

    Args:
        p: not negative, `[b, j]`.
        k: draws of each row.

    Returns:
        At most one, `[b, j]`; a row adds up to k, or to the number of its entries above zero where
        these are fewer.
    """
    pi = torch.zeros_like(p)
    sure = torch.zeros_like(p, dtype=torch.bool)
    n_draws = (p > 0).sum(1, keepdim=True).clamp(max=k)
    for _ in range(p.shape[1]):
        rest = torch.where(sure, 0.0, p)
        left = n_draws - sure.sum(1, keepdim=True)
        pi = torch.where(sure, 1.0, rest * (left / rest.sum(1, keepdim=True).clamp(min=1e-300)))
        more = (pi >= 1 - 1e-12) & ~sure
        if not more.any():
            break
        sure |= more
    return pi.clamp(max=1)


def _systematic(pi: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features and weights of k draws for each sample, `[k, b]` each.

    Args:
        pi: from `_inclusion`, `[b, j]`.
        k: draws of each row; weights are zero beyond the last one of a row.
        generator: decides the order of the features and the starts.
    """
    n, n_features = pi.shape
    order = torch.randperm(n_features, generator=generator)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    starts = (torch.randperm(n, generator=generator).double() + start) / max(n, 1)
    ends = pi[:, order].cumsum(1)
    length = ends[:, -1:]
    whole = length.round().clamp(min=1)  # what rounding makes of it
    steps = (starts[:, None] + torch.arange(k)) * (length / whole)
    place = torch.searchsorted(ends, steps.contiguous(), right=True)
    there = steps < length
    features = order[place.clamp(max=n_features - 1)]
    weights = torch.where(there, 1 / pi.gather(1, features), 0.0).nan_to_num(posinf=0.0)
    return features.mT, weights.mT
