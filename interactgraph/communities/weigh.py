"""Choosing a weighting by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InteractGraphError
from .network import Block, Network
from .noise_aware import noise_aware
from .weighting import BLOCK_WEIGHTINGS, root_normalised

__all__ = ["WEIGHTINGS", "Weighed", "weigh"]

_FAINT = 1e-4  # of a block's weight, for all edges that are given back

WEIGHTINGS = ("noise_aware", *BLOCK_WEIGHTINGS)


class Weighed(NamedTuple):
    """A network whose strengths became weights.

    Attributes:
        network: the weights.
        strengths: what they were made of, without noise where that was taken off.
        rule: the weighting of a block of these.
        decided: what it was decided by.
    """

    network: Network
    strengths: Network
    rule: Callable[[Block], Tensor]
    decided: dict[str, float | str]


def weigh(network: Network, weighting: str, seed: int = 0) -> Weighed:
    """Turns the strengths of a network into weights.

    Args:
        network: strengths.
        weighting: one of `WEIGHTINGS`.
        seed: of the held-out folds that "noise_aware" decides by.

    Raises:
        InteractGraphError: no such weighting.
    """
    if weighting not in WEIGHTINGS:
        raise InteractGraphError(
            f"weighting {weighting!r} is not known; choose one of {', '.join(WEIGHTINGS)}"
        )
    if weighting == "noise_aware":
        strengths, rule, decided = noise_aware(network, seed)
    else:
        strengths, rule, decided = network, BLOCK_WEIGHTINGS[weighting], {}
    return Weighed(keep_connected(strengths.map(rule), network), strengths, rule, decided)


def keep_connected(weighted: Network, network: Network) -> Network:
    """Gives features that lost all their edges to a weighting faint ones back.

    Weightings that cut leave some features without any. They follow their strongest neighbours,
    and are too faint to move those.
    """
    lost = torch.as_tensor(network.connected & ~weighted.connected)
    if not lost.any():
        return weighted
    kept = {(block.source, block.target): block.weight for block in weighted.blocks}
    offsets = network.offsets

    def restore(block: Block) -> Tensor:
        weight = kept.get((block.source, block.target), torch.zeros_like(block.weight))
        into, out = (lost[offsets[k] : offsets[k + 1]] for k in (block.target, block.source))
        faint = root_normalised(block) * (into[:, None] | out).to(weight)
        total = weight.sum()
        scale = _FAINT * total / faint.sum() if total > 0 and faint.sum() > 0 else 1.0
        return weight + scale * faint

    return network.map(restore)
