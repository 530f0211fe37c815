"""Several processes on one data set: each takes every n-th batch, the sums are added up at the end.

Started by `torchrun`, or by anything that sets its environment variables or has called
`torch.distributed.init_process_group`. The sums of every process live on its own device and are
added with gloo on CPUs and nccl on GPUs; every process ends up with the same graph.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch.utils.data.distributed import DistributedSampler

from .errors import InteractGraphError

__all__ = ["World", "join_world", "leave_world"]


@dataclass(frozen=True)
class World:
    """The processes that work together.

    Attributes:
        rank: number of this one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def takes(self, number: int) -> bool:
        """Whether batch `number` belongs to this process."""
        return number % self.size == self.rank

    def device(self, asked: torch.device | str | None) -> torch.device | str | None:
        """The device of this process: with "cuda" every process on a machine has its own."""
        if self.size > 1 and str(asked) == "cuda":
            return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return asked

    def check(self, data: Any, weights: str) -> None:
        """Stops where the processes do not work on the same thing.

        Args:
            data: what the user gave.
            weights: a string that tells models apart.

        Raises:
            InteractGraphError: the data has been divided already, or models differ.
        """
        if len(set(self.gather(weights))) > 1:
            raise InteractGraphError(
                f"the {self.size} processes have models with different weights; load a trained "
                "model, or seed before making one"
            )
        if self.size > 1 and isinstance(getattr(data, "sampler", None), DistributedSampler):
            raise InteractGraphError(
                "the DataLoader has a DistributedSampler, and batches are divided among processes "
                "here; give a DataLoader over all data without one"
            )

    def add(self, tensor: torch.Tensor, *, largest: bool = False) -> None:
        """Adds the tensors of all processes, in place; or takes the largest of every entry."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def join_world(device: torch.device | str | None = None) -> World:
    """The processes that `torchrun` started; one where there is no such thing."""
    if not dist.is_available():
        return World()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ:
            return World()
        # Default arguments of its functions are the group, if there is one when it is imported, and
        # torch imports it whenever it compiles something. They would keep the group alive, and its
        # threads abort processes that end.
        import torch.distributed.nn.functional

        if torch.cuda.is_available() and str(device or "").startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("cpu:gloo,cuda:nccl")
        else:
            dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size())


def leave_world() -> bool:
    """Ends the group of processes that `join_world` made, once all of them are here.

    The command line does so before it writes: a group that ends while the interpreter does can
    abort.

    Returns:
        Whether this process is the one that writes files and prints.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    atexit.unregister(dist.destroy_process_group)
    dist.barrier()
    dist.destroy_process_group()
    return first
