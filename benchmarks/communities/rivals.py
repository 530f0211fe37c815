"""Other ways to find modules, as they come: one label per node of a graph.

All of them see the graph that the default sees: edges along skip connections are as expected.
"""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable

import igraph
import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from interactgraph import find_modules
from interactgraph.communities.self_edges import read_network
from interactgraph.communities.weighting import raw
from interactgraph.graph import InteractionGraph

Find = Callable[[InteractionGraph, int], np.ndarray]


def default(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """`find_modules` without options."""
    return find_modules(graph, significance=False).labels


def plain_leiden(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """Leiden on Newman's modularity, strengths as weights, best of three runs."""
    return find_modules(
        graph, null="undirected", weighting="raw", n_runs=3, significance=False
    ).labels


def plain_energies(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """The same with energies as weights, as the default counts edges of most graphs."""
    return find_modules(
        graph, null="undirected", weighting="energy", n_runs=3, significance=False
    ).labels


def layered_energies(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """The default without what it chooses for a graph."""
    return find_modules(
        graph, weighting="energy", resolution=1.0, n_runs=3, significance=False
    ).labels


def components(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """Connected components: what is found where nothing has to be searched for."""
    ends, weight, n = edges(graph)
    return connected_components(coo_array((weight, ends), (n, n)), directed=False)[1]


def infomap(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """The map equation on the undirected graph, igraph's two-level search."""
    random.seed(0)
    igraph.set_random_number_generator(random)
    ends, weight, n = edges(graph)
    found = igraph.Graph(n=n, edges=ends.T.tolist()).community_infomap(weight.tolist(), trials=3)
    return np.array(found.membership)


def networkit(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """Its parallel Leiden on modularity, undirected."""
    import networkit as nk

    nk.setSeed(0, False)
    nk.setNumberOfThreads(1)
    ends, weight, n = edges(graph)
    built = nk.Graph(n, weighted=True)
    for a, b, w in zip(*ends.tolist(), weight.tolist(), strict=True):
        built.addEdge(a, b, w)
    search = nk.community.ParallelLeiden(built, iterations=10, randomize=True)
    search.run()
    return np.array(search.getPartition().getVector())


def co_clustering(graph: InteractionGraph, n_modules: int) -> np.ndarray:
    """Dhillon's spectral co-clustering by scikit-learn, told the true number of modules.

    Layers in turn are the rows and the columns of its matrix, so that a chain of layers is one
    bipartite graph; every block is divided by its sum.
    """
    from sklearn.cluster import SpectralCoclustering

    ends, weight, n = edges(graph)
    joined = np.zeros(n, bool)
    joined[ends.ravel()] = True
    layer = np.repeat(np.arange(len(graph.layers)), list(graph.n_features.values()))
    labels = np.full(n, -1)
    rows, columns = (np.flatnonzero(joined & (layer % 2 == side)) for side in (0, 1))
    matrix = coo_array((weight, ends), (n, n)).toarray()
    matrix = (matrix + matrix.T)[np.ix_(rows, columns)]
    n_modules = min(n_modules, len(rows), len(columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = SpectralCoclustering(n_modules, random_state=0).fit(matrix)
    labels[rows], labels[columns] = found.row_labels_, found.column_labels_
    return labels


def edges(graph: InteractionGraph) -> tuple[np.ndarray, np.ndarray, int]:
    """Node numbers `[2, edges]`, weights of blocks divided by their sums, number of nodes."""
    network = read_network(graph)[0].map(raw)
    ends, weights = [], []
    for block in network.blocks:
        rows, columns = torch.nonzero(block.weight, as_tuple=True)
        start = network.offsets
        ends.append(torch.stack([columns + start[block.source], rows + start[block.target]]))
        weights.append(block.weight[rows, columns] / block.weight.sum())
    scale = sum(len(w) for w in weights)
    return torch.cat(ends, 1).numpy(), torch.cat(weights).numpy() * scale, network.n_nodes


RIVALS: dict[str, Find] = {
    "**default**": default,
    "layered, energies, resolution 1": layered_energies,
    "plain Leiden": plain_leiden,
    "plain Leiden, energies": plain_energies,
    "connected components": components,
    "Infomap": infomap,
    **({"networkit": networkit} if importlib.util.find_spec("networkit") else {}),
    "co-clustering, told the number": co_clustering,
}
