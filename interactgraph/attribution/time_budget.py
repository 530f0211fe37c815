"""`time_budget`: how many samples are read, and how many source features are drawn on each.

Reading a sample costs a (its path nodes), every feature that is drawn on it b. Of n samples with k
draws each, the variance of a strength is about

    (V + D / k) / n,    at a cost of n (a + k b)

with V between samples and D / k of the draws. It is smallest in a given time for

    k = sqrt(D / V * a / b)

whatever the time (two-stage sampling; Cochran, Sampling Techniques, 1977, section 10.6). Where more
time is left than all samples need at this k, all of them are read, with as many draws as there is
time for. D / V is the number of features d until 8 samples tell it, and never above: a draw then
tells as much of one feature as a sample tells of all (but of the first samples no more than 16 are
drawn for that). a, b, V and D are measured on the way; V is a small difference of large sums at
first, and a D / V that is far too large would spend all of the time on a few samples.

Where target positions are drawn in the place of source features, the same holds of these: "feature"
then reads "position", and d is the number of positions.
"""

from __future__ import annotations

import math
import time
from dataclasses import astuple, dataclass, field
from typing import Any

from .options import Pair

__all__ = ["TimeBudget"]

_SPARE = 0.04  # share of the time that is kept for the end
_PIECE = 64  # samples at a time, where there is an end
_FIRST = 2  # samples that tell what others will cost
_AT_FIRST = 16  # draws of each of the first samples, where time is short
_TELLING = 8  # samples that tell how much draws add to the variance
_RECENT = 2  # pieces that tell what a draw costs
_GROWTH = 4  # of pieces, until they take
_SHARE = 0.1  # of the time


@dataclass(eq=False)
class _Costs:
    """Seconds that a pair takes, over all samples so far.

    Attributes:
        b: for each position of a feature that is drawn on a sample; the latest pieces count most,
            because path nodes are added on the way.
    """

    n_pieces: int = 0
    n_samples: int = 0
    n_draws: float = 0
    n_positions: int = 0
    reading: float = 0.0
    drawing: float = 0.0
    b: float = 0.0

    @property
    def a(self) -> float:
        """For each sample."""
        return self.reading / max(self.n_samples, 1)

    @property
    def typical_b(self) -> float:
        """For each draw of a sample that has as many positions as those so far."""
        return self.b * self.n_positions / max(self.n_samples, 1)


@dataclass(eq=False)
class TimeBudget:
    """What is left of the time, and what it is spent on.

    Attributes:
        seconds: that the run may take; infinite: any.
        started: when it began, of `time.perf_counter`.
        pairs: that draws are made for, in order.
        costs: pair -> its costs.
        ratio: pair -> D / V, where it was measured.
        variances: pair -> relative variance of one draw, where it was measured.
        errors: pair -> relative error of its strengths when the time is over, as it seemed last.
        drawn_errors: the part of it that is due to draws.
        n_read: samples that were read.
        samples_left: samples of the data after those at hand, about; None: not known.
        others: seconds that pairs without draws have taken.
        ended: whether samples were left out because the time was over.
    """

    seconds: float = math.inf
    started: float = field(default_factory=time.perf_counter)
    pairs: list[Pair] = field(default_factory=list)
    costs: dict[Pair, _Costs] = field(default_factory=dict)
    ratio: dict[Pair, float] = field(default_factory=dict)
    variances: dict[Pair, float] = field(default_factory=dict)
    errors: dict[Pair, float] = field(default_factory=dict)
    drawn_errors: dict[Pair, float] = field(default_factory=dict)
    n_read: int = 0
    samples_left: float | None = None
    others: float = 0.0
    ended: bool = False

    @property
    def is_set(self) -> bool:
        """Whether there is an end."""
        return self.seconds < math.inf

    @property
    def most_samples(self) -> int:
        """At a time: so few that the end is seen between them."""
        if not self.is_set:
            return 1 << 62
        if not self.n_read:
            return _FIRST
        fits = _SHARE * self.seconds / max(self._per_sample, 1e-9)
        return int(min(max(fits, 1), _GROWTH * self.n_read, _PIECE))

    @property
    def _per_sample(self) -> float:
        """Seconds for each sample so far, with as many draws as it had."""
        drawn = sum(cost.a + cost.drawing / max(cost.n_samples, 1) for cost in self.costs.values())
        return drawn + self._others

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that may be spent."""
        return self.seconds * (1 - _SPARE) - self.elapsed

    def begins(self, n_samples: int, samples_left: float | None) -> bool:
        """Whether there is time for some samples, at one draw for each of them at least.

        Args:
            n_samples: how many.
            samples_left: samples of the data after these, about; None: not known.
        """
        self.samples_left = samples_left
        per_sample = sum(cost.a + cost.typical_b for cost in self.costs.values()) + self._others
        self.ended = self.n_read > 0 and self.left < per_sample * n_samples
        return not self.ended

    @property
    def _others(self) -> float:
        return self.others / max(self.n_read, 1)

    def draws(
        self, pair: Pair, n_samples: int, n_features: int, a: float, b: float, n_positions: int = 1
    ) -> int:
        """How many features to draw on each of some samples.

        Args:
            pair: which of the pairs.
            n_samples: that are at hand.
            n_features: of the source.
            a: seconds that each of them took until here.
            b: seconds of a draw, from a trial; 0: as measured before.
            n_positions: of each of these samples; those of others may be longer or shorter.
        """
        costs = self.costs.setdefault(pair, _Costs())
        b = max(b or costs.b * n_positions, 1e-9)
        ratio = min(self.ratio.get(pair, n_features), n_features)
        best = math.sqrt(ratio * max(costs.a, a) / b)
        if not costs.n_pieces:
            best = min(best, _AT_FIRST)
        after, later = self.pairs[self.pairs.index(pair) + 1 :], self.samples_left
        # No more than what is left of the time, the other pairs of these samples included.
        most = self.left / (1 + len(after)) / n_samples / b
        fill = 0.0
        if later is not None:
            reading = n_samples * sum(self._reading(each, a) for each in after)
            reading += later * (sum(self._reading(each, a) for each in self.pairs) + self._others)
            # Where several pairs share the time, sum v / k is smallest for k as sqrt(v / b).
            here = (self._weight(each, b, n_positions) for each in [pair, *after])
            weights = n_samples * sum(here)
            weights += later * sum(self._weight(each, b) for each in self.pairs)
            fill = (self.left - reading) * self._weight(pair, b, n_positions) / weights / b
        return int(min(max(fill, min(best, most), 1.0), n_features))

    def _reading(self, pair: Pair, a: float) -> float:
        """Seconds for a sample of a pair, by another one's where nothing is known."""
        costs = self.costs.get(pair, _Costs())
        return costs.a if costs.n_samples else a

    def _weight(self, pair: Pair, b: float, n_positions: int | None = None) -> float:
        """The share of the time that a sample of a pair gets, sqrt(v b).

        Args:
            pair: which.
            b: seconds of a draw, where nothing is known.
            n_positions: of the sample; None: as many as those so far.
        """
        costs = self.costs.get(pair, _Costs())
        known = list(self.variances.values())
        typical = sum(known) / len(known) if known else 1.0
        if costs.n_draws:
            b = costs.typical_b if n_positions is None else costs.b * n_positions
        return math.sqrt(self.variances.get(pair, typical) * b)

    def spent(
        self,
        pair: Pair,
        n_samples: int,
        k: float,
        reading: float,
        drawing: float,
        n_positions: int = 1,
    ) -> None:
        """Takes in what some samples of a pair have cost, in seconds."""
        costs = self.costs[pair]
        costs.n_pieces += 1
        costs.n_samples += n_samples
        costs.n_draws += n_samples * k
        costs.n_positions += n_samples * n_positions
        costs.b += (drawing / (n_samples * k * n_positions) - costs.b) / min(
            costs.n_pieces, _RECENT
        )
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
        if between > 0 and of_draws > 0 and costs.n_samples >= _TELLING:
            self.ratio[pair] = of_draws * self.sources_per_sample(pair) / between
            self.variances[pair] = of_draws * costs.n_draws / size
            share = min(self.elapsed / self.seconds, 1.0)
            self.errors[pair] = math.sqrt((between + of_draws) / size * share)
            self.drawn_errors[pair] = math.sqrt(of_draws / size * share)

    def sources_per_sample(self, pair: Pair) -> float:
        """Draws for each sample, on average."""
        costs = self.costs.get(pair, _Costs())
        return costs.n_draws / max(costs.n_samples, 1)

    def learns(self, pair: Pair) -> bool:
        """Whether the parts of the variance are looked at: after 1, 2, 4, ... pieces."""
        n = self.costs[pair].n_pieces
        return not n & (n - 1)

    def state(self) -> list[Any]:
        """For a checkpoint."""
        costs = [[*pair, *astuple(cost)] for pair, cost in self.costs.items()]
        tables = (
            [[*pair, x] for pair, x in table.items()]
            for table in (self.ratio, self.variances, self.errors, self.drawn_errors)
        )
        return [self.elapsed, self.n_read, self.others, costs, *tables]

    def restore(self, state: list[Any]) -> None:
        """Goes on from what `state` gave: the time until then counts."""
        elapsed, self.n_read, self.others, costs, *tables = state
        self.started -= elapsed
        self.costs = {(a, b): _Costs(*cost) for a, b, *cost in costs}
        self.ratio, self.variances, self.errors, self.drawn_errors = (
            {(a, b): x for a, b, x in table} for table in tables
        )
