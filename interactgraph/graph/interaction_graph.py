"""The interaction graph: blocks of strengths between the features of pairs of layers.

Index legend of the library: `b` sample, `s` source position, `t` target position, `j` source
feature, `i` target feature, `k` hidden unit, `a` path node. A block is a matrix `[i, j]`: rows are
targets, columns are sources, and an edge points from source j to target i.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..features import Driver, Drivers, Examples, FeatureMap
from ..sparse import absolute_sums, column_of, lookup, nonzero, row_of, tidy

if TYPE_CHECKING:
    import igraph
    import networkx
    from matplotlib.axes import Axes

    from ..communities import Partition

__all__ = ["Edges", "InteractionGraph", "Pair"]

Pair = tuple[str, str]
Blocks = Mapping[Pair, Mapping[str, Tensor]]


class Edges(NamedTuple):
    """Edges of a graph as parallel arrays over global node numbers.

    Attributes:
        source: node numbers, int64 `[edges]`.
        target: node numbers, int64 `[edges]`.
        weight: the strength, signed for `mean`, float64 `[edges]`.
        pair: index into `graph.pairs`, int64 `[edges]`.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    pair: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class InteractionGraph:
    """Interaction strengths between the features of pairs of layers. Do not modify its tensors.

    Nodes are numbered layer by layer in the order of `layers`, features in their own order.

    Matrices are dense or sparse (`torch.sparse_coo`, coalesced, without zeros): large layers with
    few edges fit into memory and a small file that way. `edges` reads both alike.

    Attributes:
        layers: layer names, in order.
        pairs: (source layer, target layer), in order.
        labels: layer -> one label for each feature.
        blocks: pair -> strength name -> matrix `[i, j]`; the first name is the default weight.
        standard_errors: pair -> strength name -> standard error over samples, `[i, j]`.
        completeness: pair -> relative residual of sum_j A = y(z) - y(z0), root mean square over
            samples, target positions and target features.
        features: layer -> the feature map its features are coordinates of.
        metadata: the recipe: everything needed to run it again.
        groups: name -> the graph of a group of samples, over the same features.
        folds: graphs over disjoint parts of the samples, over the same features.
        examples: layer -> the samples on which its features are most active.
        drivers: pair -> the samples that drive the strongest edge of every target feature, and of
            every source feature.
    """

    layers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    labels: Mapping[str, Sequence[str]]
    blocks: Blocks
    standard_errors: Blocks = field(default_factory=dict)
    completeness: Mapping[Pair, float] = field(default_factory=dict)
    features: Mapping[str, FeatureMap] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, InteractionGraph] = field(default_factory=dict)
    folds: Sequence[InteractionGraph] = ()
    examples: Mapping[str, Examples] = field(default_factory=dict)
    drivers: Mapping[Pair, tuple[Drivers, Drivers]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "pairs", tuple((str(a), str(b)) for a, b in self.pairs))
        if len(set(self.layers)) != len(self.layers):
            raise InteractGraphError(f"layer names repeat: {list(self.layers)}")
        if len(set(self.pairs)) != len(self.pairs):
            names = ", ".join(f"{a!r} -> {b!r}" for a, b in self.pairs)
            raise InteractGraphError(f"pairs repeat: {names}")
        object.__setattr__(self, "folds", tuple(self.folds))
        for name in (
            "labels", "completeness", "features", "metadata", "groups", "examples", "drivers",
        ):  # fmt: skip
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(
            self, "labels", MappingProxyType({k: tuple(v) for k, v in self.labels.items()})
        )
        for name in ("blocks", "standard_errors"):
            frozen = {
                (str(a), str(b)): MappingProxyType(
                    {strength: tidy(matrix) for strength, matrix in block.items()}
                )
                for (a, b), block in getattr(self, name).items()
            }
            object.__setattr__(self, name, MappingProxyType(frozen))
        self._check()

    def _check(self) -> None:
        if set(self.labels) != set(self.layers):
            raise InteractGraphError(
                f"labels are given for layers {sorted(self.labels)}, the graph has "
                f"{sorted(self.layers)}"
            )
        if set(self.blocks) != set(self.pairs):
            raise InteractGraphError("blocks and pairs of the graph do not agree")
        for part in (*self.groups.values(), *self.folds):
            if (part.layers, part.pairs, part.n_features) != (
                self.layers, self.pairs, self.n_features
            ):  # fmt: skip
                raise InteractGraphError(f"a group or fold of {self!r} is another graph, {part!r}")
        names = {tuple(block) for block in self.blocks.values()}
        if len(names) > 1:
            raise InteractGraphError(f"every pair needs the same strengths, found {sorted(names)}")
        for table in (self.blocks, self.standard_errors):
            for (source, target), block in table.items():
                if source not in self.labels or target not in self.labels:
                    raise InteractGraphError(f"pair {source} -> {target} is not between its layers")
                shape = (self.n_features[target], self.n_features[source])
                for strength, matrix in block.items():
                    if tuple(matrix.shape) != shape:
                        raise InteractGraphError(
                            f"{strength} of {source} -> {target} has shape {tuple(matrix.shape)}, "
                            f"expected [target features, source features] = {list(shape)}"
                        )

    def _repr_html_(self) -> str:
        from .views import to_html

        return to_html(self)

    def __repr__(self) -> str:
        sizes = " -> ".join(f"{layer} ({self.n_features[layer]})" for layer in self.layers)
        return f"InteractionGraph({sizes}; {len(self.pairs)} pairs, {', '.join(self.strengths)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Read-only mappings cannot be pickled; plain ones can."""
        values = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in fields(self))
        }
        for name in ("blocks", "standard_errors"):
            values[name] = {pair: dict(block) for pair, block in values[name].items()}
        return _rebuilt, (values,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the graph doubtful, and what would help, see `interactgraph.notes`."""
        return tuple(self.metadata.get("notes", ()))

    def describe(self, layer: str, feature: int, *, n_edges: int = 5) -> str:
        """What is known of a feature: its strongest edges, what drives them, where it is active.

        Args:
            layer: its layer.
            feature: its number.
            n_edges: edges in and out that are listed.

        Raises:
            InteractGraphError: there is no such layer or feature.
        """
        number = self.n_features.get(layer, 0)
        if not 0 <= feature < number:
            raise InteractGraphError(
                f"layer {layer!r} has no feature {feature}; "
                + (f"it has {number}" if number else f"layers are {', '.join(self.layers)}")
            )
        lines = [self.labels[layer][feature]]
        for source, target in self.pairs:
            weight = self.weights(source, target)
            if target == layer:
                lines += self._strongest("from", source, row_of(weight, feature), n_edges)
            if source == layer:
                lines += self._strongest("to", target, column_of(weight, feature), n_edges)
        if layer in self.examples:
            lines += [
                f"  {example.value:.4g} on {example}"
                for example in self.examples[layer].of(feature)
            ]
        for words, drivers in self.driven(layer, feature):
            lines.append(f"  {words} is driven by")
            lines += [f"    {driver}" for driver in drivers]
        return "\n".join(lines)

    def driven(self, layer: str, feature: int) -> list[tuple[str, list[Driver]]]:
        """The strongest edges of a feature into and out of its layer, and what drives them.

        Args:
            layer: its layer.
            feature: its number.

        Returns:
            Which edge, in words, and the samples that contribute most to it.
        """
        found = []
        for (source, target), (into, out) in self.drivers.items():
            for here, other, drivers, way in (
                (target, source, into, "its edge from"), (source, target, out, "its edge to"),
            ):  # fmt: skip
                if here == layer and (samples := drivers.of(feature)):
                    label = self.labels[other][int(drivers.partners[feature])]
                    found.append((f"{way} {label} of {other}", samples))
        return found

    def _strongest(self, way: str, other: str, values: Tensor, n: int) -> list[str]:
        """A line for each of the strongest edges to or from another layer."""
        top = values.abs().topk(min(n, len(values))).indices.tolist()
        return [
            f"  {way} {self.labels[other][j]}: {float(values[j]):.4g}"
            for j in top
            if values[j] != 0
        ]

    # --- sizes and names -------------------------------------------------------------------------

    @property
    def n_features(self) -> dict[str, int]:
        """Layer -> number of features."""
        return {layer: len(self.labels[layer]) for layer in self.layers}

    @property
    def n_nodes(self) -> int:
        """Number of features in all layers."""
        return sum(self.n_features.values())

    @property
    def strengths(self) -> tuple[str, ...]:
        """Names of the strengths that are there; the first is the default weight."""
        return tuple(next(iter(self.blocks.values()))) if self.blocks else ()

    @property
    def offsets(self) -> dict[str, int]:
        """Layer -> number of its first node."""
        starts = np.cumsum([0, *self.n_features.values()])
        return dict(zip(self.layers, starts.tolist(), strict=False))

    # --- strengths -------------------------------------------------------------------------------

    def weights(self, source: str, target: str, strength: str | None = None) -> Tensor:
        """Strengths of a pair of layers, `[target features, source features]`.

        A sparse tensor where the graph is sparse; `to_dense` makes it a dense one.

        Args:
            source: source layer.
            target: target layer.
            strength: `rms`, `mean_abs`, `mean` (signed) or `max`; None: the graph's first.

        Raises:
            InteractGraphError: no such pair or strength.
        """
        return self._block(self.blocks, source, target, strength)

    def standard_error(self, source: str, target: str, strength: str | None = None) -> Tensor:
        """Standard error of `weights` over samples, same shape.

        Raises:
            InteractGraphError: no such pair, or a strength without one (`max` is a maximum).
        """
        return self._block(self.standard_errors, source, target, strength)

    def _block(self, table: Blocks, source: str, target: str, strength: str | None) -> Tensor:
        if (source, target) not in self.blocks:
            raise InteractGraphError(
                f"the graph has no pair {source!r} -> {target!r}; it has "
                + ", ".join(f"{a!r} -> {b!r}" for a, b in self.pairs)
            )
        strength = self.check_strength(strength)
        if strength not in table.get((source, target), {}):
            raise InteractGraphError(
                f"strength {strength!r} of {source!r} -> {target!r} has no standard error"
            )
        return table[source, target][strength]

    def check_strength(self, strength: str | None) -> str:
        """The strength's name, the default for None.

        Raises:
            InteractGraphError: the graph does not hold it.
        """
        if not self.strengths:
            raise InteractGraphError("the graph has no pair of layers")
        if strength is None:
            return self.strengths[0]
        if strength not in self.strengths:
            raise InteractGraphError(
                f"the graph does not hold strength {strength!r}; it holds "
                + ", ".join(self.strengths)
            )
        return strength

    def edges(self, strength: str | None = None) -> Edges:
        """All edges with a weight other than zero, pair by pair, row by row within a pair.

        Args:
            strength: which strength is the weight; None: the graph's first.
        """
        strength = self.check_strength(strength)
        offsets = self.offsets
        parts = []
        for index, (source, target) in enumerate(self.pairs):
            block = self.blocks[source, target][strength].detach().cpu()
            rows, columns, values = (part.numpy() for part in nonzero(block))
            parts.append(
                (
                    columns + offsets[source],
                    rows + offsets[target],
                    values.astype(np.float64),
                    np.full(len(rows), index, np.int64),
                )
            )
        return Edges(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def values_at(self, edges: Edges, strength: str, *, error: bool = False) -> np.ndarray:
        """Another strength, or its standard error, of given edges, float64 `[edges]`.

        Args:
            edges: edges of this graph, as `edges` gives them (any subset, in any order).
            strength: a strength of the graph.
            error: its standard error instead, NaN in pairs of layers that have none.
        """
        table = self.standard_errors if error else self.blocks
        offsets = self.offsets
        values = np.zeros(len(edges.weight))
        for index, (source, target) in enumerate(self.pairs):
            places = np.flatnonzero(edges.pair == index)
            matrix = table.get((source, target), {}).get(strength)
            if matrix is None and error:
                values[places] = np.nan
                continue
            block = table[source, target][strength].detach().cpu()
            rows, columns = edges.target[places], edges.source[places]
            values[places] = lookup(
                block,
                torch.from_numpy(rows - offsets[target]),
                torch.from_numpy(columns - offsets[source]),
            ).numpy()
        return values

    def node_strength(self, strength: str | None = None) -> np.ndarray:
        """Sum of the absolute weights of each node's edges, in and out, float64 `[nodes]`."""
        strength = self.check_strength(strength)
        total = np.zeros(self.n_nodes)
        offsets, sizes = self.offsets, self.n_features
        for (source, target), block in self.blocks.items():
            of_targets, of_sources = absolute_sums(block[strength])
            a, b = offsets[source], offsets[target]
            total[a : a + sizes[source]] += of_sources.cpu().numpy()
            total[b : b + sizes[target]] += of_targets.cpu().numpy()
        return total

    # --- derived graphs and views ----------------------------------------------------------------

    def prune(
        self,
        threshold: float | None = None,
        *,
        relative: float | None = None,
        top_k: int | None = None,
        top_k_per_target: int | None = None,
        strength: str | None = None,
    ) -> InteractionGraph:
        """The graph without its weak edges; an edge must pass every rule that is given.

        Args:
            threshold: keep absolute weights of at least this.
            relative: keep absolute weights of at least this share of the pair's largest.
            top_k: keep this many edges in each pair.
            top_k_per_target: keep this many edges into each target feature.
            strength: the strength that decides; None: the graph's first.

        Returns:
            A new graph: dropped edges have all their strengths set to zero.

        Raises:
            InteractGraphError: no rule, or one that makes no sense.
        """
        from .pruning import prune

        return prune(self, threshold, relative, top_k, top_k_per_target, strength)

    def replace(self, **changes: Any) -> InteractionGraph:
        """A copy with other field values."""
        return replace(self, **changes)

    def to_sparse(self) -> InteractionGraph:
        """The same graph with sparse matrices, as a pruned graph of large layers wants them."""
        return self._with_matrices(lambda matrix: matrix.to_sparse_coo())

    def to_dense(self) -> InteractionGraph:
        """The same graph with dense matrices."""
        return self._with_matrices(lambda matrix: matrix.to_dense())

    def _with_matrices(self, function: Callable[[Tensor], Tensor]) -> InteractionGraph:
        """The graph, its groups and folds with every matrix in another form."""
        changed = {
            table: {
                pair: {name: function(matrix) for name, matrix in block.items()}
                for pair, block in getattr(self, table).items()
            }
            for table in ("blocks", "standard_errors")
        }
        return self.replace(
            **changed,
            groups={name: part._with_matrices(function) for name, part in self.groups.items()},
            folds=tuple(part._with_matrices(function) for part in self.folds),
        )

    def to_igraph(self, strength: str | None = None) -> igraph.Graph:
        """A directed igraph graph.

        Node attributes `name` ("layer/number"), `label`, `layer`, `feature`; edge attribute
        `weight` (absolute) and `signed` where the strength has a sign.
        """
        from .views import to_igraph

        return to_igraph(self, strength)

    def to_networkx(self, strength: str | None = None) -> networkx.DiGraph:
        """A networkx `DiGraph` on node names "layer/number", attributes as in `to_igraph`."""
        from .views import to_networkx

        return to_networkx(self, strength)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        partition: Partition | None = None,
        strength: str | None = None,
        n_edges: int = 400,
        axes: Axes | None = None,
    ) -> Axes:
        """Draws the graph with matplotlib: layers as columns, features as bars, strongest edges.

        Args:
            path: a .png, .svg or .pdf file to write; None: none, and notebooks show the figure.
            partition: modules, for the colours.
            strength: which strength is the weight; None: the graph's first.
            n_edges: how many edges of each pair are drawn, the strongest ones.
            axes: where to draw; None: a new figure.

        Returns:
            The axes.

        Raises:
            InteractGraphError: matplotlib is not installed, the partition is of another graph, or
                the path cannot be written.
        """
        from ..report.axes import plot_graph
        from ..report.picture import graph_size, picture

        return picture(
            lambda axes: plot_graph(
                axes, self, partition=partition, strength=strength, n_edges=n_edges
            ),
            graph_size(self), path, axes,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph to one safetensors file, whole or not at all.

        Raises:
            InteractGraphError: the path cannot be written.
        """
        from .storage import save

        save(self, path)


def _rebuilt(values: dict[str, Any]) -> InteractionGraph:
    return InteractionGraph(**values)
