"""Is there any modular structure? A test on held-out edges.

Clustering always finds modules, and heavy-tailed strengths give them quality. Shuffling weights
destroys the strengths as well, so a comparison with shuffled graphs rejects far too often. Here the
modules are found from a part of the entries and tested on the rest, which know nothing of how they
were found. Without structure beyond strengths, hidden entries scatter around the product of their
two strengths, so

    T = sum over hidden entries of c (v - e),   z = T / sqrt(sum of c^2 (v - e)^2)

is close to standard normal once many entries count: given the modules, T is a sum of independent
terms. v = sqrt(w); e is the rank-one fit to the visible entries; the contrast c is larger inside
modules than outside and orthogonal to errors of the strengths in e, see `held_out`.

"Structure" is any departure from the product of two strengths that modules can catch: a continuous
gradient gives large z as well. True modules also agree between runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .held_out import Tally, searched_folds
from .module_evidence import ModuleTally
from .multiple_tests import one_sided
from .network import Network
from .spectral_null import surrogate
from .weighting import FORMULAS

__all__ = [
    "STANDARD_NORMAL",
    "HeldOutTest",
    "NullScores",
    "held_out_test",
    "held_out_tests",
    "spectral_null_scores",
]


class HeldOutTest(NamedTuple):
    """Result of the test; `p_value` is one-sided."""

    z_score: float
    p_value: float


@dataclass(frozen=True)
class NullScores:
    """What z is where there are no modules: standard normal, unless networks without any say more.

    Attributes:
        mean: of z.
        variance: of z about `mean`, whose own error is part of it.
        n: networks that say so; NaN is all that is known where there should have been some.
    """

    mean: float = 0.0
    variance: float = 1.0
    n: int = 0

    @classmethod
    def of(cls, scores: Sequence[float]) -> NullScores:
        """From z of networks without modules.

        z is divided by its own standard deviation, so that its variance is one at least; a smaller
        one among few scores is chance.
        """
        z = [score for score in scores if math.isfinite(score)]
        n = len(z)
        if not n:
            return cls(math.nan, math.nan)
        spread = max(1.0, float(np.var(z, ddof=1))) if n > 1 else 1.0
        return cls(float(np.mean(z)), spread * (1 + 1 / n), n)

    def test(self, z_score: float) -> HeldOutTest:
        """The one-sided test of a z.

        Against several scores that of the prediction of one more, as their spread is an estimate.
        """
        z = (z_score - self.mean) / math.sqrt(self.variance)
        return HeldOutTest(z, float(one_sided(np.array([z]), self.n)[0]))


STANDARD_NORMAL = NullScores()


def held_out_test(
    network: Network,
    resolution: float = 1.0,
    *,
    n_folds: int = 5,
    n_starts: int = 5,
    seed: int = 0,
) -> HeldOutTest:
    """Tests for modules on entries that were hidden when the modules were found.

    Args:
        network: strengths, not weighted yet.
        resolution: of the layered objective the modules are found with.
        n_folds: each entry is hidden once in this many rounds.
        n_starts: random starts of the search in each round.
        seed: of the folds and the starts.

    Returns:
        z and p; NaN where nothing could be tested: no hidden entry is inside a module, as in layers
        with hardly more features than there are modules.
    """
    nowhere = np.full(network.n_nodes, -1)
    return held_out_tests(
        network, nowhere, resolution, n_folds=n_folds, n_starts=n_starts, seed=seed
    )[0]


def spectral_null_scores(
    network: Network,
    resolution: float = 1.0,
    *,
    n_surrogates: int,
    n_starts: int,
    seed: int = 0,
) -> NullScores:
    """The z of networks with the same strengths and spectrum, see `spectral_null`.

    Args:
        network: strengths, not weighted yet.
        resolution: as for `held_out_test`.
        n_surrogates: number of such networks.
        n_starts: as for `held_out_test`.
        seed: of the networks, folds and starts.
    """
    scores = [
        held_out_test(
            surrogate(network, 1000 * seed + k), resolution, n_starts=n_starts, seed=seed
        ).z_score
        for k in range(n_surrogates)
    ]
    return NullScores.of(scores)


def held_out_tests(
    network: Network,
    labels: np.ndarray,
    resolution: float = 1.0,
    *,
    n_folds: int = 5,
    n_starts: int = 5,
    seed: int = 0,
) -> tuple[HeldOutTest, ModuleTally]:
    """As `held_out_test`, and the sums of every module of a partition.

    Args:
        network: strengths, not weighted yet.
        labels: module of each node, -1 for none, `[nodes]`.
        resolution: as for `held_out_test`.
        n_folds: as for `held_out_test`.
        n_starts: as for `held_out_test`.
        seed: as for `held_out_test`.

    Returns:
        The test of the graph, and the sums of its modules, which hold their z.
    """
    tally, modules = Tally(contrasted=True), ModuleTally(network, labels)
    rounds = searched_folds(
        network, FORMULAS["root_normalised"], resolution, n_folds=n_folds, n_starts=n_starts,
        seed=seed,
    )  # fmt: skip
    for fold, objective, found in rounds:
        tally.add_fold(network, fold, objective, found)
        modules.add_fold(network, fold, objective, found)
        del fold, objective, found
    return STANDARD_NORMAL.test(tally.z_score), modules
