"""Passes over the data with everything that is known about the layers of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .attribution import (
    Entry,
    PairEngine,
    PairProblem,
    feature_entry,
    feature_segment,
    flatten_positions,
)
from .attribution.baseline import mean_activations, place
from .attribution.grouped import Key
from .checkpoint import Checkpoint
from .distributed import World
from .errors import InteractGraphError
from .features import FeatureMap
from .graph import Pair
from .model import (
    Batches,
    Cut,
    PositionMask,
    Runner,
    Site,
    check_finite,
    check_segment,
    layer_mask,
    look_first,
    probe,
    read_mask,
)

__all__ = ["Groups", "Passes"]

_MOST_PASSES = 64  # over the data, to reach target_error
_TELLING_PASSES = 16  # after which the error that draws do not explain is known well enough
_STRONGEST = 100  # edges of each pair that target_error is about
_LOST = 1e-3  # share of an activation that features may leave out without a note
_RANGED = 512  # samples at a time in which values are looked at

Groups = str | int | Sequence[Any] | Tensor | Callable[[Any], Any]


@dataclass(eq=False)
class Passes:
    """Passes over the data with everything that is known about the layers."""

    runner: Runner
    data: Batches
    sites: dict[str, Site]
    pairs: list[Pair]
    maps: dict[str, FeatureMap]
    baselines: dict[str, str | Tensor]
    position_mask: PositionMask | None
    groups: Groups | None
    n_folds: int
    world: World
    progress: bool
    feature_dims: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)
    _starts: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _lossy: set[str] = field(default_factory=set)
    _apart: bool = False
    n_passes: int = 0
    _in_pass: int = 0  # batches of this pass so far
    _offset: int = 0  # samples of this pass so far, in all processes
    checkpoint: Checkpoint | None = None
    n_samples: int = 0
    n_batches: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    # --- before the run --------------------------------------------------------------------------

    def look(self) -> Any:
        """Learns shapes from the first batch and checks what can be checked on it.

        Returns:
            A few samples of it to plan with; the whole batch where it cannot be cut.
        """
        self.runner, batch, self.cut = look_first(self.runner, self.data, list(self.sites.values()))
        self.runner, found, axes = probe(self.runner, batch, list(self.sites.values()), self.pairs)
        self._check_segments(batch, found)
        for name, activation in found.items():
            guess = axes[name].axis
            feature_map = self.maps[name].to(activation.device, activation.dtype)
            self.maps[name] = feature_map.bind(name, activation.shape, guess)
            asked = getattr(self.maps[name], "feature_dim", None)
            self.feature_dims[name] = asked if isinstance(asked, int) else guess
            self.sizes[name] = self.maps[name].at(activation).encode(activation).shape[-1]
            self.device, self.dtype = activation.device, activation.dtype
            self._look_for_loss(name, activation)
            if not axes[name].sure and getattr(feature_map, "feature_dim", None) is None:
                self.notes.append(
                    f"{name}: axis {guess} ({activation.shape[guess]} entries) of its activations "
                    f"{tuple(activation.shape[1:])} was taken for features, which nothing in the "
                    f"model confirms; if that is wrong, give features={{{name!r}: "
                    "Neurons(feature_dim=...)}"
                )
        return batch

    def _look_for_loss(self, layer: str, activation: Tensor) -> None:
        """Notes a source whose features do not hold all of the activation."""
        if layer not in self.baselines:
            return
        feature_map = self.maps[layer].at(activation)
        missing = feature_map.decode(feature_map.encode(activation)) - activation
        size = torch.linalg.vector_norm(activation.double())
        lost = float(torch.linalg.vector_norm(missing.double()) / size) if size else 0.0
        if lost > max(1e-6, 100 * torch.finfo(activation.dtype).eps):
            self._lossy.add(layer)
        if lost > _LOST:
            self.notes.append(
                f"{layer}: its features leave out {lost:.2g} of the activation (root mean square); "
                "strengths and completeness are those of the model run on what they hold"
            )

    def _check_segments(self, batch: Any, found: dict[str, Tensor]) -> None:
        for source, target in self.pairs:
            check_segment(self.runner, batch, self.sites[source], self.sites[target], found)
        # A single sample cannot show whether samples influence each other.
        self._apart = min(len(activation) for activation in found.values()) > 1

    def find_means(self) -> None:
        """Replaces "mean" by the mean activation, in one pass over the data."""
        wanted = [layer for layer, entry in self.baselines.items() if isinstance(entry, str)
                  and entry == "mean"]  # fmt: skip
        if not wanted:
            return
        sites = [self.sites[layer] for layer in wanted]

        def batches() -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
            for batch in self.bar(self.data, "mean activations"):
                batch = self.runner.convert(batch)
                found = self.runner.activations(batch, sites)
                mask = self.mask_of(batch)
                yield {
                    layer: (value, layer_mask(mask, self._positions(layer, value), layer))
                    for layer, value in found.items()
                }

        means = mean_activations(batches, wanted, self.maps, self.feature_dims)
        self.baselines = {**self.baselines, **means}

    def function(self, pair: Pair) -> Callable[[Any], Callable[[Tensor], Tensor]]:
        """Batch -> the pair's segment in feature coordinates on that batch."""
        source, target = pair

        def make(batch: Any) -> Callable[[Tensor], Tensor]:
            shape = self._shapes[source]

            @cache  # made when it is called: maps may look at the samples
            def segment() -> Callable[[Tensor], Tensor]:
                segment = self.runner.segment(batch, self.sites[source], self.sites[target])
                return feature_segment(segment, *self._maps_at(batch, pair), shape)

            return lambda z: segment()(z)

        return make

    def entry(self, pair: Pair) -> Callable[[Any], Entry | None]:
        """Batch -> the pair's segment entered at the source activation; None where that is wide."""
        source, target = pair

        def make(batch: Any) -> Entry | None:
            segment = self.runner.segment(batch, self.sites[source], self.sites[target])
            maps = self._maps_at(batch, pair)
            return feature_entry(segment, *maps, self._shapes[source])

        return make

    def _maps_at(self, batch: Any, pair: Pair) -> tuple[FeatureMap, FeatureMap]:
        """The pair's maps around the samples of a batch, for maps that depend on the sample.

        From the batch and not from activations at hand, so that a traced segment holds for others.
        """
        source, target = (self.maps[layer] for layer in pair)
        if source.depends_on_sample or target.depends_on_sample:
            found = self.runner.activations(batch, [self.sites[layer] for layer in pair])
            return source.at(found[pair[0]]), target.at(found[pair[1]])
        return source, target

    # --- the run ---------------------------------------------------------------------------------

    def accumulate(
        self, engines: dict[Pair, PairEngine], target_error: float | None = None
    ) -> None:
        """Adds every batch to every pair, in one pass or until the error is below the target."""
        limit = min(engine.max_samples() for engine in engines.values())
        drawn = any(engine.is_drawn for engine in engines.values())
        reached = False
        with self._bar_of_passes(engines) as bar:
            bar.update(self.n_batches * self._passes(engines) / self.world.size)
            while True:
                for number, batch in enumerate(self.data):
                    if number < self._in_pass:
                        continue
                    self._add(engines, batch, limit, bar)
                    self._in_pass += 1
                    # Looked at after 1, 2, 4, ... batches: a look costs about as much as the sums.
                    # In several processes, each of them has had a batch by then.
                    turns, rest = divmod(self.n_batches, self.world.size)
                    look = turns and not rest and not turns & (turns - 1) and not self.n_passes
                    reached = bool(look) and self._precise(engines, target_error)
                    if reached:  # before a save: a run that is resumed has to look again
                        break
                    if self.checkpoint is not None and self.checkpoint.due:
                        self.checkpoint.save(self.state(engines))
                self.n_passes += 1
                if reached or target_error is None or not drawn:
                    break
                for engine in engines.values():
                    engine.sums.end_pass(self.n_passes)
                if self.n_passes == _MOST_PASSES or self._precise(engines, target_error):
                    break
                left = max(self._error(engine, of_draws=False) for engine in engines.values())
                if self.n_passes >= _TELLING_PASSES and left >= target_error:
                    break  # the samples themselves vary too much, whatever is drawn
                self._in_pass = self._offset = self.n_samples = 0
            for engine in engines.values():
                engine.finish()
        if target_error is not None:
            self._note_precision(engines, target_error, early=reached)

    def _precise(self, engines: dict[Pair, PairEngine], target_error: float | None) -> bool:
        """Whether each of the strongest edges of every pair has a small relative error."""
        return target_error is not None and all(
            self._error(engine) < target_error for engine in engines.values()
        )

    def _error(self, engine: PairEngine, *, of_draws: bool = True) -> float:
        """The largest relative standard error among the strongest edges, over all processes."""
        engine.finish()
        sums, name = self.world.total(engine), engine.strengths[0]
        strength = sums.strength(name).abs().flatten()
        error = sums.standard_error(name, of_draws=of_draws)
        assert error is not None
        top = strength.topk(min(_STRONGEST, len(strength))).indices
        top = top[strength[top] > 0]
        worst = (error.flatten()[top] / strength[top]).max() if len(top) else torch.tensor(0.0)
        # Decisions depend on it: one number for all.
        return self.world.gather(math.inf if worst.isnan() else float(worst))[0]

    def _note_precision(
        self, engines: dict[Pair, PairEngine], target_error: float, *, early: bool
    ) -> None:
        for pair, engine in engines.items():
            found = self._error(engine)
            text = f"{' -> '.join(pair)}: standard error of the strongest edges at most {found:.2g}"
            if found >= target_error:
                engine.notes.append(f"{text}, above target_error={target_error:g}")
            elif early:
                engine.notes.append(f"{text} after {self.n_batches} batches, the rest was not read")

    def _add(self, engines: dict[Pair, PairEngine], batch: Any, limit: int, bar: tqdm) -> None:
        """Adds one batch, where it belongs to this process."""
        if not self.world.takes(self._in_pass):  # the same ones in every pass
            self._offset += self._count(batch)
            self.n_batches += 1
            return
        for piece in self.cut.pieces(self.runner.convert(batch), limit):
            problems = self.problems(piece, self.n_batches)
            n_samples = next(iter(problems.values())).n_samples
            keys = self._keys(piece, n_samples)
            for pair, engine in engines.items():
                bar.set_postfix_str(" -> ".join(pair), refresh=False)
                engine.add(problems[pair], piece, bar.update, keys)
            self.n_samples += n_samples
            self._offset += n_samples
        self.n_batches += 1

    def add_up(self, engines: dict[Pair, PairEngine]) -> None:
        """Adds what all processes have found."""
        self.world.add_up(engines.values())
        self.n_samples = sum(self.world.gather(self.n_samples))
        for layer, found in _by_layer(self.world.gather(self.ranges)).items():
            self.ranges[layer] = (
                torch.stack([low.to(self.device) for low, _ in found]).amin(0),
                torch.stack([high.to(self.device) for _, high in found]).amax(0),
            )

    def _keys(self, batch: Any, n_samples: int) -> list[Key] | None:
        """Group and fold of each sample of a batch."""
        if self.groups is None and not self.n_folds:
            return None
        names = [None] * n_samples if self.groups is None else self._names(batch, n_samples)
        folds = [
            (self._offset + n) % self.n_folds if self.n_folds else None for n in range(n_samples)
        ]
        return list(zip(names, folds, strict=True))

    def _names(self, batch: Any, n_samples: int) -> list[str]:
        """The group of each sample of a batch."""
        found: Any
        if callable(self.groups):
            found, where = self.groups(batch), "groups gives"
        elif isinstance(self.groups, (str, int)):
            kind = Mapping if isinstance(self.groups, str) else (tuple, list)
            try:
                found = batch[self.groups] if isinstance(batch, kind) else None  # type: ignore[index]
            except (KeyError, IndexError):
                found = None
            where = f"groups={self.groups!r} of a batch holds"
            if found is None:
                raise InteractGraphError(
                    f"groups={self.groups!r} is in no {type(batch).__name__} batch; give a key of "
                    "dict batches, a place in tuples, a function of the batch, or one name for "
                    "each sample"
                )
        else:
            assert self.groups is not None
            found = self.groups[self._offset : self._offset + n_samples]
            where = f"groups names {len(self.groups)} samples; from {self._offset} on it has"
        values = found.tolist() if hasattr(found, "tolist") else list(found)
        if len(values) != n_samples or any(isinstance(value, (list, tuple)) for value in values):
            raise InteractGraphError(
                f"{where} {len(values)} entries for {n_samples} samples; one name or number for "
                "each sample is needed"
            )
        return [str(value) for value in values]

    def state(self, engines: dict[Pair, PairEngine]) -> dict[str, Any]:
        """Where the run is, for a checkpoint between two batches."""
        return {
            "baselines": self.baselines,
            "budget": next(iter(engines.values())).memory_budget,
            "ranges": {layer: list(ends) for layer, ends in self.ranges.items()},
            "n_samples": self.n_samples,
            "n_batches": self.n_batches,
            "place": [self.n_passes, self._in_pass, self._offset],
            "engines": [engine.state() for engine in engines.values()],
        }

    def restore(self, state: dict[str, Any], engines: dict[Pair, PairEngine]) -> None:
        """Goes back to what `state` gave."""
        self.ranges = {
            layer: (low.to(self.device), high.to(self.device))
            for layer, (low, high) in state["ranges"].items()
        }
        self.n_samples, self.n_batches = state["n_samples"], state["n_batches"]
        self.n_passes, self._in_pass, self._offset = state["place"]
        for engine, saved in zip(engines.values(), state["engines"], strict=True):
            engine.restore(saved)

    def _count(self, batch: Any) -> int:
        """Samples of a batch that another process runs."""
        n = self.cut.n_samples(batch)
        if n is None and (self.groups is not None or self.n_folds):
            raise InteractGraphError(
                "groups and folds in several processes need batches whose samples can be counted: "
                "tensors with the samples on their first axis"
            )
        return n or 0

    def problems(self, batch: Any, number: int) -> dict[Pair, PairProblem]:
        """The activations of a batch as one problem for each pair."""
        found = self.runner.activations(batch, list(self.sites.values()), number=number)
        check_finite(found, number)
        if not self._apart and min(len(activation) for activation in found.values()) > 1:
            self._check_segments(batch, found)
        mask = self.mask_of(batch)
        z: dict[str, Tensor] = {}
        here: dict[str, FeatureMap] = {}
        self._shapes = {}
        for layer, activation in found.items():
            here[layer] = self.maps[layer].at(activation)
            encoded = here[layer].encode(activation)
            if encoded.shape[-1] != self.sizes[layer]:
                raise InteractGraphError(
                    f"layer {layer!r} has {encoded.shape[-1]} features in batch {number} and had "
                    f"{self.sizes[layer]} in the first one; features must be the same in all "
                    "batches. Pad the data to one length, or put the varying axis elsewhere "
                    "with feature_dim"
                )
            self._shapes[layer] = tuple(encoded.shape[1:-1])
            z[layer] = flatten_positions(encoded)
        steps = {
            layer: self._step(layer, here[layer], found[layer], z[layer], mask)
            for layer in self.baselines
        }
        problems = {}
        for source, target in self.pairs:
            function = self.function((source, target))(batch)
            problems[source, target] = PairProblem(
                function=function,
                z=z[source],
                dz=steps[source],
                y=function(z[source]) if source in self._lossy else z[target],
                mask=layer_mask(mask, z[target].shape[1], target),
                fixed_baseline=mask is None and not self.maps[source].depends_on_sample,
            )
        return problems

    def _step(
        self,
        layer: str,
        feature_map: FeatureMap,
        activation: Tensor,
        z: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """The step z - z0, `[b, s, j]`, zero at positions that do not count."""
        start = place(self.baselines[layer], activation, self.feature_dims[layer], layer)
        z0 = flatten_positions(feature_map.encode(start))
        self._widen(layer, z, z0)
        step = z - z0 if z0.any() else z
        here = layer_mask(mask, z.shape[1], layer)
        return step if here is None else step * here[..., None]

    def _widen(self, layer: str, z: Tensor, z0: Tensor) -> None:
        """Widens the range of values seen in the data, until it holds the baseline."""
        self._starts[layer] = z0[0]
        for rows in z.split(_RANGED):
            if self._beyond(layer) == 0:
                return
            low, high = rows.amin((0, 1)), rows.amax((0, 1))  # much faster than aminmax
            if layer in self.ranges:
                low = torch.minimum(low, self.ranges[layer][0])
                high = torch.maximum(high, self.ranges[layer][1])
            self.ranges[layer] = (low, high)

    def _beyond(self, layer: str) -> float:
        """Share of the features whose baseline lies outside the values seen in the data."""
        if layer not in self.ranges:
            return 1.0
        (low, high), z0 = self.ranges[layer], self._starts[layer]
        return float(((z0 < low) | (z0 > high)).any(0).double().mean())

    def outside(self) -> dict[str, float]:
        """Layer -> share of its features whose baseline lies outside the values in the data."""
        return {layer: round(self._beyond(layer), 6) for layer in self.ranges}

    # --- masks and bars --------------------------------------------------------------------------

    def mask_of(self, batch: Any) -> Tensor | None:
        """Which positions count, bool `[b, p]`; None: all."""
        return read_mask(self.position_mask, batch, self.device)

    def _positions(self, layer: str, activation: Tensor) -> int:
        return int(self.maps[layer].encode(activation[:1]).shape[1:-1].numel())

    @staticmethod
    def _passes(engines: dict[Pair, PairEngine]) -> float:
        return sum(engine.plan.passes for engine in engines.values() if engine.plan)

    def _n_batches(self) -> int | None:
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def bar(self, batches: Iterable[Any], text: str) -> Iterable[Any]:
        """The batches, with a progress bar."""
        return tqdm(
            batches, desc=text, total=self._n_batches(), disable=not self.progress, leave=False
        )

    def _bar_of_passes(self, engines: dict[Pair, PairEngine]) -> tqdm:
        passes = self._passes(engines)
        n_batches = self._n_batches()
        return tqdm(
            desc="interactions",
            total=None if n_batches is None else passes * n_batches / self.world.size,
            disable=not self.progress,
            smoothing=0.05,
            bar_format=None
            if n_batches is None
            else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )


def _by_layer(
    tables: Sequence[dict[str, tuple[Tensor, Tensor]]],
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for table in tables:
        for layer, ends in table.items():
            found.setdefault(layer, []).append(ends)
    return found
