"""`spline_codes`: reads the gates of layers on data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attribution.groups import names_in_order
from ..checks import whole
from ..errors import DataError, InputError
from ..features import Neurons
from ..layers import EncodedBatch, Layers
from ..model import (
    Forward,
    LayerNames,
    PositionMask,
    Runner,
    check_data,
    load_model,
    look_first,
    prepared,
    resolve_sites,
    wide_enough,
)
from .codes import Codes
from .gates import GATES, GatedLayer, gated_layers

__all__ = ["spline_codes"]


def spline_codes(
    model: nn.Module,
    data: Iterable[Any],
    layers: str | Sequence[str],
    *,
    gates: Mapping[str, str] | None = None,
    n_positions: int = 6,
    skip_positions: int = 100,
    keep_activations: bool = False,
    labels: Any = None,
    position_mask: PositionMask | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> Codes:
    """On which piece of a network each sample is: codes of its gates.

    The gate of a ReLU is 1 where the pre-activation u is above zero, else 0; all gates together
    name the region of input space on which the network is one affine map. Of smooth functions it
    is the probability of the piece: Phi(u) for GELU, sigmoid(u) for SiLU, sigmoid and softplus
    (Balestriero & Baraniuk, arXiv 1810.09274).

    Observations are samples. Of sequences they are `n_positions` positions of each, evenly spaced
    after the first `skip_positions`, or all that count where there are fewer than both together. Of
    convolutions all channels at the middle position are taken.

    Args:
        model: the network; it runs in eval mode.
        data: as for `interaction_graph`.
        layers: names as for `interaction_graph`, of activation functions or of what they receive.
            Which function it is, is found by its values on the first samples.
        gates: {layer: one of `codes.GATES`}, where that cannot be found: the layer's own values are
            then the pre-activations.
        n_positions: of each sequence.
        skip_positions: at the start of each sequence.
        keep_activations: keep the plain values of the layers, too, to compare with.
        labels: one name for each sample to compare with, in the forms of `groups=` of
            `interaction_graph`; kept as `labels`.
        position_mask: as for `interaction_graph`.
        forward: `forward(model, batch)` calls the model on a batch.
        device: where to compute.
        dtype: what to compute in.
        progress: show a progress bar.

    Raises:
        InteractGraphError: a layer has no gate, layers have other positions, or the data cannot be
            used.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> codes = itg.spline_codes(net.model, net.data, "1", progress=False)
        >>> codes.gates, codes.matrix().shape
        ({'1': 'gelu'}, torch.Size([128, 12]))
    """
    whole("n_positions", n_positions)
    whole("skip_positions", skip_positions, 0)
    data, model = check_data(data), load_model(model)
    names = LayerNames(model, layers)
    if not names.layers:
        raise InputError("layers is empty; name one layer or more")
    runner = Runner.on(model, forward, device, wide_enough(model, dtype))
    with prepared(runner.model), torch.no_grad():
        asked = resolve_sites(runner.model, names.layers)
        look = look_first(runner, data, asked)
        gated = gated_layers(
            look.runner, look.batch, [site.name for site in asked], names.keys(gates) or {}
        )
        read = [layer.read for layer in gated]
        if keep_activations:
            read += [layer.layer for layer in gated if layer.layer not in read]
        sites = resolve_sites(runner.model, read)
        looked = Layers.look(
            runner, data, sites, [], dict.fromkeys(read, Neurons()), position_mask=position_mask,
            progress=progress,
        )  # fmt: skip
        reader = _Reader(looked, gated, n_positions, skip_positions, keep_activations)
        found: list[str] = []
        for number, batch in enumerate(looked.bar("codes")):
            encoded = looked.encode(looked.runner.convert(batch), number)
            if labels is not None:
                found += names_in_order(
                    labels, batch, encoded.n_samples, reader.n_samples, "labels"
                )
            reader.add(encoded)
    in_order = hasattr(labels, "__len__") and not isinstance(labels, str)
    if in_order and len(labels) != reader.n_samples:
        raise DataError(
            f"labels names {len(labels)} samples and the data has {reader.n_samples}; one name for "
            "each sample is needed"
        )
    return reader.codes(found if labels is not None else None)


class _Reader:
    """Collects codes batch by batch."""

    def __init__(
        self,
        layers: Layers,
        gated: Sequence[GatedLayer],
        n_positions: int,
        skip: int,
        keep_activations: bool,
    ) -> None:
        self.layers, self.gated = layers, gated
        self.n_positions, self.skip, self.keep = n_positions, skip, keep_activations
        self.n_samples = 0
        self.sample: list[Tensor] = []
        self.position: list[Tensor] = []
        self.sizes: dict[str, int] = {}
        self.parts: dict[tuple[str, str], list[Any]] = {}

    def add(self, encoded: EncodedBatch) -> None:
        """Reads a batch."""
        sequences = [one for one in self.gated if self._is_sequence(one.read, encoded)]
        counts = {one.layer: encoded.z[one.read].shape[1] for one in sequences}
        if sequences and (len(sequences) < len(self.gated) or len(set(counts.values())) > 1):
            others = [one.layer for one in self.gated if one not in sequences]
            raise InputError(
                f"layers have other positions: {counts} and, one for each sample, {others}; take "
                "codes of them apart"
            )
        if sequences:
            first = sequences[0].read
            sample, position = self._chosen(encoded.z[first], encoded.mask_of(first))
        else:
            sample = torch.arange(encoded.n_samples)
            position = torch.zeros_like(sample)
        self.sample.append(sample + self.n_samples)
        self.position.append(position)
        self.n_samples += encoded.n_samples
        for one in self.gated:
            gate = GATES[one.gate]
            probability = gate.probability(self._rows(one.read, encoded, sample, position))
            if gate.hard:
                self._keep("packed", one.layer, np.packbits(probability.cpu().numpy() > 0, axis=1))
            else:
                self._keep("probabilities", one.layer, probability.float().cpu())
            self.sizes[one.layer] = probability.shape[1]
            if self.keep:
                values = self._rows(one.layer, encoded, sample, position)
                self._keep("activations", one.layer, values.float().cpu())

    def codes(self, labels: list[str] | None) -> Codes:
        """What was read."""
        hard = {one.layer: GATES[one.gate].hard for one in self.gated}
        return Codes(
            gates={one.layer: one.gate for one in self.gated},
            sizes=self.sizes,
            packed={
                layer: np.concatenate(self.parts["packed", layer]) for layer in hard if hard[layer]
            },
            probabilities={
                layer: torch.cat(self.parts["probabilities", layer])
                for layer in hard
                if not hard[layer]
            },
            sample=torch.cat(self.sample),
            position=torch.cat(self.position),
            n_samples=self.n_samples,
            activations={
                layer: torch.cat(self.parts["activations", layer]) for layer in hard if self.keep
            },
            labels=labels,
        )

    def _keep(self, kind: str, layer: str, part: Any) -> None:
        self.parts.setdefault((kind, layer), []).append(part)

    def _is_sequence(self, layer: str, encoded: EncodedBatch) -> bool:
        """Features on the last axis of three: everything else has channels, or no positions."""
        return len(encoded.positions[layer]) == 1 and self.layers.neurons[layer].feature_dim == 2

    def _rows(self, layer: str, encoded: EncodedBatch, sample: Tensor, position: Tensor) -> Tensor:
        """Values of a layer on the observations, `[n, j]`."""
        z = encoded.z[layer]
        if not self._is_sequence(layer, encoded):
            place = 0
            for size in encoded.positions[layer]:
                place = place * size + size // 2
            return z[:, place]
        return z[sample.to(z.device), position.to(z.device)]

    def _chosen(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Samples and positions that are observed, each `[n]`."""
        counts = torch.ones(z.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
        samples, positions = [], []
        for sample, row in enumerate(counts):
            places = row.nonzero()[:, 0]
            if len(places) >= self.skip + self.n_positions:
                rest = places[self.skip :]
                steps = torch.linspace(0, len(rest) - 1, self.n_positions, dtype=torch.float64)
                places = rest[steps.round().long()]
            samples.append(torch.full_like(places, sample))
            positions.append(places)
        return torch.cat(samples), torch.cat(positions)
