"""How far a run is and how long it will take, and what Ctrl-C does to it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tqdm import tqdm
from typing_extensions import Self

from .options import Pair
from .pair_run import PairRun
from .time_budget import TimeBudget

__all__ = ["Interrupt", "Progress"]

_LISTEN = 3.0  # seconds after which it may be known what a run will take
_TELLING = 0.05  # share of a run that tells it: the first passes place nodes and are slow
_AT_LAST = 20.0  # seconds after which a smaller share has to do
_FORESEEN = 0.25  # batches of a pair that what is predicted counts for
_LONG = 60.0  # seconds of an exact run, above which it is said
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


@dataclass
class _Pace:
    """What a pair has taken: so many seconds for so many batches, parts of them included."""

    seconds: float = 0.0
    batches: float = 0.0


class Progress:
    """A bar of the share of the time that has gone.

    Pairs differ in what a pass takes and batches in their size, so that counting either would let
    the time left jump from pair to pair. What is left is counted in seconds: what each pair was
    measured to take, and what its plan predicts where it has not begun.

    Attributes:
        bar: of tqdm.
    """

    def __init__(
        self,
        runs: Mapping[Pair, PairRun],
        n_batches: float | None,
        budget: TimeBudget,
        *,
        n_done: float = 0.0,
        shown: bool = True,
    ) -> None:
        """Begins a bar.

        Args:
            runs: pair -> its run.
            n_batches: of a pass, of this process; None: nobody knows.
            budget: of time; where it is set, it is what the bar shows.
            n_done: batches that an interrupted run has added.
            shown: whether there is a bar to be seen.
        """
        self._runs, self._n_batches, self._budget = runs, n_batches, budget
        self._paces = {pair: _Pace() for pair in runs}
        self._done = dict.fromkeys(runs, n_done)
        self._pair: Pair | None = None
        self._share, self._passes, self._began = 0.0, 0.0, 0.0
        self._started, self._foretold = time.monotonic(), False
        self._initial = self.share
        known = budget.is_set or n_batches is not None
        self.bar: tqdm = tqdm(
            desc="interactions",
            total=budget.seconds if budget.is_set else 1.0 if known else None,
            initial=0 if budget.is_set else self._initial if known else int(n_done),
            disable=not shown,
            smoothing=0,
            bar_format=_FORMAT if known else None,
            unit="batch",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    def begins(self, pair: Pair, share: float) -> None:
        """Some samples come to a pair.

        Args:
            pair: which.
            share: of a batch.
        """
        self._pair, self._share, self._passes = pair, share, 0.0
        self._began = time.monotonic()
        self.bar.set_postfix_str(" -> ".join(pair), refresh=False)

    def tick(self, passes: float) -> None:
        """Passes through the segment are done."""
        self._passes += passes
        self._show()

    def ends(self) -> None:
        """The samples are added."""
        assert self._pair is not None
        pace = self._paces[self._pair]
        pace.seconds += time.monotonic() - self._began
        pace.batches += self._share
        self._done[self._pair] += self._share
        self._pair = None
        self._show()

    def next_batch(self) -> None:
        """A batch is over."""
        if self.bar.total is None:
            self.bar.update(1)

    def next_pass(self, number: int) -> None:
        """The data begin again."""
        self._done = dict.fromkeys(self._runs, 0.0)
        self.bar.set_description_str(f"interactions, pass {number}", refresh=False)
        if self.bar.total is not None and not self.bar.disable:
            self.bar.reset()

    @property
    def share(self) -> float:
        """Of the time that this pass takes, so much has gone."""
        if not self._n_batches:
            return 0.0
        begun = [pair for pair, pace in self._paces.items() if pace.batches]
        foreseen = sum(self._predicted(pair) * self._paces[pair].batches for pair in begun)
        taken = sum(self._paces[pair].seconds for pair in begun)
        factor = taken / foreseen if foreseen else 1.0
        gone = total = 0.0
        for pair, pace in self._paces.items():
            seconds, batches, done = pace.seconds, pace.batches, self._done[pair]
            if pair == self._pair:
                part = self._part()
                seconds += time.monotonic() - self._began
                batches, done = batches + part, done + part
            # The first passes of a pair place its nodes, so that a small part tells little.
            expected = _FORESEEN * factor * self._predicted(pair)
            each = (seconds + expected) / (batches + _FORESEEN)
            gone += each * done
            total += each * max(self._n_batches, done)
        return gone / total if total else 0.0

    def _part(self) -> float:
        """How much of a batch has been done of the samples at hand."""
        assert self._pair is not None
        expected = self._passes_of(self._pair) * self._share
        return self._share * min(self._passes / expected, 1.0) if expected else 0.0

    def _predicted(self, pair: Pair) -> float:
        """What a batch of a pair takes, up to a factor that is the same for all pairs."""
        return self._passes_of(pair) * self._runs[pair].pass_seconds

    def _passes_of(self, pair: Pair) -> float:
        """Forward passes of a batch; pairs that have no nodes yet will need as many as others."""
        share = self._runs[pair].share_of_nodes
        if share is None:
            known = [x for x in (run.share_of_nodes for run in self._runs.values()) if x]
            share = sum(known) / len(known) if known else 1.0
        return self._runs[pair].plan.cost * share

    def _show(self) -> None:
        if self.bar.disable:
            return
        if self._budget.is_set:
            gone = min(self._budget.elapsed, self._budget.seconds)
        elif self.bar.total is None:
            return
        else:
            gone = self.share
            self._foretell(gone)
        self.bar.update(max(0.0, gone - self.bar.n))

    def _foretell(self, gone: float) -> None:
        """Says once what a long exact run takes, and what else there is."""
        elapsed = time.monotonic() - self._started
        share = gone - self._initial
        if self._foretold or elapsed < _LISTEN or share <= 0:
            return
        if share < _TELLING and elapsed < _AT_LAST:
            return
        self._foretold = True
        drawn = any(run.is_drawn for run in self._runs.values())
        seconds = elapsed / share
        if not drawn and seconds > _LONG:
            self.bar.write(
                f"all source features on all samples take about {seconds / 60:.0f} min; "
                "time_budget= (--time-budget 2min) draws some of them instead, with errors",
                file=sys.stderr,
            )


class Interrupt:
    """Ctrl-C ends a run after the samples at hand, with what it has; a second one at once.

    Only where it would otherwise raise `KeyboardInterrupt`: whoever handles it already goes on
    doing so.

    Attributes:
        asked: whether it was pressed.
    """

    def __init__(self, *, heard: bool = True) -> None:
        """Listens from `with` on.

        Args:
            heard: whether it does; several processes would end at different places.
        """
        self.asked = False
        self._heard = heard

    def __enter__(self) -> Self:
        self._heard = (
            self._heard
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._heard:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.write(
            "interrupted: the run ends after the samples at hand and gives what it has; "
            "once more ends it at once",
            file=sys.stderr,
        )
