"""Held-out evidence for single modules: which are more than strengths and chance.

The hidden entries of a round are judged by the modules that were found without them; the modules of
a partition have seen them all. So an entry inside a module found without it counts for modules of
the partition, one half for that of its source and one half for that of its target:

    M_ij = inside_ij ([i in m] + [j in m]) / 2,   (v - e) / e = x_i + y_j + sum_m g_m M_ij + noise

is fitted by least squares with weights e over all hidden entries, as for the whole test with x and
y of every block and round, and with g of every module together: where some modules are real, the
rest has more inside than its strengths explain, too, because what is weak are only edges *between*
the two. With c_m what x and y do not explain of M_m, T_m = sum of c_m (v - e), G = sum of c_m c_n e
and W = sum of c_m c_n (v - e)^2:

    g = G^+ T,   z_m = g_m / sqrt((G^+ W G^+)_mm)

which is robust to noise of different size (White, Econometrica 48, 1980) and close to standard
normal for a module of features that only their strengths have in common. The T_m add up to T of the
whole test. Two modules cannot be told apart in this way, what is inside the one or the other is the
same departure from strengths; both then have half of it.
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

_NOTHING = 1e-9  # share of the largest eigenvalue, or variance, that is rounding


class ModuleTally:
    """Sums over hidden entries for every module of a partition.

    Args:
        network: the strengths.
        labels: module of each node in the partition, -1 for none, `[nodes]`.

    Attributes:
        total: T of each module, `[modules]`.
        gram: G, `[modules, modules]`.
        spread: W, `[modules, modules]`.
        tested: numbers of the source and target layers of blocks with entries that count; blocks
            are missing where layers are so narrow that rows and columns explain all that is inside.
    """

    def __init__(self, network: Network, labels: np.ndarray) -> None:
        self.n_modules = int(labels.max(initial=-1)) + 1
        self.members = list(split_layers(labels, network.n_features).values())
        self.total = np.zeros(self.n_modules)
        self.gram = np.zeros((self.n_modules, self.n_modules))
        self.spread = np.zeros((self.n_modules, self.n_modules))
        self.tested: set[tuple[int, int]] = set()

    def add_fold(
        self, network: Network, fold: Fold, objective: Objective, labels: np.ndarray
    ) -> None:
        """Adds the hidden entries of a fold, judged by modules found without them.

        Blocks are dense, unless there are no modules.
        """
        if not self.n_modules:
            return
        for block, v, e, hidden in zip(network.blocks, fold.values, fold.expected, fold.hidden,
                                       strict=True):  # fmt: skip
            assert isinstance(e, Tensor)
            assert isinstance(hidden, Tensor)
            into, out = (objective.layer_labels(labels, k) for k in (block.target, block.source))
            counts = hidden & (e > 0)
            inside = counts & (into[:, None] == out) & (into[:, None] >= 0)
            if not inside.any():
                continue
            scale = v.sum()
            residual = torch.where(counts, (v - e) / scale, 0)
            with few_threads(network):
                self._add_block(block, inside, residual, torch.where(counts, e / scale, 0))

    def _add_block(self, block: Block, inside: Tensor, residual: Tensor, weight: Tensor) -> None:
        """Adds the sums of one block, without forming any c."""
        a, b = (self._membership(k, weight) for k in (block.target, block.source))

        def sums(values: Tensor) -> tuple[Tensor, Tensor]:
            """Sums of M * values over each row and over each column, `[i, m]` and `[j, m]`."""
            within = inside * values
            return (
                (a * within.sum(1)[:, None] + within @ b) / 2,
                (within.mT @ a + b * within.sum(0)[:, None]) / 2,
            )

        x, y = rows_and_columns(weight, *sums(weight))
        total = sums(residual)[0].sum(0) - residual.sum(1) @ x - residual.sum(0) @ y

        def products(values: Tensor) -> Tensor:
            """Sums of c_m c_n * values with c = M - x_i - y_j, `[modules, modules]`."""
            within = inside * values
            mixed = a.mT @ within @ b
            own = torch.diag(within.sum(1) @ a + within.sum(0) @ b)
            in_rows, in_columns = sums(values)
            crossed = x.mT @ values @ y - in_rows.mT @ x - in_columns.mT @ y
            return (
                (own + mixed + mixed.mT) / 4
                + crossed
                + crossed.mT
                + x.mT @ (values.sum(1)[:, None] * x)
                + y.mT @ (values.sum(0)[:, None] * y)
            )

        gram = products(weight)
        if float(gram.diagonal().sum()) > _NOTHING * float((inside * weight).sum()):
            self.tested.add((block.source, block.target))
        self.total += total.cpu().numpy()
        self.gram += gram.cpu().numpy()
        self.spread += products(residual.square()).cpu().numpy()

    def _membership(self, layer: int, like: Tensor) -> Tensor:
        """Which feature of a layer is in which module, `[features, modules]`."""
        labels = torch.as_tensor(np.array(self.members[layer]), device=like.device)
        return (labels[:, None] == torch.arange(self.n_modules, device=like.device)).to(like)

    def z_scores(self, shift: float = 0.0, null_variance: float = 1.0) -> np.ndarray:
        """The statistic of each module, `[modules]`; NaN where no entry counts.

        Args:
            shift: mean z of the whole network without modules (`significance.NullScores`); what a
                module has of it goes by the root of its share of the variance.
            null_variance: of that z; what it is above one a module has by its share.
        """
        inverse = np.linalg.pinv(self.gram, rcond=_NOTHING, hermitian=True)
        variance = (inverse @ self.spread @ inverse).diagonal()
        size = self.gram.diagonal()
        known = (size > _NOTHING * size.max(initial=0)) & (variance > 0)
        share = np.where(known, self.spread.diagonal(), 0.0)
        share = share / max(share.sum(), 1e-300)
        z = (inverse @ self.total) / np.sqrt(np.where(known, variance, 1.0))
        spread = np.sqrt(1 + share * (null_variance - 1))
        return np.where(known, (z - shift * np.sqrt(share)) / spread, np.nan)
