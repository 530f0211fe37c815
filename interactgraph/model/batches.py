"""Batches: what `data` may be, how a batch becomes a call of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, IterableDataset

from ..errors import InteractGraphError

__all__ = [
    "Forward",
    "batches_of",
    "call_model",
    "check_data",
    "convert",
    "samples_in",
    "take_samples",
]

Forward = Callable[[nn.Module, Any], Any]

_TENSOR_BATCH = 256


def check_data(data: Any) -> Iterable[Any]:
    """The data as something that can be iterated more than once.

    A tensor is taken as all samples and cut into batches.

    Raises:
        InteractGraphError: it cannot be iterated, or only once, or yields single samples.
    """
    if isinstance(data, Tensor):
        if data.ndim == 0 or len(data) == 0:
            raise InteractGraphError(f"data is a tensor of shape {tuple(data.shape)}: no samples")
        return data.split(_TENSOR_BATCH)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise InteractGraphError(
            "data is a Dataset, which yields single samples; "
            "wrap it: torch.utils.data.DataLoader(dataset, batch_size=...)"
        )
    if isinstance(data, Iterator):
        raise InteractGraphError(
            f"data is a {type(data).__name__}, which can be iterated only once, and several passes "
            "are needed; give a list of batches or a DataLoader"
        )
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise InteractGraphError(
            f"data is a {type(data).__name__}; it must be a re-iterable of batches, such as a "
            "DataLoader, a list of tensors, or one tensor of samples"
        )
    return data


def batches_of(data: Iterable[Any]) -> Iterator[Any]:
    """The batches of one pass.

    Raises:
        InteractGraphError: there is none.
    """
    empty = True
    for batch in data:
        empty = False
        yield batch
    if empty:
        raise InteractGraphError("data holds no batch; at least one sample is needed")


def call_model(model: nn.Module, batch: Any, forward: Forward | None) -> Any:
    """Runs the model on a batch.

    A tensor is the argument, of a tuple or list the first element is, a dict holds keyword
    arguments; `forward(model, batch)` does anything else.

    Raises:
        InteractGraphError: the batch is none of these and there is no `forward`.
    """
    if forward is not None:
        return forward(model, batch)
    argument = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(argument, Tensor):
        return model(argument)
    if isinstance(argument, Mapping):
        return model(**argument)
    raise InteractGraphError(
        f"a batch is a {type(batch).__name__}"
        + (f" that starts with a {type(argument).__name__}" if argument is not batch else "")
        + "; it must be a tensor, a tuple or list that starts with one, or a dict of keyword "
        "arguments. For anything else give forward=lambda model, batch: ..."
    )


def convert(batch: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The batch with all its tensors moved, floating ones cast; None leaves as it is."""
    if device is None and dtype is None:
        return batch

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.is_floating_point() else None)

    return pytree.tree_map(move, batch)


def samples_in(batch: Any) -> tuple[int, int]:
    """Number of samples of a batch, and how many of its tensors have that many rows.

    The samples are the rows of the batch's first tensor; (0, 0) where it has none.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors:
        return 0, 0
    n = tensors[0].shape[0]
    return n, sum(tensor.shape[0] == n for tensor in tensors)


def take_samples(batch: Any, n_samples: int, start: int, stop: int) -> Any:
    """Samples start to stop of a batch: every tensor whose first axis has `n_samples` is cut."""

    def cut(leaf: Any) -> Any:
        fits = isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == n_samples
        return leaf[start:stop] if fits else leaf

    return pytree.tree_map(cut, batch)
