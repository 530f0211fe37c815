"""The graph as the searches see it: checked, non-negative weights in sorted blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import is_sparse, map_values, n_nonzero, nonzero, tidy, values_of
from . import constants

__all__ = ["Block", "Network"]

_MOST = 1e300  # total of a block that still leaves room for sums over blocks


class Block(NamedTuple):
    """Weights between two layers.

    Attributes:
        source: number of the source layer.
        target: number of the target layer.
        weight: float64 `[i, j]`, not negative, dense or sparse; at most 1 as read from a graph.
        total: sum of the strengths before scaling.
        power: of the weights that makes them energies: 2 where they are amplitudes, as the
            strengths of this library are but for shares; 1 where nothing is known of their unit.
        unknown: entries that nothing is known about, bool `[i, j]`, which `weight` holds a
            placeholder for; None: there are none.
    """

    source: int
    target: int
    weight: Tensor
    total: float = 1.0
    power: int = 1
    unknown: Tensor | None = None


@dataclass(frozen=True)
class Network:
    """Layers of features, and blocks of weights between them, sorted by source and target.

    Attributes:
        n_features: layer -> number of features, in order.
        blocks: those with at least one weight above zero.
    """

    n_features: Mapping[str, int]
    blocks: tuple[Block, ...]

    @classmethod
    def from_graph(
        cls,
        graph: InteractionGraph,
        strength: str | None = None,
        device: torch.device | str | None = None,
    ) -> Network:
        """Reads one strength of a graph; signed ones count by their absolute value.

        Every block is divided by its largest entry: the null models compare weights within a
        block only, and products of two strengths could otherwise leave the range of floats.

        Raises:
            InteractGraphError: a weight is not finite.
        """
        if not graph.pairs:
            return cls(graph.n_features, ())
        strength = graph.check_strength(strength)
        known = STRENGTHS.get(strength)
        power = 1 if known is None or known.is_share else 2
        number = {layer: k for k, layer in enumerate(graph.layers)}
        blocks = []
        for source, target in sorted(graph.pairs, key=lambda p: (number[p[0]], number[p[1]])):
            if source == target:
                raise InteractGraphError(
                    f"the graph has edges from layer {source!r} to itself; modules are found from "
                    "edges between different layers: leave the pair out"
                )
            weight = _read(graph.weights(source, target, strength), device)
            finite = torch.isfinite(values_of(weight))
            if not finite.all():
                bad = int((~finite).sum())
                raise InteractGraphError(
                    f"{bad} weights ({strength}) of {source!r} -> {target!r} are NaN or infinite; "
                    "build the graph again from finite activations, or prune those edges"
                )
            weight = map_values(weight, torch.abs_)
            values = values_of(weight)
            largest = float(values.max()) if values.numel() else 0.0
            if largest == 0:
                continue
            scaled = tidy(weight / largest)
            blocks.append(
                Block(
                    number[source],
                    number[target],
                    scaled,
                    min(largest * float(values_of(scaled).sum()), _MOST),
                    power,
                )
            )
        return cls(graph.n_features, tuple(blocks))

    @cached_property
    def layer_sizes(self) -> tuple[int, ...]:
        """Number of features of each layer."""
        return tuple(self.n_features.values())

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Number of the first node of each layer, and the number of nodes at the end."""
        return tuple(np.cumsum([0, *self.layer_sizes]).tolist())

    @property
    def n_nodes(self) -> int:
        """Number of features in all layers."""
        return self.offsets[-1]

    @cached_property
    def n_edges(self) -> int:
        """Number of weights above zero."""
        return sum(n_nonzero(block.weight) for block in self.blocks)

    @property
    def is_large(self) -> bool:
        """Whether the search has to be sparing."""
        sparse = any(is_sparse(block.weight) for block in self.blocks)
        return self.n_edges > constants.LARGE or (sparse and self.n_nodes > constants.MANY)

    @cached_property
    def connected(self) -> np.ndarray:
        """Which nodes have an edge, bool `[nodes]`."""
        result = np.zeros(self.n_nodes, bool)
        for block in self.blocks:
            a, b = self.offsets[block.source], self.offsets[block.target]
            if is_sparse(block.weight):
                rows, columns, _ = nonzero(block.weight)
                result[a + columns.cpu().numpy()] = True
                result[b + rows.cpu().numpy()] = True
                continue
            some = block.weight > 0
            result[a : a + some.shape[1]] |= some.any(0).cpu().numpy()
            result[b : b + some.shape[0]] |= some.any(1).cpu().numpy()
        return result

    def map(self, function: Callable[[Block], Tensor]) -> Network:
        """The network with other weights; blocks that end up empty are left out."""
        blocks = [block._replace(weight=function(block)) for block in self.blocks]
        return Network(
            self.n_features, tuple(b for b in blocks if bool((values_of(b.weight) > 0).any()))
        )


def _read(matrix: Tensor, device: torch.device | str | None) -> Tensor:
    return matrix.detach().to(device=device or matrix.device, dtype=torch.float64, copy=True)
