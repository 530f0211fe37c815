"""The loop over batches: every batch to every pair, with progress, checkpoints, several passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..checkpoint import Checkpoint
from ..distributed import World
from ..errors import InteractGraphError
from ..layers import EncodedBatch, Layers
from ..model import ATTENTION_MASK, attention_mask
from ..notes import attention_mask_ignored, attention_mask_used, ended_by_time, interrupted
from .baseline_range import BaselineRange
from .groups import SampleKeys
from .options import Options, Pair
from .pair_run import PairRun
from .precision import Precision
from .progress import Interrupt, Progress
from .same_run import SameRun
from .time_budget import TimeBudget
from .top_activations import TopActivations

__all__ = ["BatchLoop"]

_MOST_PASSES = 64  # over the data, to reach target_error
_TELLING_PASSES = 16  # after which the error that draws do not explain is known well enough
_FEW = 4  # samples that are looked at again


@dataclass(eq=False)
class BatchLoop:
    """Goes over the data and adds every batch to every pair.

    Attributes:
        options: of the run.
        layers: of the model.
        runs: pair -> its run.
        world: the processes that divide the batches.
        independent: whether samples are known not to influence each other.
        checkpoint: where the loop is saved; None: nowhere.
        ranges: of the values seen.
        examples: the samples on which features are most active.
        n_passes: passes over the data that have ended.
        n_batches: batches so far, in all processes and passes.
        n_samples: samples of this pass so far, in this process.
        stopped_early: whether the standard errors were small enough before the data ended.
        interrupted: whether Ctrl-C ended it.
        budget: of time.
        same: what a checkpoint compares; None: there is none.
    """

    options: Options
    layers: Layers
    runs: dict[Pair, PairRun]
    world: World
    independent: bool = True
    checkpoint: Checkpoint | None = None
    ranges: BaselineRange = field(default_factory=BaselineRange)
    examples: TopActivations = field(default_factory=TopActivations)
    n_passes: int = 0
    n_batches: int = 0
    n_samples: int = 0
    stopped_early: bool = False
    interrupted: bool = False
    budget: TimeBudget = field(default_factory=TimeBudget)
    same: SameRun | None = None
    _padded: bool = False  # whether a batch holds padding that its attention mask tells
    _in_pass: int = 0  # batches of this pass so far
    _offset: int = 0  # samples of this pass so far, in all processes

    def run(self) -> None:
        """Adds every batch, in one pass or until the error is below `target_error`."""
        target = self.options.target_error
        precision = Precision(self.options, self.world)
        with Interrupt(heard=self.world.size == 1) as interrupt, self._progress() as progress:
            while True:
                self._one_pass(precision, progress, interrupt)
                self.n_passes += 1
                if self.left_data or target is None:
                    break
                # All processes go on where one of them has left anything to chance.
                chance = any(run.is_random for run in self.runs.values())
                if not any(self.world.gather(chance)):
                    break
                for run in self.runs.values():
                    run.sums.end_pass(self.n_passes)
                if self.n_passes == _MOST_PASSES or precision.reached(self.runs.values()):
                    break
                if interrupt.asked:
                    self.interrupted = True
                    break
                left = max(precision.error(run, of_draws=False) for run in self.runs.values())
                if self.n_passes >= _TELLING_PASSES and left >= target:
                    break  # the samples themselves vary too much, whatever is drawn
                self._in_pass = self._offset = self.n_samples = 0
                progress.next_pass(self.n_passes + 1)
            for run in self.runs.values():
                run.finish(self.world)
        precision.note(self.runs.values(), self.n_batches, stopped_early=self.stopped_early)
        self._gather()

    def _one_pass(self, precision: Precision, progress: Progress, interrupt: Interrupt) -> None:
        number = -1
        for number, batch in enumerate(self.layers.data):
            if number < self._in_pass:
                if self.same is not None:
                    self.same.check(batch, number, self._max_samples)
                continue
            if interrupt.asked and self.n_samples and not self.n_passes:
                self.interrupted = True
                return
            whole = self._add(batch, progress, interrupt)
            self._in_pass += 1
            progress.next_batch()
            if not whole:
                self.interrupted = not self.budget.ended
                return
            # Looked at after 1, 2, 4, ... batches: a look costs about as much as the sums.
            # In several processes, each of them has had a batch by then.
            turns, rest = divmod(self.n_batches, self.world.size)
            look = turns and not rest and not turns & (turns - 1) and not self.n_passes
            self.stopped_early = bool(look) and precision.reached(self.runs.values())
            if self.stopped_early:  # before a save: a run that is resumed has to look again
                return
            if self.checkpoint is not None and (self.checkpoint.due or interrupt.asked):
                self.checkpoint.save(self.state())
        if self.same is not None:
            n_added = len(self.same.added) if self.n_passes else self._in_pass
            self.same.check_end(number + 1, n_added)

    def _add(self, batch: Any, progress: Progress, interrupt: Interrupt) -> bool:
        """Adds one batch, where it belongs to this process.

        Returns:
            Whether all of it was added.
        """
        keys = SampleKeys(self.options)
        if self.same is not None:
            self.same.begins(batch, self._in_pass)
        if not self.world.takes(self._in_pass):  # the same ones in every pass
            self._offset += self._count(batch, keys)
            self.n_batches += 1
            return True
        whole, cut = self.layers.runner.convert(batch), self.layers.cut
        n_samples = cut.n_samples(whole)
        all_keys = None if n_samples is None else keys.of(whole, n_samples, self._offset)
        done, before = 0, self._offset
        for piece in cut.pieces(whole, lambda: self._max_samples):
            encoded = self.layers.encode(piece, self.n_batches)
            here = encoded.n_samples
            left = self._samples_left(before, n_samples or here, done + here)
            ended = interrupt.asked and done and not self.n_passes  # later passes are ended whole
            if ended or not self.budget.begins(here, left):
                return False
            if self.same is not None:
                self.same.reads(self._in_pass, encoded.activations)
            if not done and encoded.n_samples > 1 and self._looks_again:
                self.independent = self._check(piece, encoded) or self.independent
            self.ranges.add(encoded)
            if self.options.examples and not self.n_passes:
                self.examples.add(encoded, self._offset)
            self._padded = self._padded or _is_padded(piece)
            problems = self.layers.problems(encoded)
            if n_samples is None:  # then the piece is the batch
                all_keys = keys.of(piece, encoded.n_samples, self._offset)
            piece_keys = all_keys and all_keys[done : done + encoded.n_samples]
            done += encoded.n_samples
            for pair, run in self.runs.items():
                progress.begins(pair, here / (n_samples or here))
                began = self.budget.elapsed
                all_of_it = run.add(problems[pair], piece_keys, progress.tick, self._offset)
                progress.ends()
                if all_of_it or pair not in self.budget.pairs:
                    self.budget.others += self.budget.elapsed - began
            self.budget.n_read += here
            self.n_samples += encoded.n_samples
            self._offset += encoded.n_samples
        self.n_batches += 1
        return True

    @property
    def _looks_again(self) -> bool:
        """Whether samples are looked at: until there are two, then after 1, 4, 16, ... batches.

        The first ones were looked at before.
        """
        n = self.n_batches
        return not self.independent or (not n & (n - 1) and n.bit_length() % 2 == 1)

    def _check(self, batch: Any, encoded: EncodedBatch) -> bool:
        """Whether a few samples of a batch are known not to influence each other.

        Raises:
            InteractGraphError: they do.
        """
        n_samples = self.layers.cut.n_samples(batch)
        if n_samples is not None and n_samples > _FEW:
            few = self.layers.cut.take(batch, 0, _FEW)
            encoded = self.layers.encode(few, self.n_batches)
        return self.layers.check_segments(encoded)

    @property
    def _max_samples(self) -> int:
        """Samples at a time."""
        return min(self.budget.most_samples, *(run.max_samples for run in self.runs.values()))

    def _samples_left(self, before: int, n_samples: int, done: int) -> float | None:
        """Samples that this process has still to read, about; None: nobody knows.

        Args:
            before: samples of the pass before the batch at hand.
            n_samples: of the batch at hand.
            done: of these, with the piece at hand.
        """
        n_batches = self.layers.data.n_batches
        if n_batches is None:
            return None
        mean = (before + n_samples) / (self._in_pass + 1)
        later = max(n_batches - self._in_pass - 1, 0) / self.world.size
        return n_samples - done + later * mean

    def _count(self, batch: Any, keys: SampleKeys) -> int:
        """Samples of a batch that another process runs."""
        n = self.layers.cut.n_samples(batch)
        if n is None and keys.any:
            raise InteractGraphError(
                "groups and folds in several processes need batches whose samples can be counted: "
                "tensors with the samples on their first axis"
            )
        return n or 0

    def time_notes(self) -> Iterator[str]:
        """What the user should know of a run that ended before its data."""
        if self.interrupted:
            yield interrupted(self.n_samples, self.n_batches, self.n_passes)
        if self.budget.ended:
            yield ended_by_time(self.budget.seconds, self.n_samples, self.n_batches)

    def _gather(self) -> None:
        """Adds what all processes have found."""
        self.budget.ended = any(self.world.gather(self.budget.ended))
        for run in self.runs.values():
            run.sums.gather(self.world)
            for notes in self.world.gather(run.context.notes):
                for about, note in notes.items():
                    run.context.note(about, note)
            run.remark()
        self.n_samples = sum(self.world.gather(self.n_samples))
        self._padded = any(self.world.gather(self._padded))
        self.ranges.gather(self.world, self.layers.device)
        self.examples.gather(self.world)

    def mask_in_recipe(self, asked: Any) -> Any:
        """What the recipe says of the position mask: the one asked for, or that of the batches."""
        used = self._padded and self.layers.attention_mask == "used"
        return ATTENTION_MASK if used else asked

    def mask_notes(self) -> Iterator[str]:
        """What the user should know of padding that `position_mask` does not tell."""
        if self._padded and self.layers.attention_mask == "used":
            yield attention_mask_used()
        if self._padded and self.layers.attention_mask == "ignored":
            yield attention_mask_ignored()

    @property
    def left_data(self) -> bool:
        """Whether a run has ended before its data."""
        return self.stopped_early or self.budget.ended or (self.interrupted and self.n_passes < 2)

    def _progress(self) -> Progress:
        n_batches = self.layers.data.n_batches
        return Progress(
            self.runs,
            None if n_batches is None else n_batches / self.world.size,
            self.budget,
            n_done=self._in_pass / self.world.size,
            shown=self.layers.progress,
        )

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the loop is, for a checkpoint between two batches."""
        return {
            "baselines": dict(self.layers.baselines),
            "same": None if self.same is None else self.same.state(),
            "time": self.budget.state(),
            "budget": next(iter(self.runs.values())).sums.memory.total,
            "ranges": self.ranges.state(),
            "examples": self.examples.state(),
            "counts": [self.n_samples, self.n_batches, self.n_passes, self._in_pass, self._offset],
            "padded": self._padded,
            "runs": [run.state() for run in self.runs.values()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave.

        Raises:
            InteractGraphError: model or data are others now.
        """
        if self.same is not None:
            self.same.restore(state["same"])
        self.budget.restore(state["time"])
        self.ranges.restore(state["ranges"], self.layers.device)
        self.examples.restore(state["examples"])
        (self.n_samples, self.n_batches, self.n_passes, self._in_pass, self._offset) = state[
            "counts"
        ]
        self._padded = state["padded"]
        for run, saved in zip(self.runs.values(), state["runs"], strict=True):
            run.restore(saved)


def _is_padded(batch: Any) -> bool:
    mask = attention_mask(batch)
    return mask is not None and bool((mask == 0).any())
