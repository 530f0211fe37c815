"""How a strength becomes the weight that the modularity sees.

Strengths are heavy-tailed, and a few strong features carry most of a block. Each function takes a
block and returns weights of the same shape; s_j and t_i are the sums of a column and of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import InteractGraphError
from .network import Block, Network

__all__ = ["WEIGHTINGS", "apply_weighting"]


def raw(block: Block) -> Tensor:
    """The strength itself."""
    return block.weight


def square_root(block: Block) -> Tensor:
    """sqrt(w): halves the weight of the tail on a logarithmic scale."""
    return block.weight.sqrt()


def logarithmic(block: Block) -> Tensor:
    """log10(w / median) where that is positive, the median taken over the edges that are there."""
    edges = block.weight[block.weight > 0]
    return torch.where(
        block.weight > 0, (block.weight / edges.median()).log10(), torch.zeros_like(block.weight)
    ).clamp_min(0)


def strength_normalised(block: Block) -> Tensor:
    """Divided by the root of both sums, w / sqrt(s t): what share of the features' strength it is.

    The adjacency of the symmetrically normalised bipartite Laplacian.
    """
    return normalise(block.weight)


def root_normalised(block: Block) -> Tensor:
    """As `strength_normalised`, with sqrt(w) and its sums in place of w."""
    return normalise(block.weight.sqrt())


def pointwise_mutual_information(block: Block) -> Tensor:
    """log(w / (s t / total)) where that is positive."""
    return positive_information(block.weight)


def normalise(weight: Tensor) -> Tensor:
    """Divides by the roots of row and column sums; zero where a feature has no strength."""
    into, out = weight.sum(1, keepdim=True), weight.sum(0, keepdim=True)
    return weight * _inverse_root(into) * _inverse_root(out)


def _inverse_root(strength: Tensor) -> Tensor:
    return torch.where(strength > 0, strength.rsqrt(), torch.zeros_like(strength))


def positive_information(weight: Tensor) -> Tensor:
    """log(w total / (s t)) where positive."""
    into, out = weight.sum(1, keepdim=True), weight.sum(0, keepdim=True)
    ratio = weight * (weight.sum() / (into * out).clamp_min(torch.finfo(weight.dtype).tiny))
    return ratio.clamp_min(1).log()


WEIGHTINGS: MappingProxyType[str, Callable[[Block], Tensor]] = MappingProxyType(
    {
        "raw": raw,
        "square_root": square_root,
        "logarithmic": logarithmic,
        "strength_normalised": strength_normalised,
        "root_normalised": root_normalised,
        "pmi": pointwise_mutual_information,
    }
)


def apply_weighting(network: Network, name: str) -> Network:
    """The network with its strengths turned into weights.

    Raises:
        InteractGraphError: no such weighting.
    """
    if name not in WEIGHTINGS:
        raise InteractGraphError(
            f"weighting {name!r} is not known; choose one of {', '.join(WEIGHTINGS)}"
        )
    return network.map(WEIGHTINGS[name])
