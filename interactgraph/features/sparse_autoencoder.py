"""Sparse autoencoders, trained on the activations of a layer as PCA is fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..checks import choice, positive, whole, whole_or_none
from ..errors import InteractGraphError
from .dictionary import Dictionary
from .feature_map import FeatureMap

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["SparseAutoencoder"]

_WIDER = 16  # features for each coordinate of the activation
_BUFFER = 1 << 17  # rows in memory; where the data are more, they are mixed half by half
_TOLD = 100  # points of the learning curve
_DEAD = 0.05  # share of the training without being active, after which a feature is dead
_WARM = 0.05  # share of the training in which the rate rises
_COOL = 0.2  # share of the training in which it falls to zero
_FORGET = 0.99  # of the running mean of the smallest active code, at most
_REMEMBERED = 0.1  # share of the training that this mean is of, at most


@dataclass(frozen=True, eq=False)
class SparseAutoencoder(FeatureMap):
    """Trains a `Dictionary` on the layer: f is about D z + b with few z that are not zero.

    "topk" keeps the k largest codes of every row (Gao et al. 2024, arXiv 2406.04093), "jumprelu"
    as many of all rows of a batch together, so that a row has k on average, and then the
    threshold that this amounts to (BatchTopK: Bussmann et al. 2024, arXiv 2412.06410). Columns of
    D are unit vectors. Features that are no longer active begin anew, in the direction of what the
    others miss of a row, the more it is the likelier (resampling: Bricken et al. 2023, "Towards
    monosemanticity").

    Attributes:
        n_dictionary: features of the dictionary; None: 16 for each coordinate of the activation.
        k: active features of a row.
        activation: "topk" or "jumprelu".
        n_rows: activations that are trained on, those of the data again and again where they are
            fewer. A row is one position of one sample.
        batch_size: rows of a step.
        learning_rate: of Adam, after it has risen and before it falls; None: 0.001, times the root
            of 384 over the size of the activation where that is more.
        seed: of the initial weights and the order of the rows.
        error: whether what the dictionary leaves out is a feature.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
        size: coordinates of the activation; set by `bind`.
    """

    kind: ClassVar[str] = "sparse_autoencoder"
    n_dictionary: int | None = None
    k: int = 32
    activation: Literal["topk", "jumprelu"] = "topk"
    n_rows: int = 500_000
    batch_size: int = 1024
    learning_rate: float | None = None
    seed: int = 0
    error: bool = True
    feature_dim: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        whole_or_none("SparseAutoencoder: n_dictionary", self.n_dictionary)
        for name, least in (("k", 1), ("n_rows", 1), ("batch_size", 2)):
            whole(f"SparseAutoencoder: {name}", getattr(self, name), least)
        whole("SparseAutoencoder: seed", self.seed, 0)
        if self.learning_rate is not None:
            positive("SparseAutoencoder: learning_rate", self.learning_rate)
        choice("SparseAutoencoder: activation", self.activation, ("topk", "jumprelu"))
        if self.n_dictionary is not None and self.k > self.n_dictionary:
            raise InteractGraphError(
                f"SparseAutoencoder: k={self.k} of n_dictionary={self.n_dictionary} features; give "
                "fewer active ones"
            )

    @property
    def is_fitted(self) -> bool:
        """Never: `fit` gives a `Dictionary`."""
        return False

    @property
    def n_features(self) -> int:
        """Features of the dictionary, and the error."""
        assert self.size is not None
        return (self.n_dictionary or _WIDER * self.size) + int(self.error)

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> SparseAutoencoder:
        """See `FeatureMap.bind`."""
        asked = feature_dim if self.feature_dim is None else self.feature_dim
        dim = asked + len(shape) if asked < 0 else asked
        if not 1 <= dim < len(shape):
            raise InteractGraphError(
                f"the sparse autoencoder of layer {layer!r} reads axis {dim}, but activations "
                f"there have shape {tuple(shape)}; set feature_dim"
            )
        n = self.n_dictionary or _WIDER * shape[dim]
        if self.k > n:
            raise InteractGraphError(
                f"the sparse autoencoder of layer {layer!r} has k={self.k} of {n} features active; "
                "give fewer"
            )
        return replace(self, feature_dim=dim, size=shape[dim])

    def encode(self, activation: Tensor) -> Tensor:
        """Not before it is trained."""
        raise InteractGraphError("a sparse autoencoder has to be trained first: see fit_features")

    def decode(self, features: Tensor) -> Tensor:
        """Not before it is trained."""
        raise InteractGraphError("a sparse autoencoder has to be trained first: see fit_features")

    def fit(self, layer: str, data: FittingData) -> Dictionary:
        """Trains it. See `FeatureMap.fit`; the result is a `Dictionary` with a learning curve."""
        generator = torch.Generator().manual_seed(self.seed)

        def rows() -> Iterator[Tensor]:
            for part in data.rows(layer, f"activations of {layer}"):
                yield part.float()

        stream = _batches(rows, self.batch_size, generator)
        first = next(stream, None)
        if first is None:
            raise InteractGraphError(
                f"there is no activation of layer {layer!r} to train a sparse autoencoder on; "
                "check the data and position_mask"
            )
        with torch.enable_grad():
            training = _Training(self, first, generator)
            with tqdm(
                total=self.n_rows, desc=f"sparse autoencoder of {layer}", unit="row",
                disable=not data.progress, leave=False,
            ) as bar:  # fmt: skip
                batch = first
                while training.n_rows < self.n_rows:
                    training.step(batch)
                    bar.update(len(batch))
                    bar.set_postfix_str(f"unexplained {training.unexplained:.3f}", refresh=False)
                    batch = next(stream)
        fitted = training.dictionary(self).to(first.device, data.dtype)
        return fitted.look(layer, data)


class _Training:
    """The weights while they are trained, in activations whose mean square is one.

    Attributes:
        n_rows: that were trained on.
        unexplained: share of the variance, of the last batch.
    """

    def __init__(
        self, options: SparseAutoencoder, rows: Tensor, generator: torch.Generator
    ) -> None:
        self.options, self.generator = options, generator
        size = rows.shape[1]
        n = options.n_dictionary or _WIDER * size
        self.n_rows, self.unexplained = 0, math.nan
        mean = rows.mean(0)
        spread = float((rows - mean).square().mean().sqrt())
        self.scale = 1 / spread if spread > 0 else 1.0
        directions = torch.randn(n, size, generator=generator).to(rows)
        directions.div_(directions.norm(dim=1, keepdim=True))
        self.decoder = nn.Parameter(directions)  # [features, size]
        self.encoder = nn.Parameter(directions.clone())
        self.encoder_bias = nn.Parameter(rows.new_zeros(n))
        self.bias = nn.Parameter(mean * self.scale)
        self.rate = options.learning_rate or 1e-3 * min(1.0, (384 / size) ** 0.5)
        parameters = [self.decoder, self.encoder, self.encoder_bias, self.bias]
        self.optimizer = torch.optim.Adam(parameters, lr=self.rate)
        self.quiet = torch.zeros(n, dtype=torch.int64, device=rows.device)  # rows without firing
        self.threshold: float | None = None
        self.curve: list[list[float]] = []

    def step(self, rows: Tensor) -> None:
        """One step of Adam."""
        done = self.n_rows / self.options.n_rows
        share = min(1.0, (done + 1e-3) / _WARM, (1 - done) / _COOL)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * max(share, 1e-3)
        x = rows * self.scale
        centred = x - self.bias
        p = centred @ self.encoder.mT + self.encoder_bias
        row, feature = self._active(p.detach())
        codes = p[row, feature].relu()
        missed = x - self.bias - _decoded(codes, row, feature, self.decoder, len(x))
        variance = (x - x.mean(0)).square().sum(1).mean().clamp_min(1e-12)
        loss = missed.square().sum(1).mean() / variance
        self.unexplained = float(loss)
        fired = torch.zeros_like(self.quiet, dtype=torch.bool)
        fired[feature[codes.detach() > 0]] = True
        self.quiet = torch.where(fired, 0, self.quiet + len(rows))
        self.optimizer.zero_grad()
        loss.backward()
        # The length of a direction is that of its code: only turning it makes a difference.
        with torch.no_grad():
            slope = self.decoder.grad
            assert slope is not None
            slope -= (slope * self.decoder).sum(1, keepdim=True) * self.decoder
            self.optimizer.step()
            self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))
        self.n_rows += len(rows)
        dead = (self.quiet > _DEAD * self.options.n_rows).nonzero()[:, 0]
        if len(dead) and done < 1 - _COOL:
            self._revive(dead, missed.detach())
        if self.n_rows >= len(self.curve) * self.options.n_rows / _TOLD:
            active = float((codes > 0).sum()) / len(rows)
            share_dead = len(dead) / len(self.quiet)
            self.curve.append([float(self.n_rows), self.unexplained, active, share_dead])

    def _active(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and features of the codes that are kept."""
        k = self.options.k
        if self.options.activation == "topk":
            feature = p.topk(k, dim=1).indices
            row = torch.arange(len(p), device=p.device)[:, None].expand_as(feature)
            return row.flatten(), feature.flatten()
        values, places = p.flatten().topk(k * len(p))
        smallest = float(values[-1].clamp_min(0))
        forget = 1 - self.options.batch_size / (_REMEMBERED * self.options.n_rows)
        forget = min(max(forget, 0.0), _FORGET)
        before = smallest if self.threshold is None else self.threshold
        self.threshold = forget * before + (1 - forget) * smallest
        places = places.sort().values
        return places // p.shape[1], places % p.shape[1]

    @torch.no_grad()
    def _revive(self, dead: Tensor, missed: Tensor) -> None:
        """Gives dead features directions of what is missed, `[n, size]`."""
        chances = missed.square().sum(1).cpu().double() + 1e-12
        dead = dead[: len(missed)]  # the others later
        chosen = torch.multinomial(chances, len(dead), generator=self.generator)
        directions = missed[chosen.to(missed.device)]
        directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
        length = float(self.encoder.norm(dim=1).median())
        self.decoder[dead] = directions
        self.encoder[dead] = directions * length
        self.encoder_bias[dead] = 0
        for parameter in (self.decoder, self.encoder, self.encoder_bias):
            for value in self.optimizer.state[parameter].values():
                if value.shape == parameter.shape:
                    value[dead] = 0
        self.quiet[dead] = 0

    def dictionary(self, options: SparseAutoencoder) -> Dictionary:
        """What was learnt, in the units of the activation."""
        with torch.no_grad():
            bias = self.bias / self.scale
            threshold = None
            if options.activation == "jumprelu":
                threshold = max(self.threshold or 0.0, 0.0) / self.scale
            return Dictionary(
                encoder=self.encoder.detach().clone(),
                decoder=self.decoder.detach().mT.contiguous(),
                encoder_bias=self.encoder_bias / self.scale,
                decoder_bias=bias,
                offset=bias.clone(),
                activation=options.activation,
                threshold=threshold,
                k=options.k if options.activation == "topk" else None,
                error=options.error,
                feature_dim=options.feature_dim,
                learning_curve=torch.tensor(self.curve, dtype=torch.float64),
            )


def _decoded(codes: Tensor, row: Tensor, feature: Tensor, decoder: Tensor, n: int) -> Tensor:
    """D z of sparse codes, `[n, size]`; rows are sorted."""
    offsets = torch.searchsorted(row.contiguous(), torch.arange(n, device=row.device))
    result: Tensor = F.embedding_bag(
        feature, decoder, offsets, mode="sum", per_sample_weights=codes
    )
    return result


def _batches(
    passes: Callable[[], Iterator[Tensor]], size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Rows in random order, without end: mixed in a buffer, which holds all of few data.

    Args:
        passes: begins a pass over the data, which gives rows `[n, d]`.
        size: rows of a batch.
        generator: of the order.
    """
    held: list[Tensor] = []
    while True:
        fits = True
        for part in passes():
            held.append(part)
            if sum(map(len, held)) < _BUFFER:
                continue
            rows = torch.cat(held)
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            half = len(rows) // 2
            yield from _whole(rows[:half], size)
            held, fits = [rows[half:]], False
        if not held:
            return
        if fits:  # no further pass through the model
            rows = torch.cat(held)
            while True:
                order = torch.randperm(len(rows), generator=generator).to(rows.device)
                yield from _whole(rows[order], size)


def _whole(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of one size; the rest, on which a mean would be of few rows, is left for later."""
    parts = rows.split(size)
    yield from parts[: max(1, len(rows) // size)]
