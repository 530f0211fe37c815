"""Neurons: every coordinate of the feature axis is a feature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import InteractGraphError
from .feature_map import FeatureMap

__all__ = ["Neurons"]


@dataclass(frozen=True, eq=False)
class Neurons(FeatureMap):
    """The identity: channels of a convolution, hidden units of everything else.

    Attributes:
        feature_dim: the axis of the activation that holds the features. None: channels (axis 1)
            for convolutions and activations of 4 axes or more, else the last axis. "all": every
            element of the activation is a feature of its own and there are no positions.
        shape: shape of one sample's activation, set by `bind`.
    """

    kind: ClassVar[str] = "neurons"
    feature_dim: int | Literal["all"] | None = None
    shape: tuple[int, ...] | None = None

    @property
    def is_linear(self) -> bool:
        """See `FeatureMap.is_linear`."""
        return True

    @property
    def n_features(self) -> int:
        """Number of neurons."""
        if self.shape is None:
            raise InteractGraphError("this feature map is not bound to a layer yet")
        if self.feature_dim == "all":
            return int(torch.Size(self.shape).numel())
        assert isinstance(self.feature_dim, int)
        return self.shape[self.feature_dim - 1]

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Neurons:
        """See `FeatureMap.bind`."""
        if len(shape) < 2:
            raise InteractGraphError(
                f"layer {layer!r} has activations of shape {tuple(shape)}; features need a batch "
                "axis and at least one more"
            )
        dim: int | Literal["all"]
        if self.feature_dim == "all":
            dim = "all"
        else:
            asked = feature_dim if self.feature_dim is None else self.feature_dim
            dim = asked + len(shape) if asked < 0 else asked
            if not 1 <= dim < len(shape):
                raise InteractGraphError(
                    f"feature_dim={asked} does not fit layer {layer!r} with activations of shape "
                    f"{tuple(shape)} (axis 0 is the batch); use 1 to {len(shape) - 1}"
                )
        return replace(self, feature_dim=dim, shape=tuple(shape[1:]))

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`."""
        if self.feature_dim == "all":
            return activation.flatten(1)
        return activation.movedim(-1 if self.feature_dim is None else self.feature_dim, -1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        if self.feature_dim == "all":
            assert self.shape is not None
            return features.unflatten(-1, self.shape)
        return features.movedim(-1, -1 if self.feature_dim is None else self.feature_dim)
