"""Attention heads as features, one for each head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import InteractGraphError
from ..model import n_heads
from .feature_map import FeatureMap

__all__ = ["Heads"]


@dataclass(frozen=True, eq=False)
class Heads(FeatureMap):
    """Groups of coordinates, each of which moves as one: the heads of an attention layer.

    The feature of a head is its coordinate along the direction of the head's own vector at the
    sample, h / |h|, which stays fixed when features are moved. It is |h| at the sample and zero
    where the head gives nothing, so that the attribution of a head as a source is the sum of the
    attributions of its coordinates (with the baseline zero); as a target it is read along the same
    direction. The directions belong to the sample: `at(activation)` gives the map that knows them.

    Attributes:
        n_heads: how many groups the feature axis is cut into; None: as many as the model says its
            attention has.
        feature_dim: the axis of the activation that is mapped; None: as for `Neurons`.
        direction: of every head, `[b, *positions, heads, size]`; set by `at`.
    """

    kind: ClassVar[str] = "heads"
    n_heads: int | None = None
    feature_dim: int | None = None
    direction: Tensor | None = None

    @property
    def n_features(self) -> int:
        """Number of heads."""
        if self.n_heads is None:
            raise InteractGraphError("this feature map is not bound to a layer yet")
        return self.n_heads

    def of_model(self, model: nn.Module, layer: str) -> Heads:
        """See `FeatureMap.of_model`."""
        number = n_heads(model, layer) if self.n_heads is None else self.n_heads
        return replace(self, n_heads=number)

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Heads:
        """See `FeatureMap.bind`."""
        if self.n_heads is None:
            raise InteractGraphError(
                f"features of layer {layer!r} are heads, and the model does not say how many there "
                "are; give itg.features.Heads(n_heads)"
            )
        dim = (feature_dim if self.feature_dim is None else self.feature_dim) % len(shape)
        if self.n_heads < 1 or shape[dim] % self.n_heads:
            raise InteractGraphError(
                f"layer {layer!r} has {shape[dim]} coordinates, which are not {self.n_heads} heads "
                "of one size; the layer named 'heads' is what the heads give, the input of the "
                "linear map after attention"
            )
        return replace(self, feature_dim=dim)

    @property
    def depends_on_sample(self) -> bool:
        """See `FeatureMap.depends_on_sample`."""
        return True

    def at(self, activation: Tensor) -> Heads:
        """See `FeatureMap.at`."""
        parts = self._parts(activation)
        size = torch.linalg.vector_norm(parts, dim=-1, keepdim=True)
        return replace(self, direction=parts / size.clamp(min=torch.finfo(parts.dtype).tiny))

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`."""
        return (self._parts(activation) * self._known).sum(-1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        assert self.feature_dim is not None
        return (features[..., None] * self._known).flatten(-2).movedim(-1, self.feature_dim)

    @property
    def _known(self) -> Tensor:
        if self.direction is None:
            raise InteractGraphError(
                "heads are read along their directions at the samples; take "
                "map.at(activation).encode(activation)"
            )
        return self.direction

    def _parts(self, activation: Tensor) -> Tensor:
        """`[b, *positions, heads, size]`."""
        assert self.feature_dim is not None
        return activation.movedim(self.feature_dim, -1).unflatten(-1, (self.n_features, -1))
