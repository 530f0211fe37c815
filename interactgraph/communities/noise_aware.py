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
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import InteractGraphError
from ..sparse import is_sparse, lookup, map_values, nonzero, sums, values_of, with_values
from . import constants
from .held_out import held_out
from .network import Block, Network
from .weighting import FORMULAS, Weighed, Weighting, keep_connected, normalise

__all__ = ["WEIGHTINGS", "NoiseAware", "effective_share", "named_weighting"]


@dataclass(frozen=True)
class NoiseAware(Weighting):
    """Takes off noise, then decides between concentrating, sharpening and compressing."""

    def weigh(self, network: Network, seed: int = 0) -> Weighed:
        """See `Weighting.weigh`."""
        strengths = network.map(shrink)
        weighting, decided = self._decide(strengths, seed)
        weighted = keep_connected(strengths.map(weighting.block), network)
        return Weighed(weighted, strengths, weighting, decided)

    def _decide(self, network: Network, seed: int) -> tuple[Weighting, dict[str, float | str]]:
        """The weighting of strengths less their errors, and what it was decided by."""
        sharpened, information = FORMULAS["sharpened"], FORMULAS["information"]
        if not network.blocks:
            return sharpened, {}
        share = sum(map(effective_share, network.blocks)) / len(network.blocks)
        decision: dict[str, float | str] = {"effective_share": round(share, 4)}
        if share < constants.FEW:
            return Weighting("concentrated", concentrate), {**decision, "edges": "concentrated"}
        excess = {
            weighting.name: held_out(
                network, weighting, n_folds=3, n_starts=1 if network.is_large else 3, seed=seed
            ).excess
            for weighting in (sharpened, information)
        }
        prefers = excess["sharpened"] > constants.PREFERENCE * excess["information"]
        best = sharpened if prefers else information
        decision |= {f"held_out_{name}": round(value, 6) for name, value in excess.items()}
        return best, {**decision, "edges": best.name}


def shrink(block: Block) -> Tensor:
    """Weights less their sampling error; an error that is not known (NaN) takes nothing."""
    if block.error is None:
        return block.weight
    tiny = torch.finfo(block.weight.dtype).tiny
    error, weight = block.error, values_of(block.weight)
    if is_sparse(block.weight):
        rows, columns, _ = nonzero(block.weight)
        error = lookup(error, rows, columns)
    noise = error.nan_to_num(0.0, math.inf) / weight.clamp_min(tiny)
    return with_values(block.weight, weight * (1 - noise.square()).clamp_min(0))


def effective_share(block: Block, exponent: float = 1.0) -> float:
    """Effective number of features over their number, mean of both sides of a block.

    The exponential of the Shannon entropy of the strengths: n equal features count as n.
    """
    weight = map_values(block.weight, lambda values: values**exponent)
    shares = []
    for strength in reversed(sums(weight)):
        p = strength / strength.sum()
        shares.append(float(torch.exp(torch.special.entr(p).sum())) / len(p))
    return sum(shares) / 2


def concentrate(block: Block) -> Tensor:
    """Normalised w^a, with the smallest a of 1, 1 1/8, ... 2 that leaves few effective features."""
    exponent = 1.0
    while exponent < 2 and effective_share(block, exponent) > constants.CONCENTRATED_SHARE:
        exponent += 0.125
    return normalise(map_values(block.weight, lambda values: values**exponent))


WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType(
    {"noise_aware": NoiseAware("noise_aware", FORMULAS["information"].block), **FORMULAS}
)


def named_weighting(name: str) -> Weighting:
    """The weighting of that name.

    Raises:
        InteractGraphError: there is none.
    """
    if name not in WEIGHTINGS:
        raise InteractGraphError(
            f"weighting {name!r} is not known; choose one of {', '.join(WEIGHTINGS)}"
        )
    return WEIGHTINGS[name]
