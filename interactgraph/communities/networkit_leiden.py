"""Starts from networkit's parallel Leiden, for very large graphs (extra `[networkit]`).

networkit has one null model for the whole graph, not one per block. Weights are therefore divided
by what the layered null expects first, and the best edges of each feature kept: a start for the
sweeps, which optimise the layered objective itself.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import InteractGraphError
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
        expected = torch.outer(term.into, term.out)
        excess = torch.where(expected > 0, term.weight / expected, torch.zeros_like(expected))
        k = max(1, int(constants.NETWORKIT_SHARE * excess.numel()))
        values, index = excess.flatten().topk(k)
        values, index = values[values > 0].cpu(), index[values > 0].cpu()
        rows = (index // excess.shape[1] + offsets[term.target]).numpy().astype(np.uint64)
        columns = (index % excess.shape[1] + offsets[term.source]).numpy().astype(np.uint64)
        graph.addEdges((values.numpy(), (columns, rows)))
    starts = []
    for seed in seeds:
        networkit.setSeed(seed, False)
        search = networkit.community.ParallelLeiden(graph, iterations=5, gamma=1.0)
        search.run()
        labels = np.array(search.getPartition().getVector(), dtype=np.int64)
        starts.append(np.where(objective.network.connected, labels, -1))
    return starts
