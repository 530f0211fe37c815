"""The layers of an analysis: what one look at the model and the first batch tells.

Attribution, fitting, validation and `top_samples` read activations, make segments and set up
problems here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import DataError, InputError, InteractGraphError
from ..features import FeatureMap, Neurons
from ..features.local_segment import LocalSegment
from ..model import (
    ATTENTION_MASK,
    RESULT,
    Batches,
    Cut,
    PositionMask,
    Runner,
    Site,
    attention_mask,
    check_data,
    check_finite,
    check_rows,
    check_segment,
    goes_with,
    layer_mask,
    look_first,
    probe,
    read_mask,
    resolve_sites,
    tells_padding,
    trimmed,
    without_first,
)
from ..notes import features_leave_out, guessed_axis, time_first
from .baseline import place
from .problem import PairProblem
from .segment import FeatureSegment, flatten_positions
from .skips import check_skips

__all__ = ["EncodedBatch", "Layers"]

Pair = tuple[str, str]
_PIECE = 512  # samples at a time, where maps are fitted
_LOST = 1e-3  # share of an activation that features may leave out without a note


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Activations and features of one batch.

    Attributes:
        number: of the batch.
        batch: the batch, converted.
        activations: layer -> activation, `[b, ...]`.
        maps: layer -> feature map around the samples.
        positions: layer -> shape of its positions.
        z: layer -> features, `[b, p, j]`.
        z0: layer that has a baseline -> features there, `[1 or b, p, j]`.
        mask: positions that count, bool `[b, p]`; None: all.
        result: of the model (see `RESULT`), where that was asked for.
    """

    number: int
    batch: Any
    activations: Mapping[str, Tensor]
    maps: Mapping[str, FeatureMap]
    positions: Mapping[str, tuple[int, ...]]
    z: Mapping[str, Tensor]
    z0: Mapping[str, Tensor]
    mask: Tensor | None
    result: Tensor | None = None

    @property
    def n_samples(self) -> int:
        """Samples in the batch."""
        return len(next(iter(self.z.values())))

    def mask_of(self, layer: str) -> Tensor | None:
        """The positions of a layer that count, bool `[b, p]`; None: all."""
        return layer_mask(self.mask, self.z[layer].shape[1], layer)

    def displacement(self, layer: str) -> Tensor:
        """The displacement z - z0, `[b, p, j]`, zero at positions that do not count."""
        z, z0, mask = self.z[layer], self.z0[layer], self.mask_of(layer)
        step = z - z0 if z0.any() else z
        return step if mask is None else step * mask[..., None]


@dataclass(frozen=True, eq=False)
class Layers:
    """Layers of a model on some data, with their feature maps and baselines.

    Attributes:
        runner: the model.
        data: the batches.
        sites: layer -> where it is in the model, in the order asked for.
        pairs: (source, target) layers.
        maps: layer -> bound feature map, in order of execution.
        neurons: layer -> bound `Neurons`, which knows the feature axis.
        baselines: layer -> "zero" (every feature), "mean" or an activation; sources need one.
        cut: how batches can be cut.
        sample: a few samples of the first batch, converted; all where it cannot be cut.
        activations: layer -> activation of the sample.
        position_mask: which positions count, see `read_mask`.
        skip_positions: how many of those that count are left out at the start of every sample.
        pooled: layers with one position where others have more.
        attention_mask: whether that of the batches is "used" as position mask without being asked
            for, where a batch has one, or "ignored" as it may not fit the layers; None: that of the
            first batch is none of padding, or another was given.
        sizes: layer -> number of features; of fitted maps.
        without_skip: whether targets are what is added to the source's activation.
        incomplete: source layers whose features do not hold all of the activation.
        notes: what the user should know.
        progress: whether to show progress bars.
    """

    runner: Runner
    data: Batches
    sites: Mapping[str, Site]
    pairs: Sequence[Pair]
    maps: Mapping[str, FeatureMap]
    neurons: Mapping[str, Neurons]
    baselines: Mapping[str, str | Tensor]
    cut: Cut
    sample: Any
    activations: Mapping[str, Tensor]
    position_mask: PositionMask | None = None
    skip_positions: int = 0
    pooled: frozenset[str] = frozenset()
    attention_mask: Literal["used", "ignored"] | None = None
    without_skip: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    incomplete: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    progress: bool = False

    # --- the look --------------------------------------------------------------------------------

    @staticmethod
    def look(
        runner: Runner,
        data: Iterable[Any],
        sites: Iterable[Site],
        pairs: Sequence[Pair],
        maps: Mapping[str, FeatureMap],
        *,
        baselines: Mapping[str, str | Tensor] | None = None,
        position_mask: PositionMask | None = None,
        skip_positions: int = 0,
        without_skip: bool = False,
        progress: bool = False,
    ) -> Layers:
        """Runs the model on the first batch: order of execution, shapes, feature axes.

        Args:
            runner: the model, prepared.
            data: batches, iterable more than once.
            sites: of all layers.
            pairs: (source, target) layers.
            maps: layer -> feature map.
            baselines: layer -> "zero" (every feature), "mean" or an activation.
            position_mask: which positions count, see `interactgraph.model.read_mask`.
            skip_positions: how many are left out at the start of every sample.
            without_skip: whether the source's activation is taken off the target's.
            progress: whether to show progress bars.

        Raises:
            InteractGraphError: a layer, a map or the data cannot be used.
        """
        data = check_data(data)
        sites = [_with_read(runner, site, maps[site.name]) for site in sites]
        runner, sample, cut = look_first(runner, data, sites)
        if position_mask in (None, ATTENTION_MASK) and tells_padding(sample):
            runner = runner.trimming(sample, sites)
            sample = trimmed(sample, runner.trims)
        runner, activations, axes, late = probe(runner, sample, sites, pairs)
        check_rows(activations, pairs)
        if without_skip:
            check_skips(activations, pairs, maps)
        bound: dict[str, FeatureMap] = {}
        neurons, notes = {}, [] if late is None else [time_first(late)]
        for layer, activation in activations.items():
            axis, asked = axes[layer].axis, getattr(maps[layer], "feature_dim", None)
            bound[layer] = maps[layer].to(activation.device, activation.dtype)
            bound[layer] = bound[layer].bind(layer, activation.shape, axis)
            dim = getattr(bound[layer], "feature_dim", None)
            dim = dim if isinstance(dim, int) else axis
            neurons[layer] = Neurons(dim).bind(layer, activation.shape, axis)
            if not axes[layer].sure and asked is None:
                notes.append(guessed_axis(layer, axis, activation.shape))
        counts = {
            layer: flatten_positions(neurons[layer].encode(activation)).shape[1]
            for layer, activation in activations.items()
        }
        most = max(counts.values())
        if skip_positions >= most:
            raise InputError(
                f"skip_positions={skip_positions} leaves nothing: the layers have {most} "
                "positions in the first batch"
            )
        pooled = frozenset(layer for layer, count in counts.items() if count < most and count == 1)
        unasked: Literal["used", "ignored"] | None = "used" if position_mask is None else None
        if position_mask is None and (found := attention_mask(sample)) is not None:
            unasked = None
            if tells_padding(sample) and bool(found.any()):
                unasked = "used" if goes_with(sample, found, counts.values()) else "ignored"
        return Layers(
            runner, data, {site.name: site for site in sites}, pairs, bound, neurons,
            baselines or {}, cut, sample, activations, position_mask, skip_positions, pooled,
            unasked, without_skip, notes=tuple(notes), progress=progress,
        )  # fmt: skip

    def changed(
        self,
        *,
        maps: Mapping[str, FeatureMap] | None = None,
        pairs: Sequence[Pair] | None = None,
    ) -> Layers:
        """The same layers with some maps replaced, or other pairs."""
        return replace(
            self,
            maps={**self.maps, **(maps or {})},
            pairs=self.pairs if pairs is None else pairs,
        )

    def fitted(self) -> Layers:
        """The layers with every map fitted, the last layer first, and what that tells.

        Raises:
            InteractGraphError: a map does not fit its layer, or the data cannot be used.
        """
        layers = self
        for layer in reversed(list(self.maps)):
            if not layers.maps[layer].is_fitted:
                fitted = layers.maps[layer].fit(layer, layers).to(dtype=self.dtype)
            else:
                fitted = layers.maps[layer].look(layer, layers)
            layers = layers.changed(maps={layer: fitted})
        sizes, incomplete, notes = {}, [], list(self.notes)
        for layer, activation in self.activations.items():
            notes += layers.maps[layer].doubts(layer)
            feature_map = layers.maps[layer].at(activation)
            features = feature_map.encode(activation)
            sizes[layer] = features.shape[-1]
            if layer not in self.baselines:
                continue
            missing = feature_map.decode(features) - activation
            size = torch.linalg.vector_norm(activation.double())
            lost = float(torch.linalg.vector_norm(missing.double()) / size) if size else 0.0
            if lost > max(1e-6, 100 * torch.finfo(activation.dtype).eps):
                incomplete.append(layer)
            if lost > _LOST:
                notes.append(features_leave_out(layer, lost))
        return replace(
            layers, sizes=sizes, incomplete=frozenset(incomplete), notes=tuple(notes)
        )  # fmt: skip

    def with_means(self) -> Layers:
        """The layers with every "mean" baseline replaced by the mean activation, in one pass."""
        wanted = [
            layer
            for layer, entry in self.baselines.items()
            if isinstance(entry, str) and entry == "mean"
        ]
        return self.with_baselines(self._means(wanted)) if wanted else self

    def with_baselines(self, baselines: Mapping[str, str | Tensor]) -> Layers:
        """The layers with other baselines."""
        return replace(self, baselines={**self.baselines, **baselines})

    def _means(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """The mean activation over all samples and positions that count.

        A vector over the feature axis; of maps that have none, one sample's activation.
        """
        sums: dict[str, Tensor] = {}
        counts = dict.fromkeys(layers, 0)
        for number, batch in enumerate(self.bar("mean activations")):
            batch = self.runner.convert(batch)
            activations = self.runner.activations(batch, [self.sites[layer] for layer in layers])
            check_finite(activations, number)
            for layer, activation in activations.items():
                if getattr(self.maps[layer], "feature_dim", None) == "all":
                    part, count = activation.sum(0, dtype=torch.float64), len(activation)
                else:
                    rows = self._rows(batch, layer, activation)
                    part, count = rows.sum(0, dtype=torch.float64), len(rows)
                sums[layer] = sums[layer] + part if layer in sums else part
                counts[layer] += count
        return {layer: sums[layer] / max(counts[layer], 1) for layer in layers}

    def check_segments(self, encoded: EncodedBatch | None = None) -> bool:
        """Checks that segments repeat the forward pass and treat samples independently.

        Args:
            encoded: a batch; None: the first samples.

        Returns:
            Whether there were samples enough to tell; a single one cannot influence another.

        Raises:
            InteractGraphError: they do not.
        """
        batch, activations = self.sample, self.activations
        if encoded is not None:
            batch, activations = encoded.batch, encoded.activations
        for source, target in self.pairs:
            check_segment(
                self.runner, batch, self.sites[source], self.sites[target], dict(activations)
            )
        return min(len(activation) for activation in activations.values()) > 1

    def frozen(self) -> dict[str, dict[str, int]]:
        """How much is held fixed in each pair, "source -> target" -> name -> number.

        Raises:
            InteractGraphError: nothing, of one of the names.
        """
        freeze = self.runner.freeze
        if not freeze:
            return {}
        counts = {
            f"{source} -> {target}": self.runner.segment(
                self.sample, self.sites[source], self.sites[target]
            ).frozen().counts
            for source, target in self.pairs
        }  # fmt: skip
        for name in freeze:
            if not any(each[name] for each in counts.values()):
                what = {"attention": "softmax of attention", "layernorm": "scale of normalisations"}
                raise InteractGraphError(
                    f"freeze={list(freeze)}: no {what[name]} is computed between the layers of any "
                    f"pair; leave {name!r} out"
                )
        return counts

    @property
    def device(self) -> torch.device:
        """Where activations are."""
        return next(iter(self.activations.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next(iter(self.activations.values())).dtype

    # --- reading batches -------------------------------------------------------------------------

    def encode(self, batch: Any, number: int = 0, *, with_result: bool = False) -> EncodedBatch:
        """Runs the model on a batch and reads its layers in feature coordinates.

        Args:
            batch: converted.
            number: of the batch, for messages.
            with_result: run the model to its end and keep what it gives.

        Raises:
            InteractGraphError: a layer is not executed, not finite, or has other features than in
                the first batch.
        """
        sites = [*self.sites.values(), *([RESULT] if with_result else [])]
        activations = self.runner.activations(batch, sites, whole=with_result, number=number)
        result = activations.pop(RESULT.name, None)
        check_finite(activations, number)
        maps = {layer: self.maps[layer].at(activation) for layer, activation in activations.items()}
        positions, z, z0 = {}, {}, {}
        for layer, activation in activations.items():
            encoded = maps[layer].encode(activation)
            if encoded.shape[-1] != self.sizes.get(layer, encoded.shape[-1]):
                raise InteractGraphError(
                    f"layer {layer!r} has {encoded.shape[-1]} features in batch {number} and had "
                    f"{self.sizes[layer]} in the first one; features must be the same in all "
                    "batches. Pad the data to one length, or put the varying axis elsewhere "
                    "with feature_dim"
                )
            positions[layer] = tuple(encoded.shape[1:-1])
            z[layer] = flatten_positions(encoded)
            if layer in self.baselines:
                z0[layer] = flatten_positions(self._start(layer, maps[layer], activation, encoded))
        longest = max(z.values(), key=lambda features: features.shape[1])
        mask = self.mask(batch, longest.shape[:2])
        return EncodedBatch(number, batch, activations, maps, positions, z, z0, mask, result)

    def problems(self, encoded: EncodedBatch) -> dict[Pair, PairProblem]:
        """The batch as one problem for each pair."""
        displacements = {layer: encoded.displacement(layer) for layer in encoded.z0}
        problems = {}
        for source, target in self.pairs:
            segment = self.segment((source, target), encoded)
            z = encoded.z[source]
            segment_tells = self.without_skip or source in self.incomplete
            problems[source, target] = PairProblem(
                segment=segment,
                z=z,
                displacement=displacements[source],
                y=segment(z) if segment_tells else encoded.z[target],
                mask=encoded.mask_of(target),
                source_mask=encoded.mask_of(source),
                fixed_baseline=encoded.mask is None and not self.maps[source].depends_on_sample,
                cut=self.cut,
            )
        return problems

    def segment(
        self, pair: Pair, encoded: EncodedBatch, source_map: FeatureMap | None = None
    ) -> FeatureSegment:
        """The segment of a pair on a batch, in feature coordinates.

        Args:
            pair: source and target layer.
            encoded: the batch.
            source_map: another map of the source layer than its own, with the same positions.
        """
        source, target = pair
        return FeatureSegment(
            self.runner,
            self.sites[source],
            self.sites[target],
            self.maps[source] if source_map is None else source_map,
            self.maps[target],
            encoded.batch,
            encoded.positions[source],
            self.without_skip,
        )

    def run_on(self, layer: str, encoded: EncodedBatch, features: Tensor) -> Tensor:
        """The model's result (see `RESULT`) when a layer has these features, `[b, p, j]`."""
        shaped = features.reshape(len(features), *encoded.positions[layer], features.shape[-1])
        activation = encoded.maps[layer].decode(shaped)
        if not self.runner.goes_on_after(self.sites[layer]):
            return activation
        return self.runner.segment(encoded.batch, self.sites[layer], RESULT)(activation)

    def with_features(
        self, layer: str, activation: Tensor, change: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """An activation with its features changed; what the map leaves out stays as it is.

        Args:
            layer: whose activation it is; it has a baseline.
            activation: `[b, ...]`.
            change: features and features at the baseline -> new features, `[b, *positions, j]`.
        """
        feature_map = self.maps[layer].at(activation)
        z = feature_map.encode(activation)
        new = change(z, self._start(layer, feature_map, activation, z))
        return activation + feature_map.decode(new) - feature_map.decode(z)

    def mask(self, batch: Any, shape: Sequence[int]) -> Tensor | None:
        """Which positions of a batch count, bool `[b, p]`; None: all.

        Args:
            batch: converted.
            shape: numbers of samples and of positions, where the batch has no mask.
        """
        mask = self.given_mask(batch)
        if not self.skip_positions:
            return mask
        if mask is None:
            mask = torch.ones(*shape, dtype=torch.bool, device=self.device)
        return without_first(mask, self.skip_positions)

    def given_mask(self, batch: Any) -> Tensor | None:
        """The mask that the batch or `position_mask` gives, bool `[b, p]`; None: neither does."""
        if self.attention_mask == "used":
            mask = attention_mask(batch)
            if mask is not None and not tells_padding(batch):
                raise DataError(
                    "a batch has an attention_mask that is none of padding (ones and zeros, one "
                    "row for each sample), unlike those before it; give position_mask"
                )
            return None if mask is None else mask.to(self.device) != 0
        return read_mask(self.position_mask, batch, self.device)

    def bar(self, text: str) -> Iterable[Any]:
        """One pass over the batches, with a progress bar."""
        return tqdm(
            self.data, desc=text, total=self.data.n_batches, disable=not self.progress, leave=False
        )

    def batches(self, text: str, most: int = _PIECE) -> Iterator[Any]:
        """One pass over the data, converted, in pieces of so many samples, with a progress bar."""
        for batch in self.bar(text):
            yield from self.cut.pieces(self.runner.convert(batch), most)

    # --- fitting, see `FittingData` ---------------------------------------------------------------

    def targets(self, layer: str) -> list[str]:
        """Layers that the layer is a source of."""
        return [target for source, target in self.pairs if source == layer]

    def count(self, layer: str, most: int) -> int:
        """Number of samples, counted no further than `most`."""
        n = 0
        for batch in self.batches("samples"):
            with torch.no_grad():
                n += len(self.runner.activations(batch, [self.sites[layer]])[layer])
            if n >= most:
                return most
        return n

    def first_rows(self, layer: str) -> Tensor:
        """Activations of the first samples at every position that counts, `[n, d]`."""
        return self._rows(self.sample, layer, self.activations[layer])

    def rows(self, layer: str, text: str) -> Iterator[Tensor]:
        """Activations at every sample and position that counts, `[n, d]`, in one pass."""
        for number, batch in enumerate(self.batches(text)):
            with torch.no_grad():
                activations = self.runner.activations(batch, [self.sites[layer]])
            check_finite(activations, number)
            yield self._rows(batch, layer, activations[layer])

    def segments(self, layer: str, text: str) -> Iterator[list[LocalSegment]]:
        """The segments from a layer to all its targets, batch by batch, in one pass.

        Targets are read in the feature maps that they have in `maps`.
        """
        for found in self.segments_of([(layer, target) for target in self.targets(layer)], text):
            yield list(found.values())

    def segments_of(
        self, pairs: Sequence[Pair], text: str, most: int = _PIECE
    ) -> Iterator[dict[Pair, LocalSegment]]:
        """The segments of some pairs, at most so many samples each, in one pass; see `segments`."""
        names = dict.fromkeys(layer for pair in pairs for layer in pair)
        sites = [self.sites[name] for name in names]
        for number, batch in enumerate(self.batches(text, most)):
            with torch.no_grad():
                activations = self.runner.activations(batch, sites)
            check_finite(activations, number)
            yield {pair: self._local(batch, *pair, activations) for pair in pairs}

    def _local(
        self, batch: Any, layer: str, target: str, activations: Mapping[str, Tensor]
    ) -> LocalSegment:
        neurons = self.neurons[layer]
        encoded = neurons.encode(activations[layer])
        point = flatten_positions(encoded)
        y = self.maps[target].at(activations[target]).encode(activations[target])
        n_positions = y.shape[1:-1].numel()
        segment = FeatureSegment(
            self.runner, self.sites[layer], self.sites[target], neurons, self.maps[target], batch,
            tuple(encoded.shape[1:-1]),
        )  # fmt: skip
        mask = None
        if not {layer, target} <= self.pooled:
            mask = self.mask(batch, (len(point), max(point.shape[1], n_positions)))
        return LocalSegment(
            segment, point, y.shape[-1], n_positions,
            layer_mask(mask, point.shape[1], layer), layer_mask(mask, n_positions, target),
        )  # fmt: skip

    def _rows(self, batch: Any, layer: str, activation: Tensor) -> Tensor:
        values = flatten_positions(self.neurons[layer].encode(activation))
        mask = None
        if layer not in self.pooled:
            mask = layer_mask(self.mask(batch, values.shape[:2]), values.shape[1], layer)
        return values.flatten(0, 1) if mask is None else values[mask]

    def _start(
        self, layer: str, feature_map: FeatureMap, activation: Tensor, features: Tensor
    ) -> Tensor:
        """Features at the baseline, `[1 or b, *positions, j]`, of a layer that has one.

        Args:
            layer: its name.
            feature_map: around the samples.
            activation: of the layer, `[b, ...]`.
            features: of the activation, `[b, *positions, j]`.
        """
        entry = self.baselines[layer]
        if not isinstance(entry, Tensor):
            return torch.zeros_like(features[:1])  # "zero"; means are tensors by now
        return feature_map.encode(place(entry, activation, self._feature_dim(layer), layer))

    def _feature_dim(self, layer: str) -> int:
        dim = self.neurons[layer].feature_dim
        assert isinstance(dim, int)
        return dim


def _with_read(runner: Runner, site: Site, feature_map: FeatureMap) -> Site:
    """The site with the other one that its features are computed from, where they need it."""
    other = feature_map.reads(site.name)
    return site if other is None else replace(site, reads=resolve_sites(runner.model, [other])[0])
