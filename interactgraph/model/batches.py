"""Batches: what `data` may be, how a batch becomes a call of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, IterableDataset

from ..errors import DataError
from .sites import first_tensor

__all__ = ["Batches", "Cut", "Forward", "call_model", "check_data", "convert"]

Forward = Callable[[nn.Module, Any], Any]

_TENSOR_BATCH = 256
_LOOKED_AT = 64  # entries of a sampler's order


class Batches:
    """Data that can be read pass after pass; empty batches are skipped.

    The first batch is kept when it is looked at, so that the next pass begins with it.

    Attributes:
        source: what the user gave, or a tensor's batches.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self.source = source
        self._begun: tuple[Any, Iterator[Any]] | None = None
        self._length: int | None = None
        self._who: str | None = None
        self._samples: list[bytes] = []

    @property
    def n_batches(self) -> int | None:
        """How many batches there are, where the source says so."""
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return None

    def first(self) -> Any:
        """The first batch that holds samples.

        Raises:
            DataError: there is none.
        """
        if self._begun is None:
            batches = self._full()
            for batch in batches:
                self._begun = batch, batches
                break
            else:
                self._ended(0)
        assert self._begun is not None
        return self._begun[0]

    def __iter__(self) -> Iterator[Any]:
        """One pass.

        Raises:
            DataError: there is no batch, or not as many as in an earlier pass.
        """
        self.first()
        assert self._begun is not None
        first, rest = self._begun
        self._begun = None
        n = 0
        for batch in chain([first], rest):
            self._check(batch, n)
            n += 1
            yield batch
        self._ended(n)

    def keep_order(self, who: str) -> None:
        """From here on, every pass has to give the same samples in the same order.

        Args:
            who: needs that, with its verb: the beginning of the message.

        Raises:
            DataError: here where a loader can be seen to shuffle; in a pass, where a batch
                begins or ends with another sample than in the first one.
        """
        self._who = who
        if self._reorders():
            raise DataError(
                f"{who} batches in the same order each time, and this DataLoader shuffles; "
                "give one with shuffle=False"
            )

    def _check(self, batch: Any, number: int) -> None:
        """Compares the ends of a batch's tensors with those of an earlier pass."""
        if self._who is None:
            return
        digest = blake2b(digest_size=8)
        for leaf in pytree.tree_leaves(batch):
            if isinstance(leaf, Tensor) and _is_plain(leaf) and leaf.ndim and len(leaf):
                ends = leaf[[0, -1]].detach().cpu().contiguous()
                digest.update(ends.view(torch.uint8).numpy().tobytes())
        fingerprint = digest.digest()
        if number == len(self._samples):
            self._samples.append(fingerprint)
        elif number < len(self._samples) and self._samples[number] != fingerprint:
            raise DataError(
                f"{self._who} the same samples in every pass, and batch {number} holds others than "
                "in an earlier one; give data that neither shuffles nor draws (augmentation)"
            )

    def _reorders(self) -> bool:
        sampler = getattr(self.source, "batch_sampler", None)
        sampler = getattr(self.source, "sampler", None) if sampler is None else sampler
        if sampler is None:
            return False
        with torch.random.fork_rng(devices=[]):
            one, other = (list(islice(iter(sampler), _LOOKED_AT)) for _ in range(2))
        return one != other

    def _full(self) -> Iterator[Any]:
        for batch in self.source:
            tensor = first_tensor(batch)
            if tensor is None or not tensor.ndim or len(tensor):
                yield batch

    def _ended(self, n: int) -> None:
        if self._length not in (None, n):
            raise DataError(
                f"data gave {self._length} batches in one pass and {n} in the next; several passes "
                "are needed. Give a list of batches, or a DataLoader over a dataset that starts "
                "from the beginning each time"
            )
        self._length = n
        if n == 0:
            raise DataError(
                "data holds no batch, or only empty ones; at least one sample is needed"
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor holds numbers one after the other."""
    odd = tensor.is_nested or tensor.is_meta or tensor.is_quantized
    return tensor.layout is torch.strided and not odd


def check_data(data: Any) -> Batches:
    """The data as something that can be iterated more than once.

    A tensor is taken as all samples and cut into batches, a dict of tensors as one batch.

    Raises:
        DataError: it cannot be iterated, or only once, or yields single samples.
    """
    if isinstance(data, Batches):
        return data
    if isinstance(data, Tensor):
        if data.ndim == 0 or len(data) == 0:
            raise DataError(f"data is a tensor of shape {tuple(data.shape)}: no samples")
        return Batches(data.split(_TENSOR_BATCH))
    if isinstance(data, np.ndarray):
        raise DataError("data is a numpy array; give torch.from_numpy(data)")
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise DataError(
            "data is a Dataset, which yields single samples; "
            "wrap it: torch.utils.data.DataLoader(dataset, batch_size=...)"
        )
    if isinstance(data, Iterator):
        raise DataError(
            f"data is a {type(data).__name__}, which can be iterated only once, and several passes "
            "are needed; give a list of batches or a DataLoader"
        )
    if isinstance(data, Mapping) and any(isinstance(value, Tensor) for value in data.values()):
        return Batches([data])  # such as the output of a tokenizer: one batch
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise DataError(
            f"data is a {type(data).__name__}; it must be a re-iterable of batches, such as a "
            "DataLoader, a list of tensors, or one tensor of samples"
        )
    return Batches(data)


def call_model(model: nn.Module, batch: Any, forward: Forward | None) -> Any:
    """Runs the model on a batch.

    A tensor is the argument, of a tuple or list the first element is, a dict holds keyword
    arguments; `forward(model, batch)` does anything else.

    Raises:
        DataError: the batch is none of these and there is no `forward`.
    """
    if forward is not None:
        return forward(model, batch)
    argument = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(argument, Tensor):
        return model(argument)
    if isinstance(argument, Mapping):
        return model(**argument)
    raise DataError(
        f"a batch is a {type(batch).__name__}"
        + (f" that starts with a {type(argument).__name__}" if argument is not batch else "")
        + "; it must be a tensor, a tuple or list that starts with one, or a dict of keyword "
        "arguments. For anything else give forward=lambda model, batch: ..."
    )


def convert(batch: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """The batch with all its tensors moved, floating ones cast; None leaves as it is."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_inference():
            leaf = leaf.clone()  # such tensors can be neither differentiated nor watched
        return leaf.to(device, dtype if leaf.is_floating_point() else None)

    return pytree.tree_map(move, batch)


@dataclass(frozen=True)
class Cut:
    """Which tensors of a batch have the samples on their first axis.

    Attributes:
        places: of these tensors among the leaves of a batch; empty: batches cannot be cut.
    """

    places: tuple[int, ...] = ()

    def n_samples(self, batch: Any) -> int | None:
        """Samples of a batch, None where it cannot be cut."""
        leaves = pytree.tree_leaves(batch)
        rows = set()
        for place in self.places:
            leaf = leaves[place] if place < len(leaves) else None
            rows.add(len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None)
        return rows.pop() if len(rows) == 1 else None

    def take(self, batch: Any, start: int, stop: int) -> Any:
        """Samples start to stop of a batch."""
        leaves, spec = pytree.tree_flatten(batch)
        for place in self.places:
            leaves[place] = leaves[place][start:stop]
        return pytree.tree_unflatten(leaves, spec)

    def pieces(self, batch: Any, size: int | Callable[[], int]) -> Iterator[Any]:
        """The batch, in parts where it can be cut.

        Args:
            batch: the batch.
            size: most samples of a part, or what tells it before each.
        """
        n, start = self.n_samples(batch), 0
        while n is None or start < n:
            stop = start + (size() if callable(size) else size)
            if n is None or (not start and n <= stop):
                yield batch
                return
            yield self.take(batch, start, min(stop, n))
            start = stop
