"""Modules across depth: how much strength goes from each module of a layer to each of the next.

A partition spans the layers, so that a module has a box in every layer it has features in. The flow
of a pair of layers is the absolute strength between boxes; beside it stands what strengths alone
explain, out_m in_n / total, the null model of the layered modularity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import InteractGraphError
from ..files import replacing
from ..graph import InteractionGraph, Pair
from ..sparse import is_sparse, nonzero
from .partition import Partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Band", "ModuleFlow", "module_flow"]

NOTABLE = 0.25  # share of a box's strength from which another box is part of a split or merge


class Band(NamedTuple):
    """What goes from a module of one layer to a module of another one; -1 is no module.

    Attributes:
        source: source layer.
        source_module: its module.
        target: target layer.
        target_module: its module.
        strength: sum of the absolute strengths of the edges.
        share_out: of all that leaves the source module for the target layer.
        share_in: of all that the target module gets from the source layer.
        ratio: strength over what the strengths of both modules explain.
    """

    source: str
    source_module: int
    target: str
    target_module: int
    strength: float
    share_out: float
    share_in: float
    ratio: float


@dataclass(frozen=True, eq=False)
class ModuleFlow:
    """Strength between the modules of pairs of layers.

    Attributes:
        layers: layer names, in order.
        strength: which strength was summed.
        blocks: pair -> sums of absolute strengths, float64 `[target modules + 1, source
            modules + 1]`; the last row and column are features in no module.
    """

    layers: tuple[str, ...]
    strength: str
    blocks: Mapping[Pair, np.ndarray]

    def bands(self) -> list[Band]:
        """Everything above zero, pair by pair, largest first."""
        return [band for pair in self.blocks for band in self._bands(pair)]

    def _bands(self, pair: Pair) -> Iterator[Band]:
        block = self.blocks[pair]
        out, into, total = block.sum(0), block.sum(1), block.sum()
        for place in np.argsort(-block, axis=None, kind="stable").tolist():
            n, m = divmod(place, block.shape[1])
            value = float(block[n, m])
            if value <= 0:
                break
            yield Band(
                pair[0], _number(m, block), pair[1], _number(n, block), value,
                value / float(out[m]), value / float(into[n]),
                value * float(total) / float(out[m] * into[n]),
            )  # fmt: skip

    def kept(self, module: int) -> dict[Pair, float]:
        """Pair -> share of what leaves a module that stays in it; pairs it does not leave from.

        Pairs that nothing of the module leaves for are left out.
        """
        return {
            pair: float(block[module, module] / out)
            for pair, block in self.blocks.items()
            if 0 <= module < len(block) - 1 and (out := block[:, module].sum()) > 0
        }

    def splits(self, share: float = NOTABLE) -> list[tuple[Pair, int, list[int]]]:
        """Modules that go on in several ones: (pair, source module, target modules).

        Args:
            share: of what leaves the module, that a target module gets at least; it must also be
                more than strengths explain.
        """
        return self._parted(share, "source_module", "target_module", "share_out")

    def merges(self, share: float = NOTABLE) -> list[tuple[Pair, int, list[int]]]:
        """Modules that come from several ones: (pair, target module, source modules).

        Args:
            share: of what the module gets, that a source module gives at least; it must also be
                more than strengths explain.
        """
        return self._parted(share, "target_module", "source_module", "share_in")

    def _parted(
        self, share: float, whole: str, part: str, what: str
    ) -> list[tuple[Pair, int, list[int]]]:
        found = []
        for pair in self.blocks:
            parts: dict[int, list[int]] = {}
            for band in self._bands(pair):
                ends = band.source_module, band.target_module
                if min(ends) >= 0 and getattr(band, what) >= share and band.ratio > 1:
                    parts.setdefault(getattr(band, whole), []).append(getattr(band, part))
            found += [
                (pair, module, sorted(others))
                for module, others in sorted(parts.items())
                if len(others) > 1
            ]
        return found

    def summary(self) -> str:
        """A few lines for people: what stays in every module, splits and merges."""
        lines = []
        n_modules = max((len(block) - 1 for block in self.blocks.values()), default=0)
        for pair, block in self.blocks.items():
            total = block.sum()
            inside = float(np.trace(block[:-1, :-1]) / total) if total else 0.0
            lines.append(
                f"{pair[0]} -> {pair[1]}: {inside:.0%} of the strength stays in its module"
            )
        for module in range(min(n_modules, 30)):
            kept = ", ".join(f"{a} -> {b} {x:.0%}" for (a, b), x in self.kept(module).items())
            if kept:
                lines.append(f"module {module} goes on in itself: {kept}")
        for word, parted in (("splits into", self.splits()), ("comes from", self.merges())):
            for (source, target), module, others in parted:
                names = ", ".join(map(str, others))
                lines.append(f"{source} -> {target}: module {module} {word} {names}")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the bands as a CSV table, whole or not at all.

        Raises:
            InteractGraphError: the path cannot be written.
        """
        import csv

        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(Band._fields)
            writer.writerows(self.bands())

    def plot(self, path: str | os.PathLike[str] | None = None, *, axes: Axes | None = None) -> Axes:
        """Draws an alluvial diagram with matplotlib: layers as columns, modules as boxes.

        Args:
            path: a .png, .svg or .pdf file to write; None: none, and notebooks show the figure.
            axes: where to draw; None: a new figure.

        Returns:
            The axes.

        Raises:
            InteractGraphError: matplotlib is not installed, or the path cannot be written.
        """
        from ..report.alluvial import plot_flow
        from ..report.picture import picture

        size = (min(max(2.2 * len(self.layers) + 1.0, 5.0), 30.0), 5.0)
        return picture(lambda axes: plot_flow(axes, self), size, path, axes)


def module_flow(
    graph: InteractionGraph, partition: Partition, strength: str | None = None
) -> ModuleFlow:
    """Sums the strength between the modules of every pair of layers.

    Args:
        graph: the graph.
        partition: its modules.
        strength: which strength, signed ones by absolute value; None: that of the partition, or the
            graph's first.

    Raises:
        InteractGraphError: no such strength, or a partition of another graph.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> flow = itg.module_flow(graph, itg.find_modules(graph, n_modules=2, n_runs=2))
        >>> flow.blocks["input", "1"].shape  # two modules, and features in none
        (3, 3)
    """
    n_features = {layer: len(modules) for layer, modules in partition.membership.items()}
    if n_features != graph.n_features:
        raise InteractGraphError(
            f"the partition is of another graph: its layers have {n_features} features, the "
            f"graph's {graph.n_features}"
        )
    name = ""
    if graph.pairs:
        known = partition.strength if partition.strength in graph.strengths else None
        name = graph.check_strength(strength or known)
    blocks = {}
    for source, target in graph.pairs:
        weight = graph.weights(source, target, name).detach()
        ends = partition.membership[source], partition.membership[target]
        if is_sparse(weight):
            rows, columns, values = (x.cpu().numpy() for x in nonzero(weight))
            sums = np.zeros((partition.n_modules + 1,) * 2)  # module -1 is the last one
            np.add.at(sums, (ends[1][rows], ends[0][columns]), np.abs(values.astype(np.float64)))
        else:
            dense = weight.abs().double().cpu().numpy()
            of_sources = _sums(dense.T, ends[0], partition.n_modules)
            sums = _sums(of_sources.T, ends[1], partition.n_modules)
        blocks[source, target] = sums
    return ModuleFlow(graph.layers, name, MappingProxyType(blocks))


def _sums(rows: np.ndarray, modules: np.ndarray, n_modules: int) -> np.ndarray:
    """Sums of the rows of every module, those of none last, `[modules + 1, columns]`."""
    sums = np.zeros((n_modules + 1, rows.shape[1]))
    np.add.at(sums, modules, rows)  # -1 is the last one
    return sums


def _number(place: int, block: np.ndarray) -> int:
    return -1 if place == len(block) - 1 else place
