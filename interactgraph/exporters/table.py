"""The graph as a table of nodes and a table of edges, which every exporter writes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InteractGraphError
from .layout import column_positions, node_sizes
from .palette import module_colours
from .text import distinct

if TYPE_CHECKING:
    from ..communities import Partition
    from ..graph import Edges, InteractionGraph

__all__ = ["CHUNK", "Table", "check_finite", "node_affinity", "node_modules", "tabulate"]

CHUNK = 50_000  # rows that are turned into Python objects at a time

Advance = Callable[[int], object]  # is told how many more rows are written

_EXAMPLES = 3  # of each feature

# Gephi reads weights as 32-bit floats and drops edges whose weight is zero in them.
_FLOAT32 = np.finfo(np.float32)

# Names with a meaning of their own in some format: no strength may be called so in a file.
# fmt: off
_TAKEN = frozenset((
    "id", "label", "source", "target", "type", "weight", "kind", "key",
    "start", "end", "timeset", "interval", "timestamp",
    "layer", "feature", "strength", "module", "module_p_value", "examples", "drivers", "affinity",
    "second_module", "second_affinity", "role", "x", "y", "z", "r", "g", "b", "size",
    "color", "signed", "standard_error",
))
# fmt: on


def _unwatched(n_rows: int) -> None:
    """Nobody looks at the progress."""


@dataclass(frozen=True)
class Table:
    """Nodes and edges as parallel arrays; text is already what the format can hold.

    Attributes:
        description: one line that says what the file is.
        weight: name of the strength that is the weight.
        ids: unique node names "layer/number", in node order.
        labels: label of each node.
        layers: layer of each node.
        examples: where each feature is most active, in words; None: the graph does not say.
        drivers: the samples that drive its strongest edges, in words; None: the graph does not say.
        feature: number of the feature in its layer, int64 `[nodes]`.
        strength: sum of the weights of a node's edges, float64 `[nodes]`.
        module: module of each node, -1 for none, int64 `[nodes]`; None without a partition.
        roles: "mixture", "hub" or "" for each node; None where affinities are not known.
        affinity: what `node_affinity` gives.
        module_p_value: of that module, NaN where there is none or it could not be tested, float64
            `[nodes]`; None where modules were not tested.
        colour: red, green, blue, int64 `[nodes, 3]`.
        x, y, size: drawing coordinates and radius, float64 `[nodes]`.
        source, target: node numbers, int64 `[edges]`.
        weights: absolute, finite and above zero, float64 `[edges]`.
        more: further values of the edges by name, float64 `[edges]`, NaN where there is none.
        advance: is told how many more nodes or edges are written.
    """

    description: str
    weight: str
    ids: list[str]
    labels: list[str]
    layers: list[str]
    examples: list[str] | None
    drivers: list[str] | None
    feature: np.ndarray
    strength: np.ndarray
    module: np.ndarray | None
    roles: list[str] | None
    affinity: dict[str, np.ndarray]
    module_p_value: np.ndarray | None
    colour: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    source: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    more: dict[str, np.ndarray]
    advance: Advance = field(default=_unwatched, repr=False)

    @property
    def node_texts(self) -> dict[str, list[str]]:
        """What every format says of a node in words, by name."""
        texts = {"label": self.labels, "layer": self.layers}
        more = {"role": self.roles, "examples": self.examples, "drivers": self.drivers}
        return {**texts, **{name: each for name, each in more.items() if each is not None}}

    @property
    def node_numbers(self) -> dict[str, np.ndarray]:
        """What every format says of a node in numbers, by name."""
        numbers = {"feature": self.feature, "strength": self.strength}
        if self.module is not None:
            numbers |= {"module": self.module, **self.affinity}
        if self.module_p_value is not None:
            numbers["module_p_value"] = self.module_p_value
        return numbers

    @property
    def n_rows(self) -> int:
        """Nodes and edges."""
        return len(self.ids) + len(self.weights)

    def node_parts(self) -> Iterator[slice]:
        """Slices that cover the nodes; each counts as written when the next one is asked for."""
        return chunks(len(self.ids), self.advance)

    def edge_parts(self) -> Iterator[slice]:
        """The same for the edges."""
        return chunks(len(self.weights), self.advance)


def chunks(length: int, advance: Advance) -> Iterator[slice]:
    """Slices that cover `length` rows."""
    for start in range(0, length, CHUNK):
        part = slice(start, min(start + CHUNK, length))
        yield part
        advance(part.stop - part.start)


def tabulate(
    graph: InteractionGraph,
    partition: Partition | None,
    strength: str | None,
    clean: Callable[[str], str],
) -> Table:
    """Collects what is exported.

    Args:
        graph: the graph.
        partition: modules of its features.
        strength: which strength is the weight; None: the graph's first.
        clean: replaces the characters that the format cannot hold.

    Raises:
        InteractGraphError: the partition belongs to another graph, or a weight is not finite.
    """
    layers = distinct(graph.layers, clean)
    sizes = list(graph.n_features.values())
    module = node_modules(graph, partition)
    weight, source, target, weights, more = _edges(graph, strength, clean)
    total = sum(np.bincount(ends, weights, graph.n_nodes) for ends in (source, target))
    node_strength = np.asarray(total, dtype=np.float64)
    blocks = np.full(graph.n_nodes, -1) if module is None else module
    x, y = column_positions(sizes, blocks, node_strength)
    return Table(
        description=f"Interaction graph of the layers {', '.join(layers)}; weight: {weight}",
        weight=weight,
        ids=[f"{layer}/{j}" for layer, n in zip(layers, sizes, strict=True) for j in range(n)],
        labels=[clean(str(label)) for layer in graph.layers for label in graph.labels[layer]],
        layers=[layer for layer, n in zip(layers, sizes, strict=True) for _ in range(n)],
        examples=_examples(graph, clean),
        drivers=_drivers(graph, clean),
        feature=np.concatenate([np.zeros(0, np.int64), *map(np.arange, sizes)]),
        strength=node_strength,
        module=module,
        roles=_roles(graph, partition),
        affinity=node_affinity(graph, partition),
        module_p_value=_module_p_values(partition, module),
        colour=module_colours(blocks),
        x=x.round(3),
        y=y.round(3),
        size=node_sizes(node_strength).round(3),
        source=source,
        target=target,
        weights=weights,
        more=more,
    )


def _examples(graph: InteractionGraph, clean: Callable[[str], str]) -> list[str] | None:
    """What the samples are on which each feature is most active, in node order."""
    if not any(graph.examples.values()):
        return None
    texts = []
    for layer, n in graph.n_features.items():
        known = graph.examples.get(layer)
        for feature in range(n):
            found = [] if known is None else known.of(feature)[:_EXAMPLES]
            texts.append(clean(" | ".join(str(example) for example in found)))
    return texts


def _drivers(graph: InteractionGraph, clean: Callable[[str], str]) -> list[str] | None:
    """What drives the strongest edges of each feature, in node order."""
    if not graph.drivers:
        return None
    texts = []
    for layer, n in graph.n_features.items():
        for feature in range(n):
            found = (
                f"{words}: {' | '.join(map(str, drivers))}"
                for words, drivers in graph.driven(layer, feature)
            )
            texts.append(clean("; ".join(found)))
    return texts


def node_modules(graph: InteractionGraph, partition: Partition | None) -> np.ndarray | None:
    """The module of each node, int64 `[nodes]`; None without a partition.

    Raises:
        InteractGraphError: the partition belongs to another graph.
    """
    if partition is None:
        return None
    n_modules = {layer: len(modules) for layer, modules in partition.membership.items()}
    if n_modules != graph.n_features:
        raise InteractGraphError(
            "the partition does not fit the graph: it covers "
            f"{_sizes(n_modules)}, the graph has {_sizes(graph.n_features)}; "
            "find the modules of the graph that is exported"
        )
    parts = [np.asarray(partition.membership[layer]) for layer in graph.layers]
    if any(part.dtype.kind not in "iu" for part in parts if len(part)):
        raise InteractGraphError("the partition's modules are not integers")
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def node_affinity(graph: InteractionGraph, partition: Partition | None) -> dict[str, np.ndarray]:
    """How much each node belongs to its module, and to which other one it belongs most.

    Returns:
        "affinity" to its own module, "second_module" (-1: none) and "second_affinity", `[nodes]`
        each, NaN for nodes in no module; nothing where affinities are not known.
    """
    if partition is None or not getattr(partition, "affinity", None):
        return {}
    columns: dict[str, list[np.ndarray]] = {}
    for layer, n in graph.n_features.items():
        module = np.asarray(partition.membership[layer])
        shares = partition.affinity.get(layer, np.zeros((n, 0)))
        placed = (module >= 0) & (shares.shape[1] > 0)
        own, other, second = np.full(n, np.nan), np.full(n, -1), np.full(n, np.nan)
        rest, where = shares[placed].copy(), (np.arange(int(placed.sum())), module[placed])
        if placed.any():
            own[placed] = rest[where]
            rest[where] = -1
            second[placed] = rest.max(1).clip(0)
            other[placed] = np.where(rest.max(1) > 0, rest.argmax(1), -1)
        for name, values in (
            ("affinity", own),
            ("second_module", other),
            ("second_affinity", second),
        ):
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _roles(graph: InteractionGraph, partition: Partition | None) -> list[str] | None:
    """Which nodes are mixtures and hubs; None where affinities are not known."""
    if partition is None or not getattr(partition, "affinity", None):
        return None
    roles = [""] * graph.n_nodes
    for mixture in partition.mixtures():
        roles[graph.offsets[mixture.layer] + mixture.feature] = mixture.kind
    return roles


def _module_p_values(partition: Partition | None, module: np.ndarray | None) -> np.ndarray | None:
    """The p-value of the module of each node, float64 `[nodes]`."""
    if partition is None or module is None or not len(partition.module_p_values):
        return None
    return np.append(partition.module_p_values, np.nan)[module]


def _sizes(n_features: dict[str, int]) -> str:
    """Layers with their sizes, for a message."""
    return ", ".join(f"{layer!r} ({n} features)" for layer, n in n_features.items()) or "no layer"


def _edges(
    graph: InteractionGraph, strength: str | None, clean: Callable[[str], str]
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Name of the weight, sources, targets, weights and what else is known of the edges."""
    if not graph.pairs and strength is None:
        none = np.zeros(0, np.int64)
        return "none", none, none, np.zeros(0), {}
    name = graph.check_strength(strength)
    edges = graph.edges(name)
    check_finite(graph, edges, name)
    more = {}
    if name == "mean" or (edges.weight < 0).any():
        more["signed"] = edges.weight
    others = [other for other in graph.strengths if other != name]
    titles = distinct(others, clean, _TAKEN, str.lower)
    for title, other in zip(titles, others, strict=True):
        more[title] = graph.values_at(edges, other)
    if any(name in errors for errors in graph.standard_errors.values()):
        more["standard_error"] = graph.values_at(edges, name, error=True)
    # With a single sample there is no standard error; formats differ in how they spell infinity.
    more = {key: np.where(np.isfinite(values), values, np.nan) for key, values in more.items()}
    weights = np.clip(np.abs(edges.weight), _FLOAT32.smallest_subnormal, _FLOAT32.max)
    return clean(name), edges.source, edges.target, weights, more


def check_finite(graph: InteractionGraph, edges: Edges, strength: str) -> None:
    """Stops where a weight is not finite, so that it could be neither sorted nor drawn.

    Raises:
        InteractGraphError: says how many, and where.
    """
    wrong = np.flatnonzero(~np.isfinite(edges.weight))
    if len(wrong):
        source, target = graph.pairs[edges.pair[wrong[0]]]
        raise InteractGraphError(
            f"{len(wrong)} weights ({strength}) are not finite, the first one in {source!r} -> "
            f"{target!r}; build the graph again from finite activations or export another strength"
        )
