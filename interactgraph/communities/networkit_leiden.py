"""Starts from networkit's parallel Leiden, for very large graphs (extra `[networkit]`).

networkit has one null model for the whole graph, not one per block. Weights are therefore divided
by what the layered null expects first, and the best edges of each feature kept: a start for the
sweeps, which optimise the layered objective itself.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InteractGraphError
from ..sparse import at_ends, nonzero, values_of, with_values
from . import constants
from .objective import Objective

__all__ = ["networkit_starts"]


def networkit_starts(objective: Objective, seeds: list[int]) -> list[np.ndarray]:
    """Labels of one run for each seed, `[nodes]`.

    Raises:
        InteractGraphError: networkit is not installed.
    """
    try:
        import networkit
    except ImportError as error:
        raise InteractGraphError(
            "algorithm 'networkit' needs the package networkit: "
            "pip install 'interactgraph[networkit]'"
        ) from error

    offsets = objective.network.offsets
    graph = networkit.Graph(objective.network.n_nodes, weighted=True)
    for term in objective.terms:
        into, out = at_ends(term.weight, term.into, term.out)
        expected, weight = into * out, values_of(term.weight)
        excess = torch.where(expected > 0, weight / expected, torch.zeros_like(expected))
        rows, columns, values = nonzero(with_values(term.weight, excess))
        k = max(1, int(constants.NETWORKIT_SHARE * term.weight.numel()))
        values, first = values.topk(min(k, len(values)))
        sources, targets = (
            (ends[first] + offset).cpu().numpy().astype(np.uint64)
            for ends, offset in (
                (columns, offsets[term.source]),
                (rows, offsets[term.target]),
            )
        )
        graph.addEdges((values.cpu().numpy(), (sources, targets)))
    starts = []
    for seed in seeds:
        networkit.setSeed(seed, False)
        search = networkit.community.ParallelLeiden(graph, iterations=5, gamma=1.0)
        search.run()
        labels = np.array(search.getPartition().getVector(), dtype=np.int64)
        starts.append(np.where(objective.network.connected, labels, -1))
    return starts
