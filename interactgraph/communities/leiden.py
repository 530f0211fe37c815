"""The Leiden algorithm (Traag, Waltman & van Eck, Scientific Reports 9, 5233, 2019), by leidenalg.

Barber's modularity of a bipartite block is the directed modularity of the block as a directed
graph: a source has no strength into it and a target none out of it, so the null term vanishes for
every pair that cannot be connected. The layered objective is then the sum over directed graphs on
the same nodes, which leidenalg optimises as a multiplex.
"""

from __future__ import annotations

from typing import Any

import igraph
import leidenalg
import numpy as np
import torch
from torch import Tensor

from ..sparse import nonzero
from .network import Network
from .objective import Objective, PooledObjective, Term

__all__ = ["Leiden"]


class Leiden:
    """Prepared once for an objective, then run from many seeds."""

    def __init__(self, objective: Objective | PooledObjective) -> None:
        """Builds the igraph graphs.

        Only nodes with edges take part. leidenalg ignores gains below an absolute threshold, so
        weights are scaled to a mean of one; zero weights would change its result and are left out.
        """
        self._network = objective.network
        self._nodes = np.flatnonzero(self._network.connected)
        self._number = np.full(self._network.n_nodes, -1, np.int64)
        self._number[self._nodes] = np.arange(len(self._nodes))
        scale = float(self._network.n_edges)
        self._layers: list[tuple[Any, igraph.Graph, dict[str, Any]]] = []
        self._layer_weights: list[float] = []
        if isinstance(objective, PooledObjective):
            self._add_pooled(objective, scale)
        elif objective.null == "cpm":
            for term in objective.terms:
                self._add_constant(term, objective.resolution, scale)
        else:
            for term in objective.terms:
                ends, weight = _edges(self._network, term.source, term.target, term.weight * scale)
                graph = self._graph(ends, directed=True)
                options = {"weights": weight, "resolution_parameter": objective.resolution}
                self._add(leidenalg.RBConfigurationVertexPartition, graph, options)

    def _graph(self, ends: np.ndarray, directed: bool) -> igraph.Graph:
        return igraph.Graph(n=len(self._nodes), edges=self._number[ends], directed=directed)

    def _add(
        self, kind: Any, graph: igraph.Graph, options: dict[str, Any], weight: float = 1.0
    ) -> None:
        self._layers.append((kind, graph, options))
        self._layer_weights.append(weight)

    def _add_pooled(self, objective: PooledObjective, scale: float) -> None:
        parts = [
            _edges(self._network, block.source, block.target, weight * scale)
            for block, weight in zip(self._network.blocks, objective.weights, strict=True)
        ]
        ends = np.concatenate([part[0] for part in parts])
        weights = [w for part in parts for w in part[1]]
        graph = self._graph(ends, directed=objective.null == "directed")
        options = {"weights": weights, "resolution_parameter": objective.resolution}
        self._add(leidenalg.RBConfigurationVertexPartition, graph, options)

    def _add_constant(self, term: Term, resolution: float, scale: float) -> None:
        """A constant null for the pairs of a block, as the difference of three constant nulls.

        leidenalg's constant Potts model expects weight for all pairs among its nodes; those within
        either layer are given back by an empty graph with weight -1 (its documentation, "Multiplex:
        negative links and bipartite").
        """
        ends, weight = _edges(self._network, term.source, term.target, term.weight * scale)
        sizes = np.zeros((2, self._network.n_nodes), np.int64)
        for row, layer, null in ((0, term.source, term.out), (1, term.target, term.into)):
            start = self._network.offsets[layer]
            sizes[row, start : start + len(null)] = (null > 0).cpu().numpy()
        sizes = sizes[:, self._nodes]
        per_pair = resolution * scale * float(term.into.max() * term.out.max())
        options: dict[str, Any] = {"resolution_parameter": per_pair}
        both = {**options, "weights": weight, "node_sizes": sizes.sum(0).tolist()}
        self._add(leidenalg.CPMVertexPartition, self._graph(ends, directed=False), both)
        empty = self._graph(np.zeros((0, 2), np.int64), directed=False)
        for row in range(2):
            within = {**options, "node_sizes": sizes[row].tolist()}
            self._add(leidenalg.CPMVertexPartition, empty, within, -1.0)

    def run(self, seed: int, n_iterations: int = -1) -> np.ndarray:
        """Labels of one run, `[nodes]`, -1 for nodes without edges.

        Args:
            seed: of the order in which nodes are visited.
            n_iterations: rounds; negative: until nothing improves.
        """
        labels = np.full(self._network.n_nodes, -1, np.int64)
        if not len(self._nodes):
            return labels
        partitions = [kind(graph, **options) for kind, graph, options in self._layers]
        optimiser = leidenalg.Optimiser()
        optimiser.set_rng_seed(seed)
        optimiser.optimise_partition_multiplex(
            partitions, layer_weights=self._layer_weights, n_iterations=n_iterations
        )
        labels[self._nodes] = partitions[0].membership
        return labels


def _edges(
    network: Network, source: int, target: int, weight: Tensor
) -> tuple[np.ndarray, list[float]]:
    """Node numbers `[edges, 2]` and weights of the entries above zero."""
    rows, columns, found = nonzero(weight)
    values = found.cpu().tolist()
    ends = torch.stack([columns + network.offsets[source], rows + network.offsets[target]], 1)
    return ends.cpu().numpy(), values
