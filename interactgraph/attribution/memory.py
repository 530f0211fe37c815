"""How much memory a pass takes, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Footprint", "MemoryBudget", "default_budget", "footprint", "keep_heap"]

_DEFAULT = 2 << 30
_KEPT = 31 << 20  # bytes; beyond 32 MiB, glibc does not learn


@dataclass(frozen=True)
class Footprint:
    """Bytes for each sample of the intermediate results of one pass through a segment.

    Attributes:
        largest: of the largest one.
        total: of all of them.
    """

    largest: float
    total: float


class _User(Protocol):
    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""


@dataclass(eq=False)
class MemoryBudget:
    """The working memory of a run, which the sums of all pairs take first.

    Attributes:
        total: bytes.
        users: the sums.
    """

    total: int
    users: list[_User] = field(default_factory=list)

    @property
    def taken(self) -> int:
        """Bytes that the sums take."""
        return sum(user.n_bytes for user in self.users)

    @property
    def free(self) -> int:
        """Bytes beside the sums; an eighth of all at least."""
        return max(self.total - self.taken, self.total // 8)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = [0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor) and not func.is_view:
                self.sizes.append(leaf.numel() * leaf.element_size())
        return out


def footprint(function: Callable[[Tensor], Tensor], z: Tensor) -> Footprint:
    """Measures one pass."""
    with _Recorder() as recorder:
        function(z)
    return Footprint(max(recorder.sizes) / len(z), sum(recorder.sizes) / len(z))


def keep_heap() -> None:
    """Lets glibc keep freed memory for the next intermediate result; elsewhere it does nothing.

    Blocks above a threshold are fetched from the system page by page and given back when freed,
    which costs more than what is computed in them: without this, perceptrons take 1.05 times as
    long, local interaction bases of small layers 1.2 times. glibc raises the threshold to the
    largest such block that it has seen freed, so it is shown one, which is never written to
    (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(_KEPT, dtype=torch.uint8)


def default_budget(device: torch.device) -> int:
    """Working memory that is taken where the user names none: half of what is free, 2 GiB at most.

    On a GPU, half of its free memory.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return _DEFAULT
    return min(_DEFAULT, max(free // 2, 1 << 28))
