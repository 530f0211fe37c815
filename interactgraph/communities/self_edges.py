"""Edges from a feature to the feature of the same number: what a skip connection passes through.

Where source and target share coordinates (a residual stream), the strongest edge of nearly every
feature leads to itself. That is no structure of the layers between them, but every null model that
knows only strengths takes it for some: untrained residual networks then have significant modules.
They also hide what is there: planted groups are found at 0.98 instead of 0.70 without them
(benchmarks/communities/README.md, "Residual networks"). Leaving the edges out as zeros is wrong,
too: zeros where the null model expects weight speak against every module that holds a feature in
both layers, and for those that do not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..graph import InteractionGraph
from ..graph.self_edges import self_edges_dominate
from ..sparse import is_sparse, nonzero, sparse_matrix, sums, tidy, values_of, with_values
from . import constants
from .network import Block, Network

if TYPE_CHECKING:
    from .partition import Partition

__all__ = ["SELF_EDGES", "explained_self_edges", "read_network", "self_edges_of"]

SELF_EDGES = ("auto", "keep")

_ROUNDS = 100
_SETTLED = 1e-12


def read_network(
    graph: InteractionGraph,
    strength: str | None = None,
    device: torch.device | str | None = None,
    self_edges: str = "auto",
) -> tuple[Network, list[str]]:
    """One strength of a graph, with self edges that say nothing where a skip connection is.

    Args:
        graph: the graph.
        strength: which; None: the graph's first.
        device: where weights go; None: where they are.
        self_edges: "auto", or "keep" them as they are.

    Returns:
        The network, and the pairs whose self edges are as expected; those between which nothing
        else is have no block.

    Raises:
        InteractGraphError: a weight is not finite.
    """
    network = Network.from_graph(graph, strength, device)
    if self_edges == "keep":
        return network, []
    names = list(graph.layers)
    through = [self_edges_dominate(block.weight) for block in network.blocks]
    passing = [
        f"{names[block.source]} -> {names[block.target]}"
        for block, passes in zip(network.blocks, through, strict=True)
        if passes
    ]
    if passing:  # what the test is held against there is dense
        network = _dense_where_small(network)
    blocks = [
        explained_self_edges(block) if passes else block
        for block, passes in zip(network.blocks, through, strict=True)
    ]
    # Nothing is left of a block that only passes through.
    some = tuple(block for block in blocks if bool((values_of(block.weight) > 0).any()))
    return Network(network.n_features, some), passing


def _dense_where_small(network: Network) -> Network:
    """The same network with dense blocks, unless these would be large."""
    entries = sum(math.prod(block.weight.shape) for block in network.blocks)
    if entries > constants.LARGE:
        return network
    return Network(
        network.n_features,
        tuple(
            block._replace(weight=block.weight.to_dense()) if is_sparse(block.weight) else block
            for block in network.blocks
        ),
    )


def explained_self_edges(block: Block) -> Block:
    """The block with self edges as the layered null model expects them, so that they say nothing.

    With squares p of the weights, whose sums are what the features' strengths are made of, the self
    edge of i is p_ii = r_i c_i / n with row sums r, column sums c and the sum of all n, itself
    included: the independence model of a table with structural zeros (Bishop, Fienberg and Holland,
    Discrete Multivariate Analysis, 1975, chapter 5), fitted by iteration. What independent squares
    give is more than what roots on another scale expect (the mean of a root is below the root of
    the mean), so tests take these entries as unknown.
    """
    if is_sparse(block.weight):
        return _explained_sparse(block)
    squares = block.weight.square()
    own = squares.diagonal()
    own.zero_()
    _fit_own(own, squares.sum(1), squares.sum(0), float(squares.sum()))
    unknown = torch.eye(len(squares), dtype=torch.bool, device=squares.device)
    return _with(block, squares.sqrt())._replace(unknown=unknown)


def _explained_sparse(block: Block) -> Block:
    """The same of a sparse block, which then holds the self edges of all its features."""
    rows, columns, values = nonzero(block.weight)
    others = with_values(block.weight, torch.where(rows == columns, 0, values.square()))
    into, out = sums(others)
    own = torch.zeros_like(into)
    _fit_own(own, into, out, float(values_of(others).sum()))
    number = torch.arange(len(own), device=own.device)
    squares = tidy(others + sparse_matrix(number, number, own, others.shape))
    return _with(block, with_values(squares, values_of(squares).sqrt()))


def _fit_own(own: Tensor, rows: Tensor, columns: Tensor, total: float) -> None:
    """Fits p_ii = r_i c_i / n in place.

    Args:
        own: zero at first, `[i]`.
        rows: sums of all other entries of every row, `[i]`.
        columns: the same of every column, `[i]`.
        total: sum of all other entries.
    """
    for _ in range(_ROUNDS):
        r, c, n = rows + own, columns + own, total + float(own.sum())
        found = r * c / max(n, torch.finfo(own.dtype).tiny)
        settled = float((found - own).abs().max()) <= _SETTLED * float(found.max())
        own.copy_(found)
        if settled:
            break


def _with(block: Block, weight: Tensor) -> Block:
    share = values_of(weight).sum() / values_of(block.weight).sum()
    return block._replace(weight=weight, total=block.total * float(share))


def self_edges_of(partition: Partition) -> Literal["auto", "keep"]:
    """How self edges counted when a partition was found, as `find_modules` takes it.

    Where none were left out, keeping them is the same.
    """
    return "auto" if "self_edges" in partition.details else "keep"
