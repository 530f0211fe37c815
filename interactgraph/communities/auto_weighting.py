"""The default weighting: decides how much the weak edges count.

Logarithms and roots recover planted modules under heavy-tailed noise best, and destroy real graphs
in which most features carry next to nothing, because they lift those to the level of the rest. Two
questions are asked, in this order:

1. Do few features carry everything? Where the effective share of features (the exponential of the
   entropy of their strengths, over their number) is below a quarter, edges count by their energies
   (`energy`): what carries little counts for nothing.
2. Otherwise, is the tail of the weights signal or noise? Modules found from energies are preferred,
   as those edges matter to the model, unless held-out edges are predicted better, by more than one
   standard error, by modules found from compressed weights (`information`), each at its best
   resolution. What could not be measured is no reason to leave energies.

Standard errors of the strengths are not asked: weights shrunk by them find the same modules where
samples are many, and lose them where few were drawn (table "errors").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ..errors import InteractGraphError
from ..sparse import sums
from . import constants
from .auto_resolution import resolution_scores
from .network import Block, Network
from .weighting import FORMULAS, Weighed, Weighting, keep_connected

__all__ = ["WEIGHTINGS", "AutoWeighting", "effective_share", "named_weighting"]


@dataclass(frozen=True)
class AutoWeighting(Weighting):
    """Decides between energies and compressed weights."""

    def weigh(self, network: Network, seed: int = 0) -> Weighed:
        """See `Weighting.weigh`."""
        weighting, decided, scores = self._decide(network, seed)
        weighted = keep_connected(network.map(weighting.block), network)
        return Weighed(weighted, weighting, decided, scores)

    def _decide(
        self, network: Network, seed: int
    ) -> tuple[Weighting, dict[str, float | str], dict[float, float] | None]:
        """The weighting, what it was decided by, its scores."""
        energy, information = FORMULAS["energy"], FORMULAS["information"]
        if not network.blocks:
            return energy, {}, None
        share = sum(map(effective_share, network.blocks)) / len(network.blocks)
        decision: dict[str, float | str] = {"effective_share": round(share, 4)}
        if share < constants.FEW:
            return energy, {**decision, "edges": energy.name}, None
        both = resolution_scores(network, [energy, information], seed)
        largest = [max((z for z in s.values() if not math.isnan(z)), default=None) for s in both]
        of_energy, of_information = largest
        best = int(
            of_energy is not None
            and of_information is not None
            and of_energy < of_information - constants.STANDARD_ERROR
        )
        decision |= {
            f"held_out_{weighting.name}": round(z, 3)
            for weighting, z in zip((energy, information), largest, strict=True)
            if z is not None
        }
        chosen = (energy, information)[best]
        return chosen, {**decision, "edges": chosen.name}, both[best]


def effective_share(block: Block) -> float:
    """Effective number of features over their number, mean of both sides of a block.

    The exponential of the Shannon entropy of the strengths: n equal features count as n.
    """
    shares = []
    for strength in reversed(sums(block.weight)):
        p = strength / strength.sum()
        shares.append(float(torch.exp(torch.special.entr(p).sum())) / len(p))
    return sum(shares) / 2


WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType(
    {"auto": AutoWeighting("auto", FORMULAS["information"].block), **FORMULAS}
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
