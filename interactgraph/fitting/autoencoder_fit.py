"""Sparse autoencoders of several layers at once, with few connections between their features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..calculus.derivatives import jvps, pull_back
from ..checks import number, whole
from ..errors import DataError, InputError
from ..features import Dictionary, SparseAutoencoder
from ..features.autoencoder_training import Reading, Training
from ..features.local_segment import LocalSegment
from ..layers import Layers
from ..model import Forward, PositionMask, Runner, check_data, load_model, prepared, resolve_sites

__all__ = ["AutoencoderFit", "fit_sparse_autoencoders"]

Pair = tuple[str, str]

_START = 8  # batches whose connections count as one


@dataclass(frozen=True, eq=False)
class AutoencoderFit:
    """What `fit_sparse_autoencoders` found.

    Attributes:
        maps: layer -> dictionary, to be given to `interaction_graph` as features.
        connections: pair -> connections after every step, those of the dictionaries before they
            were trained together being 1.
    """

    maps: dict[str, Dictionary]
    connections: dict[Pair, list[float]] = field(repr=False)


def fit_sparse_autoencoders(
    model: nn.Module,
    data: Iterable[Any],
    layers: Sequence[str],
    *,
    autoencoder: SparseAutoencoder | None = None,
    penalty: float = 0.1,
    n_rows: int | None = None,
    n_draws: int = 1,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> AutoencoderFit:
    """Trains dictionaries of several layers so that few of their features are connected.

    Each is trained on its own first, as `SparseAutoencoder` does, then all together. What is
    minimised then is the share of the variance that the dictionaries leave unexplained, plus
    `penalty` times their connections:

        sum over pairs of E_sample sum_{j,i,t} |E_i J[t,s] D_j z_j[s]|,

    the absolute effect of a feature j, moved at all positions s where it is active, on every
    feature i that is active at a position t, to first order: the mean absolute strength by
    gradient x activation. Each sample draws `n_draws` of its active features for an unbiased
    estimate, and each position does where positions do not mix between the layers. The published
    relative is the Jacobian sparse autoencoder (Farnik et al. 2025, arXiv 2502.18147), which sums
    |dz_i / dz_j| over all active features of an MLP in closed form; drawn features make any segment
    affordable, attention between positions included. Codes and the length of encoder rows do not
    follow the penalty, so that it turns features and does not shrink them.

    Args:
        model: the network.
        data: batches; they are gone through in their order, again and again. A step takes so many
            samples that the layer with most positions has about `autoencoder.batch_size` rows.
        layers: layers in order of execution; neighbours are connected.
        autoencoder: options of all dictionaries.
        penalty: weight of the connections, in which those before the joint training count one for
            each pair; 0 trains as long without.
        n_rows: activations of the first layer that the joint training reads; None: as many as
            `autoencoder.n_rows`.
        n_draws: features that each sample draws for each pair and step.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        progress: show progress bars.

    Raises:
        InteractGraphError: bad input, or data without any activation.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> options = itg.features.SparseAutoencoder(n_dictionary=24, k=4, n_rows=2000)
        >>> fit = itg.fit_sparse_autoencoders(
        ...     net.model, net.data, ["input", "1"], autoencoder=options, progress=False
        ... )
        >>> fit.maps["1"].n_features  # and the error
        25
    """
    names = list(layers)
    if isinstance(layers, str) or len(names) < 2:
        raise InputError(f"layers={layers!r}; give a list of two layers or more")
    if autoencoder is not None and not isinstance(autoencoder, SparseAutoencoder):
        raise InputError(f"autoencoder={autoencoder!r}; give a SparseAutoencoder with its options")
    if number("penalty", penalty) < 0:
        raise InputError(f"penalty={penalty} must be zero or above")
    whole("n_draws", n_draws, 1)
    options = autoencoder or SparseAutoencoder()
    n_joint = options.n_rows if n_rows is None else whole("n_rows", n_rows, 1)
    runner = Runner.on(load_model(model), forward, None, None)
    pairs = list(pairwise(names))
    with prepared(runner.model):
        asked = Layers.look(
            runner, check_data(data), resolve_sites(runner.model, names), pairs,
            dict.fromkeys(names, options), position_mask=position_mask, progress=progress,
        )  # fmt: skip
        with torch.enable_grad():
            joint = _Joint(asked, n_joint, penalty, n_draws)
            joint.train()
        maps = {
            layer: training.dictionary().to(asked.device, asked.dtype).look(layer, asked)
            for layer, training in joint.trainings.items()
        }
        joint.done()
    return AutoencoderFit(maps, joint.connections)


class _Joint:
    """All dictionaries while they are trained together.

    Attributes:
        trainings: layer -> its training.
        connections: see `AutoencoderFit`.
    """

    def __init__(self, asked: Layers, n_rows: int, penalty: float, n_draws: int) -> None:
        names = list(asked.maps)
        self.layers = asked.changed(maps=dict(asked.neurons))
        self.penalty, self.n_draws, self.n_rows = penalty, n_draws, n_rows
        self.trainings: dict[str, Training] = {}
        self.connections: dict[Pair, list[float]] = {pair: [] for pair in asked.pairs}
        self._at_first: dict[Pair, float] = {}
        self._local: dict[Pair, bool] = {}  # pairs whose positions do not mix
        self._steps, self._seen = 0, 0.0
        options = _options(asked, names[0])
        self._generator = torch.Generator().manual_seed(options.seed + (1 << 31))
        recipe = {"penalty": penalty, "n_draws": n_draws, "n_rows": n_rows, "layers": names}
        first = torch.cat([asked.first_rows(layer).flatten() for layer in names])
        self._saves = options.saves("autoencoders", first, recipe)
        state = None if self._saves is None else self._saves.load()
        before = {} if state is None else state["trainings"]
        positions = {
            layer: asked.neurons[layer].encode(x).shape[1:-1].numel()
            for layer, x in asked.activations.items()
        }
        self._n_samples = max(2, options.batch_size // max(positions.values()))
        for place, layer in enumerate(names):
            # The others' activations of a step are as many times more as they have positions.
            share = max(1, round(n_rows * positions[layer] / positions[names[0]]))
            generator = torch.Generator().manual_seed(options.seed + place)
            of_layer = replace(_options(asked, layer), n_rows=share)
            if layer in before:
                # Whatever it begins with, the state replaces.
                rows = torch.eye(2, asked.neurons[layer].n_features, device=asked.device)
                self.trainings[layer] = Training(of_layer, rows, generator)
                self.trainings[layer].restore(before[layer])
                continue
            self.trainings[layer], alone = _options(asked, layer).train(layer, asked)
            self.trainings[layer].begins_again(of_layer, generator)
            self._save()
            if alone is not None:
                alone.done()
        if state is not None:
            self._generator.set_state(state["generator"])
            self.connections = dict(zip(asked.pairs, state["connections"], strict=True))
            self._at_first = dict(zip(asked.pairs, state["at_first"], strict=False))
            self._steps, self._seen = state["steps"], state["seen"]

    def train(self) -> None:
        """Steps until the first layer's training has its rows."""
        first = next(iter(self.trainings.values()))
        resumed, seen = self._steps > 0, self._seen
        self._seen = 0.0
        batches = self._batches()
        begun = [next(batches) for _ in range(_START)]
        self._local = {
            pair: all(_is_local(batch[pair]) for batch in begun) for pair in self.connections
        }
        if resumed:
            for _ in range(self._steps):
                next(batches)
            if not math.isclose(self._seen, seen, rel_tol=1e-5, abs_tol=1e-5):
                raise DataError(
                    "the data or the model are others than before the training was stopped: the "
                    f"activations of its batches add up to {self._seen:g}, and did to {seen:g}; "
                    "data have to come in the same order again. Delete the checkpoint to begin anew"
                )
        else:
            sizes = [self._connections(batch)[1] for batch in begun]
            self._at_first = {
                pair: sum(float(each[pair].detach()) for each in sizes) / _START
                for pair in self.connections
            }
        del begun
        with tqdm(
            total=self.n_rows, initial=first.n_rows, desc="sparse autoencoders together",
            unit="row", disable=not self.layers.progress, leave=False,
        ) as bar:  # fmt: skip
            while first.n_rows < self.n_rows:
                before = first.n_rows
                self._step(next(batches))
                bar.update(first.n_rows - before)
                if self._saves is not None and self._saves.due:
                    self._save()

    def done(self) -> None:
        """Removes what was saved on the way."""
        if self._saves is not None:
            self._saves.done()

    def _save(self) -> None:
        if self._saves is None:
            return
        self._saves.save(
            {
                "trainings": {layer: each.state() for layer, each in self.trainings.items()},
                "connections": list(self.connections.values()),
                "at_first": list(self._at_first.values()),
                "generator": self._generator.get_state(),
                "steps": self._steps,
                "seen": self._seen,
            }
        )

    def _batches(self) -> Iterator[dict[Pair, LocalSegment]]:
        """The segments of all pairs, batch by batch, without end.

        Batches without a position that counts are left out.
        """
        while True:
            n = 0
            for batch in self.layers.segments_of(self.layers.pairs, "", self._n_samples):
                masks = [
                    mask
                    for each in batch.values()
                    for mask in (each.source_mask, each.target_mask)
                    if mask is not None
                ]
                if all(bool(mask.any()) for mask in masks):
                    n += 1
                    self._seen += sum(float(each.point.double().sum()) for each in batch.values())
                    yield batch
            if not n:
                raise DataError("no batch has a position that counts in every layer")

    def _step(self, batch: dict[Pair, LocalSegment]) -> None:
        rows, found = self._connections(batch)
        done = next(iter(self.trainings.values())).n_rows / self.n_rows
        loss = torch.stack([each.reading.loss for each in rows.values()]).sum()
        for pair, size in found.items():
            share = size / self._at_first[pair] if self._at_first[pair] else size
            self.connections[pair].append(float(share.detach()))
            loss = loss + self.penalty * share
        for training in self.trainings.values():
            training.optimizer.zero_grad()
        loss.backward()
        for layer, each in rows.items():
            self.trainings[layer].update(each.reading, done)
        self._steps += 1

    def _connections(
        self, batch: dict[Pair, LocalSegment]
    ) -> tuple[dict[str, _Rows], dict[Pair, Tensor]]:
        """What the dictionaries make of a batch, and the connections of every pair."""
        rows = {}
        for (source, target), segment in batch.items():
            rows[source] = self._read(source, segment.point, segment.source_mask)
            if target == self.layers.pairs[-1][1]:
                with torch.no_grad():
                    y = segment.function(segment.point)
                rows[target] = self._read(target, y, segment.target_mask)
        found = {}
        for (source, target), segment in batch.items():
            alone = self._local.get((source, target), False) and rows[source].stand_with(
                rows[target]
            )
            tangents, chances = rows[source].moved(
                self.trainings[source], self.n_draws, self._draw, alone=alone
            )
            changes = _Linearized.apply(tangents, segment.function, segment.point)
            found[source, target] = rows[target].effects(
                changes, chances, self.trainings[target], alone=alone
            )
        return rows, found

    def _read(self, layer: str, values: Tensor, mask: Tensor | None) -> _Rows:
        counts = values.new_ones(values.shape[:2], dtype=torch.bool) if mask is None else mask
        sample, position = counts.nonzero().unbind(1)
        reading = self.trainings[layer].read(values[sample, position].float())
        return _Rows(reading, sample, position, values.shape)

    def _draw(self, size: tuple[int, int]) -> Tensor:
        return torch.rand(size, generator=self._generator, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Rows:
    """A layer's activations of a batch as its dictionary reads them.

    Attributes:
        reading: the codes.
        sample: sample of each row.
        position: its position.
        shape: of the activations, `[b, p, size]`.
    """

    reading: Reading
    sample: Tensor
    position: Tensor
    shape: torch.Size

    def stand_with(self, other: _Rows) -> bool:
        """Whether another layer's rows are the same samples and positions."""
        return torch.equal(self.sample, other.sample) and torch.equal(self.position, other.position)

    def _groups(self, alone: bool) -> tuple[Tensor, int]:
        """Of every row what draws features together, and how many of these there are."""
        n = len(self.sample)
        return (
            (torch.arange(n, device=self.sample.device), n)
            if alone
            else (self.sample, self.shape[0])
        )

    def moved(
        self,
        training: Training,
        n: int,
        draw: Callable[[tuple[int, int]], Tensor],
        *,
        alone: bool,
    ) -> tuple[Tensor, Tensor]:
        """Tangents `[n, b, p, size]` of features that are drawn, another one for each sample.

        Also one over the chance of each, `[n, groups]`: a feature is drawn in proportion to the
        number of positions at which it is active. Zero where no feature is.

        Args:
            training: of the layer.
            n: draws.
            draw: uniform numbers of a shape.
            alone: every position draws for itself; else a feature moves at all positions at once.
        """
        active = (self.reading.codes > 0).nonzero()[:, 0]
        row, feature = self.reading.row[active], self.reading.feature[active]
        groups, n_groups = self._groups(alone)
        group = groups[row]
        count = torch.bincount(group, minlength=n_groups)  # codes of each; they stand together
        place = (draw((n, n_groups)).to(count.device) * count).long() + count.cumsum(0) - count
        chosen = feature[place.clamp_max(max(len(feature) - 1, 0))] if len(feature) else place
        draws, codes = (feature == chosen[:, group]).nonzero().unbind(1)
        times = torch.zeros(n, n_groups, device=count.device)
        times.index_put_((draws, group[codes]), times.new_ones(()), accumulate=True)
        z = self.reading.codes.detach()[active][codes, None]
        directions = z * training.decoder[feature[codes]] / training.scale
        tangents = directions.new_zeros(n, *self.shape)
        where = (draws, self.sample[row[codes]], self.position[row[codes]])
        tangents = tangents.index_put(where, directions)
        return tangents, torch.where(count > 0, count / times.clamp_min(1), 0.0)

    def effects(
        self, changes: Tensor, chances: Tensor, training: Training, *, alone: bool
    ) -> Tensor:
        """Mean over rows and draws of the absolute changes of active codes.

        Args:
            changes: of the activations, `[n, b, p, size]`.
            chances: one over the chance of each, `[n, groups]`.
            training: of the layer.
            alone: see `moved`.
        """
        active = (self.reading.codes > 0).nonzero()[:, 0]
        row, feature = self.reading.row[active], self.reading.feature[active]
        encoder = training.encoder[feature]
        length = encoder.norm(dim=1, keepdim=True).clamp_min(1e-12)
        encoder = encoder * (length.detach() / length)  # the penalty turns it, no more
        at_row = changes[:, self.sample[row], self.position[row]] * training.scale
        size = (at_row * encoder).sum(-1).abs() * chances[:, self._groups(alone)[0][row]]
        return size.sum() / max(len(self.sample), 1) / len(changes)


class _Linearized(torch.autograd.Function):
    """J t of a segment at a point, as a function of t."""

    @staticmethod
    def forward(
        ctx: Any, tangents: Tensor, function: Callable[[Tensor], Tensor], point: Tensor
    ) -> Tensor:
        ctx.products = pull_back(function, point, vmapped=point.device.type != "cpu")
        return jvps(function, point, tangents.to(point), vmapped=len(tangents) > 1).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (cotangents,) = gradients
        return ctx.products(cotangents).to(cotangents), None, None


def _options(layers: Layers, layer: str) -> SparseAutoencoder:
    """The layer's options, bound."""
    bound = layers.maps[layer]
    assert isinstance(bound, SparseAutoencoder)
    return bound


def _is_local(segment: LocalSegment) -> bool:
    """Whether a position of the target depends on its own position of the source alone.

    For every binary digit of the positions' numbers those where it is 1 are moved, and nothing may
    change where it is 0, then the other way round: two positions differ in a digit. A single
    position says nothing of how others would mix.
    """
    b, s, d = segment.point.shape
    if s != segment.n_positions or s == 1:
        return False
    numbers, generator = torch.arange(s), torch.Generator().manual_seed(0)
    digits = torch.stack([(numbers >> k) & 1 for k in range((s - 1).bit_length())]).bool()
    moved = torch.cat([digits, ~digits])  # [tangents, s]
    directions = torch.randn(b, s, d, generator=generator)
    tangents = (moved[:, None, :, None] * directions).to(segment.point)
    for tangent, where in zip(tangents, moved, strict=True):
        changes = jvps(segment.function, segment.point, tangent[None], vmapped=False)[0]
        if bool(changes[:, ~where.to(changes.device)].any()):
            return False
    return True
