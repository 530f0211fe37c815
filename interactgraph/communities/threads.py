"""How many threads torch uses for a search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..sparse import values_of
from . import constants
from .network import Network

__all__ = ["few_threads"]


@contextmanager
def few_threads(network: Network) -> Iterator[None]:
    """One thread on small networks: waking others for many short operations costs far more."""
    before = torch.get_num_threads()
    if sum(values_of(block.weight).numel() for block in network.blocks) < constants.LARGE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
