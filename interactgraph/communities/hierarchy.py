"""Modules inside modules: each one is searched again, on its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..checks import number, whole
from ..errors import InteractGraphError
from ..graph import InteractionGraph
from ..sparse import at_ends, values_of, with_values
from . import constants
from .auto_weighting import named_weighting
from .network import Block, Network
from .objective import make_objective
from .partition import Partition, split_layers
from .runs import choose_algorithm, search
from .self_edges import read_network, self_edges_of
from .significance import held_out_test

__all__ = ["ModuleNode", "module_tree"]


@dataclass(frozen=True)
class ModuleNode:
    """A module and the modules inside it.

    Attributes:
        features: layer -> numbers of its features.
        z_score: of the held-out test for structure inside it; 0 where it is too small to test.
        p_value: of the same test.
        children: the modules inside, largest first; empty where no structure was found.
    """

    features: dict[str, np.ndarray]
    z_score: float
    p_value: float
    children: list[ModuleNode] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of features."""
        return sum(len(numbers) for numbers in self.features.values())

    def leaves(self) -> Iterator[ModuleNode]:
        """The modules that are not divided any further."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def summary(self, depth: int = 0) -> str:
        """An indented outline for people."""
        lines = [f"{'  ' * depth}{self.size} features, z inside {self.z_score:.1f}"]
        lines += [child.summary(depth + 1) for child in self.children]
        return "\n".join(lines)


def module_tree(
    graph: InteractionGraph,
    partition: Partition,
    *,
    level: float = 0.01,
    max_depth: int = 4,
    n_runs: int = 5,
) -> ModuleNode:
    """Divides the modules of a partition again, as long as held-out edges show structure inside.

    Inside a module the null model knows the strengths that its features have there, so a module
    that is uniform beyond strengths stays whole.

    Args:
        graph: the graph of the partition.
        partition: its modules are the first level.
        level: a module is divided if the p-value of structure inside it is at most this.
        max_depth: number of levels at most.
        n_runs: runs for each module.

    Returns:
        The root; its children are the modules of the partition.

    Raises:
        InteractGraphError: the partition is of another graph, or an option makes no sense.

    Example:
        >>> import interactgraph as itg
        >>> net = itg.zoo.planted_modules(widths=(8, 12, 8), n_modules=2, n_samples=128)
        >>> graph = itg.interaction_graph(net.model, net.data, net.layers, progress=False)
        >>> tree = itg.module_tree(graph, itg.find_modules(graph, n_modules=2, n_runs=2), n_runs=2)
        >>> len(tree.children)
        2
    """
    n_runs, max_depth = whole("n_runs", n_runs), whole("max_depth", max_depth, 0)
    if not 0 <= number("level", level) <= 1:
        raise InteractGraphError(f"level={level!r} must be a p-value, from 0 to 1")
    n_modules = {layer: len(modules) for layer, modules in partition.membership.items()}
    if list(n_modules.items()) != list(graph.n_features.items()):
        raise InteractGraphError(
            f"the partition is of another graph: its layers have {n_modules} features, the graph's "
            f"{dict(graph.n_features)}"
        )
    network, _ = read_network(graph, partition.strength or None, None, self_edges_of(partition))
    children = [
        _divide(network, partition, partition.labels == module, level, max_depth - 1, n_runs)
        for module in range(partition.n_modules)
    ]
    everything = split_layers(partition.labels >= 0, graph.n_features)
    features = {layer: np.flatnonzero(inside) for layer, inside in everything.items()}
    return ModuleNode(features, partition.z_score, partition.p_value, children)


def _divide(
    network: Network,
    partition: Partition,
    inside: np.ndarray,
    level: float,
    depth: int,
    n_runs: int,
) -> ModuleNode:
    parts = split_layers(inside, network.n_features)
    features = {layer: np.flatnonzero(part) for layer, part in parts.items() if part.any()}
    subnetwork = network.map(lambda block: _inside(block, network, inside))
    if depth < 1 or inside.sum() < constants.SMALLEST_DIVIDED or not subnetwork.blocks:
        return ModuleNode(features, 0.0, 1.0)
    test = held_out_test(subnetwork, seed=partition.seed)
    if not test.p_value <= level:
        return ModuleNode(features, *test)
    weighted = named_weighting(partition.weighting).weigh(subnetwork, partition.seed).network
    objective = make_objective(weighted, "layered", 1.0)
    runs = search(objective, choose_algorithm("auto", objective), n_runs, partition.seed)
    labels = max(runs, key=objective.quality)
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(numbers) < 2:
        return ModuleNode(features, *test)
    children = [
        _divide(network, partition, labels == number, level, depth - 1, n_runs)
        for number in numbers[np.argsort(-counts, kind="stable")]
    ]
    return ModuleNode(features, *test, children)


def _inside(block: Block, network: Network, inside: np.ndarray) -> Tensor:
    """The weights between features of a module, zero elsewhere."""
    offsets = network.offsets
    into, out = (
        torch.as_tensor(inside[offsets[k] : offsets[k + 1]], device=block.weight.device)
        for k in (block.target, block.source)
    )
    of_rows, of_columns = at_ends(block.weight, into, out)
    return with_values(block.weight, values_of(block.weight) * (of_rows & of_columns))
