"""Transcoders: sparse codes of what a part of the model reads, which predict what it gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ..errors import InputError, InteractGraphError
from .dictionary import Dictionary
from .feature_map import Directions

__all__ = ["Transcoder"]


@dataclass(frozen=True, eq=False)
class Transcoder(Dictionary):
    """z = act(E (x - m) + c), y = D z + b + S x + error (Dunefsky et al., arXiv 2406.11944).

    It is the feature map of a layer y, such as the output of an MLP, and reads another layer x,
    such as its input. As a target, a feature is what the encoder makes of x; as a source, it moves
    y along its direction in the decoder. So the transcoder takes the place of all that is between x
    and y, and what it misses is the error feature: y - (D z + b + S x), along its direction at the
    sample. Where x leads around the transcoder (S, and all that the model computes from x besides
    y), x stays that of the sample.

    The activation of the layer is x and y side by side along the last axis, and so are those that
    `encode` takes, `decode` gives, and a baseline tensor is. A normalisation is one of x.

    Attributes:
        skip: S, `[output size, input size]`; None: no skip connection (arXiv 2501.18823).
        source: name of the layer that is read; None: the input of the layer's module. (Those of
            Gemma Scope are of `...post_feedforward_layernorm`, with the source
            `...pre_feedforward_layernorm`; those that read the residual stream have the input of
            the norm before the MLP as their source.)
        inputs: x of the samples, `[b, *positions, input size]`; set by `at`.

    Example:
        >>> import torch
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> codes = itg.features.Transcoder(torch.randn(30, 8), torch.randn(8, 30), source="input")
        >>> graph = itg.interaction_graph(
        ...     net.model, net.data, ["input", "2"], features={"2": codes}, progress=False
        ... )
        >>> graph.weights("input", "2").shape  # the last target is the error
        torch.Size([31, 8])
    """

    kind: ClassVar[str] = "transcoder"
    skip: Tensor | None = None
    source: str | None = None
    inputs: Tensor | None = None

    def _check_sizes(self) -> None:
        shape, features = tuple(self.encoder.shape), self.encoder.shape[:1]
        if self.encoder.ndim != 2 or self.decoder.ndim != 2 or self.decoder.shape[1:] != features:
            raise InteractGraphError(
                f"transcoder: encoder {shape} and decoder {tuple(self.decoder.shape)} do not fit; "
                "they must be [features, input size] and [output size, features]. Transpose what "
                "is stored the other way round"
            )
        expected = (len(self.decoder), shape[1])
        if self.skip is None:
            return
        if not isinstance(self.skip, Tensor) or self.skip.shape != expected:
            found = getattr(self.skip, "shape", type(self.skip).__name__)
            raise InteractGraphError(
                f"transcoder: skip is {found}; it must be a tensor [output size, input size], here "
                f"{expected}"
            )
        if self.inputs is None and not bool(self.skip.isfinite().all()):
            raise InteractGraphError("transcoder: skip holds NaN or infinite values")

    def reads(self, layer: str) -> str | None:
        """See `FeatureMap.reads`."""
        return self.source or f"{layer.removesuffix('.output')}.input"

    @property
    def depends_on_sample(self) -> bool:
        """What was read does, whatever else."""
        return True

    @property
    def directions(self) -> Directions | None:
        """See `FeatureMap.directions`: of the output alone."""
        wide = self.encoder.shape[0] > self.encoder.shape[1]
        if not wide or self.feature_dim is None or (self.error and self.direction is None):
            return None
        nothing = self.decoder.new_zeros(self.encoder.shape[1])
        rows, extra = self.decoder.mT, self.direction
        if extra is not None:
            extra = torch.cat([nothing.expand(*extra.shape[:-1], -1), extra], -1)
        rows = torch.cat([nothing.expand(len(rows), -1), rows], -1)
        return Directions(rows, extra, self.feature_dim)

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Transcoder:
        """See `FeatureMap.bind`."""
        own, read = len(self.decoder), self.encoder.shape[1]
        if len(shape) < 2 or shape[-1] != own + read:
            raise InteractGraphError(
                f"the transcoder of layer {layer!r} reads {read} coordinates of "
                f"{self.reads(layer)!r} and gives {own} of {layer!r}, but activations of both "
                f"together have shape {tuple(shape)}; give the transcoder of these layers, or name "
                "the layer that it reads: source=..."
            )
        return replace(self, feature_dim=len(shape) - 1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`; only around samples.

        Raises:
            InteractGraphError: the map knows no samples, see `at`.
        """
        if self.inputs is None:
            raise InteractGraphError(
                "a transcoder decodes around samples, whose input it leaves as it is: "
                "transcoder.at(activation).decode(features), with both activations side by side"
            )
        own = self._decoded(features, self.inputs)
        shape = torch.broadcast_shapes(own.shape[:-1], self.inputs.shape[:-1])
        return torch.cat([self.inputs.expand(*shape, -1), own.expand(*shape, -1)], -1)

    def rows_of(self, data: Any) -> Tensor:
        """Inputs and outputs given by hand as rows, side by side.

        Raises:
            InputError: they are none of this transcoder.
        """
        sizes = (self.encoder.shape[1], len(self.decoder))
        given = list(data) if isinstance(data, (tuple, list)) else []
        fits = len(given) == 2 and all(
            isinstance(each, Tensor) and each.is_floating_point() and each.shape[-1:] == (size,)
            for each, size in zip(given, sizes, strict=True)
        )
        if not fits or given[0].shape[:-1] != given[1].shape[:-1] or not given[0].numel():
            raise InputError(
                f"data of a transcoder must be (inputs [..., {sizes[0]}], outputs [..., "
                f"{sizes[1]}]), two tensors of the same samples"
            )
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in given], -1)

    def _parts(self, last: Tensor) -> tuple[Tensor, Tensor]:
        size = self.encoder.shape[1]
        return last[..., :size], last[..., size:]

    @property
    def _knows_samples(self) -> bool:
        return super()._knows_samples or self.inputs is not None

    def _without_samples(self) -> Self:
        here = super()._without_samples()
        return here if here.inputs is None else replace(here, inputs=None)

    def _around(self, read: Tensor) -> Self:
        here = super()._around(read)
        return here if here.inputs is not None else replace(here, inputs=read)

    def _output(self, codes: Tensor, read: Tensor | None) -> Tensor:
        assert self.decoder_bias is not None
        own = codes @ self.decoder.mT + self.decoder_bias
        if self.skip is None:
            return own
        assert read is not None
        return own + read @ self.skip.mT
