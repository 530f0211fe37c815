"""Which resolution do hidden edges speak for?

Part of every block is hidden, modules are found at every resolution of a grid, and the hidden edges
inside them are compared with what strengths explain (at resolution 1, whatever the modules were
found at). Modules that are too fine follow noise, which the hidden edges do not share; modules that
are too coarse leave structure out. Resolution 1 is what a module means where they do not care.
"""

from __future__ import annotations

import math

from . import constants
from .held_out import Tally, folds_of
from .network import Network
from .objective import Objective, make_objective
from .runs import sweep_runs
from .weighting import Weighting

__all__ = ["auto_resolution"]


def auto_resolution(
    network: Network, weighting: Weighting, seed: int = 0
) -> tuple[float, dict[float, float]]:
    """The resolution, and z of the hidden edges (see `Tally`) at each that was tried.

    Args:
        network: strengths.
        weighting: that modules are found with.
        seed: of the folds and the starts.
    """
    large = network.is_large
    n_starts = 1 if large else 2
    tallies = {resolution: Tally() for resolution in constants.RESOLUTIONS}
    for number, fold in enumerate(folds_of(network, 3, seed)):
        weighted = fold.visible.map(weighting.block)
        first = 1000 * seed + n_starts * number
        for resolution, tally in tallies.items() if weighted.blocks else ():
            objective = make_objective(weighted, "layered", resolution)
            assert isinstance(objective, Objective)
            starts = sweep_runs(objective, range(first, first + n_starts))
            tally.add_fold(network, fold, objective, max(starts, key=objective.quality))
        if large:
            break
    z = {resolution: tally.z_score for resolution, tally in tallies.items()}
    scores = {resolution: value for resolution, value in z.items() if not math.isnan(value)}
    largest = max(scores.values(), default=0.0)
    if (
        largest < constants.LEAST_Z
        or scores.get(1.0, 0.0) >= constants.KEEPS_RESOLUTION_ONE * largest
    ):
        return 1.0, z
    near = [
        resolution
        for resolution, value in scores.items()
        if value >= constants.AS_GOOD_RESOLUTION * largest
    ]
    return min(near, key=lambda resolution: abs(math.log(resolution))), z
