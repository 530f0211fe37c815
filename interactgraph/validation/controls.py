"""Random sets of features, as many and about as strong as a module, to hold its ablation against.

Taking away any strong features hurts; only what a module costs beyond such sets is its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..graph import InteractionGraph

__all__ = ["Masks", "matched_partition", "matched_set", "relative_strength", "set_size"]

_NEAREST = 8  # features of similar strength, or a third, that a control feature is drawn from
_TRIES = 20  # sets of such features, of which one becomes a control

Masks = Mapping[str, np.ndarray]  # layer -> which of its features, bool `[j]`


def set_size(masks: Masks) -> int:
    """Number of features in a set."""
    return sum(int(mask.sum()) for mask in masks.values())


def matched_set(graph: InteractionGraph, masks: Masks, random: np.random.Generator) -> Masks:
    """As many features in each layer, about as strong together as the module's.

    From all features, the module's included: what any such set costs, module or not. Each is drawn
    from those close in strength to one of the module's. Where that one is among the strongest, all
    these are weaker; so the set is the one of several that comes closest in sum.
    """
    strength, offsets = graph.node_strength(), graph.offsets
    drawn = {}
    for layer, mask in masks.items():
        in_layer = strength[offsets[layer] : offsets[layer] + len(mask)]
        n_near = max(_NEAREST, len(mask) // 3)
        order = np.argsort(in_layer, kind="stable")
        first = _windows(in_layer[order], n_near)[np.argsort(order)]
        tries = [_near(order, first, n_near, mask, random) for _ in range(_TRIES)]
        drawn[layer] = min(
            tries, key=lambda taken: abs(in_layer[taken].sum() - in_layer[mask].sum())
        )
    return drawn


def matched_partition(
    graph: InteractionGraph, membership: Mapping[str, np.ndarray], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random modules with as many features of each layer as the given ones, about as strong.

    Features change places with others of the same layer that are close in strength; those in no
    module (-1) stay.

    Args:
        graph: the graph.
        membership: layer -> module of each feature.
        random: draws.
    """
    strength, offsets = graph.node_strength(), graph.offsets
    drawn = {}
    for layer, modules in membership.items():
        placed = np.flatnonzero(modules >= 0)
        order = placed[np.argsort(strength[offsets[layer] + placed], kind="stable")]
        size = max(_NEAREST, len(order) // 3)
        first = int(random.integers(size)) if len(order) > size else 0
        result = np.array(modules)
        for near in np.split(order, np.arange(first or size, max(len(order), 1), size)):
            result[near] = random.permutation(modules[near])
        drawn[layer] = result
    return drawn


def _windows(rising: np.ndarray, size: int) -> np.ndarray:
    """For each value where the `size` values nearest to it start, in rising order."""
    last = max(0, len(rising) - size)
    starts, start = np.zeros(len(rising), np.int64), 0
    for position, value in enumerate(rising):
        while start < last and rising[start + size] - value < value - rising[start]:
            start += 1
        starts[position] = start
    return starts


def _near(
    order: np.ndarray, first: np.ndarray, n_near: int, mask: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """For each feature of the mask another one of similar strength, all different.

    Args:
        order: features by strength.
        first: for each feature the place in `order` where those nearest to it start.
        n_near: how many these are.
        mask: the module's features.
        random: draws.
    """
    taken = np.zeros_like(mask)
    for j in random.permutation(np.flatnonzero(mask)):
        start, stop = first[j], min(first[j] + n_near, len(order))
        while taken[order[start:stop]].all():  # all of them are in the set by now
            start, stop = max(0, start - n_near), min(stop + n_near, len(order))
        one = order[random.integers(start, stop)]
        while taken[one]:
            one = order[random.integers(start, stop)]
        taken[one] = True
    return taken


def relative_strength(graph: InteractionGraph, masks: Masks, controls: Sequence[Masks]) -> float:
    """Mean strength of the controls over that of the module; NaN where there is none."""
    strength, offsets = graph.node_strength(), graph.offsets

    def total(chosen: Masks) -> float:
        return sum(
            float(strength[offsets[layer] : offsets[layer] + len(mask)][mask].sum())
            for layer, mask in chosen.items()
        )

    of_module = total(masks)
    if not controls or not of_module:
        return math.nan
    return float(np.mean([total(drawn) for drawn in controls])) / of_module
