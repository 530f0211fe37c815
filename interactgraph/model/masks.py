"""Which positions of a sample count: padding is left out of every sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InteractGraphError

__all__ = ["PositionMask", "layer_mask", "read_mask"]

PositionMask = str | Callable[[Any], Tensor]


def read_mask(
    position_mask: PositionMask | None, batch: Any, device: torch.device | None = None
) -> Tensor | None:
    """Which positions of a batch count, bool `[b, p]`; None: all.

    Args:
        position_mask: a key of dict batches, or a function of the batch.
        batch: the batch.
        device: where the mask goes; None: where it is.

    Raises:
        InteractGraphError: there is no such key, or what is found is no mask.
    """
    if position_mask is None:
        return None
    if isinstance(position_mask, str):
        if not isinstance(batch, Mapping) or position_mask not in batch:
            raise InteractGraphError(
                f"position_mask={position_mask!r} is no key of the batches; give a key of "
                "dict batches, or a function of the batch"
            )
        mask = batch[position_mask]
    else:
        mask = position_mask(batch)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise InteractGraphError(
            "position_mask must give a tensor [samples, positions], got "
            + (f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)[:60])
        )
    return mask.to(device) != 0


def layer_mask(mask: Tensor | None, positions: int, layer: str) -> Tensor | None:
    """The mask of a layer; one with a single position (pooled) has none.

    Raises:
        InteractGraphError: the layer has another number of positions.
    """
    if mask is None or (positions == 1 and mask.shape[1] != 1):
        return None
    if mask.shape[1] != positions:
        raise InteractGraphError(
            f"position_mask has {mask.shape[1]} positions, layer {layer!r} has {positions}"
        )
    return mask
