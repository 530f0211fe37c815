"""What a partition is scored by: weight inside modules, minus what a null model expects there.

A layered graph has edges between certain pairs of layers only. Its null model has to know that:
expecting weight inside a layer, where none can be, rewards putting whole layers apart. So each
block has a null of its own, a product of a target and a source vector:

    Q = sum_blocks sum_ij (w_ij - resolution * into_i * out_j) [module of i = module of j]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..sparse import at_ends, map_values, sums, values_of
from .network import Network

__all__ = ["NULLS", "Objective", "PooledObjective", "Term", "make_objective"]

NULLS = ("layered", "undirected", "directed", "cpm")


class Term(NamedTuple):
    """One block of the objective.

    Attributes:
        source: number of the source layer.
        target: number of the target layer.
        weight: `[i, j]`; the totals of all blocks sum to one.
        into: target vector of the null model, `[i]`.
        out: source vector of the null model, `[j]`.
    """

    source: int
    target: int
    weight: Tensor
    into: Tensor
    out: Tensor


@dataclass(frozen=True)
class Objective:
    """Layered objectives: one null model per block.

    Attributes:
        null: "layered" (Barber's bipartite modularity, Phys. Rev. E 76, 066102, 2007, eq. 16, in
            every block) or "cpm" (every pair of a block expected equally, Traag, Van Dooren &
            Nesterov, Phys. Rev. E 84, 016114, 2011).
        resolution: factor of the null model.
        network: the weights.
        terms: the blocks with their nulls.
    """

    null: str
    resolution: float
    network: Network
    terms: tuple[Term, ...]

    def quality(self, labels: np.ndarray) -> float:
        """Value of a partition, at most 1.

        Args:
            labels: module of each node, `[nodes]`.
        """
        null = 0.0
        for term in self.terms:
            into, out = (self.layer_labels(labels, k) for k in (term.target, term.source))
            modules = int(max(into.max(), out.max())) + 1
            null += float(_sum_by(term.into, into, modules) @ _sum_by(term.out, out, modules))
        return self.inside(labels) - self.resolution * null

    def inside(self, labels: np.ndarray) -> float:
        """Share of the weight that is inside modules.

        Args:
            labels: module of each node, `[nodes]`.
        """
        return sum(
            float(
                weight_inside(
                    term.weight,
                    self.layer_labels(labels, term.target),
                    self.layer_labels(labels, term.source),
                )
            )
            for term in self.terms
        )

    def layer_labels(self, labels: np.ndarray, layer: int) -> Tensor:
        """The part of `labels` that belongs to a layer, where the weights are."""
        a, b = self.network.offsets[layer : layer + 2]
        device = self.terms[0].weight.device
        return torch.as_tensor(np.ascontiguousarray(labels[a:b]), device=device)


@dataclass(frozen=True)
class PooledObjective:
    """One null model for the whole graph, blind to layers; for comparison with other tools.

    Attributes:
        null: "undirected" (Newman's modularity) or "directed" (Leicht & Newman, PRL 100, 118703,
            2008).
        resolution: factor of the null model.
        network: the weights.
        weights: the weight of each block, scaled to sum to one over all.
    """

    null: str
    resolution: float
    network: Network
    weights: tuple[Tensor, ...]

    def quality(self, labels: np.ndarray) -> float:
        """Value of a partition, at most 1.

        Args:
            labels: module of each node, `[nodes]`.
        """
        inside = 0.0
        into, out = np.zeros(len(labels)), np.zeros(len(labels))
        offsets = self.network.offsets
        for block, weight in zip(self.network.blocks, self.weights, strict=True):
            a, b = offsets[block.source], offsets[block.target]
            a_end, b_end = a + weight.shape[1], b + weight.shape[0]
            sources = torch.as_tensor(labels[a:a_end], device=weight.device)
            targets = torch.as_tensor(labels[b:b_end], device=weight.device)
            inside += float(weight_inside(weight, targets, sources))
            of_targets, of_sources = sums(weight)
            out[a:a_end] += of_sources.cpu().numpy()
            into[b:b_end] += of_targets.cpu().numpy()
        if self.null == "undirected":
            into = out = (into + out) / 2
        grouped = labels >= 0
        null = np.bincount(labels[grouped], weights=into[grouped]) @ np.bincount(
            labels[grouped], weights=out[grouped]
        )
        return inside - self.resolution * float(null)


def weight_inside(weight: Tensor, into: Tensor, out: Tensor) -> Tensor:
    """Sum of the entries whose row and column are of one module.

    Args:
        weight: `[i, j]`.
        into: module of every row, `[i]`.
        out: module of every column, `[j]`.
    """
    of_rows, of_columns = at_ends(weight, into, out)
    return torch.where(of_rows == of_columns, values_of(weight), 0).sum()


def _sum_by(values: Tensor, labels: Tensor, n: int) -> Tensor:
    """Sums of values per label, `[n]`; negative labels are left out."""
    kept = labels >= 0
    return torch.zeros(n, dtype=values.dtype, device=values.device).index_add_(
        0, labels[kept], values[kept]
    )


def make_objective(
    network: Network, null: str, resolution: float, block_weight: str = "equal"
) -> Objective | PooledObjective:
    """The objective of a weighted network.

    Args:
        network: weights, at least one block.
        null: "layered", "undirected", "directed" or "cpm".
        resolution: factor of the null model.
        block_weight: "equal": every pair of layers counts the same; "total": by the sum of its
            strengths.

    Raises:
        InteractGraphError: an option that is not known, or a resolution that is not positive.
    """
    if null not in NULLS:
        raise InteractGraphError(f"null model {null!r} is not known; choose {', '.join(NULLS)}")
    if not (np.isfinite(resolution) and resolution > 0):
        raise InteractGraphError(f"resolution={resolution!r} must be a positive number")
    if block_weight not in ("equal", "total"):
        raise InteractGraphError(f"block_weight={block_weight!r} is not known; choose equal, total")
    shares = np.array([block.total if block_weight == "total" else 1.0 for block in network.blocks])
    shares /= shares.sum()
    weights = tuple(
        _scaled_to(block.weight, share)
        for block, share in zip(network.blocks, shares.tolist(), strict=True)
    )
    if null in ("undirected", "directed"):
        return PooledObjective(null, float(resolution), network, weights)
    terms = []
    for block, weight, share in zip(network.blocks, weights, shares.tolist(), strict=True):
        into, out = sums(weight)
        if null == "cpm":
            into, out = ((side > 0).to(weight.dtype) for side in (into, out))
            out = out * (share / (into.sum() * out.sum()))
        else:
            out = out / share
        terms.append(Term(block.source, block.target, weight, into, out))
    return Objective(null, float(resolution), network, tuple(terms))


def _scaled_to(weight: Tensor, total: float) -> Tensor:
    """The weights with another sum."""
    factor = total / values_of(weight).sum()
    return map_values(weight, lambda values: values * factor)
