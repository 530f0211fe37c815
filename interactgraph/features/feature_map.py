"""The feature map: coordinates in which a layer's activation is read.

Every map turns an activation into features with the feature axis last and every other axis kept,
so that `decode(encode(f))` needs no memory of shapes: `[b, *positions, j]`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..errors import InteractGraphError
from .local_segment import LocalSegment

__all__ = ["Directions", "FeatureMap", "FittingData", "from_state"]

_KINDS: dict[str, type[FeatureMap]] = {}


@dataclass(frozen=True, eq=False)
class Directions:
    """What features add to the activation: decode(z) = sum_j z_j direction_j + a constant.

    Attributes:
        rows: the directions, `[j, size]`.
        extra: direction of one more, last feature, another one for each sample and position,
            `[b, *positions, size]`; None: there is none.
        axis: the axis of the activation that they lie along.
    """

    rows: Tensor
    extra: Tensor | None
    axis: int


@dataclass(frozen=True, eq=False)
class FeatureMap(ABC):
    """A map from the activation of a layer to feature coordinates and back.

    A map is *bound* once it knows where the feature axis of its layer is and how many features
    there are; `bind` gives the bound copy. Subclasses are frozen dataclasses whose fields are
    plain JSON values or tensors: that is what is saved with a graph.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    def of_model(self, model: nn.Module, layer: str) -> Self:
        """The map with what the model says of the layer; itself where it needs nothing of that."""
        return self

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features; only a bound map has to know it."""

    @abstractmethod
    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> Self:
        """The same map, fixed to a layer.

        Args:
            layer: the layer's name, for error messages.
            shape: shape of one activation of the layer, `[b, ...]`.
            feature_dim: the axis that holds features unless the map says otherwise.

        Raises:
            InteractGraphError: the map does not fit the activation.
        """

    @abstractmethod
    def encode(self, activation: Tensor) -> Tensor:
        """Activation `[b, ...]` in the layer's own shape -> features `[b, *positions, j]`."""

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Features `[b, *positions, j]` -> activation in the layer's own shape."""

    def names(self, layer: str) -> Sequence[str]:
        """A name for each feature: the layer and what tells the feature from the others.

        Args:
            layer: its name.
        """
        return [f"{layer}:{j}" for j in range(self.n_features)]

    @property
    def directions(self) -> Directions | None:
        """The directions of the features, where there are more of them than the activation has."""
        return None

    @property
    def is_linear(self) -> bool:
        """Whether features are a linear function of the activation, but for a constant."""
        return False

    @property
    def is_fitted(self) -> bool:
        """Whether the map can encode; maps that are fitted to data first cannot before."""
        return True

    @property
    def depends_on_sample(self) -> bool:
        """Whether `at` gives something else than the map itself."""
        return False

    def at(self, activation: Tensor) -> Self:
        """The map around samples; differs from the map itself where `depends_on_sample`.

        Args:
            activation: the samples, `[b, ...]` in the layer's own shape.
        """
        return self

    def fit(self, layer: str, data: FittingData) -> FeatureMap:
        """The map fitted to data, or the one that was trained; itself where there is nothing to do.

        Args:
            layer: the layer that the map, already bound, belongs to.
            data: passes over activations and Jacobians.
        """
        return self

    def look(self, layer: str, data: FittingData) -> Self:
        """The fitted map with what the first samples tell about it; itself where that is nothing.

        Args:
            layer: the layer that the map, already bound, belongs to.
            data: as for `fit`.
        """
        return self

    def doubts(self, layer: str) -> list[str]:
        """Notes on what fitting or the first samples told, see `interactgraph.notes`.

        Args:
            layer: its name.
        """
        return []

    def reads(self, layer: str) -> str | None:
        """Another layer that the features are computed from, too; None: their own layer is all.

        The map then gets both activations side by side along the last axis, the other layer's
        first, and decodes to both; only its own layer's part is ever replaced.

        Args:
            layer: its own layer.
        """
        return None

    @property
    def remark(self) -> str:
        """What a reader should know about the fitted map, such as its rank; may be empty."""
        return ""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The same map with its tensors on another device or in another floating dtype."""
        moved: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, dtype if value.is_floating_point() else None)
            if isinstance(value, FeatureMap):
                moved[field.name] = value.to(device, dtype)
        return dataclasses.replace(self, **moved) if moved else self

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The map as (JSON values, tensors), the inverse of `from_state`."""
        config: dict[str, Any] = {"kind": self.kind}
        tensors: dict[str, Tensor] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                tensors[field.name] = value
            elif isinstance(value, FeatureMap):
                config[field.name], inner = value.state()
                tensors |= {f"{field.name}.{name}": tensor for name, tensor in inner.items()}
            else:
                config[field.name] = list(value) if isinstance(value, tuple) else value
        return config, tensors


class FittingData(Protocol):
    """Passes over the activations of a layer and over its Jacobians; `Layers` is one.

    Attributes:
        pairs: (source, target) layers.
        maps: layer -> bound feature map; those of later layers are fitted already.
        dtype: what the model computes in.
        progress: whether to show progress bars.
    """

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """(source, target) layers."""
        ...

    @property
    def maps(self) -> Mapping[str, FeatureMap]:
        """Layer -> bound feature map."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        ...

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""
        ...

    def changed(
        self,
        *,
        maps: Mapping[str, FeatureMap] | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
    ) -> Self:
        """The same data with some maps replaced, or fewer pairs."""

    def targets(self, layer: str) -> list[str]:
        """Layers that the layer is a source of."""

    def count(self, layer: str, most: int) -> int:
        """Number of samples, counted no further than `most`."""

    def first_rows(self, layer: str) -> Tensor:
        """Activations of the first samples at every position that counts, `[n, d]`."""

    def rows(self, layer: str, text: str) -> Iterator[Tensor]:
        """Activations at every sample and position that counts, `[n, d]`, in one pass."""

    def segments(self, layer: str, text: str) -> Iterator[list[LocalSegment]]:
        """The segments from a layer to all its targets, batch by batch, in one pass.

        Targets are read in the feature maps that they have in `maps`.
        """


def from_state(config: dict[str, Any], tensors: dict[str, Tensor]) -> FeatureMap:
    """Rebuilds a map from what `FeatureMap.state` gave.

    Raises:
        InteractGraphError: the kind is not known to this version.
    """
    values = dict(config)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise InteractGraphError(
            f"feature map of kind {kind!r} is not known; this version has {sorted(_KINDS)}"
        )
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    for key, value in values.items():
        if isinstance(value, list):
            values[key] = tuple(value)
        if isinstance(value, dict) and "kind" in value:  # a map of its own
            start = f"{key}."
            inner = {n.removeprefix(start): x for n, x in tensors.items() if n.startswith(start)}
            values[key] = from_state(value, inner)
    return _KINDS[kind](**values, **own)
