"""The loop over batches: every batch to every pair, with progress, checkpoints, several passes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..calculus.derivatives import jvps
from ..calculus.rounding import is_close, tolerance
from ..checkpoint import Checkpoint, fingerprint
from ..distributed import World
from ..errors import InteractGraphError
from ..layers import EncodedBatch, Layers, PairProblem
from ..model import ATTENTION_MASK, attention_mask
from ..notes import attention_mask_ignored, attention_mask_used, ended_by_time
from .baseline_range import BaselineRange
from .groups import SampleKeys
from .methods.method import Tick
from .options import Options, Pair
from .pair_run import PairRun
from .precision import Precision
from .time_budget import TimeBudget
from .top_activations import TopActivations

__all__ = ["BatchLoop", "check_means", "first_derivatives"]

_LISTEN = 3.0  # seconds after which it is known what a run will take
_LONG = 60.0  # seconds of an exact run, above which it is said
_MOST_PASSES = 64  # over the data, to reach target_error
_TELLING_PASSES = 16  # after which the error that draws do not explain is known well enough
_FEW = 4  # samples that are looked at again
_COMPARED = 16  # samples whose activations a resumed run compares


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
        budget: of time; None: there is none.
        derivatives: pair -> one derivative on the first samples, for a checkpoint to compare.
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
    budget: TimeBudget | None = None
    derivatives: Mapping[str, Tensor | None] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)
    _foretold: bool = False
    _padded: bool = False  # whether a batch holds padding that its attention mask tells
    _in_pass: int = 0  # batches of this pass so far
    _offset: int = 0  # samples of this pass so far, in all processes
    _fingerprints: list[str] = field(default_factory=list)  # fingerprints of the batches of a pass
    _last_batch: int = -1  # of the last batch that was added
    _last_activations: Mapping[str, Tensor] = field(default_factory=dict)  # of its first samples

    def run(self) -> None:
        """Adds every batch, in one pass or until the error is below `target_error`."""
        target = self.options.target_error
        precision = Precision(self.options, self.world)
        drawn = any(run.is_drawn for run in self.runs.values())
        with self._bar() as bar:
            if self.budget is None:
                bar.update(self.n_batches * self._passes() / self.world.size)
            while True:
                self._one_pass(precision, bar)
                self.n_passes += 1
                if self.stopped_early or target is None or not drawn or self.budget is not None:
                    break
                for run in self.runs.values():
                    run.sums.end_pass(self.n_passes)
                if self.n_passes == _MOST_PASSES or precision.reached(self.runs.values()):
                    break
                left = max(precision.error(run, of_draws=False) for run in self.runs.values())
                if self.n_passes >= _TELLING_PASSES and left >= target:
                    break  # the samples themselves vary too much, whatever is drawn
                self._in_pass = self._offset = self.n_samples = 0
            for run in self.runs.values():
                run.finish(self.world)
        precision.note(self.runs.values(), self.n_batches, stopped_early=self.stopped_early)
        self._gather()

    def _one_pass(self, precision: Precision, bar: tqdm) -> None:
        number = -1
        for number, batch in enumerate(self.layers.data):
            if number < self._in_pass:
                self._compare(batch, number)
                continue
            if self.budget is not None and not self.budget.begins_batch():
                return
            self._add(batch, bar)
            self._in_pass += 1
            # Looked at after 1, 2, 4, ... batches: a look costs about as much as the sums.
            # In several processes, each of them has had a batch by then.
            turns, rest = divmod(self.n_batches, self.world.size)
            look = turns and not rest and not turns & (turns - 1) and not self.n_passes
            self.stopped_early = bool(look) and precision.reached(self.runs.values())
            if self.stopped_early:  # before a save: a run that is resumed has to look again
                return
            if self.checkpoint is not None and self.checkpoint.due:
                self.checkpoint.save(self.state())
        added = len(self._fingerprints) if self.n_passes else self._in_pass
        if self.checkpoint is not None and number + 1 < added:
            raise InteractGraphError(
                f"the checkpoint belongs to another run: it has added {added} batches, and "
                f"the data has {number + 1} now; use another folder"
            )

    def _add(self, batch: Any, bar: tqdm) -> None:
        """Adds one batch, where it belongs to this process."""
        keys = SampleKeys(self.options)
        if self.checkpoint is not None:
            if len(self._fingerprints) <= self._in_pass:
                self._fingerprints.append(self._fingerprint(batch))
            elif self.n_passes:
                self._compare(batch, self._in_pass)
        if self.budget is not None and self.world.takes(self._in_pass):
            self.budget.n_begun += 1
        if not self.world.takes(self._in_pass):  # the same ones in every pass
            self._offset += self._count(batch, keys)
            self.n_batches += 1
            return
        whole, cut = self.layers.runner.convert(batch), self.layers.cut
        n_samples = cut.n_samples(whole)
        all_keys = None if n_samples is None else keys.of(whole, n_samples, self._offset)
        done = 0
        for piece in cut.pieces(whole, self._max_samples):
            encoded = self.layers.encode(piece, self.n_batches)
            if self.checkpoint is not None and self._last_batch != self._in_pass:
                self._last_batch = self._in_pass
                self._last_activations = _first_samples(encoded.activations)
            if not done and encoded.n_samples > 1 and self._looks_again:
                self.independent = self._check(piece, encoded) or self.independent
            self.ranges.add(encoded)
            if not self.n_passes:
                self.examples.add(encoded, self._offset)
            self._padded = self._padded or _is_padded(piece)
            problems = self.layers.problems(encoded)
            if n_samples is None:  # then the piece is the batch
                all_keys = keys.of(piece, encoded.n_samples, self._offset)
            piece_keys = all_keys and all_keys[done : done + encoded.n_samples]
            done += encoded.n_samples
            for pair, run in self.runs.items():
                bar.set_postfix_str(" -> ".join(pair), refresh=False)
                began = self.budget.elapsed if self.budget is not None else 0.0
                run.add(problems[pair], piece_keys, self._tick(bar))
                if self.budget is not None and pair not in self.budget.pairs:
                    self.budget.others += self.budget.elapsed - began
            if self.budget is not None:
                self.budget.n_read += encoded.n_samples
            self.n_samples += encoded.n_samples
            self._offset += encoded.n_samples
        self.n_batches += 1

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
        return min(run.max_samples for run in self.runs.values())

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
        """What the user should know of the time budget."""
        if self.budget is not None and self.budget.ended:
            yield ended_by_time(self.budget.seconds, self.n_samples, self.n_batches)

    def _gather(self) -> None:
        """Adds what all processes have found."""
        if self.budget is not None:
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

    # --- progress --------------------------------------------------------------------------------

    def _tick(self, bar: tqdm) -> Tick:
        """What tells the bar of passes; within a time budget, of seconds."""
        budget = self.budget
        if budget is None:
            return lambda passes: self._told(bar, passes)
        return lambda passes: bar.update(min(budget.elapsed, budget.seconds) - bar.n)

    def _told(self, bar: tqdm, passes: float) -> None:
        """Brings the bar forward; says once what a long exact run takes, and what else to do."""
        bar.update(passes)
        elapsed = time.monotonic() - self._started
        if self._foretold or elapsed < _LISTEN or not bar.n or bar.disable:
            return
        self._foretold = True
        drawn = any(run.is_drawn for run in self.runs.values())
        if bar.total and not drawn and (seconds := elapsed * bar.total / bar.n) > _LONG:
            bar.write(
                f"all source features on all samples take about {seconds / 60:.0f} min; "
                "time_budget= (--time-budget 2min) draws some of them instead, with errors",
                file=sys.stderr,
            )

    def _passes(self) -> float:
        return sum(run.plan.cost for run in self.runs.values())

    def _bar(self) -> tqdm:
        n_batches = self.layers.data.n_batches
        total = None if n_batches is None else self._passes() * n_batches / self.world.size
        if self.budget is not None:
            total, n_batches = self.budget.seconds, 1
        return tqdm(
            desc="interactions",
            total=total,
            disable=not self.layers.progress,
            smoothing=0.05,
            bar_format=None
            if n_batches is None
            else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )

    # --- checkpoints -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the loop is, for a checkpoint between two batches."""
        return {
            "baselines": dict(self.layers.baselines),
            "maps": {layer: list(each.state()) for layer, each in self.layers.maps.items()},
            "derivatives": self.derivatives,
            "budget": next(iter(self.runs.values())).sums.memory.total,
            "activations": _first_samples(self.layers.activations),
            "last": [self._last_batch, self._last_activations],
            "added": self._fingerprints,
            "ranges": self.ranges.state(),
            "examples": self.examples.state(),
            "counts": [self.n_samples, self.n_batches, self.n_passes, self._in_pass, self._offset],
            "padded": self._padded,
            "runs": [run.state() for run in self.runs.values()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` gave.

        Raises:
            InteractGraphError: the model gives other activations for the first samples.
        """
        self._compare_activations(
            state["activations"], self.layers.activations, "for the first samples"
        )
        for layer, (_, tensors) in state["maps"].items():
            found = self.layers.maps[layer].state()[1]
            if not all(_is_same(found[name], tensor, "maps") for name, tensor in tensors.items()):
                raise InteractGraphError(
                    f"the checkpoint belongs to another run: the features of layer {layer!r} are "
                    "others now, so the data that they are fitted to, or the model, have changed; "
                    "use another folder"
                )
        for pair, saved in state["derivatives"].items():
            if saved is not None and not _is_same(self.derivatives.get(pair), saved, "segment"):
                raise InteractGraphError(
                    f"the checkpoint belongs to another run: derivatives of {pair} are others now "
                    "although the activations are the same (detach, a custom operation), so the "
                    "model has changed; use another folder"
                )
        self._last_batch, self._last_activations = state["last"]
        self._fingerprints = list(state["added"])
        self.ranges.restore(state["ranges"], self.layers.device)
        self.examples.restore(state["examples"])
        (self.n_samples, self.n_batches, self.n_passes, self._in_pass, self._offset) = state[
            "counts"
        ]
        self._padded = state["padded"]
        for run, saved in zip(self.runs.values(), state["runs"], strict=True):
            run.restore(saved)

    def _fingerprint(self, batch: Any) -> str:
        """A string that changes when the batch does, or what groups and masks make of it."""
        parts, keys = {"batch": batch}, SampleKeys(self.options)
        if keys.any or self.layers.position_mask is not None:
            converted, n_samples = (
                self.layers.runner.convert(batch),
                self.layers.cut.n_samples(batch),
            )
            if n_samples is not None:
                parts["keys"] = repr(keys.of(converted, n_samples, 0))
            parts["mask"] = self.layers.mask(converted)
        return fingerprint(parts)

    def _compare(self, batch: Any, number: int) -> None:
        """Compares a batch that was added before the run was resumed.

        Raises:
            InteractGraphError: it is another one.
        """
        if self.checkpoint is None:
            return
        if self._fingerprint(batch) != self._fingerprints[number]:
            raise InteractGraphError(
                f"the checkpoint belongs to another run: batch {number}, which it has added, is "
                "another one now (its samples, their order or number, groups or position_mask); "
                "use another folder, or give the data that it was begun with"
            )
        if number == self._last_batch:
            limit = self._max_samples
            piece = next(iter(self.layers.cut.pieces(self.layers.runner.convert(batch), limit)))
            activations = self.layers.encode(piece, number).activations
            self._compare_activations(self._last_activations, activations, f"for batch {number}")

    def _compare_activations(
        self, saved: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str
    ) -> None:
        """Stops where the model gives other activations than before.

        Raises:
            InteractGraphError: it does.
        """
        for layer, expected in saved.items():
            now = found[layer][:_COMPARED].cpu()
            share = max(tolerance("products", now.dtype), 4 * torch.finfo(now.dtype).eps)
            if now.shape != expected.shape or not is_close(now, expected.cpu(), share):
                raise InteractGraphError(
                    f"the checkpoint belongs to another run: layer {layer!r} has other activations "
                    f"{where}, so the model, forward= or the batch has changed; use another folder"
                )


def first_derivatives(problems: Mapping[Pair, PairProblem]) -> dict[str, Tensor | None]:
    """One derivative of every pair on its first samples; None where torch has none."""
    found: dict[str, Tensor | None] = {}
    for pair, problem in problems.items():
        name = " -> ".join(pair)
        try:
            found[name] = jvps(problem.segment, problem.z, problem.z[None], vmapped=False)[0]
        except Exception:  # such as a layer without forward mode, or a method that needs none
            found[name] = None
    return found


def check_means(found: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Stops where baselines are others than those that a checkpoint has.

    Raises:
        InteractGraphError: they are.
    """
    for layer, baseline in saved.items():
        if isinstance(baseline, Tensor) and not _is_same(found[layer], baseline, "maps"):
            raise InteractGraphError(
                f"the checkpoint belongs to another run: the mean activation of layer {layer!r} is "
                "another one now, so data or model have changed; use another folder"
            )


def _is_padded(batch: Any) -> bool:
    mask = attention_mask(batch)
    return mask is not None and bool((mask == 0).any())


def _is_same(found: Tensor | None, saved: Tensor, level: str) -> bool:
    """Whether two computations of the same numbers agree."""
    if found is None or found.shape != saved.shape:
        return False
    found, saved = found.cpu(), saved.cpu()
    if not saved.is_floating_point():
        return torch.equal(found, saved)
    return not saved.numel() or is_close(found, saved, tolerance(level, saved.dtype))


def _first_samples(activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the first samples, to compare with when a run is resumed."""
    return {layer: activation[:_COMPARED].clone() for layer, activation in activations.items()}
