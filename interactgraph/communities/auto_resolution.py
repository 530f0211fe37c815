"""Which resolution do hidden edges speak for?

Part of every block is hidden, modules are found at every resolution of a grid, and the hidden edges
inside them are compared with what strengths explain (at resolution 1, whatever the modules were
found at). Modules that are too fine follow noise, which the hidden edges do not share; modules that
are too coarse leave structure out. The excess of the hidden edges is a modularity that cannot
overfit. Its top is flat: of the resolutions whose hidden edges speak for modules at all (z of 3 and
more), the one nearest to 1 is taken whose excess is at least four fifths of the largest. (z is this
excess in standard errors. It is for comparing with chance: small modules have large ones, and of
two sizes that are both real it says little.)

Where hidden edges speak for no modules, nothing speaks for dividing a graph further than it
falls apart by itself, as a graph does whose modules at resolution 0.1 leave no more than a
hundredth of the weight between them, and each hold no more than three quarters of the features:
these are taken. All other graphs are divided at resolution 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import constants
from .held_out import Tally, folds_of
from .network import Network
from .objective import Objective, make_objective
from .runs import sweep_runs
from .spectral import Spectrum
from .threads import few_threads
from .weighting import Score, Weighting

__all__ = ["best_resolution", "largest_z", "resolution_scores"]

_FOLDS = 3


def largest_z(values: Iterable[float]) -> float:
    """The largest one that was measured; NaN where none was."""
    return max((z for z in values if not math.isnan(z)), default=math.nan)


def best_resolution(
    scores: Mapping[float, Score], weighted: Network, block_weight: str = "equal", seed: int = 0
) -> float:
    """The resolution nearest to 1 whose excess is at least four fifths of the largest.

    Args:
        scores: of hidden edges at each resolution.
        weighted: weights; asked whether they fall apart where no z is large.
        block_weight: how pairs of layers count then.
        seed: of the starts of that.
    """
    told = {
        resolution: score.excess
        for resolution, score in scores.items()
        if score.z >= constants.LEAST_Z and score.excess > 0
    }
    if not told:
        return constants.COARSEST if _falls_apart(weighted, block_weight, seed) else 1.0
    enough = constants.NEAR_BEST * max(told.values())
    near = [resolution for resolution, excess in told.items() if excess >= enough]
    return min(near, key=lambda resolution: abs(math.log(resolution)))


def _falls_apart(weighted: Network, block_weight: str, seed: int) -> bool:
    """Whether modules at the coarsest resolution hold nearly all weight, and none all features."""
    objective = make_objective(weighted, "layered", constants.COARSEST, block_weight)
    assert isinstance(objective, Objective)
    labels = max(sweep_runs(objective, [seed, seed + 1]), key=objective.quality)
    sizes = np.bincount(labels[labels >= 0])
    inside = objective.inside(labels)
    return bool(
        sizes.max() <= constants.LARGEST_PART * sizes.sum() and inside >= 1 - constants.BETWEEN
    )


def resolution_scores(
    network: Network, weightings: Sequence[Weighting], seed: int = 0
) -> list[dict[float, Score]]:
    """For every weighting what hidden edges say at each resolution.

    The mean over rounds in each of which all edges are hidden once.

    Args:
        network: strengths.
        weightings: that modules are found with.
        seed: of the folds and the starts.
    """
    n = 1 if network.n_edges > constants.HIDDEN_ONCE else constants.ROUNDS
    rounds = [_scores(network, weightings, n * seed + k) for k in range(n)]
    return [
        {
            resolution: Score(*map(_mean, zip(*(each[resolution] for each in own), strict=True)))
            for resolution in constants.RESOLUTIONS
        }
        for own in zip(*rounds, strict=True)
    ]


def _scores(
    network: Network, weightings: Sequence[Weighting], seed: int
) -> list[dict[float, Score]]:
    """The same of one round."""
    large = network.is_large
    tallies = [
        {resolution: (Tally(), Tally()) for resolution in constants.RESOLUTIONS} for _ in weightings
    ]
    hidden = [0.0] * len(weightings)  # share of the edges, for each weighting
    for number, fold in enumerate(folds_of(network, _FOLDS, seed)):
        start = 1000 * seed + number
        of_energies = fold.of_energies(network)
        for place, weighting in enumerate(weightings):
            weighted = fold.visible.map(weighting.block)
            if not weighted.blocks:
                continue
            hidden[place] += 1 / _FOLDS
            # On a large network starts take longer to find than to improve: all share them.
            spectrum = _spectrum(weighted, start) if large else None
            for resolution, (roots, energies) in tallies[place].items():
                objective = make_objective(weighted, "layered", resolution)
                assert isinstance(objective, Objective)
                (labels,) = sweep_runs(objective, [start], spectrum)
                roots.add_fold(network, fold, objective, labels)
                energies.add_fold(network, of_energies, objective, labels)
        if large:
            break
    n_blocks = max(len(network.blocks), 1)
    return [
        {
            resolution: Score(
                roots.total / (share * n_blocks) if share else 0.0, roots.z_score, energies.z_score
            )
            for resolution, (roots, energies) in own.items()
        }
        for own, share in zip(tallies, hidden, strict=True)
    ]


def _mean(values: tuple[float, ...]) -> float:
    """Of those that were measured; NaN where none was."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def _spectrum(weighted: Network, seed: int) -> Spectrum:
    objective = make_objective(weighted, "layered", 1.0)
    assert isinstance(objective, Objective)
    with few_threads(weighted):
        return Spectrum(objective, seed)
