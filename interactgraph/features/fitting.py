"""What a feature map may look at while it is fitted to data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

if TYPE_CHECKING:
    from .feature_map import FeatureMap

__all__ = ["FittingData", "LocalSegment"]


@dataclass(frozen=True, eq=False)
class LocalSegment:
    """The segment to one target layer on one batch, in the source's neurons.

    Attributes:
        function: source activation `[b, s, d]` -> target features `[b, t, i]`.
        point: the source activation, `[b, s, d]`.
        n_targets: target features.
        n_positions: target positions.
        source_mask: source positions that count, `[b, s]`; None: all.
        target_mask: target positions that count, `[b, t]`; None: all.
    """

    function: Callable[[Tensor], Tensor]
    point: Tensor
    n_targets: int
    n_positions: int
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None


class FittingData(Protocol):
    """Passes over the activations of a layer and over its Jacobians; `Layers` is one.

    Attributes:
        pairs: (source, target) layers.
        maps: layer -> bound feature map; those of later layers are fitted already.
        dtype: what the model computes in.
        progress: whether to show progress bars.
    """

    @property
    def pairs(self) -> Sequence[tuple[str, str]]: ...  # noqa: D102
    @property
    def maps(self) -> Mapping[str, FeatureMap]: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def progress(self) -> bool: ...  # noqa: D102

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

    def rows(self, layer: str, text: str) -> Iterator[Tensor]:
        """Activations at every sample and position that counts, `[n, d]`, in one pass."""

    def segments(self, layer: str, text: str) -> Iterator[list[LocalSegment]]:
        """The segments from a layer to all its targets, batch by batch, in one pass.

        Targets are read in the feature maps that they have in `maps`.
        """
