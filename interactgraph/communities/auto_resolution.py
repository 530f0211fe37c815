"""Which resolution do hidden edges speak for?

Part of every block is hidden, modules are found at every resolution of a grid, and the hidden edges
inside them are compared with what strengths explain (at resolution 1, whatever the modules were
found at). Modules that are too fine follow noise, which the hidden edges do not share; modules that
are too coarse leave structure out. z has a standard error of one, so resolutions whose z is within
one of the largest are as good, and the one nearest to 1 is taken of these (the one-standard-error
rule of Breiman, Friedman, Olshen & Stone, Classification and Regression Trees, 1984, section
3.4.3). Where hidden edges speak for no modules, nothing speaks for dividing a graph further than it
falls apart by itself, as a graph does whose modules at resolution 0.1 each hold no more than three
quarters of the features: these are taken. All other graphs are divided at resolution 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from . import constants
from .held_out import Tally, folds_of
from .network import Network
from .objective import Objective, make_objective
from .runs import sweep_runs
from .spectral import Spectrum
from .threads import few_threads
from .weighting import Weighting

__all__ = ["best_resolution", "resolution_scores"]


def best_resolution(
    z: dict[float, float], weighted: Network, block_weight: str = "equal", seed: int = 0
) -> float:
    """The resolution nearest to 1 whose z is within one of the largest.

    Args:
        z: of hidden edges at each resolution.
        weighted: weights; asked whether they fall apart where no z is large.
        block_weight: how pairs of layers count then.
        seed: of the starts of that.
    """
    scores = {resolution: value for resolution, value in z.items() if not math.isnan(value)}
    largest = max(scores.values(), default=0.0)
    if largest < constants.LEAST_Z:
        return constants.COARSEST if _falls_apart(weighted, block_weight, seed) else 1.0
    near = [r for r, value in scores.items() if value >= largest - constants.STANDARD_ERROR]
    return min(near, key=lambda resolution: abs(math.log(resolution)))


def _falls_apart(weighted: Network, block_weight: str, seed: int) -> bool:
    """Whether no module holds nearly all features at the coarsest resolution."""
    objective = make_objective(weighted, "layered", constants.COARSEST, block_weight)
    assert isinstance(objective, Objective)
    labels = max(sweep_runs(objective, [seed, seed + 1]), key=objective.quality)
    sizes = np.bincount(labels[labels >= 0])
    return bool(sizes.max() <= constants.LARGEST_PART * sizes.sum())


def resolution_scores(
    network: Network, weightings: Sequence[Weighting], seed: int = 0
) -> list[dict[float, float]]:
    """For every weighting z of the hidden edges at each resolution; NaN where none is inside.

    Args:
        network: strengths.
        weightings: that modules are found with.
        seed: of the folds and the starts.
    """
    large = network.is_large
    tallies = [{resolution: Tally() for resolution in constants.RESOLUTIONS} for _ in weightings]
    for number, fold in enumerate(folds_of(network, 3, seed)):
        start = 1000 * seed + number
        for weighting, own in zip(weightings, tallies, strict=True):
            weighted = fold.visible.map(weighting.block)
            if not weighted.blocks:
                continue
            # On a large network starts take longer to find than to improve: all share them.
            spectrum = _spectrum(weighted, start) if large else None
            for resolution, tally in own.items():
                objective = make_objective(weighted, "layered", resolution)
                assert isinstance(objective, Objective)
                (labels,) = sweep_runs(objective, [start], spectrum)
                tally.add_fold(network, fold, objective, labels)
        if large:
            break
    return [{resolution: tally.z_score for resolution, tally in own.items()} for own in tallies]


def _spectrum(weighted: Network, seed: int) -> Spectrum:
    objective = make_objective(weighted, "layered", 1.0)
    assert isinstance(objective, Objective)
    with few_threads(weighted):
        return Spectrum(objective, seed)
