"""`time_budget`: how many samples are read, and how many source features are drawn on each.

Reading a sample costs a (its path nodes), every feature that is drawn on it b. Of n samples with k
draws each, the variance of a strength is about

    (V + D / k) / n,    at a cost of n (a + k b)

with V between samples and D / k of the draws. It is smallest in a given time for

    k = sqrt(D / V * a / b)

whatever the time (two-stage sampling; Cochran, Sampling Techniques, 1977, section 10.6). Where more
time is left than all samples need at this k, all of them are read, with as many draws as there is
time for. D / V is the number of features d where nothing is known: a draw then tells as much of one
feature as a sample tells of all. a, b, V and D are measured on the way.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from .options import Pair

__all__ = ["TimeBudget"]

_SPARE = 0.04  # share of the time that is kept for the end


@dataclass(eq=False)
class _Costs:
    """Seconds that a pair takes, over all samples so far."""

    n_samples: int = 0
    n_draws: int = 0
    reading: float = 0.0
    drawing: float = 0.0

    @property
    def a(self) -> float:
        """For each sample."""
        return self.reading / max(self.n_samples, 1)

    @property
    def b(self) -> float:
        """For each feature that is drawn on a sample."""
        return self.drawing / max(self.n_draws, 1)


@dataclass(eq=False)
class TimeBudget:
    """What is left of the time, and what it is spent on.

    Attributes:
        seconds: that the run may take.
        started: when it began, of `time.perf_counter`.
        pairs: that draws are made for, in order.
        n_batches: of the data, as far as this process reads them.
        costs: pair -> its costs.
        ratio: pair -> D / V, where it was measured.
        variances: pair -> relative variance of one draw, where it was measured.
        n_read: samples that were read.
        n_begun: batches that were begun.
        others: seconds that pairs without draws have taken.
        ended: whether batches were left out because the time was over.
    """

    seconds: float
    started: float
    pairs: list[Pair] = field(default_factory=list)
    n_batches: int = 1
    costs: dict[Pair, _Costs] = field(default_factory=dict)
    ratio: dict[Pair, float] = field(default_factory=dict)
    variances: dict[Pair, float] = field(default_factory=dict)
    n_read: int = 0
    n_begun: int = 0
    others: float = 0.0
    ended: bool = False

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that may be spent."""
        return self.seconds * (1 - _SPARE) - self.elapsed

    def begins_batch(self) -> bool:
        """Whether there is time for another batch, at one draw for each sample at least."""
        per_sample = sum(cost.a + cost.b for cost in self.costs.values())
        size = self.n_read / max(self.n_begun, 1)
        needed = per_sample * size + self.others / max(self.n_begun, 1)
        self.ended = self.n_begun > 0 and self.left < needed
        return not self.ended

    def draws(self, pair: Pair, n_samples: int, n_features: int, a: float, b: float) -> int:
        """How many features to draw on each sample of a batch.

        Args:
            pair: which of the pairs.
            n_samples: of the batch.
            n_features: of the source.
            a: seconds that each of its samples took until here.
            b: seconds of a draw, from a trial; 0: as measured before.
        """
        costs = self.costs.setdefault(pair, _Costs())
        b = max(b or costs.b, 1e-9)
        after = self.pairs[self.pairs.index(pair) + 1 :]
        batches_left = max(self.n_batches - self.n_begun, 0)
        reading = sum(self._reading(each, a) for each in after)
        reading += batches_left * sum(self._reading(each, a) for each in self.pairs)
        reading += batches_left * self.others / max(self.n_begun, 1) / n_samples
        # Where several pairs share the time, sum v / k is smallest for k as sqrt(v / b).
        weight = self._weight(pair, b)
        weights = weight + sum(self._weight(each, b) for each in after)
        weights += batches_left * sum(self._weight(each, b) for each in self.pairs)
        fill = (self.left / n_samples - reading) * weight / weights / b
        best = math.sqrt(self.ratio.get(pair, n_features) * max(costs.a, a) / b)
        # No more than what is left of the time, the other pairs of the batch included.
        most = self.left / (1 + len(after)) / n_samples / b
        return int(min(max(fill, min(best, most), 1.0), n_features))

    def _reading(self, pair: Pair, a: float) -> float:
        """Seconds for a sample of a pair, by another one's where nothing is known."""
        costs = self.costs.get(pair, _Costs())
        return costs.a if costs.n_samples else a

    def _weight(self, pair: Pair, b: float) -> float:
        """The share of the time that a pair gets, sqrt(v b)."""
        costs = self.costs.get(pair, _Costs())
        known = list(self.variances.values())
        typical = sum(known) / len(known) if known else 1.0
        return math.sqrt(self.variances.get(pair, typical) * (costs.b if costs.n_draws else b))

    def spent(self, pair: Pair, n_samples: int, k: int, reading: float, drawing: float) -> None:
        """Takes in what a batch of a pair has cost, in seconds."""
        costs = self.costs[pair]
        costs.n_samples += n_samples
        costs.n_draws += n_samples * k
        costs.reading += reading
        costs.drawing += drawing

    def learn(self, pair: Pair, between: float, of_draws: float, size: float) -> None:
        """Takes in the parts of the variance of a strength, as far as it is known.

        Args:
            pair: which of the pairs.
            between: samples.
            of_draws: of the draws so far.
            size: the sum of squared strengths.
        """
        costs = self.costs[pair]
        if between > 0 and of_draws > 0:
            self.ratio[pair] = of_draws * self.sources_per_sample(pair) / between
            self.variances[pair] = of_draws * costs.n_draws / size

    def sources_per_sample(self, pair: Pair) -> float:
        """Draws for each sample, on average."""
        costs = self.costs.get(pair, _Costs())
        return costs.n_draws / max(costs.n_samples, 1)
