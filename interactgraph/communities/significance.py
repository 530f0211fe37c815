"""Is there any modular structure? A test on held-out edges.

Clustering always finds modules, and heavy-tailed strengths give them quality. Shuffling weights
destroys the strengths as well, so a comparison with shuffled graphs rejects far too often. Here the
modules are found from a part of the entries and tested on the rest, which know nothing of how they
were found. Without structure beyond strengths, hidden entries scatter around the product of their
two strengths, so

    T = sum over hidden entries inside modules of (v - e),   z = T / sqrt(sum of (v - e)^2)

is close to standard normal, whatever the tails of single entries, once many of them are inside.
v = sqrt(w), which tames the tails; e is the rank-one fit a_i b_j to the visible entries.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .network import Network
from .objective import Objective, make_objective
from .sweeps import Sweeps
from .weighting import root_normalised

__all__ = ["HeldOutTest", "held_out_test", "rank_one_fit"]


class HeldOutTest(NamedTuple):
    """Result of the test; `p_value` is one-sided."""

    z_score: float
    p_value: float


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
        z and p; p = 1 where no entry could be tested.
    """
    generator = np.random.default_rng(seed)
    folds = []
    for block in network.blocks:
        entries = np.arange(block.weight.numel()) % n_folds
        fold = generator.permutation(entries).reshape(tuple(block.weight.shape))
        folds.append(torch.as_tensor(fold, device=block.weight.device))
    total = variance = 0.0
    for round_number in range(n_folds):
        hidden = [fold == round_number for fold in folds]
        roots = [block.weight.sqrt() for block in network.blocks]
        fits = [rank_one_fit(v, ~h) for v, h in zip(roots, hidden, strict=True)]
        # An empty hole would look like a missing edge and pull its two features apart.
        filled = [torch.where(h, e, v) for v, h, e in zip(roots, hidden, fits, strict=True)]
        blocks = (
            b._replace(weight=v.square()) for b, v in zip(network.blocks, filled, strict=True)
        )
        visible = Network(network.n_features, tuple(blocks)).map(root_normalised)
        if not visible.blocks:
            continue
        objective = make_objective(visible, "layered", resolution)
        assert isinstance(objective, Objective)
        sweeps = Sweeps(objective)
        starts = [sweeps.run(seed * 1000 + n_starts * round_number + k) for k in range(n_starts)]
        labels = max(starts, key=objective.quality)
        for block, v, e, h in zip(network.blocks, roots, fits, hidden, strict=True):
            into, out = (objective.layer_labels(labels, k) for k in (block.target, block.source))
            tested = h & (into[:, None] == out) & (into[:, None] >= 0)
            residual = (v - e)[tested]
            total += float(residual.sum())
            variance += float(residual.square().sum())
    if variance == 0:
        return HeldOutTest(0.0, 1.0)
    z = total / math.sqrt(variance)
    return HeldOutTest(z, 0.5 * math.erfc(z / math.sqrt(2)))


def rank_one_fit(values: Tensor, visible: Tensor, n_rounds: int = 20) -> Tensor:
    """The matrix a_i b_j with the row and column sums of the visible entries, `[i, j]`.

    Iterative proportional fitting (Deming & Stephan, Annals of Mathematical Statistics 11, 1940),
    restricted to the visible entries.

    Args:
        values: `[i, j]`, not negative.
        visible: which entries are known, bool `[i, j]`.
        n_rounds: each fits the rows, then the columns.
    """
    mask = visible.to(values)
    known = values * mask
    rows, columns = known.sum(1), known.sum(0)
    a, b = torch.ones_like(rows), torch.ones_like(columns)
    for _ in range(n_rounds):
        a = _ratio(rows, mask @ b)
        b = _ratio(columns, a @ mask)
    return torch.outer(a, b)


def _ratio(sums: Tensor, expected: Tensor) -> Tensor:
    return torch.where(expected > 0, sums / expected, torch.zeros_like(sums))
