"""The strongest features of another map, and all others as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..checks import whole
from ..errors import InputError, InteractGraphError
from .feature_map import Directions, FeatureMap

if TYPE_CHECKING:
    from .feature_map import FittingData

__all__ = ["TopFeatures"]


@dataclass(frozen=True, eq=False)
class TopFeatures(FeatureMap):
    """The features of a map that are largest on the data; what they leave out is the last feature.

    The rest moves as one: its feature is the coordinate along the vector of all other features of
    the sample, r / |r|, which stays fixed when features are moved. So it is |r| at the sample,
    decoding is exact there, completeness holds, and as a source its attribution is the sum of the
    attributions of the features that were left out (with the baseline zero); as a target it is read
    along the same direction. The error of a dictionary belongs to the rest. The direction belongs
    to the sample: `at(activation)` gives the map that knows it.

    Attributes:
        features: the map whose features they are.
        n: how many are kept; a layer with no more than that keeps its map.
        chosen: their numbers in the map, ascending; None: those of largest mean square, which are
            found in one pass over the data.
        direction: of the rest, `[b, *positions, others]`; set by `at`.

    Raises:
        InputError: `n` or `chosen` make no sense.
    """

    kind: ClassVar[str] = "top_features"
    features: FeatureMap
    n: int
    chosen: Tensor | None = None
    direction: Tensor | None = None

    def __post_init__(self) -> None:
        whole("top features: n", self.n, 1)
        if not isinstance(self.features, FeatureMap):
            raise InputError(
                f"top features of {self.features!r}; give a FeatureMap, or the option top_features"
            )

    @property
    def n_features(self) -> int:
        """Those that are kept, and the rest."""
        return self.n + 1

    @property
    def feature_dim(self) -> object:
        """The axis that the map reads."""
        return getattr(self.features, "feature_dim", None)

    def names(self, layer: str) -> Sequence[str]:
        """See `FeatureMap.names`."""
        names = self.features.names(layer)
        return [*(names[j] for j in self._known_chosen.tolist()), f"{layer}:rest"]

    def of_model(self, model: nn.Module, layer: str) -> TopFeatures:
        """See `FeatureMap.of_model`."""
        return replace(self, features=self.features.of_model(model, layer))

    def bind(self, layer: str, shape: torch.Size, feature_dim: int) -> TopFeatures:
        """See `FeatureMap.bind`."""
        return replace(self, features=self.features.bind(layer, shape, feature_dim))

    def reads(self, layer: str) -> str | None:
        """See `FeatureMap.reads`."""
        return self.features.reads(layer)

    @property
    def is_fitted(self) -> bool:
        """Whether the features are chosen."""
        return self.features.is_fitted and self.chosen is not None

    def fit(self, layer: str, data: FittingData) -> FeatureMap:
        """Chooses the features of largest mean square. See `FeatureMap.fit`."""
        features = self.features
        features = features.look(layer, data) if features.is_fitted else features.fit(layer, data)
        features = features.to(dtype=data.dtype)
        number = _eligible(features)
        if self.n >= number:
            return features
        chosen = self.chosen
        if chosen is None:
            flat = features
            if isinstance(self.feature_dim, int):  # rows have their features last
                flat = replace(features, **{"feature_dim": 1})
            squares = torch.zeros((), dtype=torch.float64)
            for rows in data.rows(layer, f"strongest features of {layer}"):
                codes = flat.at(rows).encode(rows).flatten(0, -2)
                squares = squares.to(rows.device) + codes.square().sum(0, dtype=torch.float64)
            chosen = squares[:number].topk(self.n).indices.sort().values
        return replace(self, features=features, chosen=chosen)

    def look(self, layer: str, data: FittingData) -> TopFeatures:
        """See `FeatureMap.look`."""
        return replace(self, features=self.features.look(layer, data))

    def doubts(self, layer: str) -> list[str]:
        """See `FeatureMap.doubts`."""
        return self.features.doubts(layer)

    @property
    def remark(self) -> str:
        """What was kept of what."""
        return f"{self.n} features of {self.features.n_features}, {self.features.remark}".strip(
            ", "
        )

    # --- the map ---------------------------------------------------------------------------------

    @property
    def depends_on_sample(self) -> bool:
        """See `FeatureMap.depends_on_sample`."""
        return True

    def at(self, activation: Tensor) -> TopFeatures:
        """See `FeatureMap.at`."""
        features = self.features.at(activation)
        rest = features.encode(activation)[..., self._others]
        size = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
        direction = rest / size.clamp(min=torch.finfo(rest.dtype).tiny)
        return replace(self, features=features, direction=direction)

    def encode(self, activation: Tensor) -> Tensor:
        """See `FeatureMap.encode`."""
        z = self.features.encode(activation)
        rest = (z[..., self._others] * self._known_direction).sum(-1, keepdim=True)
        return torch.cat([z[..., self._known_chosen], rest], -1)

    def decode(self, features: Tensor) -> Tensor:
        """See `FeatureMap.decode`."""
        rest = features[..., -1:] * self._known_direction
        kept = features[..., :-1].expand(*rest.shape[:-1], -1)
        return self.features.decode(torch.cat([kept, rest], -1)[..., self._places])

    @property
    def directions(self) -> Directions | None:
        """See `FeatureMap.directions`."""
        whole = self.features.directions
        if whole is None or self.direction is None:
            return None
        others = self._others
        if whole.extra is None:
            extra = self.direction @ whole.rows[others]
        else:  # the last of the others
            extra = self.direction[..., :-1] @ whole.rows[others[:-1]]
            extra = extra + self.direction[..., -1:] * whole.extra
        return Directions(whole.rows[self._known_chosen], extra, whole.axis)

    @property
    def _known_chosen(self) -> Tensor:
        if self.chosen is None:
            raise InteractGraphError(
                "the strongest features are not known yet; give the map to interaction_graph, or "
                "fit it with interactgraph.fit_features"
            )
        return self.chosen

    @property
    def _known_direction(self) -> Tensor:
        if self.direction is None:
            raise InteractGraphError(
                "the rest is read along its direction at the samples; take "
                "map.at(activation).encode(activation)"
            )
        return self.direction

    @cached_property
    def _others(self) -> Tensor:
        """Numbers of the features that are left out."""
        others = torch.ones(
            self.features.n_features, dtype=torch.bool, device=self._known_chosen.device
        )
        return others.index_fill(0, self._known_chosen, value=False).nonzero().flatten()

    @cached_property
    def _places(self) -> Tensor:
        """Where each feature of the map stands among those that are kept and the others."""
        return torch.cat([self._known_chosen, self._others]).argsort()


def _eligible(features: FeatureMap) -> int:
    """How many can be chosen: all but an error feature, which is the last one."""
    return features.n_features - bool(getattr(features, "error", False))
