"""Which resolution do hidden edges speak for?

Part of every block is hidden, modules are found at every resolution of a grid, and the hidden edges
inside them are compared with what strengths explain (at resolution 1, whatever the modules were
found at). Modules that are too fine follow noise, which the hidden edges do not share; modules that
are too coarse leave structure out. Resolution 1 is what a module means where they do not care.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .held_out import Tally, folds_of
from .network import Block, Network
from .objective import Objective, make_objective
from .runs import sweep_runs

__all__ = ["RESOLUTIONS", "auto_resolution"]

RESOLUTIONS = (0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
_ENOUGH = 0.75  # share of the largest z from which resolution 1 stays
_CLOSE = 0.95  # share of the largest z within which the resolution nearest to 1 is taken
_LEAST = 2.0  # largest z below which nothing speaks for another resolution
_LARGE = 2_000_000  # edges above which one fold and one start have to do


def auto_resolution(
    network: Network, weigh: Callable[[Block], Tensor], seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The resolution, and z of the hidden edges (see `Tally`) at each that was tried.

    Args:
        network: strengths.
        weigh: the weighting of a block, that modules are found with.
        seed: of the folds and the starts.
    """
    large = network.n_edges > _LARGE
    n_starts = 1 if large else 2
    tallies = {resolution: Tally() for resolution in RESOLUTIONS}
    for number, fold in enumerate(folds_of(network, 3, seed)):
        weighted = fold.visible.map(weigh)
        first = 1000 * seed + n_starts * number
        for resolution, tally in tallies.items() if weighted.blocks else ():
            objective = make_objective(weighted, "layered", resolution)
            assert isinstance(objective, Objective)
            starts = sweep_runs(objective, range(first, first + n_starts))
            tally.add_fold(network, fold, objective, max(starts, key=objective.quality))
        if large:
            break
    z = {resolution: tally.z_score for resolution, tally in tallies.items()}
    found = {resolution: value for resolution, value in z.items() if not math.isnan(value)}
    largest = max(found.values(), default=0.0)
    if largest < _LEAST or found.get(1.0, 0.0) >= _ENOUGH * largest:
        return 1.0, z
    near = [resolution for resolution, value in found.items() if value >= _CLOSE * largest]
    return min(near, key=lambda resolution: abs(math.log(resolution))), z
