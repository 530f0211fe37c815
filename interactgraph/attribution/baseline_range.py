"""Whether baselines lie inside the values that the data has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..distributed import World
from ..layers import EncodedBatch

__all__ = ["BaselineRange"]

_ROWS = 512  # samples at a time


@dataclass(eq=False)
class BaselineRange:
    """Smallest and largest value of every feature, widened until they hold the baseline.

    Attributes:
        ends: layer -> (smallest, largest), each `[j]`.
    """

    ends: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _starts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, encoded: EncodedBatch) -> None:
        """Looks at a batch, as long as that can change anything."""
        for layer, z0 in encoded.z0.items():
            self._starts[layer] = z0[0]
            for rows in encoded.z[layer].split(_ROWS):
                if self._outside(layer) == 0:
                    break
                low, high = rows.amin((0, 1)), rows.amax((0, 1))  # much faster than aminmax
                if layer in self.ends:
                    low = torch.minimum(low, self.ends[layer][0])
                    high = torch.maximum(high, self.ends[layer][1])
                self.ends[layer] = (low, high)

    def _outside(self, layer: str) -> float:
        if layer not in self.ends:
            return 1.0
        (low, high), z0 = self.ends[layer], self._starts[layer]
        return float(((z0 < low) | (z0 > high)).any(0).double().mean())

    def outside(self) -> dict[str, float]:
        """Layer -> share of its features whose baseline lies outside the values in the data."""
        return {layer: round(self._outside(layer), 6) for layer in self.ends}

    def gather(self, world: World, device: torch.device) -> None:
        """Adds what all processes have seen."""
        for table in world.gather(self.ends):
            for layer, (low, high) in table.items():
                low, high = low.to(device), high.to(device)
                if layer in self.ends:
                    low = torch.minimum(low, self.ends[layer][0])
                    high = torch.maximum(high, self.ends[layer][1])
                self.ends[layer] = (low, high)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {layer: list(ends) for layer, ends in self.ends.items()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes back to what `state` gave."""
        self.ends = {
            layer: (low.to(device), high.to(device)) for layer, (low, high) in state.items()
        }
