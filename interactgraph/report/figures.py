"""Figures of a graph that people read: errors, strongest edges, blocks, distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..sparse import first_of_rows, is_sparse, lookup, n_nonzero, nonzero, values_of

if TYPE_CHECKING:
    from ..graph import Edges, InteractionGraph

__all__ = [
    "Neighbours",
    "block_means",
    "histograms",
    "quotas",
    "strong_edge_error",
    "strongest_edges",
    "strongest_neighbours",
]


_RARE = 0.002


def strong_edge_error(graph: InteractionGraph, source: str, target: str) -> float | None:
    """Median relative standard error of the strongest hundredth of a pair's edges.

    None where the pair has no edges, or its first strength no standard error.
    """
    matrix = graph.weights(source, target)
    name = graph.strengths[0]
    n_edges = n_nonzero(matrix)
    if not n_edges or name not in graph.standard_errors.get((source, target), {}):
        return None
    rows, columns, values = nonzero(matrix)
    weight, top = values.abs().topk(max(1, n_edges // 100))
    error = lookup(graph.standard_error(source, target), rows[top], columns[top]) / weight
    return float(error.median())


def quotas(available: list[int], total: int) -> list[int]:
    """Divides a total evenly; what one cannot take is left to the others.

    Args:
        available: the most that each can take.
        total: what there is to divide.
    """
    given = [0] * len(available)
    open_ = sorted(range(len(available)), key=lambda k: available[k])
    for rank, k in enumerate(open_):
        given[k] = min(available[k], total // (len(open_) - rank))
        total -= given[k]
    return given


def strongest_edges(edges: Edges, n_pairs: int, most: int) -> np.ndarray:
    """Numbers of the strongest edges, as many of each pair as the others leave room for.

    Args:
        edges: of a graph, in a strength.
        n_pairs: number of pairs of the graph.
        most: how many are wanted at most.

    Returns:
        Indices into `edges`, int64, sorted by absolute weight, largest first.
    """
    weight = np.abs(edges.weight)
    sizes = np.bincount(edges.pair, minlength=n_pairs).tolist()
    chosen = [np.zeros(0, np.int64)]
    for pair, quota in enumerate(quotas(sizes, most)):
        places = np.flatnonzero(edges.pair == pair)
        if quota < len(places):
            places = places[np.argsort(-weight[places], kind="stable")[:quota]]
        chosen.append(places)
    numbers = np.concatenate(chosen)
    return numbers[np.argsort(-weight[numbers], kind="stable")]


class Neighbours(NamedTuple):
    """The strongest edges on one side of every node.

    Attributes:
        node: the other end, int64 `[nodes, k]`; -1 where there are no more.
        weight: float64 `[nodes, k]`, largest absolute value first.
        error: standard error, float64 `[nodes, k]`; NaN where there is none.
    """

    node: np.ndarray
    weight: np.ndarray
    error: np.ndarray


def strongest_neighbours(graph: InteractionGraph, strength: str, k: int, side: str) -> Neighbours:
    """Of every node the strongest edges into it or out of it, over all its pairs.

    Args:
        graph: the graph.
        strength: one of its strengths.
        k: how many.
        side: "in" or "out".
    """
    offsets = graph.offsets
    found: dict[str, list[Neighbours]] = {layer: [] for layer in graph.layers}
    for source, target in graph.pairs:
        own, other = (target, source) if side == "in" else (source, target)
        block = graph.weights(source, target, strength).detach().cpu()
        errors = graph.standard_errors.get((source, target), {}).get(strength)
        if is_sparse(block):
            first = _first_neighbours(block, errors, k, side)
            node = np.where(first.node < 0, -1, first.node + offsets[other])
            found[own].append(first._replace(node=node))
            continue
        error = torch.full_like(block, torch.nan) if errors is None else errors.detach().cpu()
        if side == "out":
            block, error = block.T, error.T
        top = block.abs().topk(min(k, block.shape[1]), dim=1).indices
        weight = block.gather(1, top).double().numpy()
        node = np.where(weight == 0, -1, top.numpy() + offsets[other])
        found[own].append(Neighbours(node, weight, error.gather(1, top).double().numpy()))
    parts = []
    for layer, n in graph.n_features.items():
        pad = Neighbours(np.full((n, k), -1), np.zeros((n, k)), np.full((n, k), np.nan))
        both = Neighbours(
            *(np.concatenate(side, 1) for side in zip(*found[layer], pad, strict=True))
        )
        order = np.argsort(-np.abs(both.weight), axis=1, kind="stable")[:, :k]
        parts.append(Neighbours(*(np.take_along_axis(array, order, 1) for array in both)))
    return Neighbours(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _first_neighbours(block: Tensor, errors: Tensor | None, k: int, side: str) -> Neighbours:
    """The same of one sparse block, with numbers of features for nodes."""
    rows, columns, values = nonzero(block)
    own, other = (rows, columns) if side == "in" else (columns, rows)
    order, rank = first_of_rows(own, values.abs())
    order, rank = order[rank < k], rank[rank < k]
    shape = (block.shape[0 if side == "in" else 1], k)
    node, weight = np.full(shape, -1), np.zeros(shape)
    error = np.full(shape, np.nan)
    places = own[order].numpy(), rank.numpy()
    node[places] = other[order].numpy()
    weight[places] = values[order].double().numpy()
    if errors is not None:
        error[places] = lookup(errors.detach().cpu(), rows[order], columns[order]).double().numpy()
    return Neighbours(node, weight, error)


def block_means(weight: Tensor, rows: np.ndarray, columns: np.ndarray, most: int) -> np.ndarray:
    """Means of the absolute values over about equal blocks of rows and columns.

    Args:
        weight: `[i, j]`.
        rows: numbers of the rows in the order of the picture.
        columns: numbers of the columns in the order of the picture.
        most: rows and columns of the result at most.
    """
    if is_sparse(weight):
        return _sparse_block_means(weight, rows, columns, most)
    means = np.abs(weight.detach().cpu().numpy()[rows][:, columns]).astype(np.float64)
    for axis in (0, 1):
        n = means.shape[axis]
        if n > most:
            starts = np.arange(most) * n // most
            counts = np.diff(np.append(starts, n))
            sums = np.add.reduceat(means, starts, axis=axis)
            means = sums / (counts[:, None] if axis == 0 else counts)
    return means


def _sparse_block_means(
    weight: Tensor, rows: np.ndarray, columns: np.ndarray, most: int
) -> np.ndarray:
    i, j, values = (part.numpy() for part in nonzero(weight.detach().cpu()))
    places, counts = [], []
    for order, ends in ((rows, i), (columns, j)):
        n = len(order)
        starts = np.arange(min(n, most)) * n // max(min(n, most), 1)
        position = np.empty(n, np.int64)
        position[order] = np.arange(n)
        places.append(np.searchsorted(starts, position[ends], side="right") - 1)
        counts.append(np.diff(np.append(starts, n)))
    sums = np.zeros((len(counts[0]), len(counts[1])))
    np.add.at(sums, tuple(places), np.abs(values).astype(np.float64))
    return sums / np.outer(*counts)


def histograms(
    graph: InteractionGraph, strength: str, n_bins: int = 48, decades: float = 8.0
) -> tuple[np.ndarray, np.ndarray]:
    """How the absolute strengths of each pair are distributed, over a logarithmic scale.

    Args:
        graph: the graph.
        strength: which strength.
        n_bins: number of bins, the same for all pairs.
        decades: how far below the largest the scale reaches at most; it leaves out the smallest
            two thousandths, too. Smaller ones are counted in the first bin.

    Returns:
        Ends of the bins as decimal logarithms, `[n_bins + 1]`, and counts, int64 `[pairs, n_bins]`.
    """
    logs = []
    for source, target in graph.pairs:
        values = values_of(graph.weights(source, target, strength))
        weight = values.abs().double().cpu().numpy().ravel()
        logs.append(np.log10(weight[(weight > 0) & np.isfinite(weight)]))
    every = np.concatenate([np.zeros(0), *logs])
    high = float(every.max()) if len(every) else 0.0
    low = max(float(np.quantile(every, _RARE)), high - decades) if len(every) else -1.0
    ends = np.linspace(low, high if high > low else low + 1, n_bins + 1)
    counts = [np.histogram(np.clip(log, ends[0], ends[-1]), ends)[0] for log in logs]
    return ends, np.array(counts, dtype=np.int64).reshape(len(logs), n_bins)
