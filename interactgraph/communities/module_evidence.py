"""Held-out evidence for single modules: which are more than strengths and chance.

The hidden entries of a round are judged by the modules that were found without them; the modules of
a partition have seen them all. So an entry that counts for the whole test (`held_out.Tally`) counts
for modules of the partition, one half for that of its source and one half for that of its target:

    M_ij = inside_ij ([i in m] + [j in m]) / 2,   T_m = sum of c (v - e),   c = M - x_i - y_j

with the x and y of the module that make c orthogonal to errors of the strengths, as for the whole
test. The T_m add up to its T (without features that are in no module), and

    z_m = T_m / sqrt(sum of c^2 (v - e)^2)

is close to standard normal for a module of features that only their strengths have in common.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .held_out import Fold, rows_and_columns
from .network import Block, Network
from .objective import Objective
from .partition import split_layers
from .threads import few_threads

__all__ = ["ModuleTally"]

_NOTHING = 1e-10  # share of the variance that is left where rows and columns explain everything


class ModuleTally:
    """Sums over hidden entries for every module of a partition.

    Args:
        network: the strengths.
        labels: module of each node in the partition, -1 for none, `[nodes]`.

    Attributes:
        total: T of each module, `[modules]`.
        variance: its estimate if only strengths matter, `[modules]`; 0 where no entry counts.
    """

    def __init__(self, network: Network, labels: np.ndarray) -> None:
        self.n_modules = int(labels.max(initial=-1)) + 1
        self.members = list(split_layers(labels, network.n_features).values())
        self.total = np.zeros(self.n_modules)
        self.variance = np.zeros(self.n_modules)

    def add_fold(
        self, network: Network, fold: Fold, objective: Objective, labels: np.ndarray
    ) -> None:
        """Adds the hidden entries of a fold, judged by modules found without them."""
        for block, v, e, hidden in zip(network.blocks, fold.roots, fold.expected, fold.hidden,
                                       strict=True):  # fmt: skip
            into, out = (objective.layer_labels(labels, k) for k in (block.target, block.source))
            counts = hidden & (e > 0)
            inside = counts & (into[:, None] == out) & (into[:, None] >= 0)
            if not inside.any() or not self.n_modules:
                continue
            residual = torch.where(counts, (v - e) / v.sum(), 0)
            with few_threads(network):
                total, variance = self._block(block, inside, residual, torch.where(counts, e, 0))
            self.total += total.cpu().numpy()
            self.variance += variance.cpu().numpy()

    def _block(
        self, block: Block, inside: Tensor, residual: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """T and its variance for every module from one block, without forming any c."""
        a, b = (self._membership(k, weight) for k in (block.target, block.source))

        def sums(values: Tensor) -> tuple[Tensor, Tensor]:
            """Sums of M * values over each row and over each column, `[i, m]` and `[j, m]`."""
            return (
                (a * values.sum(1)[:, None] + values @ b) / 2,
                (values.mT @ a + b * values.sum(0)[:, None]) / 2,
            )

        x, y = rows_and_columns(weight, *sums(inside * weight))
        total = sums(inside * residual)[0].sum(0) - residual.sum(1) @ x - residual.sum(0) @ y
        square = residual.square()
        within = inside * square
        in_rows, in_columns = sums(within)
        both = (a * (within @ b)).sum(0)
        added = (  # sums of M^2, (x_i + y_j)^2 and -2 M (x_i + y_j), each times the squares
            (in_rows.sum(0) + both) / 2,
            square.sum(1) @ x**2 + square.sum(0) @ y**2 + 2 * (x * (square @ y)).sum(0),
            -2 * ((x * in_rows).sum(0) + (y * in_columns).sum(0)),
        )
        variance = added[0] + added[1] + added[2]
        counts = variance > _NOTHING * (added[0] + added[1])
        return torch.where(counts, total, 0), torch.where(counts, variance, 0)

    def _membership(self, layer: int, like: Tensor) -> Tensor:
        """Which feature of a layer is in which module, `[features, modules]`."""
        labels = torch.as_tensor(self.members[layer], device=like.device)
        return (labels[:, None] == torch.arange(self.n_modules, device=like.device)).to(like)

    def z_scores(self, shift: float = 0.0, n_surrogates: int = 0) -> np.ndarray:
        """T over the root of its variance, `[modules]`; NaN where no entry counts.

        Args:
            shift: mean z of the whole network without modules (`significance.spectral_shift`);
                what T is then goes by the modules' shares of the variance.
            n_surrogates: number of networks that this is the mean of; 0: none, the shift is zero.
        """
        known = self.variance > 0
        variance = np.where(known, self.variance, 1.0)
        share = variance / max(float(self.variance.sum()), 1e-300)
        spread = np.sqrt(1 + share / n_surrogates) if n_surrogates else 1.0
        z = (self.total / np.sqrt(variance) - shift * np.sqrt(share)) / spread
        return np.where(known, z, np.nan)
