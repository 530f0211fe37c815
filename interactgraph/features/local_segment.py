"""The segment around samples that feature maps are fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LocalSegment"]


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
