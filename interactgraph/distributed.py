"""Several processes on one data set: each takes every n-th batch, the sums are added up at the end.

Started by `torchrun`, or by anything that sets its environment variables or has called
`torch.distributed.init_process_group`. The sums of every process live on its own device and are
added with gloo on CPUs and nccl on GPUs; every process ends up with the same graph.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch.utils.data.distributed import DistributedSampler

from .attribution import PairEngine
from .attribution.strengths import StrengthSums
from .errors import InteractGraphError

__all__ = ["World", "is_first", "join_world"]


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

    def add_up(self, engines: Iterable[PairEngine]) -> None:
        """Adds what the processes have; afterwards all of them have everything."""
        if self.size == 1:
            return
        for engine in engines:
            tables = engine.sums.tables
            found = self.gather(list(tables))
            for key in dict.fromkeys(key for keys in found for key in keys):
                mine = tables.get(key)
                if mine is None:
                    mine = StrengthSums(engine.sums.names, engine.sums.shape, engine.sums.device)
                tables[key] = self._added(mine)
            own = engine.completeness
            parts = self.gather((own.residual, own.change, engine.n_steps_used, engine.notes))
            own.residual = sum(part[0] for part in parts)
            own.change = sum(part[1] for part in parts)
            engine.n_steps_used = max(part[2] for part in parts)
            engine.notes = list(dict.fromkeys(note for part in parts for note in part[3]))

    def total(self, engine: PairEngine) -> StrengthSums:
        """What all processes have of a pair by now, which they keep apart; all of them call it."""
        mine = engine.sums.total()
        if self.size == 1:
            return mine
        return self._added(StrengthSums.merged(mine.names, mine.shape, mine.device, [mine]))

    def _added(self, sums: StrengthSums) -> StrengthSums:
        for name in sums.second if any(self.gather(bool(sums.passes_spread))) else ():
            sums.passes_spread.setdefault(name, torch.zeros_like(sums.first[name]))
        counts = (sums.n_samples, sums.n_positions, sums.n_positions_squared)
        parts = self.gather((counts, sums.per_sample, bool(sums.cross)))
        each = {per_sample for (n, _, _), per_sample, _ in parts if n}
        vary = len(each) > 1 or any(cross for _, _, cross in parts)
        if vary and not sums.cross:
            sums.cross = {name: sums.first[name] * (sums.per_sample or 0) for name in sums.second}
        for table, name in self._tensors(sums):
            largest = name == "max"
            dist.all_reduce(table[name], dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        sums.n_samples, sums.n_positions, sums.n_positions_squared = (
            sum(part[0][k] for part in parts) for k in range(3)
        )
        sums.per_sample = next(iter(each), None)
        sums.n_passes = max(self.gather(sums.n_passes))
        return sums

    @staticmethod
    def _tensors(sums: StrengthSums) -> Iterable[tuple[dict[str, torch.Tensor], str]]:
        for table in (sums.first, sums.second, sums.cross, sums.passes_spread):
            for name in table:
                yield table, name

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


def join_world(device: torch.device | str | None = None) -> World:
    """The processes that `torchrun` started; one where there is no such thing."""
    if not dist.is_available():
        return World()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ:
            return World()
        if torch.cuda.is_available() and str(device or "").startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("cpu:gloo,cuda:nccl")
        else:
            dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size())


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())
