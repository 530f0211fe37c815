"""The default weighting: decides which edges are noise before it decides how to weigh them.

Logarithms and roots recover planted modules under heavy-tailed noise best, and destroy real graphs
in which most features carry next to nothing, because they lift those to the level of the rest.
Three questions are asked, in this order:

1. Is an edge more than its sampling error? Where standard errors are known, a weight w with error
   d becomes w max(0, 1 - (d / w)^2), the positive-part James-Stein shrinkage.
2. Do few features carry everything? Where the effective share of features (the exponential of the
   entropy of their strengths, over their number) is below a quarter, edges are sharpened to powers
   w^a, a = 1 ... 2, until it is small, and normalised: weak features then count for nothing,
   whether the strengths came as amplitudes or as squares.
3. Otherwise: is the tail of the weights signal or noise? Modules found from emphasised strong edges
   (`sharpened`) are preferred, as those edges matter to the model, unless held-out edges say that
   modules found from compressed ones (`information`) predict more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .held_out import held_out
from .network import Block, Network
from .weighting import information, normalise, sharpened

__all__ = ["effective_share", "noise_aware"]

_FEW = 0.25  # effective share of features below which weak ones are taken as noise
_ENOUGH = 0.12  # effective share of a block's features that its sharpening aims at
_PREFER = 0.9  # held-out excess of sharpened edges, over that of compressed ones, that suffices
_LARGE = 2_000_000  # edges above which one start and one fold have to do


def noise_aware(
    network: Network, seed: int = 0
) -> tuple[Network, Callable[[Block], Tensor], dict[str, float | str]]:
    """Strengths less their errors, the weighting of a block, and what it was decided by.

    Args:
        network: strengths, with standard errors where known.
        seed: of the held-out folds.
    """
    network = network.map(shrink)
    if not network.blocks:
        return network, sharpened, {}
    share = sum(map(effective_share, network.blocks)) / len(network.blocks)
    found: dict[str, float | str] = {"effective_share": round(share, 4)}
    if share < _FEW:
        return network, concentrate, {**found, "edges": "concentrated"}
    large = network.n_edges > _LARGE
    excess = {
        weigh: held_out(
            network,
            partial(_weigh, weigh=weigh),
            n_folds=3,
            n_starts=1 if large else 3,
            seed=seed,
        ).excess
        for weigh in (sharpened, information)
    }
    best = sharpened if excess[sharpened] > _PREFER * excess[information] else information
    found |= {f"held_out_{weigh.__name__}": round(value, 6) for weigh, value in excess.items()}
    return network, best, {**found, "edges": best.__name__}


def _weigh(network: Network, weigh: object) -> Network:
    return network.map(weigh)  # type: ignore[arg-type]


def shrink(block: Block) -> Tensor:
    """Weights less their sampling error; an error that is not known (NaN) takes nothing."""
    if block.error is None:
        return block.weight
    tiny = torch.finfo(block.weight.dtype).tiny
    noise = block.error.nan_to_num(0.0, math.inf) / block.weight.clamp_min(tiny)
    return block.weight * (1 - noise.square()).clamp_min(0)


def effective_share(block: Block, exponent: float = 1.0) -> float:
    """Effective number of features over their number, mean of both sides of a block.

    The exponential of the Shannon entropy of the strengths: n equal features count as n.
    """
    weight = block.weight**exponent
    shares = []
    for strength in (weight.sum(0), weight.sum(1)):
        p = strength / strength.sum()
        shares.append(float(torch.exp(torch.special.entr(p).sum())) / len(p))
    return sum(shares) / 2


def concentrate(block: Block) -> Tensor:
    """Normalised w^a, with the smallest a of 1, 1 1/8, ... 2 that leaves few effective features."""
    exponent = 1.0
    while exponent < 2 and effective_share(block, exponent) > _ENOUGH:
        exponent += 0.125
    return normalise(block.weight**exponent)
