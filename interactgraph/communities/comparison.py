"""Two partitions of the features of the same layers: other seeds, checkpoints, data, bases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..graph.comparison import matched_features
from .mutual_information import adjusted_mutual_information, adjusted_rand_index
from .partition import Partition

__all__ = ["Comparison", "Match", "compare"]

_SHOWN = 20  # features of a layer that a summary lists


@dataclass(frozen=True)
class Match:
    """A module of the first partition and its counterpart in the second.

    Attributes:
        first: module number in the first partition.
        second: module number in the second one.
        shared: number of features in both.
        overlap: shared features over features in either (Jaccard).
    """

    first: int
    second: int
    shared: int
    overlap: float


@dataclass(frozen=True)
class Comparison:
    """How two partitions differ, over features that are in a module of both.

    Attributes:
        adjusted_mutual_information: 1: the same partition, 0: chance; NaN where no feature is in
            a module of both.
        adjusted_rand_index: the same, by pairs of features.
        matches: one-to-one pairs of modules with the largest number of shared features in total,
            largest first; modules without a counterpart are left out.
        moved: layer -> features whose modules are not matched with each other.
        by_layer: layer -> adjusted mutual information within the layer.
    """

    adjusted_mutual_information: float
    adjusted_rand_index: float
    matches: list[Match]
    moved: dict[str, np.ndarray]
    by_layer: dict[str, float]

    def summary(self) -> str:
        """A few lines for people."""
        if math.isnan(self.adjusted_mutual_information):
            return "no feature is in a module of both partitions"
        n_moved = sum(len(features) for features in self.moved.values())
        lines = [
            f"adjusted mutual information {self.adjusted_mutual_information:.3f}, adjusted Rand "
            f"index {self.adjusted_rand_index:.3f}, {n_moved} features moved"
        ]
        lines += [
            f"module {m.first} = module {m.second}: {m.shared} shared, overlap {m.overlap:.2f}"
            for m in self.matches
        ]
        for layer, features in self.moved.items():
            if len(features):
                shown = ", ".join(map(str, features[:_SHOWN].tolist()))
                more = ", ..." if len(features) > _SHOWN else ""
                lines.append(f"moved in {layer}: {shown}{more}")
        return "\n".join(lines)


def compare(
    first: Partition,
    second: Partition,
    graphs: tuple[InteractionGraph, InteractionGraph] | None = None,
) -> Comparison:
    """Matches the modules of two partitions (Hungarian method on the numbers of shared features).

    Args:
        first: a partition.
        second: another one; layers that only one of them has are left out.
        graphs: the graphs that they are partitions of, for bases that differ: features are then
            matched by their directions (`interactgraph.features.counterparts`), and numbers of
            features are those of the first. None: features go by their number.

    Raises:
        InteractGraphError: no common layer, a layer with another number of features, or graphs of
            other features.
    """
    layers = [layer for layer in first.layers if layer in second.membership]
    if not layers:
        raise InteractGraphError(
            f"the partitions have no layer in common: {list(first.layers)} and "
            f"{list(second.layers)}"
        )
    there = {layer: second.membership[layer] for layer in layers}
    if graphs is not None:
        there = {layer: _counterparts(first, second, graphs, layer) for layer in layers}
    for layer in layers:
        n, m = len(first.membership[layer]), len(there[layer])
        if n != m:
            raise InteractGraphError(
                f"layer {layer!r} has {n} features in one partition and {m} in the other; compare "
                "partitions of the same features, or give the graphs, whose features tell which "
                "belong together"
            )
    a = np.concatenate([first.membership[layer] for layer in layers])
    b = np.concatenate([there[layer] for layer in layers])
    both = (a >= 0) & (b >= 0)
    table = np.zeros((first.n_modules, second.n_modules), np.int64)
    np.add.at(table, (a[both], b[both]), 1)
    rows, columns = linear_sum_assignment(-table)
    matches = []
    partner = np.full(first.n_modules + 1, -2)  # the last one serves features without a module
    for m, k in zip(rows.tolist(), columns.tolist(), strict=True):
        if table[m, k]:
            either = table[m].sum() + table[:, k].sum() - table[m, k]
            matches.append(Match(m, k, int(table[m, k]), float(table[m, k] / either)))
            partner[m] = k
    matches.sort(key=lambda match: -match.shared)
    moved, by_layer = {}, {}
    for layer in layers:
        x, y = first.membership[layer], there[layer]
        placed = (x >= 0) & (y >= 0)
        moved[layer] = np.flatnonzero(placed & (partner[x] != y))
        by_layer[layer] = (
            adjusted_mutual_information(x[placed], y[placed]) if placed.any() else math.nan
        )
    some = bool(both.any())
    return Comparison(
        adjusted_mutual_information(a[both], b[both]) if some else math.nan,
        adjusted_rand_index(a[both], b[both]) if some else math.nan,
        matches,
        moved,
        by_layer,
    )


def _counterparts(
    first: Partition,
    second: Partition,
    graphs: tuple[InteractionGraph, InteractionGraph],
    layer: str,
) -> np.ndarray:
    """The second partition's modules of the counterparts of the first one's features."""
    for partition, graph in zip((first, second), graphs, strict=True):
        if graph.n_features.get(layer) != len(partition.membership[layer]):
            raise InteractGraphError(
                f"a partition has {len(partition.membership[layer])} features in layer {layer!r}, "
                f"and its graph {graph.n_features.get(layer, 0)}; give the graphs that the "
                "partitions were found in, in the same order"
            )
    matched, modules = matched_features(*graphs, layer), second.membership[layer]
    return np.where(matched.index >= 0, modules[np.maximum(matched.index, 0)], -1)
