"""Linear feature maps: z = E (f - m), f = D z + m."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from ..errors import InteractGraphError
from .feature_map import Directions, FeatureMap

__all__ = ["Linear", "LinearMap"]


@dataclass(frozen=True, eq=False)
class LinearMap(FeatureMap):
    """What all linear maps share; those fitted to data have no matrices before.

    Attributes:
        encoder: E, `[features, activation size]`.
        decoder: D, `[activation size, features]`.
        offset: m, `[activation size]`.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
    """

    encoder: Tensor | None = None
    decoder: Tensor | None = None
    offset: Tensor | None = None
    feature_dim: int | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether the matrices are there."""
        return self.encoder is not None

    @property
    def is_linear(self) -> bool:
        """See `FeatureMap.is_linear`."""
        return True

    @property
    def n_features(self) -> int:
        """Number of features: rows of the encoder."""
        return int(self._matrices()[0].shape[0])

    @property
    def directions(self) -> Directions | None:
        """See `FeatureMap.directions`."""
        encoder, decoder, _ = self._matrices()
        if encoder.shape[0] <= encoder.shape[1] or self.feature_dim is None:
            return None
        return Directions(decoder.mT, None, self.feature_dim)

    @property
    def remark(self) -> str:
        """Rank of the map, where it is fitted."""
        if self.encoder is None or self.encoder.shape[0] == self.encoder.shape[1]:
            return ""
        rank, size = self.encoder.shape
        return f"{self.kind}, {rank} directions of {size}"

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.encoder is None or self.decoder is None or self.offset is None:
            raise InteractGraphError(
                f"this {type(self).__name__} is not fitted to data yet; give it to "
                "interaction_graph, or fit it with interactgraph.fit_features"
            )
        return self.encoder, self.decoder, self.offset

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Self:
        """See `FeatureMap.bind`."""
        asked = feature_dim if self.feature_dim is None else self.feature_dim
        dim = asked + len(shape) if asked < 0 else asked
        size = None if self.encoder is None else self.encoder.shape[1]
        if not 1 <= dim < len(shape) or size not in (None, shape[dim]):
            reads = "coordinates" if size is None else f"{size} coordinates"
            raise InteractGraphError(
                f"the linear feature map of layer {layer!r} reads {reads} on axis {dim}, "
                f"but activations there have shape {tuple(shape)}; give an encoder [features, "
                "size] that fits, or set feature_dim"
            )
        return replace(self, feature_dim=dim)

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`."""
        encoder, _, offset = self._matrices()
        last = activation.movedim(-1 if self.feature_dim is None else self.feature_dim, -1)
        return (last - offset) @ encoder.mT

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        _, decoder, offset = self._matrices()
        last = features @ decoder.mT + offset
        return last.movedim(-1, -1 if self.feature_dim is None else self.feature_dim)

    def _check_options(self, **options: Any) -> None:
        """Catches `PCA(10)`, which would take the rank for the encoder."""
        if self.encoder is not None and not isinstance(self.encoder, Tensor):
            names = ", ".join(f"{name}=..." for name in options)
            raise InteractGraphError(
                f"{type(self).__name__}({self.encoder!r}): options go by name ({names})"
            )


@dataclass(frozen=True, eq=False)
class Linear(LinearMap):
    """Features z = E (f - m), activation f = D z + m, with matrices that are given.

    Attributes:
        encoder: E, `[features, activation size]`.
        decoder: D, `[activation size, features]`; None: the pseudo-inverse of E.
        offset: m, `[activation size]`; None: zero.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.

    Raises:
        InteractGraphError: shapes that do not fit each other.
    """

    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, Tensor) or self.encoder.ndim != 2:
            found = (
                f"shape {tuple(self.encoder.shape)}"
                if isinstance(self.encoder, Tensor)
                else f"no shape: it is {self.encoder!r}"
            )
            raise InteractGraphError(
                f"encoder has {found}; it must be a matrix [features, activation size]"
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
