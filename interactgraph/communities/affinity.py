"""Soft membership: which share of a feature's strength goes to each module.

A feature may serve two modules, or all of them. Let p_ij be the additive form of the strengths of a
block, divided by their sum: the mean of |A|^degree, so squares of `rms` (the energies of
contributions add up where these do not depend on each other; their roots do not). Over all blocks
that a feature takes part in, inputs and outputs alike, the share of module m in its strength is

    S_im = sum_blocks sum_{j in m} p_ij / sum_blocks r_i,    r_i = sum_j p_ij,

and if only strengths counted, it would be that of Barber's null model,

    N_im = sum_blocks r_i sum_{j in m} c_j / sum_blocks r_i,    c_j = sum_i p_ij.

The shares are taken as a mixture, S_i = a_i + e_i N_i: a part e_i that is spread over all modules
as their strengths have it, and the affinity a_i. The background e_i is the largest that leaves
nothing negative, the smallest S_im / N_im of the modules that the feature could reach (N_im > 0).
So the affinities of a feature sum to 1 - e_i: to 1 where it leaves out some module altogether, to 0
for a hub, whose shares are those of the null model.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..attribution.strengths import STRENGTHS
from ..graph import InteractionGraph
from ..sparse import largest, map_values, tidy, values_of
from ..sparse import sums as row_and_column_sums
from .mean_graph import pooled_strengths
from .network import Block, Network
from .partition import split_layers
from .self_edges import explained_self_edges
from .threads import few_threads

__all__ = ["Affinity", "above_background", "module_affinity"]

_COVERED = 0.95  # of intervals


class Affinity(NamedTuple):
    """Soft membership of every feature.

    Attributes:
        shares: layer -> affinities, float64 `[features, modules]`.
        intervals: layer -> the ends of their 95 % intervals, float64 `[features, modules, 2]`;
            empty where the graph has no folds.
    """

    shares: dict[str, np.ndarray]
    intervals: dict[str, np.ndarray]


def module_affinity(
    graph: InteractionGraph,
    network: Network,
    labels: np.ndarray,
    strength: str | None = None,
    passing: Collection[str] = (),
) -> Affinity:
    """The affinity of every feature to every module.

    Intervals are those of the jackknife over folds (Efron & Stein, Annals of Statistics 9, 1981,
    eq. 1.4): everything is computed again without each fold, for the same modules.

    Args:
        graph: where folds come from.
        network: its strengths, not weighted.
        labels: module of each node, 0, 1, ...; -1 for none, `[nodes]`.
        strength: which strength the network holds; None: the graph's first.
        passing: pairs "SOURCE -> TARGET" of the network whose self edges are as expected.
    """
    name = graph.check_strength(strength)
    degree = STRENGTHS[name].degree if name in STRENGTHS else 1
    n_modules = int(labels.max(initial=-1)) + 1
    sums = _Sums(network, labels, n_modules)
    for block in network.blocks:
        sums.add(block, degree)
    whole = sums.affinity()
    shares = split_layers(whole, graph.n_features)
    folds = graph.folds
    if len(folds) < 2:
        return Affinity(shares, {})
    without = [_Sums(network, labels, n_modules) for _ in folds]
    sizes = torch.tensor([float(fold.metadata.get("n_samples", 1)) for fold in folds])
    layers = list(graph.layers)
    for block in network.blocks:
        pair = layers[block.source], layers[block.target]
        values = [fold.weights(*pair, name) for fold in folds]
        for number, rest in enumerate(without):
            others = torch.arange(len(folds)) != number
            part = sizes[others] / sizes[others].sum()
            chosen = [value for value, kept in zip(values, others.tolist(), strict=True) if kept]
            pooled = pooled_strengths(name, chosen, part).to(block.weight)
            drawn = Block(block.source, block.target, map_values(pooled, torch.abs))
            if " -> ".join(pair) in passing:
                drawn = explained_self_edges(drawn)
            rest.add(drawn, degree)
    drawn_shares = np.stack([rest.affinity() for rest in without])
    low, high = _jackknife(whole, drawn_shares)
    return Affinity(shares, split_layers(np.stack([low, high], 2), graph.n_features))


def above_background(shares: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """S - e N with the largest e that leaves nothing negative.

    Args:
        shares: S, `[features, modules]`.
        expected: N, the same; e is the smallest ratio where it is not zero, at most 1.
    """
    reached = expected > 0
    ratio = np.divide(shares, expected, out=np.full_like(shares, np.inf), where=reached)
    background = np.minimum(ratio.min(1, keepdims=True, initial=1.0), 1.0)
    return np.clip(shares - background * expected, 0.0, 1.0)


class _Sums:
    """S and N of all features before they are divided, block by block."""

    def __init__(self, network: Network, labels: np.ndarray, n_modules: int) -> None:
        self._network, self._n = network, n_modules
        self._labels = torch.as_tensor(np.where(labels < 0, n_modules, labels))
        self._found = np.zeros((network.n_nodes, n_modules))
        self._expected = np.zeros_like(self._found)
        self._total = np.zeros((network.n_nodes, 1))

    def add(self, block: Block, degree: int) -> None:
        """Adds both sides of a block."""
        scale = largest(block.weight)
        if scale == 0:
            return
        energy = map_values(block.weight, lambda values: (values / scale) ** degree)
        total = float(values_of(energy).sum())
        energy = map_values(energy, lambda values: values / total)
        offsets = self._network.offsets
        into, out = (slice(*offsets[k : k + 2]) for k in (block.target, block.source))
        with few_threads(self._network):
            self._add_side(energy, into, out)
            self._add_side(tidy(energy.mT), out, into)

    def _add_side(self, energy: Tensor, here: slice, there: slice) -> None:
        """Rows are the features of `here`."""
        modules = self._labels[there].to(energy.device)
        strength, other = row_and_column_sums(energy)
        member = strength.new_zeros(len(modules), self._n + 1)
        member[torch.arange(len(modules), device=energy.device), modules] = 1.0
        null = strength.new_zeros(self._n + 1).index_add_(0, modules, other)
        self._found[here] += (energy @ member)[:, :-1].cpu().numpy()
        self._expected[here] += torch.outer(strength, null[:-1]).cpu().numpy()
        self._total[here] += strength[:, None].cpu().numpy()

    def affinity(self) -> np.ndarray:
        """Of the blocks so far, `[nodes, modules]`."""
        total = np.where(self._total > 0, self._total, 1.0)
        return above_background(self._found / total, self._expected / total)


def _jackknife(value: np.ndarray, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of a value from what it is without each fold, `[folds, ...]`."""
    from scipy.stats import t

    n = len(without)
    spread = np.sqrt((n - 1) / n * np.square(without - without.mean(0)).sum(0))
    reach = float(t.ppf((1 + _COVERED) / 2, n - 1)) * spread
    return np.clip(value - reach, 0.0, 1.0), np.clip(value + reach, 0.0, 1.0)
