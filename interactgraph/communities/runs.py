"""Runs of a search from several seeds, and how well they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..checks import whole
from ..errors import InteractGraphError
from . import constants
from .leiden import Leiden
from .mutual_information import adjusted_mutual_information
from .objective import Objective, PooledObjective
from .spectral import Spectrum
from .sweeps import Sweeps
from .threads import few_threads

__all__ = [
    "ALGORITHMS",
    "check_runs",
    "choose_algorithm",
    "count_modules",
    "mean_agreement",
    "search",
    "sweep_runs",
]

ALGORITHMS = ("leiden+sweeps", "leiden", "sweeps", "networkit")


def choose_algorithm(algorithm: str, objective: Objective | PooledObjective) -> str:
    """Resolves "auto".

    Raises:
        InteractGraphError: not known, or sweeps for a null model that is blind to layers.
    """
    if algorithm not in (*ALGORITHMS, "auto"):
        raise InteractGraphError(
            f"algorithm {algorithm!r} is not known; choose auto, {', '.join(ALGORITHMS)}"
        )
    if isinstance(objective, PooledObjective):
        if algorithm not in ("auto", "leiden"):
            raise InteractGraphError(
                f"algorithm {algorithm!r} needs a null model per block (layered, cpm); the null "
                f"model {objective.null!r} is found by leiden"
            )
        return "leiden"
    return "sweeps" if algorithm == "auto" else algorithm


def check_runs(n_runs: Any, seed: Any, resolution: Any) -> tuple[int, int]:
    """Number of runs and seed as whole numbers.

    Raises:
        InteractGraphError: they are none, or the resolution is no number.
    """
    number = isinstance(resolution, (int, float, np.number)) and not isinstance(resolution, bool)
    if not number and resolution != "auto":
        raise InteractGraphError(f"resolution={resolution!r} must be a number, or 'auto'")
    return whole("n_runs", n_runs), whole("seed", seed, 0)


def count_modules(labels: np.ndarray) -> int:
    """Number of modules of labels, `[nodes]`; -1 is none."""
    return len(np.unique(labels[labels >= 0]))


def search(
    objective: Objective | PooledObjective, algorithm: str, n_runs: int, seed: int
) -> list[np.ndarray]:
    """Labels of every run, each `[nodes]`."""
    seeds = range(seed, seed + n_runs)
    starts: list[np.ndarray] = []
    if "leiden" in algorithm:
        leiden = Leiden(objective)
        starts = [leiden.run(run_seed) for run_seed in seeds]
        if algorithm == "leiden":
            return starts
    assert isinstance(objective, Objective)
    if algorithm == "networkit":
        from .networkit_leiden import networkit_starts

        starts = networkit_starts(objective, list(seeds))
    if starts:
        sweeps = Sweeps(objective)
        return [sweeps.polish(labels) for labels in starts]
    return sweep_runs(objective, seeds)


def sweep_runs(
    objective: Objective, seeds: Sequence[int], spectrum: Spectrum | None = None
) -> list[np.ndarray]:
    """Sweeps from spectral and random starts in turn; from spectral ones only on large graphs.

    Random starts find more of sparse graphs, spectral ones far more of large dense ones, where they
    are faster as well.

    Args:
        objective: what is searched.
        seeds: of the starts.
        spectrum: where spectral starts come from; None: the objective's own.
    """
    with few_threads(objective.network):
        sweeps = Sweeps(objective)
        spectrum = Spectrum(objective, seeds[0]) if spectrum is None else spectrum
        large = objective.network.is_large
        runs = []
        for number, seed in enumerate(seeds):
            if large or number % 2 == 0:
                runs.append(
                    _spectral(
                        sweeps,
                        spectrum,
                        objective,
                        seed,
                        constants.SPECTRAL_GROUPS[number // 2 % 2],
                    )
                )
            else:
                runs.append(sweeps.run(seed))
    return runs


def _spectral(
    sweeps: Sweeps, spectrum: Spectrum, objective: Objective, seed: int, n_groups: int
) -> np.ndarray:
    """A run from a spectral start: from more groups where it ends with most of those it had.

    Sweeps and merges only lower their number.
    """
    best = sweeps.polish(spectrum.start(seed, n_groups))
    while len(np.unique(best)) > n_groups / 2 and n_groups < objective.network.n_nodes / 2:
        n_groups *= 4
        other = sweeps.polish(spectrum.start(seed, n_groups))
        if objective.quality(other) <= objective.quality(best):
            break
        best = other
    return best


def mean_agreement(runs: list[np.ndarray]) -> float:
    """Adjusted mutual information, mean over pairs of runs; NaN for one run."""
    if len(runs) < 2:
        return math.nan
    placed = runs[0] >= 0
    return float(
        np.mean(
            [adjusted_mutual_information(a[placed], b[placed]) for a, b in combinations(runs, 2)]
        )
    )
