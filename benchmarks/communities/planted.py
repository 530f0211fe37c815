"""Planted layered graphs: five families of edges, three signal levels each.

Widths 64 / 256 / 64 / 256 / 64 with six modules spread evenly over every layer. Feature strengths
are lognormal (sigma 1), the scale of a block is lognormal (sigma 1.5), `ln` is lognormal noise.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .graphs import KnownGraph, chain

LEVELS = {
    "block": (1.5, 2, 3),
    "floor": (1, 3, 10),
    "mult": (1.5, 2, 3),
    "sparse": (6, 12, 30),
    "spiky": (30, 100, 300),
}
WIDTHS = (64, 256, 64, 256, 64)
N_MODULES = 6


def planted(family: str, level: float, seed: int) -> KnownGraph:
    """One graph; level 1 of "block", "mult", "sparse" and "spiky" has no modules."""
    draw = np.random.default_rng([seed, list(LEVELS).index(family), int(10 * level)])
    modules = [draw.permutation(np.arange(n) % N_MODULES) for n in WIDTHS]
    blocks = [_block(family, level, into, out, draw) for out, into in pairwise(modules)]
    graph = chain({"rms": blocks})
    return KnownGraph(f"{family} {level}, seed {seed}", graph, np.concatenate(modules))


def _block(
    family: str, level: float, into: np.ndarray, out: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    shape = (len(into), len(out))
    strengths = np.outer(*(np.exp(draw.normal(size=n)) for n in shape))
    inside = into[:, None] == out
    ln = np.exp(draw.normal(size=shape))
    ratio = np.where(inside, level, 1.0)
    if family == "mult":
        weight = strengths * ln * ratio
    elif family == "block":
        weight = strengths * draw.exponential(size=shape) * ratio
    elif family == "sparse":
        per_pair = 0.05 * strengths / strengths.mean()
        present = draw.random(shape) < per_pair * ratio / (1 + (level - 1) / N_MODULES)
        weight = present * ln
    elif family == "spiky":
        spikes = inside & (draw.random(shape) < 0.1)
        weight = strengths * ln * np.where(spikes, level, 1.0)
    else:
        present = draw.random(shape) < np.where(inside, 0.2, 0.01)
        weight = np.abs(draw.normal(size=shape)) + level * strengths * ln * present
    return weight * np.exp(1.5 * draw.normal())
