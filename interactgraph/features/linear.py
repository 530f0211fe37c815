"""Linear feature maps: z = E (f - m), f = D z + m."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InteractGraphError
from .feature_map import FeatureMap

__all__ = ["Linear"]


@dataclass(frozen=True, eq=False)
class Linear(FeatureMap):
    """Features z = E (f - m), activation f = D z + m.

    Attributes:
        encoder: E, `[features, activation size]`.
        decoder: D, `[activation size, features]`; None: the pseudo-inverse of E.
        offset: m, `[activation size]`; None: zero.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.

    Raises:
        InteractGraphError: shapes that do not fit each other.
    """

    kind: ClassVar[str] = "linear"
    encoder: Tensor
    decoder: Tensor | None = None
    offset: Tensor | None = None
    feature_dim: int | None = None

    def __post_init__(self) -> None:
        if self.encoder.ndim != 2:
            raise InteractGraphError(
                f"encoder has shape {tuple(self.encoder.shape)}; it must be a matrix "
                "[features, activation size]"
            )
        features, size = self.encoder.shape
        if self.decoder is None:
            object.__setattr__(self, "decoder", torch.linalg.pinv(self.encoder))
        if self.offset is None:
            object.__setattr__(self, "offset", self.encoder.new_zeros(size))
        assert self.decoder is not None
        assert self.offset is not None
        if self.decoder.shape != (size, features):
            raise InteractGraphError(
                f"decoder has shape {tuple(self.decoder.shape)}; with an encoder of shape "
                f"{(features, size)} it must be {(size, features)}"
            )
        if self.offset.shape != (size,):
            raise InteractGraphError(
                f"offset has shape {tuple(self.offset.shape)}; it must be {(size,)}"
            )

    @property
    def n_features(self) -> int:
        """Number of features: rows of the encoder."""
        return self.encoder.shape[0]

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Linear:
        """See `FeatureMap.bind`."""
        asked = feature_dim if self.feature_dim is None else self.feature_dim
        dim = asked + len(shape) if asked < 0 else asked
        size = self.encoder.shape[1]
        if not 1 <= dim < len(shape) or shape[dim] != size:
            raise InteractGraphError(
                f"the linear feature map of layer {layer!r} reads {size} coordinates on axis {dim}, "
                f"but activations there have shape {tuple(shape)}; give an encoder [features, size] "
                "that fits, or set feature_dim"
            )
        return replace(self, feature_dim=dim)

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`."""
        assert self.offset is not None
        last = activation.movedim(-1 if self.feature_dim is None else self.feature_dim, -1)
        return (last - self.offset) @ self.encoder.mT

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        assert self.decoder is not None
        assert self.offset is not None
        last = features @ self.decoder.mT + self.offset
        return last.movedim(-1, -1 if self.feature_dim is None else self.feature_dim)
