"""Which positions of a sample count: padding is left out of every sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import DataError

__all__ = [
    "ATTENTION_MASK",
    "PositionMask",
    "attention_mask",
    "goes_with",
    "layer_mask",
    "padded_by_one",
    "read_mask",
    "tells_padding",
    "trimmed",
    "without_first",
]

ATTENTION_MASK = "attention_mask"  # what transformers call it

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
        DataError: there is no such key, or what is found is no mask.
    """
    if position_mask is None:
        return None
    if isinstance(position_mask, str):
        if not isinstance(batch, Mapping) or position_mask not in batch:
            raise DataError(
                f"position_mask={position_mask!r} is no key of the batches; give a key of "
                "dict batches, or a function of the batch"
            )
        mask = batch[position_mask]
    else:
        mask = position_mask(batch)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise DataError(
            "position_mask must give a tensor [samples, positions], got "
            + (f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)[:60])
        )
    return mask.to(device) != 0


def without_first(mask: Tensor, n: int) -> Tensor:
    """A mask without the first n positions of each sample that count, bool `[b, p]`."""
    return mask & (mask.cumsum(1) > n)


def attention_mask(batch: Any) -> Tensor | None:
    """The batch's attention mask where it has two axes, `[b, p]`; None: it has none."""
    argument = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    mask = argument.get(ATTENTION_MASK) if isinstance(argument, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def tells_padding(batch: Any) -> bool:
    """Whether the batch's attention mask is one of padding, as transformers take it.

    One of ones and zeros: neither a mask that is added to attention nor one of pairs of positions.
    """
    mask = attention_mask(batch)
    if mask is None:
        return False
    argument = batch[0] if isinstance(batch, (tuple, list)) else batch
    others = [value for key, value in argument.items() if key != ATTENTION_MASK]
    others = [value for value in others if isinstance(value, Tensor) and value.ndim]
    fits = not others or any(len(value) == len(mask) for value in others)
    binary = bool(((mask == 0) | (mask == 1)).all())
    as_positions = any(value.shape[:2] == mask.shape for value in others)
    square = mask.shape[0] == mask.shape[1] and bool((mask.triu(1) == 0).all()) and len(mask) > 1
    return fits and binary and (as_positions or not square)


def goes_with(batch: Any, mask: Tensor, counts: Iterable[int]) -> bool:
    """Whether a batch's attention mask is plainly that of all layers.

    Args:
        batch: a dict, or a tuple that begins with one.
        mask: its attention mask, `[b, p]`.
        counts: numbers of positions of the layers.
    """
    return not _of_two_sequences(batch) and all(count in (1, mask.shape[1]) for count in counts)


def _of_two_sequences(batch: Any) -> bool:
    argument = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return isinstance(argument, Mapping) and any(
        str(key).startswith("decoder_") for key in argument
    )


def layer_mask(mask: Tensor | None, positions: int, layer: str) -> Tensor | None:
    """The mask of a layer; one with a single position (pooled) has none.

    Raises:
        DataError: the layer has another number of positions.
    """
    if mask is None or (positions == 1 and mask.shape[1] != 1):
        return None
    if mask.shape[1] != positions:
        raise DataError(
            f"the mask of positions has {mask.shape[1]}, layer {layer!r} has {positions}"
        )
    return mask


def trimmed(batch: Any, sides: Iterable[str]) -> Any:
    """The batch without positions that are padding in all of its samples.

    Args:
        batch: one that holds an attention mask; any other stays as it is.
        sides: "left", "right", where positions may be cut off.
    """
    mask = attention_mask(batch)
    if mask is None:
        return batch
    filled = (mask != 0).any(0).nonzero()[:, 0]
    if not len(filled):
        return batch
    start = int(filled[0]) if "left" in sides else 0
    stop = int(filled[-1]) + 1 if "right" in sides else mask.shape[1]
    if stop - start == mask.shape[1]:
        return batch
    return _over_positions(batch, mask, lambda leaf: leaf[:, start:stop])


def padded_by_one(batch: Any, side: str) -> Any:
    """The batch with one more position of padding on one side; None: its padding is not told."""
    mask = attention_mask(batch)
    if mask is None or _of_two_sequences(batch):
        return None

    def longer(leaf: Tensor) -> Tensor:
        column = torch.zeros_like(leaf[:, :1])
        return torch.cat([column, leaf] if side == "left" else [leaf, column], 1)

    return _over_positions(batch, mask, longer)


def _over_positions(batch: Any, mask: Tensor, change: Callable[[Tensor], Tensor]) -> Any:
    """Changes every tensor of the batch that has the positions of the mask."""
    return pytree.tree_map(
        lambda leaf: (
            change(leaf)
            if isinstance(leaf, Tensor) and leaf.shape[:2] == mask.shape and leaf.ndim >= 2
            else leaf
        ),
        batch,
    )
