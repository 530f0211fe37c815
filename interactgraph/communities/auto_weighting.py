"""The default weighting: decides how much the weak edges count.

Logarithms and roots recover planted modules under heavy-tailed noise best, and destroy real graphs
in which most features carry next to nothing, because they lift those to the level of the rest.
Modules found from energies are preferred, as those edges matter to the model. Compressed weights
(`information`) take their place only where all three of these hold:

1. Many features carry something: the effective share of features (the exponential of the entropy
   of their strengths, over their number) is a quarter or more.
2. Hidden edges (their roots) are predicted better, by more than one standard error, by modules
   found from compressed weights, each at its best resolution.
3. Modules of energies are not real, or dwarfed: hidden *energies* inside them do not exceed what
   strengths explain by three standard errors, at any resolution; or z of their hidden edges is less
   than half of that of compressed weights.

What could not be measured is no reason to leave energies.

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
from .auto_resolution import largest_z, resolution_scores
from .network import Block, Network
from .weighting import FORMULAS, Score, Weighed, Weighting, keep_connected

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
    ) -> tuple[Weighting, dict[str, float | str], dict[float, Score] | None]:
        """The weighting, what it was decided by, its scores."""
        energy, information = FORMULAS["energy"], FORMULAS["information"]
        if not network.blocks:
            return energy, {}, None
        share = sum(map(effective_share, network.blocks)) / len(network.blocks)
        decision: dict[str, float | str] = {"effective_share": round(share, 4)}
        if share < constants.FEW:
            return energy, {**decision, "edges": energy.name}, None
        scores, compressed = resolution_scores(network, [energy, information], seed)
        confirmed = largest_z(score.energy_z for score in scores.values())
        z = [largest_z(score.z for score in each.values()) for each in (scores, compressed)]
        measured = {
            "hidden_energies": confirmed,
            "held_out_energy": z[0],
            "held_out_information": z[1],
        }
        decision |= {name: round(v, 3) for name, v in measured.items() if not math.isnan(v)}
        chosen = energy
        kept = confirmed >= constants.LEAST_Z and z[0] >= constants.DWARFED * z[1]
        if not kept and z[0] < z[1] - constants.STANDARD_ERROR:
            chosen, scores = information, compressed
        return chosen, {**decision, "edges": chosen.name}, scores


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
