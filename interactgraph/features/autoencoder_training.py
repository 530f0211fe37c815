"""The training of a sparse autoencoder, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dictionary import Dictionary

if TYPE_CHECKING:
    from .sparse_autoencoder import SparseAutoencoder

__all__ = ["WIDER", "Reading", "Training", "batches"]

WIDER = 16  # features for each coordinate of the activation
_BUFFER = 1 << 17  # rows in memory; where the data are more, they are mixed half by half
_TOLD = 100  # points of the learning curve
_DEAD = 0.05  # share of the training without being active, after which a feature is dead
_WARM = 0.05  # share of the training in which the rate rises
_COOL = 0.2  # share of the training in which it falls to zero
_FORGET = 0.99  # of the running mean of the smallest active code, at most
_REMEMBERED = 0.1  # share of the training that this mean is of, at most


@dataclass(frozen=True, eq=False)
class Reading:
    """What an autoencoder makes of some rows, to be differentiated.

    Attributes:
        row: row of each code that is kept, `[codes]`, ascending.
        feature: its feature, `[codes]`.
        codes: the codes, `[codes]`.
        missed: what is left out of each row, `[n, size]`.
        loss: share of the variance that is left out.
    """

    row: Tensor
    feature: Tensor
    codes: Tensor
    missed: Tensor
    loss: Tensor


class Training:
    """The weights while they are trained, in activations whose mean square is one.

    Attributes:
        options: of the training.
        generator: of the first directions and of new ones.
        scale: what activations are multiplied by.
        decoder: D', `[features, size]`.
        encoder: E, `[features, size]`.
        n_rows: that were trained on.
        unexplained: share of the variance, of the last batch.
    """

    def __init__(
        self, options: SparseAutoencoder, rows: Tensor, generator: torch.Generator
    ) -> None:
        self.options, self.generator = options, generator
        size = rows.shape[1]
        n = options.n_dictionary or WIDER * size
        self.n_rows, self.unexplained = 0, math.nan
        mean = rows.mean(0)
        self.scale = 1 / float((rows - mean).square().mean().sqrt())
        directions = torch.randn(n, size, generator=generator).to(rows)
        directions.div_(directions.norm(dim=1, keepdim=True))
        self.decoder = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.clone())
        self.encoder_bias = nn.Parameter(rows.new_zeros(n))
        self.bias = nn.Parameter(mean * self.scale)
        self.rate = options.learning_rate or 1e-3 * min(1.0, (384 / size) ** 0.5)
        self.optimizer = torch.optim.Adam(self._parameters, lr=self.rate)
        self.quiet = torch.zeros(n, dtype=torch.int64, device=rows.device)  # rows without firing
        self.threshold: float | None = None
        self.curve: list[list[float]] = []

    def begins_again(self, options: SparseAutoencoder, generator: torch.Generator) -> None:
        """What was learnt is where another training begins, with a new Adam and a new curve."""
        self.options, self.generator = options, generator
        self.optimizer = torch.optim.Adam(self._parameters, lr=self.rate)
        self.quiet = torch.zeros_like(self.quiet)
        self.n_rows, self.unexplained, self.curve = 0, math.nan, []

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [self.decoder, self.encoder, self.encoder_bias, self.bias]

    def step(self, rows: Tensor) -> None:
        """One step of Adam on activations `[n, size]`."""
        read = self.read(rows)
        self.optimizer.zero_grad()
        read.loss.backward()
        self.update(read)

    def read(self, rows: Tensor) -> Reading:
        """Codes of activations `[n, size]`, and the loss to be differentiated before `update`."""
        x = rows * self.scale
        centred = x - self.bias
        p = centred @ self.encoder.mT + self.encoder_bias
        row, feature = self._active(p.detach())
        codes = p[row, feature].relu()
        missed = x - self.bias - _decoded(codes, row, feature, self.decoder, len(x))
        # Scaled activations have a variance of one for each coordinate; few rows may have less.
        usual = x.shape[1]
        variance = (x - x.mean(0)).square().sum(1).mean().clamp_min(usual / 2)
        return Reading(row, feature, codes, missed, missed.square().sum(1).mean() / variance)

    def update(self, read: Reading, done: float | None = None) -> None:
        """A step of Adam along the gradients that are there.

        Args:
            read: what they are of.
            done: share of the training that is over; None: that of the rows.
        """
        done = self.n_rows / self.options.n_rows if done is None else done
        share = min(1.0, (done + 1e-3) / _WARM, (1 - done) / _COOL)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * max(share, 1e-3)
        self.unexplained = float(read.loss)
        fired = torch.zeros_like(self.quiet, dtype=torch.bool)
        fired[read.feature[read.codes.detach() > 0]] = True
        n = len(read.missed)
        self.quiet = torch.where(fired, 0, self.quiet + n)
        # The length of a direction is that of its code: only turning it makes a difference.
        with torch.no_grad():
            slope = self.decoder.grad
            assert slope is not None
            slope -= (slope * self.decoder).sum(1, keepdim=True) * self.decoder
            self.optimizer.step()
            self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))
        self.n_rows += n
        dead = (self.quiet > _DEAD * self.options.n_rows).nonzero()[:, 0]
        if len(dead) and done < 1 - _COOL:
            self._revive(dead, read.missed.detach())
        if self.n_rows >= len(self.curve) * self.options.n_rows / _TOLD:
            active = float((read.codes > 0).sum()) / n
            share_dead = len(dead) / len(self.quiet)
            self.curve.append([float(self.n_rows), self.unexplained, active, share_dead])

    def state(self) -> dict[str, Any]:
        """All that the training goes on from, see `restore`."""
        return {
            "parameters": [parameter.detach() for parameter in self._parameters],
            "adam": [self.optimizer.state[parameter] for parameter in self._parameters],
            "generator": self.generator.get_state(), "quiet": self.quiet, "scale": self.scale,
            "threshold": self.threshold, "n_rows": self.n_rows, "curve": self.curve,
            "unexplained": self.unexplained,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`, as if the training had never stopped."""
        with torch.no_grad():
            pairs = zip(self._parameters, state["parameters"], state["adam"], strict=True)
            for parameter, value, moments in pairs:
                parameter.copy_(value)
                # Adam counts its steps on the CPU, wherever the moments are.
                self.optimizer.state[parameter] = {
                    name: each if name == "step" else each.to(parameter)
                    for name, each in moments.items()
                }
        self.generator.set_state(state["generator"])
        self.quiet = state["quiet"].to(self.quiet.device)
        self.scale, self.threshold = state["scale"], state["threshold"]
        self.n_rows, self.curve = state["n_rows"], state["curve"]
        self.unexplained = state["unexplained"]

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

    def dictionary(self) -> Dictionary:
        """What was learnt, in the units of the activation."""
        options = self.options
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


def batches(
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
            if not len(part):
                continue
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
